"""The packaged EfficientNet-Lite0 with its real weights against timm's network and transforms, on real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import realdata
import timm
import torch
from PIL import Image

from curate.embed import Encoder, EncoderConfig, load, weights_id
from curate.embed.lite0 import Lite0, fuse
from curate.embed.packaged import WEIGHTS, lite0_transform
from curate.errors import ModelError

CONFIG = EncoderConfig(model="packaged:efficientnet_lite0")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load(CONFIG, threads=1, weights=realdata.lite0())


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    """timm's network, filled by position: both state dicts list the same tensors in the same order."""
    model = timm.create_model("tf_efficientnet_lite0")
    packaged = torch.load(realdata.lite0(), weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), packaged.values(), strict=True)))
    return model.eval()


@pytest.fixture(scope="module")
def sample_images() -> list[Path]:
    pictures = realdata.scikit_image()
    odd = [pictures / name for name in ("astronaut.png", "camera.png", "horse.png", "retina.jpg", "color.png")]
    return [*realdata.birds()[::23][:39], *realdata.photos()[::13][:20], *odd]


def test_embeddings_equal_timms_on_real_photos(
    encoder: Encoder, reference: torch.nn.Module, sample_images: list[Path]
) -> None:
    transform = timm.data.create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3, crop_pct=0.875
    )
    ours, theirs = [], []
    for start in range(0, len(sample_images), 16):
        images = [Image.open(path) for path in sample_images[start : start + 16]]
        ours.append(encoder.encode_images(torch.stack([encoder.preprocess(image) for image in images])))
        with torch.inference_mode():
            batch = torch.stack([transform(image.convert("RGB")) for image in images])
            theirs.append(reference.forward_head(reference.forward_features(batch), pre_logits=True).numpy())
    rows, truth = np.concatenate(ours), np.concatenate(theirs)
    assert rows.shape == (64, encoder.dim)
    assert rows.dtype == np.float32
    assert np.abs(rows - truth).max() < 1e-4
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - truth[None], axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(64))


@pytest.mark.parametrize("size", [(640, 427), (427, 640), (256, 256), (257, 256), (120, 120), (1, 300), (300, 2)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK"])
def test_preprocessing_equals_torchvisions(size: tuple[int, int], mode: str) -> None:
    from torchvision import transforms

    rng = np.random.default_rng(7)
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = rng.integers(0, 256, (size[1], size[0], channels), np.uint8)
    image = Image.fromarray(pixels if channels > 1 else pixels[..., 0], mode)
    resize = transforms.Resize(256, transforms.InterpolationMode.BICUBIC)
    expected = np.asarray(transforms.CenterCrop(224)(resize(image.convert("RGB"))), np.float32)
    actual = lite0_transform(image)
    assert actual.shape == (3, 224, 224)
    np.testing.assert_array_equal(actual.permute(1, 2, 0).numpy() * 128 + 127, expected)


def test_folding_batch_norms_changes_only_the_last_bits() -> None:
    torch.manual_seed(3)
    network = Lite0().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    batch = torch.randn(2, 3, 97, 130)  # odd sizes: SAME padding is uneven there
    with torch.inference_mode():
        plain = network(batch)
        fused = fuse(network)(batch)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert (plain - fused).abs().max() < 1e-4


def test_other_weights_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "efficientnet-lite0-57934424.pth"
    torch.save(Lite0().state_dict(), other)
    with pytest.raises(ModelError, match="has sha256"):
        load(CONFIG, weights=other)
    with pytest.raises(ModelError, match="cannot be read"):
        load(CONFIG, weights=tmp_path / "absent.pth")
    with pytest.raises(ModelError, match="needs its weights file"):
        load(CONFIG)


def test_identity_is_that_of_the_weights(encoder: Encoder) -> None:
    pin = WEIGHTS["efficientnet_lite0"]
    assert encoder.weights_sha256 == pin.weights_sha256
    assert encoder.weights_id == weights_id(CONFIG) == f"packaged:efficientnet_lite0:sha256={pin.weights_sha256}"
    assert not encoder.has_text
    with pytest.raises(ModelError, match="no text tower"):
        encoder.encode_texts(["a bird"])


def test_low_precision_stays_close(encoder: Encoder) -> None:
    images = [Image.open(path) for path in realdata.photos()[:4]]
    batch = torch.stack([encoder.preprocess(image) for image in images])
    exact = encoder.encode_images(batch)
    rough = load(CONFIG, precision="bf16", threads=1, weights=realdata.lite0()).encode_images(batch)
    assert rough.dtype == np.float32
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosine.min() > 0.99


def test_nan_input_gives_a_flagged_row_not_a_crash(encoder: Encoder) -> None:
    from curate.embed import to_stored

    batch = torch.zeros(2, 3, 224, 224)
    batch[1] = float("nan")
    assert to_stored(encoder.encode_images(batch))[1].tolist() == [True, False]


def test_rows_do_not_depend_on_the_batch(encoder: Encoder) -> None:
    batch = torch.stack([encoder.preprocess(Image.open(path)) for path in realdata.birds()[:5]])
    together = encoder.encode_images(batch)
    alone = np.concatenate([encoder.encode_images(batch[row : row + 1]) for row in range(5)])
    reversed_order = encoder.encode_images(batch.flip(0))[::-1]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(together, reversed_order)
