from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.dedup import hamming
from curate.dedup.hamming import Bands, bands, nearest_earlier
from curate.errors import SpecError


def brute(table: NDArray[np.uint64], distance: int) -> tuple[list[int], list[int]]:
    """Straight from the definition, with Python integers."""
    rows = [[int(word) for word in np.atleast_1d(row)] for row in table]
    of, least = [], []
    for j, row in enumerate(rows):
        apart = [max((a ^ b).bit_count() for a, b in zip(row, other, strict=True)) for other in rows[:j]]
        near = min(apart, default=99)
        of.append(apart.index(near) if near <= distance else -1)
        least.append(near if near <= distance else 0)
    return of, least


def crowded(rng: np.random.Generator, n: int, words: int, flips: int) -> NDArray[np.uint64]:
    """Hashes around a few centres, so that many lie at, just inside and just outside a distance."""
    centres = rng.integers(0, 2**64, (max(1, n // 9), words), dtype=np.uint64)
    table = centres[rng.integers(0, len(centres), n)]
    for _ in range(flips):
        one = np.uint64(1) << rng.integers(0, 64, (n, words), dtype=np.uint64)
        table = np.where(rng.random((n, words)) < 0.5, table ^ one, table)
    return table


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(0, 150),
    words=st.integers(1, 2),
    distance=st.integers(0, 10),
    flips=st.integers(0, 9),
    rows=st.sampled_from([0, 10**6, 10**12]),
)
def test_against_brute_force(seed: int, n: int, words: int, distance: int, flips: int, rows: int) -> None:
    table = crowded(np.random.default_rng(seed), n, words, flips)
    found = nearest_earlier(table if words == 2 else table[:, 0], distance, bands(distance, rows))
    of, least = brute(table, distance)
    assert (found.of.tolist(), found.distance.tolist()) == (of, least)


@pytest.mark.parametrize(("small", "block"), [(1, 7), (1, 64), (2, 16), (500, 1024)])
def test_tiles_and_shifts_find_the_same(small: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows share the low half, so one key holds all of them: several tiles, the first and last of them cut."""
    monkeypatch.setattr(hamming, "SMALL", small)
    monkeypatch.setattr(hamming, "BLOCK", block)
    table = crowded(np.random.default_rng(3), 300, 1, 6)[:, 0] & np.uint64(0xFFFFFFFF00000000)
    found = nearest_earlier(table, 5)
    assert (found.of.tolist(), found.distance.tolist()) == brute(table, 5)


@pytest.mark.parametrize("distance", range(17))
@pytest.mark.parametrize("rows", [1, 10**7, 10**13])
def test_any_hash_within_the_distance_agrees_under_a_mask(distance: int, rows: int) -> None:
    """The worst case puts the differing bits into as many pieces as they can reach."""
    masks = [int(mask) for mask in bands(distance, rows).masks]
    assert len(set(masks)) == len(masks)
    assert np.bitwise_or.reduce(bands(distance, rows).masks) == np.uint64(2**64 - 1)
    rng = np.random.default_rng(distance)
    for _ in range(200):
        flipped = sum(1 << int(bit) for bit in rng.permutation(64)[:distance])
        assert any(mask & flipped == 0 for mask in masks)
    single = sorted(mask for mask in masks if not any(mask & m == m for m in masks if m != mask))
    assert single == sorted(masks)


def test_more_rows_take_longer_keys() -> None:
    assert [bands(4, rows).n for rows in (10**4, 10**5, 10**8, 10**12)] == [5, 5, 15, 35]
    widths = {int(mask).bit_count() for mask in bands(4, 10**8).masks}
    assert widths <= {20, 21, 22}


def test_a_million_equal_hashes_are_compared_once() -> None:
    table = np.full(10**6, 12345, dtype=np.uint64)
    table[777] = 12344
    found = nearest_earlier(table, 4)
    assert found.of[0] == -1
    assert found.of[777] == 0
    assert found.distance[777] == 1
    rest = np.delete(np.arange(1, 10**6), 776)
    assert (found.of[rest] == 0).all()
    assert not found.distance[rest].any()


def test_of_equally_near_rows_the_earliest_counts_whatever_key_finds_it() -> None:
    """Row 0 agrees with row 3 only in the last piece, row 1 only in the first: both at distance 4 of it."""
    last = 0
    a, b = 0x000F << 48, 0x000F
    for first, second in itertools.permutations((a, b)):
        found = nearest_earlier(np.asarray([first, second, last], dtype=np.uint64), 4)
        assert found.of.tolist()[2] == 0


def test_with_two_hashes_both_have_to_be_near() -> None:
    table = np.asarray([[0, 0], [0b111, 0], [0, 0b111], [0b11, 0b11]], dtype=np.uint64)
    found = nearest_earlier(table, 2)
    assert found.of.tolist() == [-1, -1, -1, 0]
    assert found.distance.tolist() == [0, 0, 0, 2]


def test_given_masks_decide_what_is_compared() -> None:
    table = np.asarray([0, 1 << 63, 1], dtype=np.uint64)
    found = nearest_earlier(table, 1, Bands(np.asarray([1], dtype=np.uint64)))
    assert found.of.tolist() == [-1, 0, -1]


@pytest.mark.parametrize("distance", [-1, 17])
def test_a_distance_out_of_range_is_refused(distance: int) -> None:
    with pytest.raises(SpecError, match="must lie between 0 and 16"):
        bands(distance, 10)
