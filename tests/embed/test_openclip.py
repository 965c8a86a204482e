"""open_clip through our path against open_clip's own code, with a tiny random CLIP saved to disk and real photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import realdata
import torch
from PIL import Image
from safetensors.torch import save_file

from curate.embed import Encoder, EncoderConfig, clip_scores, load, weights_id
from curate.errors import ModelError

TINY = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
CAPTIONS = ["a photo of a bird", "Chelsea the cat.", "", "Ünïcode — 猫", "word " * 200]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    """A model JSON and the weights of a randomly initialised CLIP, as a user with a private checkpoint has them."""
    folder = tmp_path_factory.mktemp("clip")
    (folder / "tiny-clip.json").write_text(json.dumps(TINY))
    torch.manual_seed(11)
    model = open_clip.CLIP(TINY["embed_dim"], TINY["vision_cfg"], TINY["text_cfg"])
    torch.save({"epoch": 1, "state_dict": model.state_dict()}, folder / "tiny.pt")
    return EncoderConfig(model="tiny-clip", checkpoint=str(folder / "tiny.pt"), config=str(folder / "tiny-clip.json"))


@pytest.fixture(scope="module")
def encoder(tiny: EncoderConfig) -> Encoder:
    return load(tiny, threads=1)


@pytest.fixture(scope="module")
def theirs(tiny: EncoderConfig) -> tuple[torch.nn.Module, object]:
    assert tiny.config is not None
    open_clip.add_model_config(Path(tiny.config))
    model, _, transform = open_clip.create_model_and_transforms("tiny-clip", pretrained=tiny.checkpoint)
    return model.eval(), transform


def _sample_images() -> list[Image.Image]:
    pictures = realdata.scikit_image()
    odd = [pictures / name for name in ("astronaut.png", "camera.png", "horse.png", "retina.jpg", "color.png")]
    return [Image.open(path) for path in [*realdata.birds()[:155], *realdata.photos()[:50], *odd]]


def test_image_rows_equal_open_clips_on_210_photos(encoder: Encoder, theirs: tuple[torch.nn.Module, object]) -> None:
    model, transform = theirs
    images = _sample_images()
    rows = encoder.encode_images(torch.stack([encoder.preprocess(image) for image in images]))
    with torch.inference_mode():
        truth = model.encode_image(torch.stack([transform(image) for image in images])).numpy()  # type: ignore[operator]
    assert rows.shape == (210, 48) == (len(images), encoder.dim)
    assert rows.dtype == np.float32
    assert np.abs(rows - truth).max() < 1e-4
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - truth[None], axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(len(images)))


def test_text_rows_and_scores_equal_open_clips(encoder: Encoder, theirs: tuple[torch.nn.Module, object]) -> None:
    model, transform = theirs
    assert encoder.has_text
    rows = encoder.encode_texts(CAPTIONS)
    images = _sample_images()[: len(CAPTIONS)]
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("tiny-clip")(CAPTIONS)
        truth = model.encode_text(tokens)
        batch = torch.stack([transform(image) for image in images])  # type: ignore[operator]
        cosines = (model.encode_image(batch, normalize=True) * model.encode_text(tokens, normalize=True)).sum(1)
    assert np.abs(rows - truth.numpy()).max() < 1e-4
    scores, good = clip_scores(
        encoder.encode_images(torch.stack([encoder.preprocess(image) for image in images])), rows
    )
    assert good.all()
    np.testing.assert_allclose(scores, cosines.numpy(), atol=1e-5)


def test_shape_of_the_input_is_the_models(encoder: Encoder) -> None:
    assert encoder.image_size == (64, 64)
    assert tuple(encoder.preprocess(Image.new("L", (31, 90))).shape) == (3, 64, 64)
    assert not encoder.channels_last  # a plain ViT has one convolution


def test_deep_greyscale_is_not_clipped_to_white(encoder: Encoder) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    deep = encoder.preprocess(Image.fromarray(ramp))
    plain = encoder.preprocess(Image.fromarray(np.rint(ramp / 257).astype(np.uint8)))
    assert torch.equal(deep, plain)


def test_safetensors_give_the_same_rows(encoder: Encoder, tiny: EncoderConfig, tmp_path: Path) -> None:
    assert tiny.checkpoint is not None
    state = torch.load(tiny.checkpoint, weights_only=True)["state_dict"]
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
    same = tiny.model_copy(update={"checkpoint": str(tmp_path / "w.safetensors")})
    batch = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    np.testing.assert_array_equal(load(same, threads=1).encode_images(batch), encoder.encode_images(batch))
    assert weights_id(same) != weights_id(tiny)  # another file; the id is that of the bytes


def test_weights_that_do_not_fit_are_a_sentence(tiny: EncoderConfig, tmp_path: Path) -> None:
    assert tiny.checkpoint is not None
    state = torch.load(tiny.checkpoint, weights_only=True)["state_dict"]
    state["visual.proj"] = torch.zeros(64, 7)
    torch.save(state, tmp_path / "bad.pt")
    with pytest.raises(ModelError, match=r"tiny-clip.*cannot be loaded from .*bad\.pt.*visual\.proj"):
        load(tiny.model_copy(update={"checkpoint": str(tmp_path / "bad.pt")}))
    (tmp_path / "html.pt").write_bytes(b"<html>404</html>")
    with pytest.raises(ModelError, match="not a file of plain tensors"):
        load(tiny.model_copy(update={"checkpoint": str(tmp_path / "html.pt")}))


def test_zero_and_nan_weights_flag_rows(tiny: EncoderConfig, tmp_path: Path) -> None:
    from curate.embed import to_stored

    assert tiny.checkpoint is not None
    state = torch.load(tiny.checkpoint, weights_only=True)["state_dict"]
    for value in (0.0, float("nan")):
        state["visual.proj"].fill_(value)
        torch.save(state, tmp_path / "dead.pt")
        dead = load(tiny.model_copy(update={"checkpoint": str(tmp_path / "dead.pt")}), threads=1)
        rows, good = to_stored(dead.encode_images(torch.ones(2, 3, 64, 64)))
        assert not good.any()
        assert not rows.any()
