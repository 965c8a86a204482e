from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from pycocotools import mask as coco

from curate.errors import InputError
from curate.fractal import masks

SHAPES = st.tuples(st.integers(1, 150), st.integers(1, 40))
MASKS = st.one_of(
    arrays.arrays(np.bool_, SHAPES),
    st.builds(
        lambda shape, seed, fill: np.random.default_rng(seed).random(shape) < fill,
        SHAPES,
        st.integers(0, 2**32),
        st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]),
    ),
)


def runs_by_hand(mask: NDArray[np.bool_]) -> list[int]:
    runs, state = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != state:
            runs.append(0)
            state = pixel
        runs[-1] += 1
    return runs


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_run_lengths_are_those_of_coco(mask: NDArray[np.bool_]) -> None:
    rle = masks.encode(mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert masks.counts(mask).tolist() == runs_by_hand(mask) == masks.runs_of(rle["counts"]).tolist()
    assert masks.area(mask) == coco.area(theirs)
    assert (masks.box(mask) or [0, 0, 0, 0]) == coco.toBbox(theirs).tolist()
    np.testing.assert_array_equal(masks.decode(json.loads(json.dumps(rle))), mask)
    assert masks.encode(mask.astype(np.uint8) * 7) == masks.encode(mask[:, ::-1][:, ::-1]) == rle


@settings(max_examples=200, deadline=None)
@given(MASKS, st.integers(1, 255), st.data())
def test_a_part_of_a_canvas_is_encoded_as_the_whole(mask: NDArray[np.bool_], number: int, data: st.DataObject) -> None:
    """Windows that touch or miss each border, on a canvas that other numbers fill."""
    height, width = mask.shape
    top, left = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    bottom, right = data.draw(st.integers(top, height)), data.draw(st.integers(left, width))
    kept = np.zeros_like(mask)
    kept[top:bottom, left:right] = mask[top:bottom, left:right]
    owner = np.where(kept, number, (np.arange(mask.size).reshape(mask.shape) + 1 + number) % 7).astype(np.uint8)
    owner[~kept & (owner == number)] = 0 if number != 0 else 1
    box, area, rle = masks.seen(owner, number, (top, left, bottom, right))
    assert (box, area, rle) == (masks.box(kept), masks.area(kept), masks.encode(kept))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=30))
def test_text_and_runs_are_inverse(runs: list[int]) -> None:
    written = masks.text(np.array(runs, dtype=np.uint32))
    assert masks.runs_of(written).tolist() == runs
    assert all(48 <= ord(letter) <= 111 for letter in written)


def test_large_masks() -> None:
    """Runs above 2**15, where text takes four groups, and single pixels in the corners."""
    mask = np.zeros((300, 400), dtype=np.bool_)
    for corner in [(0, 0), (0, 399), (299, 0), (299, 399)]:
        mask[corner] = True
        theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert masks.encode(mask)["counts"] == theirs["counts"].decode()
        np.testing.assert_array_equal(masks.decode(masks.encode(mask)), mask)


@pytest.mark.parametrize(
    ("written", "what"),
    [
        ("0P", "cut short"),  # more is announced and nothing comes
        ("0~", "other characters"),
        ("é", "other characters"),
        ("O", "cut short"),  # a negative run
        ("ooooooooo0", "cut short"),  # more bits than a run has
        ("05", "sum to 5, not to 6"),
        ("", "sum to 0, not to 6"),
    ],
)
def test_damaged_masks_are_refused(written: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        masks.decode({"size": [2, 3], "counts": written})
