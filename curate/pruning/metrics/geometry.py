"""Metrics of where a sample lies among the others: its class's prototype, its nearest neighbours.

Rows are float16 [n, d], unit up to rounding. Their values are multiples of 2^-24, so float64 inner products of two
rows are exact; float32 products only propose. Distances are int64 in units of 2^-32, HIGH = hard.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.pruning import portable

DISTANCE_SCALE = 2**32
"""Units in 1.0 of the int64 distances (same as curate.concepts.assign)."""
_BLOCK = 2**20  # float64 entries held at once (8 MiB)
_TILE = 2**23  # float32 products held at once (32 MiB)
_UNIT_ROUNDOFF = 2.0**-24


def class_sums(
    rows: NDArray[np.float16], classes: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum of the rows of each class and their number: float64 [k, d], int64 [k].

    Exact, so sums of parts add up to the same in any order, for up to 2^29 rows of a class. classes int64 [n] in
    0..k-1. Memory: O(k d), and 8 MiB.
    """
    sums = np.zeros((k, rows.shape[1]), dtype=np.float64)
    order = np.argsort(classes, kind="stable")
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(order), step):
        mine = order[start : start + step]
        firsts = np.flatnonzero(np.diff(classes[mine], prepend=-1))
        sums[classes[mine[firsts]]] += np.add.reduceat(rows[mine].astype(np.float64), firsts, axis=0)
    return sums, np.bincount(classes, minlength=k).astype(np.int64)


def prototypes(
    rows: NDArray[np.float16],
    classes: NDArray[np.int64],
    sums: NDArray[np.float64],
    counts: NDArray[np.int64],
    *,
    leave_one_out: bool = False,
) -> NDArray[np.int64]:
    """1 - cos(x, mean of the rows of x's class), int64 [n] in units of 2^-32, at least 0; -1 where there is no mean.

    classes int64 [n] in 0..k-1; sums float64 [k, d] and counts int64 [k] from `class_sums` over all rows.
    leave_one_out takes x itself out of the mean, which matters for small classes; a class of one then has no mean.
    Memory: O(k d) and 32 MiB. Source: Sorscher et al. 2022, arXiv 2206.14486, section 5 (supervised prototypes).
    """
    out = np.full(len(rows), -1, dtype=np.int64)
    step = max(1, _BLOCK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        x = rows[start : start + step].astype(np.float64)
        own = classes[start : start + step]
        mean = sums[own] - x if leave_one_out else sums[own]
        length = np.sqrt(portable.dots(mean, mean) * portable.dots(x, x))
        there = (counts[own] > int(leave_one_out)) & (length > 0.0)
        cosine = portable.dots(x, mean) / np.where(there, length, 1.0)
        distance = np.rint(np.maximum(1.0 - cosine, 0.0) * DISTANCE_SCALE).astype(np.int64)
        out[start : start + step] = np.where(there, distance, -1)
    return out


def knn(
    rows: NDArray[np.float16],
    reference: NDArray[np.float16],
    k: int,
    itself: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Mean cosine distance to the k nearest reference rows: a sample in a sparse region is hard, one in a crowd easy.

    rows float16 [n, d]; reference float16 [m, d]; itself int64 [n], where the row stands in the reference (-1: not at
    all), which is left out by number, so that true copies count. With fewer than k others all are used. Returns int64
    [n] in units of 2^-32, at least 0, the floor of the mean of exact distances; -1 when there is no other row.
    Time O(n m d), memory O(m d) in float32 and 100 MiB. Raises SpecError when k < 1.
    Source: Loftsgaarden and Quesenberry 1965 (density from the distance to the k-th neighbour).
    """
    if k < 1:
        raise SpecError(f"the number of neighbours is {k}; it must be at least 1.")
    n, m = len(rows), len(reference)
    itself = np.full(n, -1, dtype=np.int64) if itself is None else itself
    out = np.full(n, -1, dtype=np.int64)
    if not m:
        return out
    table = reference.astype(np.float32)
    longest = float(np.sqrt(np.einsum("ij,ij->i", table, table).max()))
    block = max(1, _TILE // m)
    for start in range(0, n, block):
        x = rows[start : start + block].astype(np.float32)
        products = x @ table.T
        own = itself[start : start + block]
        inside = np.flatnonzero(own >= 0)
        products[inside, own[inside]] = -np.inf
        norms = np.sqrt(np.einsum("ij,ij->i", x, x))
        # two products can change places only if they are closer than twice the error of a float32 dot product
        slack = (2.0 * (x.shape[1] + 8) * _UNIT_ROUNDOFF * 1.001 * longest) * norms
        near = np.minimum(k, m - (own >= 0))
        out[start : start + block] = _nearest(x, table, products, slack.astype(np.float32), near)
    return out


def _nearest(
    x: NDArray[np.float32],
    table: NDArray[np.float32],
    products: NDArray[np.float32],
    slack: NDArray[np.float32],
    near: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Floor of the mean distance to the near[i] rows of highest exact inner product; -1 where near is 0."""
    out = np.full(len(x), -1, dtype=np.int64)
    most = int(near.max())
    if most == 0:
        return out
    m = products.shape[1]
    kth = np.partition(products, m - most, axis=1)[:, m - most]
    # a row with one neighbour less (itself is -inf) takes its own kth
    for row in np.flatnonzero(near < most):
        kth[row] = np.sort(products[row])[m - near[row]] if near[row] else np.inf
    at, candidate = np.nonzero((products >= (kth - slack)[:, None]) & np.isfinite(products))
    exact = np.empty(len(at), dtype=np.int64)
    step = max(1, _BLOCK // x.shape[1])
    for first in range(0, len(at), step):
        pair = slice(first, first + step)
        dot = np.einsum("pd,pd->p", x[at[pair]].astype(np.float64), table[candidate[pair]].astype(np.float64))
        exact[pair] = np.rint(np.maximum(1.0 - dot, 0.0) * DISTANCE_SCALE).astype(np.int64)
    order = np.lexsort((exact, at))
    at, exact = at[order], exact[order]
    rank = np.arange(len(at)) - np.searchsorted(at, at)
    taken = rank < near[at]
    total = np.zeros(len(x), dtype=np.int64)
    np.add.at(total, at[taken], exact[taken])
    has = near > 0
    out[has] = total[has] // near[has]
    return out
