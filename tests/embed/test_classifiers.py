"""Classifiers through our path against timm's own code and the packaged network, with small weights saved to disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import realdata
import tiny_teacher
import torch
from safetensors.torch import save_file

from curate.embed.classifiers import classifier_config, load, probe, weights_sha256
from curate.embed.lite0 import Lite0
from curate.embed.packaged import WEIGHTS
from curate.embed.weights import file_sha256, fill, read_state_dict
from curate.errors import ModelError


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_logits_are_timms_and_the_number_of_classes_is_read_from_the_weights(tmp_path: Path) -> None:
    options = tiny_teacher.save(tmp_path / "w.pth")
    config = classifier_config(**options)
    found = load(config)
    assert (found.classes, found.images.size, found.any_size) == (12, (160, 160), True)
    batch = noise(2, 3, 160, 160)
    with torch.inference_mode():
        assert torch.equal(found.network(batch), tiny_teacher.network(tmp_path / "w.pth")(batch))
    assert weights_sha256(config) == file_sha256(options["checkpoint"])
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    save_file(state, tmp_path / "w.safetensors")
    again = load(classifier_config("test_resnet", checkpoint=str(tmp_path / "w.safetensors")))
    with torch.inference_mode():
        assert torch.equal(again.network(batch), found.network(batch))


def test_the_packaged_network_gives_its_classifiers_logits() -> None:
    config = classifier_config("packaged:efficientnet_lite0")
    found = load(config, realdata.lite0())
    plain = Lite0().eval()
    fill(plain, read_state_dict(str(realdata.lite0())), "The packaged weights")
    batch = noise(1, 3, 96, 128)
    with torch.inference_mode():
        truth = plain._fc(plain(batch))
        torch.testing.assert_close(found.network(batch), truth, atol=1e-3, rtol=1e-4)
    assert found.classes == truth.shape[1] == 1000
    assert found.alone
    assert weights_sha256(config) == WEIGHTS["efficientnet_lite0"].weights_sha256
    red = found.images.mean[0], found.images.std[0]
    assert [(x / 255 - red[0]) / red[1] for x in (0, 127, 255)] == pytest.approx([-127 / 128, 0, 1])


def test_a_probe_has_the_shape_and_none_of_the_weights(tmp_path: Path) -> None:
    config = classifier_config("resnet18", pretrained="a1_in1k")  # of a hub; nothing is fetched
    found = probe(config)
    assert (found.classes, found.images.size, found.images.interpolation) == (1000, (224, 224), "bicubic")
    assert found.images.mean == (0.485, 0.456, 0.406)
    assert weights_sha256(config) is None
    assert not probe(classifier_config("vit_tiny_patch16_224")).any_size
    assert probe(classifier_config("packaged:efficientnet_lite0")).any_size


def test_what_is_no_classifier_is_refused(tmp_path: Path) -> None:
    options = tiny_teacher.save(tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    torch.save({name: value for name, value in state.items() if "fc" not in name}, tmp_path / "headless.pth")
    torch.save({**state, "extra": torch.zeros(1)}, tmp_path / "more.pth")
    model = options["model"]
    with pytest.raises(ModelError, match=r"have no fc\.weight, so they classify nothing"):
        probe(classifier_config(model, checkpoint=str(tmp_path / "headless.pth")))
    with pytest.raises(ModelError, match=r"do not fit: entries 1 unknown \(extra\)"):
        load(classifier_config(model, checkpoint=str(tmp_path / "more.pth")))
    with pytest.raises(ModelError, match="models of open_clip are no classifiers"):
        classifier_config("ViT-B-32", library="open_clip")
    with pytest.raises(ModelError, match="has no classifier, so it makes no label maps"):
        probe(classifier_config("vit_small_patch14_dinov2"))
    (tmp_path / "lite0.pth").write_bytes(b"something else")
    with pytest.raises(ModelError, match="fetch it anew"):
        load(classifier_config("packaged:efficientnet_lite0"), tmp_path / "lite0.pth")
