"""Nearest centroid of each row, the same answer on every machine.

float32 matrix products differ in their last bits between BLAS builds and thread counts, so they only propose
candidates here. Rows and centroids hold multiples of 2**-24, hence their inner products are multiples of 2**-48
below 32 and float64 sums them without any rounding, in any order: every near tie is settled with those exact values.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, SpecError

DISTANCE_SCALE = 2**32
"""Units of the int64 distances in 1.0. Sums stay exact for a thousand million rows at the largest distance, 2."""

GRID = 2.0**24
"""Entries of centroids (and of float16 rows) are multiples of 1 / GRID."""

_TILE = 2**23  # float32 scores held at once (32 MiB)
_GATHER = 2**21  # float64 entries gathered at once while settling ties (16 MiB a side)
_UNIT_ROUNDOFF = 2.0**-24


def to_float(distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosine distances in 0..2 as float64 from their int64 fixed-point form (exact)."""
    return distance / np.float64(DISTANCE_SCALE)


def on_grid(values: NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Round entries of size at most 1 to multiples of 2**-24 (exact in float32); same shape out."""
    return (np.rint(values.astype(np.float64) * GRID) / GRID).astype(np.float32)


def as_float32(rows: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows whose entries are multiples of 2**-24 as float32: float16 values as they are, float32 values rounded."""
    return rows.astype(np.float32) if rows.dtype == np.float16 else on_grid(rows)


def assign(
    rows: NDArray[np.float16] | NDArray[np.float32], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Nearest centroid by inner product and the cosine distance to it.

    rows: [n, d] unit rows (a memmap works); float16 values are used as stored, float32 values are first rounded to
    multiples of 2**-24. centroids: [k, d] unit rows with entries on that grid, as `kmeans.train` returns them.
    Returns concept int32 [n] (an exact tie goes to the lowest concept) and distance int64 [n]: 1 - <x, c> rounded to
    units of 1 / DISTANCE_SCALE. Rows of float16 are not exactly of norm 1, so a row at its centroid may come out
    below 0 by about 1e-4: distances are clamped at 0. Bit-identical for any BLAS, thread count or block of rows.

    Memory: O(block * (k + d)) with block * k <= 2**23, beside the output. Raises SpecError for shapes that do not fit
    and InputError for rows that are not finite.
    """
    if rows.ndim != 2 or centroids.ndim != 2 or rows.shape[1] != centroids.shape[1]:
        raise SpecError(f"rows {rows.shape} and centroids {centroids.shape} need the same number of columns.")
    n, dim = rows.shape
    k = centroids.shape[0]
    if k == 0:
        raise SpecError("there are no centroids to assign rows to; train at least one.")
    concept = np.zeros(n, dtype=np.int32)
    distance = np.zeros(n, dtype=np.int64)
    table = np.ascontiguousarray(centroids, dtype=np.float32)
    exact_table = table.astype(np.float64)
    longest = float(np.sqrt(np.max(np.einsum("ij,ij->i", exact_table, exact_table))))
    block = max(16, min(2048, _TILE // k))
    buffer = np.empty((min(block, n), k), dtype=np.float32)
    for start in range(0, n, block):
        x = as_float32(rows[start : start + block])
        norm = float(np.sqrt(np.max(np.einsum("ij,ij->i", x, x)))) * 1.001
        if not np.isfinite(norm):
            raise InputError(f"rows {start} to {start + len(x) - 1} hold values that are not finite; quarantine them.")
        # two scores can swap only if they are closer than twice the forward error of a float32 dot product
        slack = np.float32(2.0 * (dim + 8) * _UNIT_ROUNDOFF * norm * longest)
        best = _nearest(x, table, exact_table, slack, buffer[: len(x)])
        concept[start : start + block] = best
        exact = paired_dots(x, exact_table, np.arange(len(x)), best)
        distance[start : start + block] = np.rint(np.maximum(1.0 - exact, 0.0) * DISTANCE_SCALE).astype(np.int64)
    return concept, distance


def _nearest(
    x: NDArray[np.float32],
    table: NDArray[np.float32],
    exact_table: NDArray[np.float64],
    slack: np.float32,
    scores: NDArray[np.float32],
) -> NDArray[np.intp]:
    """Nearest centroid of each row; `scores` [rows, k] is scratch space."""
    np.matmul(x, table.T, out=scores)
    line = np.arange(len(x))
    best: NDArray[np.intp] = scores.argmax(axis=1)
    top = scores[line, best]
    scores[line, best] = -np.inf
    close = np.flatnonzero(scores.max(axis=1) >= top - slack)
    if close.size == 0:
        return best
    scores[line, best] = top
    # row-major order: candidates of a row stand together, lowest concept first
    at, candidate = np.nonzero(scores[close] >= (top[close] - slack)[:, None])
    exact = paired_dots(x, exact_table, close[at], candidate)
    order = np.lexsort((candidate, -exact, at))
    first = order[np.flatnonzero(np.diff(at[order], prepend=-1))]
    best[close] = candidate[first]
    return best


def paired_dots(
    left: NDArray[np.float32], right: NDArray[np.float64], i: NDArray[np.intp], j: NDArray[np.intp]
) -> NDArray[np.float64]:
    """<left[i[p]], right[j[p]]> for every pair p, float64; exact when entries are multiples of 2**-24 of unit rows."""
    out = np.empty(len(i), dtype=np.float64)
    step = max(1, _GATHER // max(1, left.shape[1]))
    for at in range(0, len(i), step):
        a = left[i[at : at + step]].astype(np.float64)
        out[at : at + step] = np.einsum("pd,pd->p", a, right[j[at : at + step]])
    return out
