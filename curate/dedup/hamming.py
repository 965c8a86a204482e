"""Near neighbours among 64-bit hashes: for each row the nearest earlier one within a Hamming distance, exactly.

Pigeonhole (Norouzi, Punjani and Fleet 2012, arXiv 1307.2982, section 3.1, with several pieces a key as in Manku, Jain
and Das Sarma 2007, section 3): cut 64 bits into distance + take pieces; two hashes that differ in at most `distance`
bits agree in at least `take` whole pieces. So rows are brought together once for each choice of `take` pieces, and only
rows that agree there are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

MAX_DISTANCE = 16
MAX_TAKE = 3
CROWD = 256
"""More pieces a key are taken while rows that agree in one key by chance alone would be more than this."""
BLOCK = 1024
"""Side of a tile in which many rows of one key are compared."""
SMALL = 32
"""Keys of at most so many rows are compared all at once."""
BITS = 64


@dataclass(frozen=True)
class Bands:
    """How 64 bits are cut: one mask a key, uint64 [keys]; rows are compared that agree under a mask."""

    masks: NDArray[np.uint64]

    @property
    def n(self) -> int:
        """Keys of each row."""
        return len(self.masks)


def bands(distance: int, rows: int) -> Bands:
    """Masks for all pairs within `distance` (0..MAX_DISTANCE) of about `rows` rows that have distinct hashes.

    One piece a key for few rows, more (up to MAX_TAKE) for many: more keys, each shared by fewer rows. Every choice
    finds the same pairs. Raises SpecError for a distance that pieces cannot serve.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise SpecError(f"the Hamming distance is {distance}; it must lie between 0 and {MAX_DISTANCE}")
    for take in range(1, MAX_TAKE + 1):
        pieces = distance + take
        masks = [sum(piece) for piece in combinations(_pieces(pieces), take)]
        if distance == 0 or rows >> (BITS * take // pieces) <= CROWD or take == MAX_TAKE:
            break
    return Bands(np.asarray(masks, dtype=np.uint64))


def _pieces(n: int) -> list[int]:
    """Masks of n neighbouring pieces of 64 bits, as even as possible."""
    cuts = [BITS * i // n for i in range(n + 1)]
    return [(1 << stop) - (1 << start) for start, stop in pairwise(cuts)]


@dataclass(frozen=True)
class Nearest:
    """For each row the nearest earlier one."""

    of: NDArray[np.int64]
    """[n] the earlier row at the smallest distance, the earliest of equals; -1 where none is near enough."""
    distance: NDArray[np.uint8]
    """[n] bits that differ, in the hash where most do; 0 where `of` is -1."""


def nearest_earlier(hashes: NDArray[np.uint64], distance: int, split: Bands | None = None) -> Nearest:
    """Nearest earlier row within `distance` (inclusive) of each row.

    hashes: uint64 [n] or [n, words], in keep order. With several words (dHash and pHash) the distance of two rows is
    the larger of the words' distances; keys are cut from the last word. split: masks to use, default `bands`.
    Exact for all rows that agree under one of the masks. Rows of equal hashes are compared once. Time: the pairs of
    distinct hashes that share a key; memory O(n * keys + BLOCK^2).
    """
    table = hashes[:, None] if hashes.ndim == 1 else hashes
    n = len(table)
    of, best = np.full(n, -1, dtype=np.int64), np.zeros(n, dtype=np.uint8)
    if not n:
        return Nearest(of, best)
    first = _first_of_equal(table)
    distinct = np.flatnonzero(first == np.arange(n))
    # a row like an earlier one is at distance 0 of the first of them, and nothing is nearer
    of[first != np.arange(n)] = first[first != np.arange(n)]
    found, least = _nearest_distinct(table[distinct], distance, split or bands(distance, len(distinct)))
    near = found >= 0
    of[distinct[near]] = distinct[found[near]]
    best[distinct[near]] = least[near]
    return Nearest(of, best)


def _first_of_equal(table: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The first row with the same hash, [n]."""
    order = np.lexsort(table.T[::-1])
    ordered = table[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    first = np.empty(len(order), dtype=np.int64)
    first[order] = order[new][np.cumsum(new) - 1]  # lexsort is stable: the smallest index comes first
    return first


def _nearest_distinct(
    table: NDArray[np.uint64], distance: int, split: Bands
) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """The same for rows of distinct hashes, key by key."""
    best = _Best(table, distance)
    for mask in split.masks if distance else ():
        keys = table[:, -1] & mask
        order = np.argsort(keys, kind="stable")  # rows of a key ascend
        bounds = np.flatnonzero(np.concatenate([[True], np.diff(keys[order]) != 0, [True]]))
        sizes = np.diff(bounds)
        size_here = np.repeat(sizes, sizes)
        small = np.flatnonzero(size_here <= SMALL)
        after = np.repeat(bounds[1:], sizes)[small]  # where the rows of the key end
        for shift in range(1, SMALL):
            inside = small + shift < after
            if not inside.any():
                break
            small, after = small[inside], after[inside]
            best.pairs(order[small], order[small + shift])
        for at in np.flatnonzero(sizes > SMALL).tolist():
            best.among(order[bounds[at] : bounds[at + 1]])
    return best.of, best.least


class _Best:
    """The nearest earlier row found so far, of each row."""

    def __init__(self, table: NDArray[np.uint64], distance: int) -> None:
        self.table = table
        self.of = np.full(len(table), -1, dtype=np.int64)
        self.least = np.full(len(table), distance + 1, dtype=np.uint8)

    def _note(self, rows: NDArray[np.int64], earlier: NDArray[np.int64], apart: NDArray[np.uint8]) -> None:
        """One candidate for each of some distinct rows. At the same distance the earlier candidate counts."""
        least, of = self.least[rows], self.of[rows]
        better = (apart < least) | ((apart == least) & (of >= 0) & (earlier < of))
        self.least[rows[better]], self.of[rows[better]] = apart[better], earlier[better]

    def pairs(self, earlier: NDArray[np.int64], later: NDArray[np.int64]) -> None:
        """Compare pairs; every later row at most once."""
        apart = np.bitwise_count(self.table[earlier] ^ self.table[later]).max(axis=1)
        self._note(later, earlier, apart)

    def among(self, rows: NDArray[np.int64]) -> None:
        """Compare these rows (ascending) with each other, in tiles of BLOCK."""
        for right in range(0, len(rows), BLOCK):
            later = rows[right : right + BLOCK]
            for left in range(0, right + 1, BLOCK):
                earlier = rows[left : left + BLOCK]
                apart = np.zeros((len(earlier), len(later)), dtype=np.uint8)
                for word in self.table.T:
                    np.maximum(apart, np.bitwise_count(word[earlier, None] ^ word[None, later]), out=apart)
                if left == right:
                    apart[np.tril_indices(len(later))] = BITS + 1  # a row and those behind it are not earlier
                at = apart.argmin(axis=0)  # the first of equals: the earliest row
                self._note(later, earlier[at], apart[at, np.arange(len(later))])
