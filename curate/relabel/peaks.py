"""Where in an image a label is: the connected cells that say it at least half as much as the best cell does.

    for peak in peaks(probabilities[label]):
        peak.box, peak.value

A class activation map cut at a share of its peak, as in weakly supervised localization (Zhou et al. 2016, section 3.2,
which cuts at 0.2 and takes the largest piece; here every piece is kept). What never lives here: which labels an image
has (sets.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.errors import InputError
from curate.relabel.maps import LabelMap, probabilities


@dataclass(frozen=True, slots=True)
class Peak:
    """One connected piece of a label.

    ``box``: (top, left, height, width), shares of the image's height or width, of the smallest box over its cells.
    ``value``: the best cell's, at ``cell`` (row, column; the first of equals). ``cells``: how many.
    """

    value: float
    cell: tuple[int, int]
    box: tuple[float, float, float, float]
    cells: int


def peaks(values: NDArray[np.floating[Any]], share: float = 0.5, least: float = 0.0) -> list[Peak]:
    """Pieces of one class's values [H, W], the highest first, equal ones by place.

    A cell belongs when its value is at least `share` of the best one; cells touch over sides and corners. Values are
    probabilities (or anything where 0 means nothing): no piece when the best is not above `least`. Raises InputError
    for values that are not finite or not a grid, a share outside (0, 1], or a negative `least`.
    """
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise InputError(f"Values of a label are {list(values.shape)}; wanted finite numbers of rows x columns.")
    if not 0 < share <= 1 or not least >= 0:
        raise InputError(f"share is {share:g} and least {least:g}; wanted above 0 to 1, and 0 or more.")
    height, width = values.shape
    best = float(values.max())
    if best <= least:
        return []
    pieces, number = _connected(values >= share * best)
    found = []
    for piece in range(1, number + 1):
        rows, columns = np.nonzero(pieces == piece)
        inside = values[rows, columns]
        at = int(inside.argmax())
        top, left = int(rows.min()), int(columns.min())
        tall, wide = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
        found.append(
            Peak(
                value=float(inside[at]),
                cell=(int(rows[at]), int(columns[at])),
                box=(top / height, left / width, tall / height, wide / width),
                cells=len(rows),
            )
        )
    return sorted(found, key=lambda one: (-one.value, one.cell))


def label_peaks(one: LabelMap, label: int, share: float = 0.5, least: float = 0.0) -> list[Peak]:
    """`peaks` of the probabilities of one class of a label map; 0 in cells that do not store it.

    A cell below the top K is at most as probable as the last stored class there, so pieces may come out smaller than
    on the dense map, never larger. Raises InputError when the map has no lse.
    """
    known = np.where(one.classes == label, probabilities(one), np.float32(0)).max(axis=0)
    return peaks(np.minimum(known, 1), share, least)  # float16 may round a score up past the lse


@njit(cache=True, nogil=True)
def _connected(marked: NDArray[np.bool_]) -> tuple[NDArray[np.int32], int]:
    """Number of the piece of each marked cell, from 1, 0 elsewhere; and how many pieces. Neighbours: all eight."""
    height, width = marked.shape
    pieces = np.zeros((height, width), dtype=np.int32)
    waiting = np.empty(height * width, dtype=np.int64)
    number = 0
    for start in range(height * width):
        if not marked[start // width, start % width] or pieces[start // width, start % width]:
            continue
        number += 1
        pieces[start // width, start % width] = number
        waiting[0], left = start, 1
        while left:
            left -= 1
            row, column = waiting[left] // width, waiting[left] % width
            for y in range(max(row - 1, 0), min(row + 2, height)):
                for x in range(max(column - 1, 0), min(column + 2, width)):
                    if marked[y, x] and not pieces[y, x]:
                        pieces[y, x] = number
                        waiting[left] = y * width + x
                        left += 1
    return pieces, number
