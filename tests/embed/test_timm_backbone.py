"""timm through our path against timm's own code, with small random backbones saved to disk and real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import realdata
import timm
import torch
from PIL import Image

from curate.embed import EncoderConfig, load
from curate.errors import ModelError


def _save(name: str, path: Path, **options: int) -> None:
    torch.manual_seed(5)
    model = timm.create_model(name, **options)
    for parameter in model.parameters():  # a fresh initialisation leaves some layers at zero, which would hide errors
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 1.0, 0.1)
    torch.save(model.state_dict(), path)


@pytest.mark.parametrize(("name", "channels_last"), [("test_efficientnet", True), ("test_vit", False)])
def test_rows_equal_timms_on_200_photos(name: str, channels_last: bool, tmp_path: Path) -> None:
    _save(name, tmp_path / "w.pth", num_classes=0)
    encoder = load(EncoderConfig(model=f"timm/{name}", checkpoint=str(tmp_path / "w.pth")), threads=1)
    reference = timm.create_model(name, num_classes=0, checkpoint_path=str(tmp_path / "w.pth")).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(reference), is_training=False)
    images = [Image.open(path) for path in [*realdata.birds()[-150:], *realdata.photos()[-50:]]]
    rows = encoder.encode_images(torch.stack([encoder.preprocess(image) for image in images]))
    with torch.inference_mode():
        truth = reference(torch.stack([transform(image.convert("RGB")) for image in images])).numpy()
    assert encoder.channels_last == channels_last
    assert rows.shape == truth.shape == (200, encoder.dim)
    assert np.abs(rows - truth).max() < 1e-4
    distances = np.linalg.norm(rows[:, None].astype(np.float64) - truth[None], axis=2)
    np.testing.assert_array_equal(distances.argmin(axis=1), np.arange(200))


def test_a_full_checkpoint_loads_without_its_classifier(tmp_path: Path) -> None:
    _save("test_efficientnet", tmp_path / "full.pth")
    state = torch.load(tmp_path / "full.pth", weights_only=True)
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "wrapped.pth")
    full = timm.create_model("test_efficientnet", checkpoint_path=str(tmp_path / "full.pth")).eval()
    batch = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        truth = full.forward_head(full.forward_features(batch), pre_logits=True).numpy()
    for file in ("full.pth", "wrapped.pth"):
        config = EncoderConfig(model="test_efficientnet", library="timm", checkpoint=str(tmp_path / file))
        assert np.abs(load(config, threads=1).encode_images(batch) - truth).max() < 1e-4


def test_weights_that_do_not_fit_name_the_entries(tmp_path: Path) -> None:
    _save("test_vit", tmp_path / "w.pth")
    state = torch.load(tmp_path / "w.pth", weights_only=True)
    state["cls_token"] = torch.zeros(1, 1, 3)
    state["surplus"] = torch.zeros(1)
    del state["norm.weight"]
    torch.save(state, tmp_path / "bad.pth")
    expected = r"1 missing \(norm.weight\); 1 unknown \(surplus\); 1 of another shape \(cls_token is \[1, 1, 3\], not"
    with pytest.raises(ModelError, match=expected):
        load(EncoderConfig(model="timm/test_vit", checkpoint=str(tmp_path / "bad.pth")))
