"""Spherical k-means: centroids of unit rows. Sampling the rows and storing the centroids belong to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.concepts.assign import DISTANCE_SCALE, as_float32, assign, on_grid
from curate.errors import SpecError

Engine = Literal["exact", "faiss"]

_SUM_BLOCK = 2**22  # float64 entries held at once while summing members (32 MiB)
_SPLIT = 1.0 / 1024.0  # relative nudge between the two halves of a split concept, as in faiss


@dataclass(frozen=True)
class Training:
    """Centroids float32 [k, d] (unit rows, entries multiples of 2**-24) and how they came to be."""

    centroids: NDArray[np.float32]
    objective: list[float]
    """Mean cosine distance of the sample to its centroid at the assignment of each iteration."""
    empty: int
    """Concepts no row of the sample chose in the last iteration (each was split off the then largest concept)."""
    n: int
    """Rows of the sample that was used: all of them."""


def train(
    sample: NDArray[np.float16] | NDArray[np.float32],
    k: int,
    *,
    niter: int = 20,
    seed: int,
    threads: int = 1,
    engine: Engine = "exact",
) -> Training:
    """Train k unit centroids on unit rows [n, d] by Lloyd iterations with renormalised means (Dhillon and Modha 2001).

    Every row of the sample is used; its size is the caller's choice (faiss alone would quietly train on 256 * k rows).
    The seed picks the k starting rows by position, so put the rows in a canonical order (by part and row, or by uid).
    DBP and SemDeDup use niter=100.

    engine "exact" (default): the result is a function of (sample, k, niter, seed) alone, identical for any BLAS,
    thread count or machine, because assignments are settled exactly and sums of multiples of 2**-24 have no rounding
    in float64. engine "faiss": `faiss.Kmeans(spherical=True)`, faster where faiss has a GPU or many cores,
    reproducible only for the same machine, library and `threads` (which the exact engine ignores: it follows BLAS).

    Memory: exact O(k * d + block * (k + d)) beside the sample; faiss adds a float32 copy of the sample.
    Raises SpecError when k < 1, niter < 1, or the sample has fewer than k rows.
    """
    if sample.ndim != 2:
        raise SpecError(f"the k-means sample must be a table of rows, its shape is {sample.shape}.")
    n = sample.shape[0]
    if k < 1 or niter < 1:
        raise SpecError(f"k-means needs at least 1 concept and 1 iteration, asked for {k} and {niter}.")
    if n < k:
        raise SpecError(f"k-means of {k} concepts needs at least {k} rows, the sample has {n}: lower concepts.")
    if engine == "faiss":
        return _faiss(sample, k, niter, seed, threads)
    return _exact(sample, k, niter, seed)


def starting_rows(n: int, k: int, seed: int) -> NDArray[np.int64]:
    """The k row numbers (of n, ascending by hash) that start the exact engine: smallest splitmix64(seed, row).

    Written out instead of numpy's generator, whose streams may change between versions.
    """
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed % 2**64) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return np.argsort(z, kind="stable")[:k].astype(np.int64)


def unit_on_grid(rows: NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows [k, d] scaled to norm 1 with entries rounded to multiples of 2**-24; a zero row stays zero.

    The squares are added column by column, a fixed order, so the result does not depend on SIMD width.
    """
    exact = rows.astype(np.float64)
    norm2 = np.zeros(len(exact))
    for column in exact.T:
        norm2 += column * column
    norm = np.sqrt(norm2)
    norm[norm == 0.0] = 1.0
    return on_grid(exact / norm[:, None])


def _exact(sample: NDArray[np.float16] | NDArray[np.float32], k: int, niter: int, seed: int) -> Training:
    n = sample.shape[0]
    centroids = unit_on_grid(as_float32(sample[starting_rows(n, k, seed)]))
    objective: list[float] = []
    empty = 0
    for _ in range(niter):
        concept, distance = assign(sample, centroids)
        objective.append(int(distance.sum()) / DISTANCE_SCALE / n)
        sums, counts = member_sums(sample, concept, k)
        empty = int(np.count_nonzero(counts == 0))
        fresh = unit_on_grid(sums)
        # members that cancel out leave no direction: keep the old centroid
        gone = ~fresh.any(axis=1)
        fresh[gone] = centroids[gone]
        centroids = _split_empty(fresh, counts)
    return Training(centroids, objective, empty, n)


def member_sums(
    rows: NDArray[np.float16] | NDArray[np.float32], concept: NDArray[np.int32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum of the member rows (float64 [k, d], exact below 2**29 rows) and number of members (int64 [k]) per concept."""
    dim = rows.shape[1]
    sums = np.zeros((k, dim), dtype=np.float64)
    block = max(256, _SUM_BLOCK // max(1, dim))
    for start in range(0, len(concept), block):
        ids = concept[start : start + block]
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        heads = np.flatnonzero(np.diff(ids, prepend=-1))
        part: NDArray[np.float16] | NDArray[np.float32] = rows[start : start + block][order]
        values = as_float32(part).astype(np.float64)
        for head, end in zip(heads, [*heads[1:], len(ids)], strict=True):  # ten times as fast as np.add.reduceat
            sums[ids[head]] += values[head:end].sum(axis=0)
    return sums, np.bincount(concept, minlength=k).astype(np.int64)


def _split_empty(centroids: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give each empty concept (ascending) one half of the largest concept at that moment (ties: lowest concept)."""
    sizes = counts.copy()
    nudge = np.where(np.arange(centroids.shape[1]) % 2 == 0, 1.0 + _SPLIT, 1.0 - _SPLIT)
    for j in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            break
        pair = centroids[largest].astype(np.float64) * np.stack([nudge, 2.0 - nudge])
        centroids[j], centroids[largest] = unit_on_grid(pair)
        sizes[j] = sizes[largest] // 2
        sizes[largest] -= sizes[j]
    return centroids


def _faiss(sample: NDArray[np.float16] | NDArray[np.float32], k: int, niter: int, seed: int, threads: int) -> Training:
    import faiss  # heavy to import, and the default engine does without

    n, dim = sample.shape
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        model = faiss.Kmeans(
            dim,
            k,
            niter=niter,
            seed=seed % 2**31,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=-(-n // k) + 1,  # never subsample
        )
        model.train(np.ascontiguousarray(sample, dtype=np.float32))
    finally:
        faiss.omp_set_num_threads(before)
    stats: list[dict[str, float]] = list(model.iteration_stats or [])
    objective = [1.0 - float(s["obj"]) / n for s in stats]
    centroids = np.asarray(model.centroids, dtype=np.float32).reshape(k, dim)
    return Training(unit_on_grid(centroids), objective, int(stats[-1]["nsplit"]), n)
