from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from curate.errors import InputError
from curate.relabel.collate import LabelPoolingCollate, LocatedCrop, cut_box, cutmix, mixed_targets, smooth
from curate.relabel.maps import LabelMap, top_k
from curate.relabel.pooling import pool


def sample(seed: int, size: int = 8) -> tuple[torch.Tensor, LabelMap, np.ndarray]:
    rng = np.random.default_rng(seed)
    one = top_k((rng.standard_normal((20, 5, 5)) * 4).astype(np.float32), 3)
    return torch.full((3, size, size), float(seed)), one, np.array([0.1, 0.2, 0.5, 0.6], dtype=np.float32)


def test_a_batch_has_the_pooled_targets_of_its_crops() -> None:
    samples = [sample(seed) for seed in range(4)]
    boxes = np.stack([box for _, _, box in samples])
    for tail, order in itertools.product(("zero", "lse"), ("xyxy", "reference")):
        images, targets = LabelPoolingCollate(20, tail=tail, order=order)(samples)  # type: ignore[arg-type]
        assert images.shape == (4, 3, 8, 8)
        wanted = pool([one for _, one, _ in samples], boxes, 20, tail=tail, order=order)  # type: ignore[arg-type]
        assert np.array_equal(targets.numpy(), wanted)
    images, targets = LabelPoolingCollate(20, cutmix=1.0)(samples[:1])
    assert images.shape == (1, 3, 8, 8)
    assert torch.allclose(targets, LabelPoolingCollate(20)(samples[:1])[1])  # mixed with itself
    smoothed = LabelPoolingCollate(20, smoothing=0.1)(samples)[1]
    assert torch.allclose(smoothed, LabelPoolingCollate(20)(samples)[1] * 0.9 + 0.1 / 20)
    assert torch.allclose(smooth(torch.eye(4), 0.2), torch.eye(4) * 0.8 + 0.05)


def test_a_loader_with_workers_takes_it() -> None:
    loader = DataLoader(
        [sample(seed) for seed in range(6)],  # type: ignore[arg-type]
        batch_size=3,
        num_workers=1,
        collate_fn=LabelPoolingCollate(20, cutmix=0.5),
    )
    found = list(loader)
    assert [len(images) for images, _ in found] == [3, 3]
    assert all(torch.allclose(targets.sum(1), torch.ones(3), atol=1e-5) for _, targets in found)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.data())
def test_lambda_is_the_share_of_pixels_outside_the_clipped_box(
    height: int, width: int, share: float, data: st.DataObject
) -> None:
    centre = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    (top, left, bottom, right), own = cut_box(height, width, share, centre)
    inside = np.zeros((height, width), dtype=bool)
    inside[top:bottom, left:right] = True
    assert own == pytest.approx(1 - inside.mean())
    assert inside.mean() <= 1 - share + 1e-9
    assert 0 <= top <= bottom <= height
    assert 0 <= left <= right <= width


def test_an_inner_box_is_not_clipped() -> None:
    assert cut_box(100, 60, 0.75, (50, 30)) == ((25, 15, 75, 45), pytest.approx(0.75))
    assert cut_box(100, 60, 0.75, (0, 0)) == ((0, 0, 25, 15), pytest.approx(1 - 25 * 15 / 6000))


def test_targets_follow_the_pixels() -> None:
    """One-hot targets of images that are one colour each: after mixing, a target is the share of each colour."""
    torch.manual_seed(1)
    images = torch.arange(6.0)[:, None, None, None].expand(6, 1, 12, 9)
    for share in (0.0, 0.3, 0.7, 1.0):
        mixed, targets = cutmix(images, torch.eye(6), share)
        for n in range(6):
            shares = torch.stack([(mixed[n] == colour).float().mean() for colour in range(6)])
            assert torch.allclose(targets[n], shares, atol=1e-6)
    assert torch.equal(images[:, 0, 0, 0], torch.arange(6.0))
    swapped = mixed_targets(torch.eye(2), torch.tensor([1, 0]), 0.25)
    assert torch.allclose(swapped, torch.tensor([[0.25, 0.75], [0.75, 0.25]]))


@pytest.mark.parametrize("kind", ["picture", "tensor"])
def test_a_crop_knows_where_it_lies(kind: str) -> None:
    """Pixels carry their own coordinates: the mean of a crop is the middle of its box, mirrored or not."""
    height, width = 120, 200
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([(y + 0.5) / height, (x + 0.5) / width, 0 * x], axis=2) * 255
    image = Image.fromarray(pixels.round().astype(np.uint8))
    source = image if kind == "picture" else torch.from_numpy(pixels / 255).permute(2, 0, 1).float()
    torch.manual_seed(2)
    crop = LocatedCrop(32, scale=(0.1, 0.8))
    for _ in range(10):
        tensor, (top, left, h, w) = crop(source)
        assert tensor.shape == (3, 32, 32)
        assert tensor.dtype == torch.float32
        assert float(tensor[0].mean()) == pytest.approx(top + h / 2, abs=0.01)
        assert float(tensor[1].mean()) == pytest.approx(left + w / 2, abs=0.01)
        assert float(tensor[0].max() - tensor[0].min()) == pytest.approx(h * 31 / 32, abs=0.04)
    whole, box = LocatedCrop(32, (1.0, 1.0), (width / height,) * 2, mirror=0)(source)
    assert box.tolist() == [0, 0, 1, 1]
    assert whole[1, 0, 0] < whole[1, 0, -1]


def test_wrong_settings_are_refused() -> None:
    for wrong in ({"smoothing": 1.0}, {"cutmix": 1.5}, {"beta": 0.0}):
        with pytest.raises(InputError, match="wanted 0 to below 1"):
            LabelPoolingCollate(20, **wrong)  # type: ignore[arg-type]
