"""SemDeDup within one concept (Abbas et al. 2023, arXiv 2303.09540), exact and in bounded memory.

Similarity of rows i and j is their cosine, dot / sqrt(|i|^2 * |j|^2), evaluated in float64 and clamped to at most 1.
The stored float16 entries are multiples of 2**-24, so dot and both squared norms are exact whatever the order of
summation; product, root and quotient are single IEEE operations. So the value is the same bit pattern on every machine,
and identical rows have similarity exactly 1 although float16 rows are not exactly of norm 1. float32 matrix products
only propose candidates: every value that can matter is recomputed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, SpecError

Rule = Literal["paper", "greedy"]

_GATHER = 2**20  # float64 entries gathered at once while settling candidates (8 MiB a side)
_UNIT_ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class MaxSimilarity:
    """Per row: the largest similarity to an earlier row, and which one."""

    similarity: NDArray[np.float64]
    """[n] in 0..1; 0.0 where `exact` is false."""
    duplicate_of: NDArray[np.int64]
    """[n] the earlier row with that similarity (the earliest of equals), -1 where `exact` is false."""
    exact: NDArray[np.bool_]
    """[n] true where the largest similarity is at least 1 - epsilon_max; false: it is smaller, and not computed."""


@dataclass(frozen=True)
class Duplicates:
    """The decision for each row of one concept; all arrays [n], indices into the rows as given."""

    keep: NDArray[np.bool_]
    duplicate_of: NDArray[np.int64]
    """The row that made this one a duplicate, -1 where kept. Under the paper's rule it may itself be dropped."""
    keeper: NDArray[np.int64]
    """The kept row at the end of the duplicate_of chain; itself where kept."""
    similarity: NDArray[np.float64]
    """Similarity to duplicate_of (above 1 - epsilon), 0.0 where kept."""


def keep_order(
    distance: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    order: Literal["hard", "easy"] = "hard",
) -> NDArray[np.int64]:
    """Permutation [n] that puts the preferred row of a duplicate pair first.

    "hard" (the paper's default) prefers the row farthest from its centroid, "easy" the nearest; ties go to the smaller
    uid. Apply it to the vectors before `semantic_duplicates`. Raises SpecError for another word.
    """
    if order not in ("hard", "easy"):
        raise SpecError(f'the keep order is "hard" or "easy", not "{order}".')
    first = ~distance if order == "hard" else distance  # ~ reverses int64 order without overflow
    return np.lexsort((uid_lo, uid_hi, first)).astype(np.int64)


def semantic_duplicates(
    vectors: NDArray[np.float16], *, epsilon: float, rule: Rule = "paper", block: int = 2048
) -> Duplicates:
    """Drop rows too similar to an earlier row: similarity strictly above 1 - epsilon.

    vectors: float16 [n, d] of one concept (a memmap works) in keep order, see `keep_order`.
    rule "paper": a row is dropped for any earlier row, even one that is itself dropped (what the SemDeDup code does;
    epsilon = 0 therefore keeps exact copies, whose similarity is 1). rule "greedy": only for an earlier row that is
    kept; keeps at least as many rows. Memory O(block * (block + d) + n). Raises as `max_similarity`.
    """
    n = len(vectors)
    if rule == "paper":
        found = max_similarity(vectors, epsilon_max=epsilon, block=block)
        keep = ~(found.exact & (found.similarity > 1.0 - epsilon))
        similarity, duplicate_of = found.similarity, found.duplicate_of
    elif rule == "greedy":
        keep, similarity, duplicate_of = _greedy(vectors, epsilon, block)
    else:
        raise SpecError(f'the duplicate rule is "paper" or "greedy", not "{rule}".')
    duplicate_of = np.where(keep, -1, duplicate_of)
    return Duplicates(keep, duplicate_of, keepers(duplicate_of), np.where(keep, 0.0, similarity)) if n else _none()


def keepers(duplicate_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Follow duplicate_of (int64 [n], -1 = kept, otherwise an earlier row) to a kept row; O(n log n)."""
    keeper = np.where(duplicate_of < 0, np.arange(len(duplicate_of)), duplicate_of)
    while True:
        further = keeper[keeper]
        if np.array_equal(further, keeper):
            return keeper
        keeper = further


def max_similarity(vectors: NDArray[np.float16], *, epsilon_max: float, block: int = 2048) -> MaxSimilarity:
    """Largest similarity of each row to an earlier row, exact wherever it is at least 1 - epsilon_max.

    vectors: float16 [n, d] in keep order (a memmap works). One call serves every epsilon <= epsilon_max: a row is
    dropped iff `exact` and similarity > 1 - epsilon, so the distribution of the values is the share kept for each
    epsilon. Time O(n^2 d / 2) float32 products; memory O(block * (block + d)) beside O(n) outputs. Raises SpecError for
    an epsilon outside 0..1 and InputError for rows that are zero or not finite.
    """
    _check(vectors, epsilon_max)
    search = _Search(vectors, 1.0 - epsilon_max, block)
    for start in range(0, search.n, block):
        search.rows(start, min(start + block, search.n))
    return MaxSimilarity(np.where(search.found >= 0, search.best, 0.0), search.found, search.found >= 0)


def _check(vectors: NDArray[np.float16], epsilon: float) -> None:
    if vectors.ndim != 2 or vectors.dtype != np.float16:
        raise SpecError(f"duplicate search wants float16 rows [n, d], it got {vectors.dtype} {vectors.shape}.")
    if not 0.0 <= epsilon <= 1.0:
        raise SpecError(f"epsilon is {epsilon}; it must lie between 0 (drop nothing) and 1.")


def _none() -> Duplicates:
    index = np.zeros(0, dtype=np.int64)
    return Duplicates(np.zeros(0, dtype=np.bool_), index, index.copy(), np.zeros(0))


class _Search:
    """Running exact maximum over earlier rows, one block of rows against one block of earlier rows at a time."""

    def __init__(self, vectors: NDArray[np.float16], threshold: float, block: int) -> None:
        self.vectors = vectors
        self.n, self.dim = vectors.shape
        self.block = block
        self.threshold = threshold
        # rigorous: float32 dot of rows scaled to norm 1 (two roundings an entry) against the float64 cosine
        self.error = (self.dim + 16) * _UNIT_ROUNDOFF
        self.best = np.full(self.n, -np.inf)
        self.found = np.full(self.n, -1, dtype=np.int64)
        self.norm2 = np.empty(self.n)
        for start in range(0, self.n, block):
            x = np.asarray(vectors[start : start + block]).astype(np.float64)
            self.norm2[start : start + block] = np.einsum("ij,ij->i", x, x)
        bad = np.flatnonzero(~(np.isfinite(self.norm2) & (self.norm2 > 0.0)))
        if bad.size:
            raise InputError(f"vector {bad[0]} of the concept is zero or not finite; quarantine it before dedup.")

    def scaled(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 of norm 1."""
        x = self._take(index).astype(np.float32)
        x *= (1.0 / np.sqrt(self.norm2[index])).astype(np.float32)[:, None]
        return x

    def _take(self, index: NDArray[np.int64]) -> NDArray[np.float16]:
        if index.size and index[-1] - index[0] + 1 == index.size and (np.diff(index) == 1).all():
            return np.asarray(self.vectors[index[0] : index[-1] + 1])  # a view, not a copy, for whole blocks
        return np.asarray(self.vectors[index])

    def rows(self, start: int, stop: int) -> None:
        """Settle rows start..stop-1 against all earlier rows."""
        active = np.arange(start, stop)
        x = self.scaled(active)
        for other in range(0, stop, self.block):
            earlier = np.arange(other, min(other + self.block, stop))
            y = x if other == start and len(active) == len(earlier) else self.scaled(earlier)
            self.tile(active, x, earlier, y)
            open_ = self.best[active] < 1.0  # 1 cannot be exceeded, and the earliest row that reached it stays
            if np.count_nonzero(open_) < 0.75 * len(active):
                active, x = active[open_], x[open_]
                if not len(active):
                    return

    def tile(
        self, rows: NDArray[np.int64], x: NDArray[np.float32], earlier: NDArray[np.int64], y: NDArray[np.float32]
    ) -> None:
        """Raise best and found of `rows` by the columns `earlier` (ascending), of which those >= row do not count."""
        if not len(earlier):
            return
        scores = x @ y.T
        if earlier[-1] >= rows[0]:
            scores[earlier[None, :] >= rows[:, None]] = -np.inf
        top = scores.max(axis=1)
        floor = np.maximum(self.threshold, self.best[rows]) - self.error
        hot = np.flatnonzero((top >= floor) & (self.best[rows] < 1.0))
        if hot.size == 0:
            return
        # whatever lies two errors below the float32 maximum of the tile cannot be the exact maximum
        wanted = scores[hot] >= np.maximum(floor[hot], top[hot] - 2.0 * self.error)[:, None]
        line, column, value = self.largest(rows[hot], earlier, wanted)
        row, partner = rows[hot[line]], earlier[column]
        better = (value > self.best[row]) & (value >= self.threshold)  # strict: an equal earlier row was there first
        self.best[row[better]] = value[better]
        self.found[row[better]] = partner[better]

    def largest(
        self, rows: NDArray[np.int64], earlier: NDArray[np.int64], wanted: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
        """Lines of `wanted` with a candidate, and their first column of largest exact similarity with its value."""
        if self.crowded(wanted):
            exact = np.where(wanted, self.product(rows, earlier), -np.inf)
            best = exact.argmax(axis=1)
            value = exact[np.arange(len(rows)), best]
            line = np.flatnonzero(value > -np.inf)
            return line, best[line], value[line]
        at, column = np.nonzero(wanted)
        value = self.pairs(rows, earlier, at, column)
        order = np.lexsort((column, -value, at))
        first = order[np.flatnonzero(np.diff(at[order], prepend=-1))]
        return at[first], column[first], value[first]

    def alone(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Greedy decision among `rows` (ascending, at most a block): true where no earlier true row is too similar."""
        x = self.scaled(rows)
        near = np.tril(x @ x.T >= self.threshold - self.error, -1)
        if self.crowded(near):
            near &= self.product(rows, rows) > self.threshold
        else:
            at, column = np.nonzero(near)
            near[at, column] = self.pairs(rows, rows, at, column) > self.threshold
        alive = np.ones(len(rows), dtype=np.bool_)
        for j in np.flatnonzero(near.any(axis=1)):
            alive[j] = not (near[j] & alive).any()
        return alive

    @staticmethod
    def crowded(wanted: NDArray[np.bool_]) -> bool:
        """True when one exact float64 product of all pairs is cheaper than gathering the wanted ones."""
        return int(np.count_nonzero(wanted)) * 16 > wanted.size

    def product(self, rows: NDArray[np.int64], earlier: NDArray[np.int64]) -> NDArray[np.float64]:
        """Exact similarity of all pairs, [rows, earlier]."""
        dots = self._take(rows).astype(np.float64) @ self._take(earlier).astype(np.float64).T
        return self._cosine(dots, self.norm2[rows][:, None] * self.norm2[earlier][None, :])

    def pairs(
        self, rows: NDArray[np.int64], earlier: NDArray[np.int64], at: NDArray[np.intp], column: NDArray[np.intp]
    ) -> NDArray[np.float64]:
        """Exact similarity of the pairs rows[at], earlier[column]."""
        a, b = self._take(rows), self._take(earlier)
        dots = np.empty(len(at))
        step = max(1, _GATHER // self.dim)
        for p in range(0, len(at), step):
            left = a[at[p : p + step]].astype(np.float64)
            dots[p : p + step] = np.einsum("pd,pd->p", left, b[column[p : p + step]].astype(np.float64))
        return self._cosine(dots, self.norm2[rows[at]] * self.norm2[earlier[column]])

    @staticmethod
    def _cosine(dots: NDArray[np.float64], norms2: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.minimum(dots / np.sqrt(norms2), 1.0)


def _greedy(
    vectors: NDArray[np.float16], epsilon: float, block: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Keep, best similarity and partner per row, comparing with kept rows only."""
    _check(vectors, epsilon)
    search = _Search(vectors, 1.0 - epsilon, block)
    keep = np.ones(search.n, dtype=np.bool_)
    for start in range(0, search.n, block):
        stop = min(start + block, search.n)
        here = np.arange(start, stop)
        kept = np.flatnonzero(keep[:start])
        x = search.scaled(here)
        for at in range(0, len(kept), block):
            search.tile(here, x, kept[at : at + block], search.scaled(kept[at : at + block]))
        keep[here] = ~(search.best[here] > search.threshold)
        survivors = here[keep[here]]
        keep[survivors] = search.alone(survivors)
        last = here[keep[here]]
        search.tile(here, x, last, search.scaled(last))
    return keep, search.best, search.found
