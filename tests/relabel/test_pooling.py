from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import roi_align

from curate.errors import InputError
from curate.relabel.maps import LabelMap, LabelMaps, dense, dense_probabilities, stack, top_k, top_k_batch
from curate.relabel.pooling import Tail, pool, spread


def aligned(maps: np.ndarray, boxes: np.ndarray, order: str = "xyxy") -> torch.Tensor:
    """torchvision's roi_align as the specification describes the reference's call, on dense maps [B, C, H, W]."""
    height, width = maps.shape[2:]
    top_left_bottom_right = torch.from_numpy(boxes.copy())
    top_left_bottom_right[:, 2:] += top_left_bottom_right[:, :2]
    if order == "reference":
        corners = top_left_bottom_right * width
    else:
        corners = top_left_bottom_right[:, [1, 0, 3, 2]] * torch.tensor([width, height, width, height])
    numbered = torch.cat([torch.arange(len(maps), dtype=torch.float32)[:, None], corners - 0.5], dim=1)
    return roi_align(torch.from_numpy(maps), numbered, (1, 1), 1.0, -1, aligned=False)[:, :, 0, 0]


def random_boxes(rng: np.random.Generator, n: int) -> np.ndarray:
    """Boxes of all sizes, many of them at an edge, and on lines between cells."""
    ends = np.sort(rng.random((n, 2, 2)), axis=2)
    grid = rng.random(n) < 0.3
    ends[grid] = np.sort(rng.integers(0, 16, (int(grid.sum()), 2, 2)) / 15, axis=2)
    ends[rng.random((n, 2)) < 0.2, 0] = 0.0
    ends[rng.random((n, 2)) < 0.2, 1] = 1.0
    sides = np.maximum(ends[:, :, 1] - ends[:, :, 0], 1e-4)
    starts = np.minimum(ends[:, :, 0], 1 - sides)
    return np.concatenate([starts, sides], axis=1).astype(np.float32)


def made(rng: np.random.Generator, n: int, classes: int, k: int, height: int, width: int):  # type: ignore[no-untyped-def]
    return top_k_batch((rng.standard_normal((n, classes, height, width)) * 5).astype(np.float32), k)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(15, 15), (18, 18), (7, 12), (1, 3), (1, 1)]), st.integers(1, 5))
def test_it_equals_roi_align_on_the_dense_map(seed: int, grid: tuple[int, int], k: int) -> None:
    rng = np.random.default_rng(seed)
    classes = int(rng.integers(k, 60))
    maps = made(rng, 6, classes, k, *grid)
    boxes = random_boxes(rng, 6)
    full = np.stack([dense(maps[n], classes) for n in range(6)])
    for order in ("xyxy", "reference") if grid[0] == grid[1] else ("xyxy",):
        wanted = torch.softmax(aligned(full, boxes, order), dim=1).numpy()
        got = pool(maps, boxes, classes, order=order)  # type: ignore[arg-type]
        assert got.dtype == np.float32
        assert np.abs(got - wanted).max() < 1e-5
        assert np.abs(got.sum(axis=1) - 1).max() < 1e-5
        spreads = np.stack([dense_probabilities(maps[n], classes) for n in range(6)])
        wanted = aligned(spreads, boxes, order).numpy()
        got = pool(maps, boxes, classes, tail="lse", order=order)  # type: ignore[arg-type]
        assert np.abs(got - wanted).max() < 1e-5
        assert np.abs(got.sum(axis=1) - 1).max() < 1e-5


def test_a_thousand_classes_over_every_number_of_samples() -> None:
    rng = np.random.default_rng(0)
    maps = made(rng, 64, 1000, 5, 15, 15)
    boxes = random_boxes(rng, 64)
    full = np.stack([dense(maps[n], 1000) for n in range(64)])
    wanted = torch.softmax(aligned(full, boxes), dim=1).numpy()
    assert np.abs(pool(maps, boxes, 1000) - wanted).max() < 1e-5


def bands() -> LabelMap:
    """Class 0 has logit 10 in the top third, class 1 in the left third, of 15 x 15 cells; else they share 0."""
    scores = np.zeros((2, 15, 15), dtype=np.float32)
    scores[0, :5, :] = 10
    scores[1, :, :5] = 10
    classes = np.zeros((2, 15, 15), dtype=np.uint16)
    classes[1] = 1
    return LabelMap(scores, classes)


def test_the_axis_order_of_the_reference_pools_the_transposed_region() -> None:
    """A crop of the top third right of x = 0.3: A fills it, B hardly enters."""
    box = np.array([[0.0, 0.3, 1 / 3, 0.7]], dtype=np.float32)

    def logits(order: str) -> np.ndarray:
        p = pool([bands()], box, 1000, order=order)[0].astype(np.float64)  # type: ignore[arg-type]
        return np.log(p[:2] / p[2])  # all other classes have logit 0

    assert np.allclose(logits("xyxy"), [10.0, 0.475], atol=2e-3)
    assert np.allclose(logits("reference"), [0.475, 10.0], atol=2e-3)
    turned = LabelMap(np.ascontiguousarray(bands().scores.swapaxes(1, 2)), bands().classes)
    assert np.allclose(pool([turned], box, 1000, order="reference"), pool([bands()], box, 1000), atol=1e-7)


@pytest.mark.parametrize(("logit", "p"), [(5, 0.129), (8, 0.749), (10, 0.957), (12, 0.994)])
def test_zero_logits_weigh_as_much_as_the_specification_says(logit: float, p: float) -> None:
    one = LabelMap(np.full((1, 15, 15), logit, dtype=np.float16), np.full((1, 15, 15), 7, dtype=np.uint16))
    target = pool([one], [[0, 0, 1, 1]], 1000)[0]
    assert target[7] == pytest.approx(p, abs=5e-4)
    assert target[7] == pytest.approx(np.exp(logit) / (np.exp(logit) + 999), rel=1e-5)
    assert np.ptp(np.delete(target, 7)) == 0


def test_a_batch_of_one_is_that_row_and_maps_of_many_shapes_may_be_mixed() -> None:
    rng = np.random.default_rng(3)
    maps = [made(rng, 1, 20, 3, *grid)[0] for grid in ((15, 15), (7, 7), (15, 15))]
    boxes = random_boxes(rng, 3)
    together = pool(maps, boxes, 20)
    for n in range(3):
        alone = pool([maps[n]], boxes[n : n + 1], 20)
        assert alone.shape == (1, 20)
        assert np.array_equal(alone[0], together[n])
    same = [maps[0], maps[2]]
    assert np.array_equal(pool(same, boxes[:2], 20), pool(stack(same), boxes[:2], 20))


def test_all_classes_stored_is_the_plain_softmax_or_mean() -> None:
    x = (np.random.default_rng(4).standard_normal((6, 4, 4)) * 3).astype(np.float32)
    one = top_k(x, 6)
    whole = pool([one], [[0, 0, 1, 1]], 6)[0]
    assert np.abs(whole - torch.softmax(torch.from_numpy(x).mean((1, 2)), 0).numpy()).max() < 1e-3
    mean = pool([one], [[0, 0, 1, 1]], 6, tail="lse")[0]
    assert np.abs(mean - torch.softmax(torch.from_numpy(x), 0).mean((1, 2)).numpy()).max() < 1e-3


@pytest.mark.parametrize("level", [-2000, -30000, 0, 30000])
def test_all_classes_stored_at_any_level_are_a_softmax_of_what_differs(level: int) -> None:
    scores = np.array([0, 32, 64], dtype=np.float16).reshape(1, 3, 1, 1) + np.float16(level)
    classes = np.array([2, 0, 1], dtype=np.uint16).reshape(1, 3, 1, 1)
    wanted = np.exp(np.array([-32.0, 0.0, -64.0]))
    np.testing.assert_allclose(pool(LabelMaps(scores, classes), [[0, 0, 1, 1]], 3)[0], wanted, rtol=1e-6)


@pytest.mark.parametrize("tail", ["zero", "lse"])
def test_a_batch_of_no_maps_is_no_targets(tail: Tail) -> None:
    none = LabelMaps(np.zeros((0, 5, 3, 4), "f2"), np.zeros((0, 5, 3, 4), "u2"), np.zeros((0, 3, 4), "f4"))
    found = pool(none, np.zeros((0, 4)), 10, tail=tail)
    assert (found.shape, found.dtype) == ((0, 10), np.float32)
    with pytest.raises(InputError, match="5 classes a cell"):
        pool(none, np.zeros((0, 4)), 4)


def test_boxes_at_the_edges_and_smaller_than_a_cell() -> None:
    rng = np.random.default_rng(5)
    sides = [1e-3, 1 / 15, 0.5, 1.0]
    boxes = np.array(
        [[t, left, h, w] for h in sides for w in sides for t in {0, 1 - h} for left in {0, 1 - w}], dtype=np.float32
    )
    maps = made(rng, len(boxes), 30, 4, 15, 15)
    full = np.stack([dense(maps[n], 30) for n in range(len(boxes))])
    wanted = torch.softmax(aligned(full, boxes), dim=1).numpy()
    assert np.abs(pool(maps, boxes, 30) - wanted).max() < 1e-5


def test_what_does_not_fit_is_refused() -> None:
    rng = np.random.default_rng(6)
    maps = made(rng, 2, 20, 3, 4, 6)
    whole = [[0, 0, 1, 1]] * 2
    for bad, what in (
        (lambda: pool(maps, whole[:1], 20), r"\[1, 4\] for 2 label maps"),
        (lambda: pool(maps, [[0, 0, 1, 1], [0.5, 0, 0.6, 1]], 20), "Box 1 is .* 0.5, 0, 0.6, 1"),
        (lambda: pool(maps, [[0, 0, 1, 1], [0, 0, 0, 1]], 20), "Box 1"),
        (lambda: pool(maps, [[0, 0, 1, np.nan], [0, 0, 0, 1]], 20), "Box 0"),
        (lambda: pool(maps, [[0, 0, 1, 1], [0, 0, 240, 320]], 20), "shares of its height"),
        (lambda: pool(maps, whole, 2), "there are 2"),
        (lambda: pool(maps, whole, 20, order="reference"), "square maps only; these are 4 x 6"),
        (lambda: pool(maps, whole, 20, tail="even"), 'choose of "zero", "lse"'),  # type: ignore[arg-type]
        (lambda: pool([LabelMap(maps[0].scores, maps[0].classes)] * 2, whole, 20, tail="lse"), "log-sum-exp"),
    ):
        with pytest.raises(InputError, match=what):
            bad()


def test_labels_of_crops_are_restored_with_the_rest_spread_evenly() -> None:
    numbers = np.array([[3, 1], [0, 4]])
    p = np.array([[0.6, 0.2], [0.7, 0.3004]], dtype=np.float32)
    wanted = [[0.2 / 3, 0.2, 0.2 / 3, 0.6, 0.2 / 3], [0.7 / 1.0004, 0, 0, 0, 0.3004 / 1.0004]]
    assert np.allclose(spread(numbers, p, 5), wanted, atol=1e-6)
    with pytest.raises(InputError, match="there are 4"):
        spread(numbers, p, 4)
