"""Which other concepts can hold a duplicate of a row: the exact bisector rule, and a budget for it.

Rows are assigned to the centroid of largest inner product. Let x lie in concept a, y in b, g = c_a - c_b, and let hats
be unit vectors. Then y.g <= 0, so y is at or behind the plane through the origin with normal g, while x, at the angle
arcsin(x^.g / |g|) in front of it, is within delta = arccos(1 - epsilon) of y only if

    x.g <= sin(delta) |g| |x|,    sin(delta) = sqrt(epsilon (2 - epsilon)) <= sqrt(2 epsilon).

Rounding: rows (float16) and centroids (multiples of 2**-24, see curate/concepts/assign.py) have exact float64 dots,
so x.g, |g|^2 and |x|^2 are exact, the assignment is too, and no slack is owed for norms that are not 1. The similarity
that decides (curate/dedup/cosine.py) carries three roundings, below 2**-51 in all, which `epsilon + 2**-50` covers; the
right side carries six, which the factor 1 + 2**-48 covers. All these are single IEEE operations on exact values: the
same probes on every machine.

A pair is looked for from one side only. Concept a probes b where a + b is even and a > b, or a + b is odd and a < b:
of any two concepts exactly one probes the other, and every concept probes about half of the others. Without a budget
every pair across concepts with similarity of at least 1 - epsilon is met exactly once. With a budget of B a row keeps
the B nearest bisectors among the concepts it may probe, about its 2 B nearest in all; a pair is met if its probing side
keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

GAP_SCALE = 2.0**32
"""Gaps are compared in units of 1 / GAP_SCALE."""

_SCORES = 2**20  # float64 scores held at once (8 MiB, and a few arrays of that size beside it)


@dataclass(frozen=True)
class Probes:
    """Pairs of row and concept to compare, by row, the nearest bisector of a row first."""

    row: NDArray[np.int64]
    """[p] index into the rows as given."""
    concept: NDArray[np.int32]
    """[p] a concept other than the row's own."""
    beyond: NDArray[np.int64]
    """[n] concepts of each row that qualify and that the budget left out; 0 without a budget."""


def probes(
    rows: NDArray[np.float16],
    concept: NDArray[np.int32],
    centroids: NDArray[np.float32],
    *,
    epsilon: float,
    budget: int | None = None,
) -> Probes:
    """The concepts that each row must be compared with so that no pair of similarity >= 1 - epsilon is missed.

    rows: float16 [n, d] (a memmap works), concept: int32 [n] as `concepts.assign.assign` gives it, centroids:
    float32 [k, d] on its grid. budget: at most so many concepts a row, by gap / |c_a - c_b| in units of 2**-32,
    then by concept. Memory: blocks of 2**20 scores, [block, d] rows and [k, d] float64 centroids, beside the output.
    Raises SpecError for an epsilon outside 0..1, a budget below 0 or shapes that do not fit.
    """
    limit = _limit(epsilon)
    if budget is not None and budget < 0:
        raise SpecError(f"the probe budget is {budget}; it must be 0 or more, or unset for no limit.")
    if rows.ndim != 2 or centroids.ndim != 2 or rows.shape[1] != centroids.shape[1] or concept.shape != rows.shape[:1]:
        raise SpecError(f"rows {rows.shape}, concepts {concept.shape} and centroids {centroids.shape} do not fit.")
    n, k = len(rows), len(centroids)
    table = centroids.astype(np.float64)
    table2 = np.einsum("kd,kd->k", table, table)
    beyond = np.zeros(n, dtype=np.int64)
    found: list[tuple[NDArray[np.int64], NDArray[np.int32]]] = []
    by_concept = np.argsort(concept, kind="stable")  # few centroids meet in a block
    step = max(16, _SCORES // max(1, k))
    for start in range(0, n, step):
        index = by_concept[start : start + step]
        own = concept[index]
        x = np.asarray(rows[index]).astype(np.float64)
        length = np.sqrt(np.einsum("nd,nd->n", x, x))
        score = x @ table.T
        gap = score[np.arange(len(index)), own][:, None] - score
        mine, at = np.unique(own, return_inverse=True)
        apart = np.sqrt(np.maximum(table2[mine][:, None] + table2[None, :] - 2.0 * (table[mine] @ table.T), 0.0))
        wanted = _probing(mine, k)[at] & (gap <= (limit * length)[:, None] * apart[at])
        line, other = np.nonzero(wanted)
        if budget is not None:
            between = apart[at[line], other]
            near = np.rint(GAP_SCALE * gap[line, other] / np.where(between > 0.0, between, 1.0)).astype(np.int64)
            order = np.lexsort((other, near, line))
            line, other = line[order], other[order]
            rank = np.arange(len(line)) - np.searchsorted(line, line)
            beyond[index] = np.maximum(np.bincount(line, minlength=len(index)) - budget, 0)
            line, other = line[rank < budget], other[rank < budget]
        found.append((index[line], other.astype(np.int32)))
    row = np.concatenate([r for r, _ in found]) if found else np.zeros(0, dtype=np.int64)
    other_concept = np.concatenate([c for _, c in found]) if found else np.zeros(0, dtype=np.int32)
    order = np.argsort(row, kind="stable")
    return Probes(row[order].astype(np.int64), other_concept[order], beyond)


def near(
    rows: NDArray[np.float16], own: NDArray[np.float32], other: NDArray[np.float32], *, epsilon: float
) -> NDArray[np.bool_]:
    """Which rows of one concept the rule lets meet another concept, bool [n]; the rule holds for both rows of a pair.

    rows: float16 [n, d], all of the concept with centroid `own` [d]; other: the other centroid [d]. When rows of
    `other` probe this concept, only these need to be compared with them. Memory: blocks of rows.
    """
    limit = _limit(epsilon)
    g = own.astype(np.float64) - other.astype(np.float64)
    apart = float(np.sqrt(g @ g))
    result = np.zeros(len(rows), dtype=np.bool_)
    step = max(1, _SCORES // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        x = np.asarray(rows[start : start + step]).astype(np.float64)
        result[start : start + step] = x @ g <= limit * np.sqrt(np.einsum("nd,nd->n", x, x)) * apart
    return result


def _limit(epsilon: float) -> float:
    """sin(arccos(1 - epsilon)) with its slack."""
    if not 0.0 <= epsilon <= 1.0:
        raise SpecError(f"epsilon is {epsilon}; it must lie between 0 and 1.")
    wide = min(1.0, epsilon + 2.0**-50)
    return float(np.sqrt(wide * (2.0 - wide))) * (1.0 + 2.0**-48)


def _probing(own: NDArray[np.int32], k: int) -> NDArray[np.bool_]:
    """[u, k]: true where concept own[u] probes the other; of two different concepts exactly one probes."""
    other = np.arange(k)
    even = (own[:, None] + other[None, :]) % 2 == 0
    result: NDArray[np.bool_] = np.where(even, own[:, None] > other, own[:, None] < other)
    return result
