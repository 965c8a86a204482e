"""Hierarchical k-means with resampling: levels of concepts that spread evenly over the data, not over its density.

Vo et al. 2024 (arXiv 2405.15613, section 3). Centroids of k-means follow density^(d / (d + 2)), d the intrinsic
dimension, so they crowd where the data are dense. Clustering the centroids again, and again only the few rows nearest
each centroid (resampling), raises that exponent to ever higher powers: the centroids come to lie evenly over the
support. What never lives here: which rows are kept, that is `curate.pruning.hierarchical`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.concepts.assign import DISTANCE_SCALE, as_float32, assign
from curate.concepts.kmeans import train
from curate.concepts.seeding import Seeding
from curate.errors import SpecError

_ONE_BY_ONE = 4096  # k-means++ passes over the rows once for each concept


@dataclass(frozen=True)
class Level:
    """Concepts of one level; ids are positions in `centroids`."""

    centroids: NDArray[np.float32]
    """[k, d] unit rows with entries on the grid of 2**-24."""
    parents: NDArray[np.int32]
    """[n] the concept of each row that was clustered (for level 2 and above: of each concept of the level below)."""
    objective: list[float]
    """Mean cosine distance of all n rows to their centroid: after the first k-means, and after each resampling."""
    rows: list[int]
    """Rows that each of these k-means worked on: n, then at most k * nearest."""
    nearest: int
    """Rows taken around each centroid in a resampling."""
    empty: int
    """Concepts that no row chose in the end."""


def balanced_kmeans(
    rows: NDArray[np.float16] | NDArray[np.float32],
    k: int,
    *,
    iterations: int = 50,
    resamplings: int = 10,
    nearest: int | None = None,
    seed: int,
) -> Level:
    """Spherical k-means of unit rows [n, d], then `resamplings` times: k-means again of the rows nearest each centroid.

    Each of these runs starts afresh from rows of its own sample (seed, seed + 1, ...), because Lloyd iterations from
    the old centroids would stay where these are; afterwards all n rows are assigned again. nearest: how many rows of a
    concept a resampling takes, the closest first (ties: lower row); default: half of n / k, at least 2 (of 1, every
    centroid would stay alone with its row). Concepts with fewer give what they have; when all together give fewer than
    k rows, resampling ends there. Works for level 1 (the samples themselves) as for centroids. The result is a function
    of the arguments alone: see `kmeans.train`.

    Time O((n + resamplings * k * nearest) * k * d * iterations). Memory: the float32 rows, O(n + k d) and a block.
    Raises SpecError for k < 1, fewer than k rows, iterations < 1, resamplings < 0 or nearest < 1.
    """
    n = len(rows)
    if resamplings < 0 or (nearest is not None and nearest < 1):
        raise SpecError(
            f"resampling takes 1 or more rows around each centroid, 0 or more times; asked for {nearest}, {resamplings}"
            " times."
        )
    centroids = seeded_kmeans(rows, k, iterations=iterations, seed=seed)
    take = max(2, n // (2 * k)) if nearest is None else nearest
    concept, distance = assign(rows, centroids)
    objective, used = [_mean(distance)], [n]
    for time in range(1, resamplings + 1):
        chosen = nearest_rows(concept, distance, take)
        if len(chosen) < k:
            break
        centroids = seeded_kmeans(rows[chosen], k, iterations=iterations, seed=seed + time)
        concept, distance = assign(rows, centroids)
        objective.append(_mean(distance))
        used.append(len(chosen))
    empty = k - len(np.unique(concept))
    return Level(centroids, concept, objective, used, take, empty)


def hierarchy(
    centroids: NDArray[np.float32],
    levels: Sequence[int],
    *,
    iterations: int = 50,
    resamplings: Sequence[int],
    nearest: Sequence[int | None],
    seed: int,
) -> list[Level]:
    """Levels 2, 3, ... over the concepts of level 1, each the `balanced_kmeans` of the centroids of the one below.

    centroids: float32 [k, d] of level 1. levels: number of concepts of level 2, 3, ..., each smaller than the one
    before and than k. resamplings, nearest: one for each of `levels`. Every centroid counts once, whatever the size of
    its concept: that is what evens the density out. Memory O(k d). Raises SpecError for levels that do not decrease,
    lists of other lengths, and as `balanced_kmeans`.
    """
    if not levels or not len(levels) == len(resamplings) == len(nearest):
        raise SpecError(
            f"a hierarchy of {len(levels)} levels needs at least one, and as many resamplings and nearest; it has "
            f"{len(resamplings)} and {len(nearest)}."
        )
    made: list[Level] = []
    below = as_float32(centroids)
    for number, (k, again, near) in enumerate(zip(levels, resamplings, nearest, strict=True), 2):
        if not 1 <= k < len(below):
            raise SpecError(
                f"level {number} asks for {k:,} concepts, but level {number - 1} below it has {len(below):,}; levels "
                "must become smaller from one to the next."
            )
        # seeds of different levels must not meet: each k-means of a level uses the next number
        level_seed = seed + number * 2**32
        made.append(balanced_kmeans(below, k, iterations=iterations, resamplings=again, nearest=near, seed=level_seed))
        below = made[-1].centroids
    return made


def seeded_kmeans(
    rows: NDArray[np.float16] | NDArray[np.float32], k: int, *, iterations: int, seed: int
) -> NDArray[np.float32]:
    """Centroids float32 [k, d] of spherical k-means of unit rows [n, d], started by k-means++ (many: by k-means||).

    Random starting rows follow the density, and Lloyd iterations hardly move centroids from one region into another:
    from such a start no resampling evens anything out. k-means++ starts nearly where k-means wants to end. Raises
    SpecError as `kmeans.train`.
    """
    seeding: Seeding = "kmeans++" if k <= _ONE_BY_ONE else "kmeans||"
    return train(rows, k, niter=iterations, seed=seed, seeding=seeding).centroids


def nearest_rows(concept: NDArray[np.int32], distance: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Row numbers int64, ascending, of the `most` rows nearest their centroid in each concept (ties: lower row).

    concept int32 [n], distance int64 [n], as `assign` returns them. O(n log n) time, O(n) memory.
    """
    order = np.lexsort((distance, concept))  # stable: equal distances stay in row order
    mine = concept[order]
    heads = np.flatnonzero(np.diff(mine, prepend=-1))
    rank = np.arange(len(order)) - np.repeat(heads, np.diff(heads, append=len(order)))
    return np.sort(order[rank < most]).astype(np.int64)


def evenness(sizes: NDArray[np.int64]) -> float:
    """How evenly samples spread over k concepts, in 1 / k .. 1: (sum n)^2 / (k sum n^2), the effective share of them.

    1: all the same size; 1 / k: all in one. 0.0 when there are no samples. Exact but for one division.
    """
    values = [int(n) for n in sizes]
    squares = sum(n * n for n in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 0.0


def _mean(distance: NDArray[np.int64]) -> float:
    return int(distance.sum()) / DISTANCE_SCALE / len(distance)
