"""Complexity of concepts (Density-Based Pruning, Abbas et al. 2024, arXiv 2401.04578, section 3)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

Mode = Literal["product", "sum", "intra", "inter"]

DISTANCE_SCALE = 2**32
"""Units in 1.0 of the fixed-point distances in the concept columns (same as curate.concepts.assign)."""

_EXACT = 2.0**48  # inner products of centroids are multiples of 1 / _EXACT
_TILE = 2**22


def d_intra(distance_sum: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean cosine distance of the members of each concept to its centroid.

    distance_sum: int64 [k], sum of fixed-point distances; counts: int64 [k] members. An empty concept has no mean: 0.0
    stands there, so write null in tables where counts == 0 (it takes no part in targets). The reference implementation
    fills such gaps with the mean of the others, which changes nothing because nothing can be kept there.
    """
    return np.asarray(distance_sum / (np.maximum(counts, 1) * np.float64(DISTANCE_SCALE)), dtype=np.float64)


def d_inter(centroids: NDArray[np.float32], l: int = 20) -> NDArray[np.float64]:  # noqa: E741 (the paper's letter)
    """Mean cosine distance of each centroid to its l nearest OTHER centroids, float64 [k], clamped at 0.

    centroids: unit rows [k, d] with entries that are multiples of 2**-24, so the result has the same bits on every
    machine. A concept is left out of its own neighbours by number, never by position in a sorted list, hence duplicate
    centroids count. With k <= l all k - 1 others are used; a single concept has no other and gets 0.0.
    Time O(k^2 d), memory O(2**22 + k d). Raises SpecError when l < 1.
    """
    if l < 1:
        raise SpecError(f"the number of neighbouring concepts is {l}; it must be at least 1.")
    k = centroids.shape[0]
    near = min(l, k - 1)
    out = np.zeros(k, dtype=np.float64)
    if near < 1:
        return out
    table = centroids.astype(np.float64)
    block = max(1, _TILE // k)
    for start in range(0, k, block):
        mine = np.arange(start, min(start + block, k))
        # integers: the mean must not depend on the order in which the neighbours come
        distance = np.rint((1.0 - table[mine] @ table.T) * _EXACT).astype(np.int64)
        distance[mine - start, mine] = np.iinfo(np.int64).max
        nearest = np.partition(distance, near - 1, axis=1)[:, :near]
        out[mine] = row_totals(np.maximum(nearest, 0)) / near / _EXACT
    return out


def row_totals(units: NDArray[np.int64]) -> NDArray[Any]:
    """Sums of rows [n, l] of numbers 0 .. 2^49: int64, exact, up to l = 2^13; beyond, where int64 could overflow,
    float64 from two exact halves, which also does not depend on the order.
    """
    if units.shape[1] <= 2**13:
        return np.asarray(units.sum(axis=1))
    return np.asarray((units >> 24).sum(axis=1) * 2.0**24 + (units & (2**24 - 1)).sum(axis=1))


def complexity(
    d_intra: NDArray[np.float64], d_inter: NDArray[np.float64], mode: Mode = "product"
) -> NDArray[np.float64]:
    """Complexity of each concept, float64 [k]: the paper's product d_intra * d_inter, or their sum, or one alone.

    Raises SpecError for another mode.
    """
    if mode == "product":
        return d_intra * d_inter
    if mode == "sum":
        return d_intra + d_inter
    if mode == "intra":
        return d_intra.copy()
    if mode == "inter":
        return d_inter.copy()
    raise SpecError(f'complexity is "product", "sum", "intra" or "inter", not "{mode}".')
