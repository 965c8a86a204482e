"""Names, tags, files and identities are checked before any weights are read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from curate.embed import EncoderConfig, check, has_text, library_of, load, packaged_weights, weights_id
from curate.errors import ModelError


@pytest.mark.parametrize(
    ("given", "library"),
    [
        ({"model": "packaged:efficientnet_lite0"}, "packaged"),
        ({"model": "efficientnet_lite0"}, "packaged"),
        ({"model": "efficientnet_lite0", "library": "timm"}, "timm"),
        ({"model": "timm/vit_small_patch14_dinov2.lvd142m"}, "timm"),
        ({"model": "ViT-B-16", "pretrained": "openai"}, "open_clip"),
        ({"model": "hf-hub:org/name"}, "open_clip"),
    ],
)
def test_library_is_inferred_and_valid_configs_pass(given: dict[str, str], library: str) -> None:
    config = EncoderConfig(**given)  # type: ignore[arg-type]
    assert library_of(config) == library
    assert has_text(config) == (library == "open_clip")
    check(config)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"model": "ViT-B-61", "pretrained": "openai"}, r"no model 'ViT-B-61'; did you mean .*ViT-B-16"),
        ({"model": "ViT-B-16", "pretrained": "openia"}, r"no pretrained tag 'openia'; did you mean openai"),
        ({"model": "ViT-B-16"}, r"needs weights; set pretrained: one of openai"),
        ({"model": "resnet50", "pretrained": "a1_in1k"}, r"timm has it: write timm/resnet50"),
        ({"model": "timm/vit_small_patch14_dino2"}, r"timm has no model .*did you mean .*vit_small_patch14_dinov2"),
        ({"model": "timm/resnet50", "pretrained": "a9_in1k"}, r"no weights 'a9_in1k' for 'resnet50'; did you mean"),
        ({"model": "timm/resnet50.a1_in1k", "pretrained": "a2_in1k"}, r"keep one"),
        ({"model": "packaged:efficientnet_lite9"}, r"no packaged encoder .*did you mean efficientnet_lite0"),
        ({"model": "efficientnet_lite0", "pretrained": "x"}, r"remove pretrained"),
        ({"model": "ViT-B-16", "checkpoint": "/absent/x.pt"}, r"checkpoint /absent/x.pt .* is not a file"),
        ({"model": "local-dir:/x"}, r"not supported"),
    ],
)
def test_wrong_configs_are_sentences(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        check(EncoderConfig(**given))  # type: ignore[arg-type]


def test_model_json_is_checked(tmp_path: Path) -> None:
    weights = tmp_path / "w.pt"
    weights.write_bytes(b"x")
    file = tmp_path / "tiny.json"
    for text, sentence in (("{", "not a readable JSON"), ('{"embed_dim": 4}', "lacks text_cfg, vision_cfg")):
        file.write_text(text)
        with pytest.raises(ModelError, match=sentence):
            check(EncoderConfig(model="tiny", checkpoint=str(weights), config=str(file)))
    file.write_text(json.dumps({"embed_dim": 4, "vision_cfg": {}, "text_cfg": {}}))
    check(EncoderConfig(model="tiny", checkpoint=str(weights), config=str(file)))
    with pytest.raises(ModelError, match="defines the model 'tiny'"):
        check(EncoderConfig(model="other", checkpoint=str(weights), config=str(file)))


def test_identity_follows_content_not_path(tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("a.pt", "b.pt", "c.pt"))
    first.write_bytes(b"one")
    second.write_bytes(b"one")
    third.write_bytes(b"two")
    ids = [weights_id(EncoderConfig(model="ViT-B-32", checkpoint=str(path))) for path in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    third.write_bytes(b"three")
    assert weights_id(EncoderConfig(model="ViT-B-32", checkpoint=str(third))) != ids[2]
    architecture = tmp_path / "m.json"
    architecture.write_text('{"a": 1, "b": 2}')
    with_config = EncoderConfig(model="m", checkpoint=str(first), config=str(architecture))
    before = weights_id(with_config)
    architecture.write_text('{"b": 2,\n "a": 1}')
    assert weights_id(with_config) == before
    architecture.write_text('{"b": 2, "a": 3}')
    assert weights_id(with_config) != before


def test_hub_identity_names_library_model_and_tag() -> None:
    assert weights_id(EncoderConfig(model="ViT-B/16", pretrained="openai")) == "open_clip:ViT-B-16:openai"
    assert weights_id(EncoderConfig(model="timm/resnet50")) == "timm:resnet50:default"


def test_packaged_weights_are_named_only_when_needed(tmp_path: Path) -> None:
    pin = packaged_weights(EncoderConfig(model="efficientnet_lite0"))
    assert pin is not None
    assert pin.member.endswith(f"{pin.weights_sha256[:8]}.pth")
    assert packaged_weights(EncoderConfig(model="ViT-B-16", pretrained="openai")) is None
    assert packaged_weights(EncoderConfig(model="efficientnet_lite0", checkpoint=str(tmp_path / "x.pth"))) is None


def test_checking_a_packaged_encoder_does_not_import_torch() -> None:
    code = (
        "import sys; from curate.embed import EncoderConfig, check, weights_id; "
        "c = EncoderConfig(model='efficientnet_lite0'); check(c); weights_id(c); "
        "sys.exit('torch' in sys.modules or 'timm' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_checkpoint_with_code_is_refused(tmp_path: Path) -> None:
    """A pickle that would create a file when loaded naively; both libraries' paths must stop before that."""
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(tmp_path / "ran"), "w")

    bad = tmp_path / "evil.pt"
    torch.save({"state_dict": Evil()}, bad)
    for model in ("ViT-B-32", "timm/resnet10t"):
        with pytest.raises(ModelError, match="not a file of plain tensors"):
            load(EncoderConfig(model=model, checkpoint=str(bad)))
    assert not (tmp_path / "ran").exists()
