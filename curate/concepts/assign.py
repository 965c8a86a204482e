"""Nearest centroid of each row, the same answer on every machine.

float32 matrix products differ in their last bits between BLAS builds, thread counts and devices, so they only propose
candidates here. Rows and centroids hold multiples of 2**-24, hence their inner products are multiples of 2**-48
below 32 and float64 sums them without any rounding, in any order: every near tie is settled with those exact values.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, SpecError

Device = Literal["cpu", "cuda"]

DISTANCE_SCALE = 2**32
"""Units of the int64 distances in 1.0. Sums stay exact for a thousand million rows at the largest distance, 2."""

GRID = 2.0**24
"""Entries of centroids (and of float16 rows) are multiples of 1 / GRID."""

_TILE = 2**23  # float32 scores held at once (32 MiB)
_GPU_TILE = 2**28  # the same on a GPU (1 GiB)
_IN_CACHE = 2**17  # entries worked on at once where a temporary array should stay in the cache (1 MiB of float64)
_UNIT_ROUNDOFF = 2.0**-24
_SIGN_AND_FRACTION = np.int32(-0x70000001)  # all bits but 30, 29 and 28


def to_float(distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cosine distances in 0..2 as float64 from their int64 fixed-point form (exact)."""
    return distance / np.float64(DISTANCE_SCALE)


def to_fixed(dots: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cosine distances 1 - dot, clamped at 0, in units of 1 / DISTANCE_SCALE."""
    units: NDArray[np.int64] = np.rint(np.maximum(1.0 - dots, 0.0) * DISTANCE_SCALE).astype(np.int64)
    return units


def on_grid(values: NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Round entries of size at most 1 to multiples of 2**-24 (exact in float32); same shape out."""
    return (np.rint(values.astype(np.float64) * GRID) / GRID).astype(np.float32)


def as_float32(rows: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows whose entries are multiples of 2**-24 as float32: float16 values as they are, float32 values rounded."""
    if rows.dtype != np.float16:
        return on_grid(rows)
    out = np.empty(rows.shape, dtype=np.float32)
    bits = np.ascontiguousarray(rows).view(np.int16)
    if bits.ndim != 2 or not bits.size:
        return rows.astype(np.float32)
    step = max(1, _IN_CACHE // rows.shape[1])
    for at in range(0, len(rows), step):
        # shift exponent and fraction to where float32 has them, then mend the exponent, whose bias is 112 larger there;
        # numpy's own cast takes three times as long
        wide = bits[at : at + step].astype(np.int32)
        np.left_shift(wide, 13, out=wide)
        np.bitwise_and(wide, _SIGN_AND_FRACTION, out=wide)
        np.multiply(wide.view(np.float32), np.float32(2.0**112), out=out[at : at + step])
    if np.abs(out).max() >= 65536.0:  # the exponent of infinity and NaN, which became a number
        return rows.astype(np.float32)
    return out


def assign(
    rows: NDArray[np.float16] | NDArray[np.float32], centroids: NDArray[np.float32], *, device: Device = "cpu"
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Nearest centroid by inner product and the cosine distance to it.

    rows: [n, d] unit rows (a memmap works); float16 values are used as stored, float32 values are first rounded to
    multiples of 2**-24. centroids: [k, d] unit rows with entries on that grid, as `kmeans.train` returns them.
    Returns concept int32 [n] (an exact tie goes to the lowest concept) and distance int64 [n]: 1 - <x, c> rounded to
    units of 1 / DISTANCE_SCALE. Rows of float16 are not exactly of norm 1, so a row at its centroid may come out
    below 0 by about 1e-4: distances are clamped at 0. Bit-identical for any BLAS, thread count, block of rows and
    device: "cuda" proposes on the GPU (float32, TF32 off), near ties and distances are settled here.

    Memory: O(block * (k + d)) with block * k <= 2**23, beside the output; on a GPU block * k <= 2**28. Raises SpecError
    for shapes that do not fit and InputError for rows that are not finite.
    """
    if rows.ndim != 2 or centroids.ndim != 2 or rows.shape[1] != centroids.shape[1]:
        raise SpecError(f"rows {rows.shape} and centroids {centroids.shape} need the same number of columns.")
    n = rows.shape[0]
    if not len(centroids):
        raise SpecError("there are no centroids to assign rows to; train at least one.")
    concept = np.zeros(n, dtype=np.int32)
    distance = np.zeros(n, dtype=np.int64)
    nearest = Nearest(centroids, device=device)
    for start in range(0, n, nearest.block):
        at = slice(start, start + nearest.block)
        x = as_float32(rows[at])
        best, _ = nearest(x, start)
        concept[at] = best
        distance[at] = to_fixed(paired_dots(x, nearest.exact, None, best))
    return concept, distance


class Nearest:
    """Finds the nearest of the same centroids for block after block of rows.

    block: rows to give at once; exact: the centroids in float64. Raises SpecError when there is no CUDA device.
    """

    def __init__(self, centroids: NDArray[np.float32], *, device: str = "cpu") -> None:
        self.table = np.ascontiguousarray(centroids, dtype=np.float32)
        self.exact = self.table.astype(np.float64)
        self.k, dim = self.table.shape
        longest = float(np.sqrt(np.max(np.einsum("ij,ij->i", self.exact, self.exact))))
        self._error = (dim + 8) * _UNIT_ROUNDOFF * longest  # of a float32 dot product, in any order, of a row of norm 1
        self._torch = None if device == "cpu" else _TorchScores(self.table, device)
        self.block = (
            max(16, min(2048, _TILE // self.k)) if self._torch is None else max(16, min(2**17, _GPU_TILE // self.k))
        )
        self._scores = np.empty((0, self.k), dtype=np.float32)

    def __call__(self, x: NDArray[np.float32], first: int = 0) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Of rows float32 [n, d], n <= block: the nearest centroid, intp [n], and a number float64 [n] that no exact
        inner product with any other centroid exceeds. first: number of the first row, for messages.
        """
        norm = float(np.sqrt(np.max(np.einsum("ij,ij->i", x, x), initial=0.0))) * 1.001
        if not np.isfinite(norm):
            raise InputError(f"rows {first} to {first + len(x) - 1} hold values that are not finite; quarantine them.")
        # two scores can swap only if they are closer than twice the forward error of a float32 dot product
        slack = np.float32(2.0 * self._error * norm)
        if self._torch is None:
            return self._search(x, slack)
        best, top, second = self._torch(x)
        ceiling = second.astype(np.float64) + slack
        close = np.flatnonzero(second >= top - slack)
        size = max(16, _TILE // self.k)
        for at in range(0, close.size, size):
            rows = close[at : at + size]
            best[rows], ceiling[rows] = self._search(x[rows], slack)
        return best, ceiling

    def best_other(self, x: NDArray[np.float32], own: NDArray[np.intp]) -> NDArray[np.float64]:
        """A number float64 [n] that no exact inner product of a row with a centroid other than `own` (intp [n], -1 for
        none) exceeds; rows float32 [n, d], n <= block, are finite.
        """
        norm = float(np.sqrt(np.max(np.einsum("ij,ij->i", x, x), initial=0.0))) * 1.001
        if len(self._scores) < len(x):
            self._scores = np.empty((len(x), self.k), dtype=np.float32)
        scores = np.matmul(x, self.table.T, out=self._scores[: len(x)])
        has = np.flatnonzero(own >= 0)
        scores[has, own[has]] = -np.inf
        bound: NDArray[np.float64] = scores.max(axis=1).astype(np.float64)
        bound += 2.0 * self._error * norm
        return bound

    def _search(self, x: NDArray[np.float32], slack: np.float32) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        if len(self._scores) < len(x):
            self._scores = np.empty((len(x), self.k), dtype=np.float32)
        scores = np.matmul(x, self.table.T, out=self._scores[: len(x)])
        line = np.arange(len(x))
        best: NDArray[np.intp] = scores.argmax(axis=1)
        top = scores[line, best]
        scores[line, best] = -np.inf
        second = scores.max(axis=1)
        ceiling = second.astype(np.float64) + slack
        close = np.flatnonzero(second >= top - slack)
        if close.size == 0:
            return best, ceiling
        scores[line, best] = top
        # row-major order: candidates of a row stand together, lowest concept first
        at, candidate = np.nonzero(scores[close] >= (top[close] - slack)[:, None])
        exact = paired_dots(x, self.exact, close[at], candidate)
        order = np.lexsort((candidate, -exact, at))
        first = order[np.flatnonzero(np.diff(at[order], prepend=-1))]
        best[close] = candidate[first]
        ceiling[close] = top[close].astype(np.float64) + slack
        return best, ceiling


class _TorchScores:
    """Best, its score and the score of the next best centroid of each row, by float32 products on a torch device."""

    def __init__(self, table: NDArray[np.float32], device: str) -> None:
        import torch  # heavy to import, and a CPU does without

        if device == "cuda" and not torch.cuda.is_available():
            raise SpecError('device "cuda" was asked for, but torch sees no GPU here; use device "cpu".')
        self._torch: Any = torch
        self._device = device
        self._table = torch.from_numpy(table).to(device).T
        self._k = len(table)

    def __call__(self, x: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32], NDArray[np.float32]]:
        matmul = self._torch.backends.cuda.matmul
        before, matmul.allow_tf32 = matmul.allow_tf32, False
        try:
            scores = self._torch.from_numpy(np.ascontiguousarray(x)).to(self._device) @ self._table
        finally:
            matmul.allow_tf32 = before
        values, places = (found.cpu().numpy() for found in scores.topk(min(2, self._k), dim=1))
        second = values[:, 1] if self._k > 1 else np.full(len(x), -np.inf, dtype=np.float32)
        return places[:, 0].astype(np.intp), values[:, 0], second


def paired_dots(
    left: NDArray[np.float32], right: NDArray[np.float64], i: NDArray[np.intp] | None, j: NDArray[Any]
) -> NDArray[np.float64]:
    """<left[i[p]], right[j[p]]> for every pair p, float64; exact when entries are multiples of 2**-24 of unit rows.

    i None: every row of `left` in order. Memory: O(1 MiB) beside the output.
    """
    out = np.empty(len(j), dtype=np.float64)
    step = max(1, _IN_CACHE // max(1, left.shape[1]))
    for at in range(0, len(j), step):
        a = left[at : at + step] if i is None else left[i[at : at + step]]
        np.vecdot(a.astype(np.float64), right[j[at : at + step]], out=out[at : at + step])
    return out
