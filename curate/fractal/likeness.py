"""How far two classes are from each other, for classes by the ten thousand.

The distance of two classes is the total variation between their coarse densities: the share of the pilot's points in
each of 16 x 16 cells around the mean, 2.5 standard deviations to each side of it, and outside; the least over the eight
flips and transposes of one of them. So it is the share of points (0 to 1) that would have to move to another cell. It
sees what an image of a class shows, where the set is moved and stretched to the canvas: place, size and aspect do not
count, nor do flips, which images have anyway. It does not see what is finer than a cell, and turns by other angles are
other classes. Both pilots have the same symbols, so systems that differ by little are compared on nearly the same
points; one measure with its maps in another order is seen with other symbols, 0.01 to 0.02 apart.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.fractal.pilot import CELLS, POINTS


def distance(a: NDArray[np.int32], b: NDArray[np.int32]) -> float:
    """Distance of two classes from the cells of their surveys, int32 [CELLS, CELLS] each; symmetric, 0 to 1."""
    outside = abs(int(a.sum()) - int(b.sum()))
    return (min(int(np.abs(turned - b).sum()) for turned in _dihedral(a)) + outside) / (2.0 * POINTS)


class Likeness:
    """Classes so far, and whether the next is like one of them. Memory: 1.2 KB a class.

    Work: one comparison of 37 numbers for each class so far, and of 256 to 2,048 numbers for those that it leaves in
    doubt. The 37 are the points outside and in each set of cells that flips and transposes exchange: such sums differ
    by no more than the densities do, so whatever they tell apart is apart.
    """

    def __init__(self) -> None:
        self._cells = np.empty((64, CELLS * CELLS), dtype=np.int32)
        self._sums = np.empty((64, int(_ORBITS.max()) + 2), dtype=np.int32)
        self._count = 0

    def add(self, cells: NDArray[np.int32]) -> None:
        """The next class, int32 [CELLS, CELLS]."""
        if self._count == len(self._cells):
            self._cells = np.concatenate([self._cells, np.empty_like(self._cells)])
            self._sums = np.concatenate([self._sums, np.empty_like(self._sums)])
        self._cells[self._count] = cells.reshape(-1)
        self._sums[self._count] = _sums(cells)
        self._count += 1

    def nearest(self, cells: NDArray[np.int32], limit: float = 1.0, but: int = -1) -> tuple[int, float] | None:
        """The class nearest to `cells` of those nearer than `limit`, the first of equals, and its distance.

        None when there is none. but: the number of a class that is passed over.
        """
        turned = np.stack([t.reshape(-1) for t in _dihedral(cells)])
        bound = math.ceil(min(limit, 2.0) * 2 * POINTS)  # differences are whole: below the limit is below its ceiling
        at, least = _nearest(turned, _sums(cells), self._cells[: self._count], self._sums[: self._count], bound, but)
        return None if at < 0 else (int(at), int(least) / (2.0 * POINTS))


def _dihedral(cells: NDArray[np.int32]) -> list[NDArray[np.int32]]:
    """The eight flips and transposes."""
    both = (cells, cells.T)
    return [np.ascontiguousarray(c[:: 1 - 2 * up, :: 1 - 2 * left]) for c in both for up in (0, 1) for left in (0, 1)]


def _orbits() -> NDArray[np.int64]:
    """Which sum each cell belongs to, int64 [CELLS * CELLS]: the least of the cells that the eight send it to."""
    number = np.arange(CELLS * CELLS, dtype=np.int32).reshape(CELLS, CELLS)
    least = np.min(_dihedral(number), axis=0).reshape(-1)
    return np.unique(least, return_inverse=True)[1].astype(np.int64).reshape(-1)


_ORBITS = _orbits()


def _sums(cells: NDArray[np.int32]) -> NDArray[np.int32]:
    """Points in each set of cells that are exchanged, and outside, int32 [37]."""
    inside = np.bincount(_ORBITS, weights=cells.reshape(-1))  # whole numbers, exact in float64
    return np.append(inside, POINTS - inside.sum()).astype(np.int32)


@njit(cache=True, nogil=True)
def _nearest(turned, sums, all_cells, all_sums, bound, but):  # type: ignore[no-untyped-def]
    found = -1
    for k in range(len(all_cells)):
        if k == but:
            continue
        apart = 0
        for j in range(len(sums)):
            apart += abs(sums[j] - all_sums[k, j])
        if apart >= bound:
            continue
        outside = abs(sums[-1] - all_sums[k, -1])
        for g in range(8):
            apart = outside
            for block in range(0, turned.shape[1], 64):
                for j in range(block, block + 64):
                    apart += abs(turned[g, j] - all_cells[k, j])
                if apart >= bound:
                    break
            if apart < bound:
                bound, found = apart, k
    return found, bound
