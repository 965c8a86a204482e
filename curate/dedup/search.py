"""The largest similarity of rows to earlier rows, tile by tile; float32 products propose, exact values decide.

A tile is a block of rows against a block of rows of which all, or by their ranks some, are earlier. What a tile
proposes is a superset of what can matter, so the results do not depend on tiles, products or filters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.dedup.cosine import UNIT_ROUNDOFF, Rows, crowded, product, similarities
from curate.dedup.prefix import Prefix

_LEAST = 256  # a tile in which ranks mix is quartered down to this


class Best:
    """The running exact maximum of every row of one side, and where it was found."""

    def __init__(self, n: int) -> None:
        self.value = np.full(n, -np.inf)
        self.found = np.full(n, -1, dtype=np.int64)

    def floor(self, index: NDArray[np.int64], threshold: float) -> NDArray[np.float64]:
        """What a similarity must reach to matter."""
        floor: NDArray[np.float64] = np.maximum(threshold, self.value[index])
        return floor


@dataclass(frozen=True)
class Part:
    """Some rows of one side, ready for products: as float32 unit rows, or as sketches."""

    rows: Rows
    index: NDArray[np.int64]
    """Ascending."""
    rank: NDArray[np.int64]
    """Ascending; a row is earlier than another when its rank is smaller."""
    unit: NDArray[np.float32] | None
    first: NDArray[np.float32] | None
    second: NDArray[np.float32] | None
    prefix: Prefix | None

    @classmethod
    def of(cls, rows: Rows, index: NDArray[np.int64], rank: NDArray[np.int64], prefix: Prefix | None) -> Part:
        """Read the rows `index`; `rank` belongs to them."""
        if prefix is None:
            return cls(rows, index, rank, rows.unit(index), None, None, None)
        return cls(rows, index, rank, None, *prefix.sketch(rows, index), prefix)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, at: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Part:
        first = None if self.first is None else self.first[at]
        second = first if self.second is self.first else None if self.second is None else self.second[at]
        unit = None if self.unit is None else self.unit[at]
        return Part(self.rows, self.index[at], self.rank[at], unit, first, second, self.prefix)

    @property
    def slack(self) -> tuple[float, float]:
        """Of the bounds by the first and by the second sketch; 0 without."""
        if self.prefix is None or self.first is None or self.second is None:
            return 0.0, 0.0
        return self.prefix.slack(self.first.shape[1]), self.prefix.slack(self.second.shape[1])

    def scaled(self) -> NDArray[np.float32]:
        """float32 rows of norm 1."""
        return self.rows.unit(self.index) if self.unit is None else self.unit


class Search:
    """Raises the maxima of one or both sides; holds the space of one tile, block * block float32."""

    def __init__(self, threshold: float, block: int) -> None:
        self.threshold, self.block = threshold, block
        self._space = np.empty(0, dtype=np.float32)

    def scores(self, a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
        """a @ b.T in the space of the tile, good until the next call."""
        size = len(a) * len(b)
        if len(self._space) < size:
            self._space = np.empty(size, dtype=np.float32)
        return np.matmul(a, b.T, out=self._space[:size].reshape(len(a), len(b)))

    def compare(self, a: Part, best_a: Best, b: Part, best_b: Best | None) -> None:
        """Raise best_a by earlier rows of b, and best_b (None: not wanted) by earlier rows of a."""
        if not len(a) or not len(b):
            return
        if b.rank[-1] < a.rank[0]:
            self.tile(a, best_a, b, mixed=False)
        elif a.rank[-1] <= b.rank[0]:
            if best_b is not None:
                self.tile(b, best_b, a, mixed=False)
        elif max(len(a), len(b)) > _LEAST:
            half_a, half_b = (len(a) + 1) // 2, (len(b) + 1) // 2
            for part in (a[:half_a], a[half_a:]):  # ascending on both sides: the earliest of equals comes first
                for other in (b[:half_b], b[half_b:]):
                    self.compare(part, best_a, other, best_b)
        else:
            self.tile(a, best_a, b, mixed=True)
            if best_b is not None:
                self.tile(b, best_b, a, mixed=True)

    def tile(self, later: Part, best: Best, earlier: Part, *, mixed: bool) -> None:
        """Raise `best` of the rows `later` by the rows `earlier`; mixed: only by those whose rank is smaller."""
        for start in range(0, len(later), self.block):
            part = later[start : start + self.block]
            is_open = best.value[part.index] < 1.0  # 1 cannot be exceeded, and the earliest that reached it stays
            if not is_open.all():
                part = part[is_open]
            if len(part):
                self._tile(part, best, earlier, mixed)

    def _tile(self, later: Part, best: Best, earlier: Part, mixed: bool) -> None:
        if later.first is not None and earlier.first is not None:
            scores, error = self.scores(later.first, earlier.first), later.slack[0]
        else:
            scores, error = self.scores(later.scaled(), earlier.scaled()), later.rows.error + UNIT_ROUNDOFF
        if mixed:
            scores[earlier.rank[None, :] >= later.rank[:, None]] = -np.inf
        floor = (best.floor(later.index, self.threshold) - error).astype(np.float32)
        top = scores.max(axis=1)
        hot = np.flatnonzero(top >= floor)
        if not hot.size:
            return
        if later.first is None:
            # whatever lies two errors below the float32 maximum of the tile cannot be the exact maximum
            floor = np.maximum(floor[hot], top[hot] - np.float32(2.0 * error + 2.0 * UNIT_ROUNDOFF))
            self._settle(later[hot], best, earlier, scores[hot] >= floor[:, None])
        else:
            self._survivors(later[hot], best, earlier, scores[hot] >= floor[hot][:, None])

    def above(self, a: Part, b: Part) -> NDArray[np.bool_]:
        """Which pairs are similar: similarity strictly above the threshold, bool [len(a), len(b)]."""
        if a.first is not None and b.first is not None:
            maybe = self.scores(a.first, b.first) >= np.float32(self.threshold - a.slack[0])
            row, column = np.flatnonzero(maybe.any(axis=1)), np.flatnonzero(maybe.any(axis=0))
            if len(row) * len(column) > 64 * int(np.count_nonzero(maybe)):
                at, to = np.divmod(np.flatnonzero(maybe), len(b))
                maybe[at, to] = similarities(a.rows, a.index[at], b.rows, b.index[to]) > self.threshold
            elif row.size:
                maybe[np.ix_(row, column)] &= self._full(a[row], b[column])
            return maybe
        return self._full(a, b)

    def _full(self, a: Part, b: Part) -> NDArray[np.bool_]:
        scores = self.scores(a.scaled(), b.scaled())
        error = a.rows.error + UNIT_ROUNDOFF
        result = scores >= np.float32(self.threshold - error)
        doubt = result & (scores <= np.float32(self.threshold + error))
        if crowded(doubt):
            result &= product(a.rows, a.index, b.rows, b.index) > self.threshold
        else:
            at, to = np.nonzero(doubt)
            result[at, to] = similarities(a.rows, a.index[at], b.rows, b.index[to]) > self.threshold
        return result

    def _survivors(self, later: Part, best: Best, earlier: Part, wanted: NDArray[np.bool_]) -> None:
        """Settle what the first filter let through: by full products where it is much, else by the second filter."""
        columns = np.flatnonzero(wanted.any(axis=0))
        wanted = wanted[:, columns]
        earlier = earlier[columns]
        full = (len(later) * len(columns) * 0.0145 + (len(later) + len(columns)) * 2.5) * later.rows.dim
        if int(np.count_nonzero(wanted)) * (64 + later.second.shape[1] if later.second is not None else 0) > full:
            scores, error = self.scores(later.scaled(), earlier.scaled()), later.rows.error + UNIT_ROUNDOFF
            scores[~wanted] = -np.inf
            top = scores.max(axis=1)
            floor = (best.floor(later.index, self.threshold) - error).astype(np.float32)
            floor = np.maximum(floor, top - np.float32(2.0 * error + 2.0 * UNIT_ROUNDOFF))
            self._settle(later, best, earlier, scores >= floor[:, None])
            return
        at, column = np.divmod(np.flatnonzero(wanted), len(columns))
        if later.second is not None and earlier.second is not None and later.second is not later.first:
            floor = (best.floor(later.index, self.threshold) - later.slack[1]).astype(np.float32)
            stay = np.empty(len(at), dtype=np.bool_)
            step = max(1, 2**17 // later.second.shape[1])
            for p in range(0, len(at), step):
                i, j = at[p : p + step], column[p : p + step]
                bound = np.einsum("pd,pd->p", later.second.take(i, axis=0), earlier.second.take(j, axis=0))
                stay[p : p + step] = bound >= floor[i]
            at, column = at[stay], column[stay]
        self._pairs(later, best, earlier, at, column)

    def _settle(self, later: Part, best: Best, earlier: Part, wanted: NDArray[np.bool_]) -> None:
        """Raise `best` by the wanted pairs [later, earlier]."""
        if crowded(wanted):
            exact = np.where(wanted, product(later.rows, later.index, earlier.rows, earlier.index), -np.inf)
            column = exact.argmax(axis=1)
            self._raise(later, best, earlier, np.arange(len(later)), column, exact[np.arange(len(later)), column])
        else:
            self._pairs(later, best, earlier, *np.nonzero(wanted))

    def _pairs(self, later: Part, best: Best, earlier: Part, at: NDArray[np.intp], column: NDArray[np.intp]) -> None:
        if not len(at):
            return
        value = similarities(later.rows, later.index[at], earlier.rows, earlier.index[column])
        starts = np.flatnonzero(np.concatenate(([True], at[1:] != at[:-1])))  # pairs come row by row, columns ascending
        top = np.maximum.reduceat(value, starts)
        largest = np.flatnonzero(value == np.repeat(top, np.diff(starts, append=len(at))))
        first = largest[np.concatenate(([True], at[largest][1:] != at[largest][:-1]))]
        self._raise(later, best, earlier, at[first], column[first], value[first])

    def _raise(
        self,
        later: Part,
        best: Best,
        earlier: Part,
        at: NDArray[np.intp],
        column: NDArray[np.intp],
        value: NDArray[np.float64],
    ) -> None:
        row = later.index[at]
        better = (value > best.value[row]) & (value >= self.threshold)  # strict: an equal earlier row was there first
        best.value[row[better]] = value[better]
        best.found[row[better]] = earlier.index[column[better]]
