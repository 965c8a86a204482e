from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.fractal.patch import pattern, stamp
from curate.fractal.randomness import Draws


def by_hand(counts: np.ndarray, mask: int) -> np.ndarray:
    side = len(counts)
    out = np.zeros_like(counts)
    for row in range(side):
        for column in range(side):
            for i in range(3):
                for j in range(3):
                    r, c = row + i - 1, column + j - 1
                    if mask >> (3 * i + j) & 1 and 0 <= r < side and 0 <= c < side:
                        out[r, c] += counts[row, column]
    return out


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 511), st.integers(1, 12), st.integers(0, 2**32))
def test_a_stamp_is_its_definition(mask: int, side: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 9, (side, side)).astype(np.uint32)
    out = stamp(counts, mask)
    assert out.dtype == np.uint32
    np.testing.assert_array_equal(out, by_hand(counts, mask))


@pytest.mark.parametrize("mask", [1, 16, 0b101010101, 511])
def test_away_from_the_edges_nothing_is_lost(mask: int) -> None:
    counts = np.zeros((64, 64), dtype=np.uint32)
    counts[1:-1, 1:-1] = np.random.default_rng(0).integers(0, 50, (62, 62))
    assert int(stamp(counts, mask).sum()) == int(counts.sum()) * mask.bit_count()


def test_the_centre_alone_changes_nothing() -> None:
    counts = np.random.default_rng(1).integers(0, 2**31, (32, 32)).astype(np.uint32)
    np.testing.assert_array_equal(stamp(counts, 16), counts)


@pytest.mark.parametrize("mask", [0, 512, -1])
def test_other_masks_are_refused(mask: int) -> None:
    with pytest.raises(SpecError, match="from 1 to 511"):
        stamp(np.zeros((4, 4), dtype=np.uint32), mask)


def test_patterns_are_nine_fair_bits_but_never_empty() -> None:
    drawn = np.array([pattern(Draws.of(6, i)) for i in range(20_000)])
    assert drawn.min() >= 1
    assert drawn.max() <= 511
    share = ((drawn[:, None] >> np.arange(9)) & 1).mean(axis=0)
    assert (np.abs(share - 256 / 511) < 4.5 * 0.5 / np.sqrt(len(drawn))).all()
