from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from curate.errors import InputError
from curate.relabel.maps import top_k
from curate.relabel.peaks import label_peaks, peaks


def test_planted_blobs_are_found_where_they_are() -> None:
    values = np.full((12, 20), 0.01, dtype=np.float32)
    values[2:5, 3:7] = 0.5
    values[3, 4] = 0.8
    values[8:10, 15:20] = 0.6
    values[6, 10] = 0.39  # below half of 0.8
    first, second = peaks(values)
    assert first.value == pytest.approx(0.8)
    assert first.cell == (3, 4)
    assert first.cells == 12
    assert first.box == pytest.approx((2 / 12, 3 / 20, 3 / 12, 4 / 20))
    assert second.value == pytest.approx(0.6)
    assert second.cell == (8, 15)
    assert second.cells == 10
    assert second.box == pytest.approx((8 / 12, 15 / 20, 2 / 12, 5 / 20))
    third = peaks(values, share=0.45)[-1]
    assert (third.cell, third.cells) == ((6, 10), 1)


def test_cells_touch_over_corners() -> None:
    values = np.eye(4, dtype=np.float32)
    (only,) = peaks(values)
    assert only.box == (0, 0, 1, 1)
    assert only.cells == 4
    assert only.cell == (0, 0)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0.2, 0.5, 0.7, 1.0]))
def test_pieces_are_those_of_scipy(seed: int, height: int, width: int, share: float) -> None:
    values = np.random.default_rng(seed).random((height, width))
    labels, number = ndimage.label(values >= share * values.max(), structure=np.ones((3, 3)))
    wanted = []
    for piece, where in enumerate(ndimage.find_objects(labels), 1):
        box = (where[0].start, where[1].start, where[0].stop - where[0].start, where[1].stop - where[1].start)
        inside = labels == piece
        wanted.append((float(values[inside].max()), int(inside.sum()), box))
    found = peaks(values, share)
    assert len(found) == number
    assert [one.value for one in found] == sorted((one.value for one in found), reverse=True)
    scale = (height, width, height, width)
    assert [
        (one.value, one.cells, tuple(round(part * side) for part, side in zip(one.box, scale, strict=True)))
        for one in found
    ] == sorted(wanted, reverse=True)
    assert all(values[one.cell] == one.value for one in found)


def test_peaks_of_a_label_map_are_those_of_all_its_probabilities() -> None:
    logits = np.random.default_rng(5).standard_normal((30, 9, 11)).astype(np.float32)
    logits[7, 1:4, 2:6] += 9
    logits[7, 6:8, 8:11] += 8.5
    kept = top_k(logits, 5)
    found = label_peaks(kept, 7)
    exact = np.exp(logits.astype(np.float64))
    wanted = peaks(exact[7] / exact.sum(axis=0))
    assert [(one.box, one.cells) for one in found] == [(one.box, one.cells) for one in wanted]
    assert [one.value for one in found] == pytest.approx([one.value for one in wanted], rel=1e-2)
    assert len(found) == 2
    assert {one.box for one in found} == {(1 / 9, 2 / 11, 3 / 9, 4 / 11), (6 / 9, 8 / 11, 2 / 9, 3 / 11)}


def test_nothing_where_the_best_is_too_low() -> None:
    assert peaks(np.zeros((3, 3))) == []
    assert peaks(np.full((3, 3), -2.0)) == []
    assert peaks(np.full((3, 3), 0.2), least=0.2) == []
    kept = top_k(np.random.default_rng(0).standard_normal((9, 4, 4)).astype(np.float32), 2)
    assert label_peaks(kept, 4000) == []


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="rows x columns"):
        peaks(np.zeros((2, 3, 3)))
    with pytest.raises(InputError, match="finite"):
        peaks(np.array([[0.1, math.nan]]))
    with pytest.raises(InputError, match="share is 0"):
        peaks(np.ones((2, 2)), share=0)
    with pytest.raises(InputError, match="least -1"):
        peaks(np.ones((2, 2)), least=-1)
