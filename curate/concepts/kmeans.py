"""Spherical k-means: centroids of unit rows. Sampling the rows and storing the centroids belong to the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.concepts.assign import DISTANCE_SCALE, Device, as_float32, on_grid
from curate.concepts.lloyd import InMemory, ended, member_sums, unit_on_grid
from curate.concepts.seeding import Seeding, starting_rows
from curate.concepts.seeding import seed_rows as _seed_rows
from curate.errors import SpecError

__all__ = ["Engine", "Training", "member_sums", "start", "starting_rows", "train", "unit_on_grid"]

Engine = Literal["exact", "faiss"]


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
    seeding: Seeding = "random",
    init: NDArray[np.float32] | None = None,
    tolerance: float = 0.0,
    device: Device = "cpu",
) -> Training:
    """Train k unit centroids on unit rows [n, d] by Lloyd iterations with renormalised means (Dhillon and Modha 2001).

    Every row of the sample is used; its size is the caller's choice (faiss alone would quietly train on 256 * k rows).
    init: centroids [k, d] to start from; else `seeding` and the seed pick k rows of the sample by position, so put the
    rows in a canonical order (by part and row, or by uid). tolerance: stop once an iteration gains less than this
    share of the mean distance; 0: never. DBP and SemDeDup use niter=100.

    engine "exact" (default): the result is a function of (sample, k, niter, seed, seeding or init, tolerance) alone,
    identical for any BLAS, thread count, machine or device, because assignments are settled exactly and sums of
    multiples of 2**-24 have no rounding in float64. An iteration that moves nothing ends the work: the objective of
    those that are left is the same. engine "faiss": `faiss.Kmeans(spherical=True)`, reproducible only for the same
    machine, library and `threads` (which the exact engine ignores: it follows BLAS); it picks its own random rows, and
    knows no tolerance.

    Memory: exact O(k * d + block * (k + d)) and 20 bytes a row beside the sample; faiss adds a float32 copy of it.
    Raises SpecError when k < 1, niter < 1, init does not fit, or the sample has fewer than k rows.
    """
    if sample.ndim != 2:
        raise SpecError(f"the k-means sample must be a table of rows, its shape is {sample.shape}.")
    n = sample.shape[0]
    if k < 1 or niter < 1:
        raise SpecError(f"k-means needs at least 1 concept and 1 iteration, asked for {k} and {niter}.")
    if n < k:
        raise SpecError(f"k-means of {k} concepts needs at least {k} rows, the sample has {n}: lower concepts.")
    if init is not None and init.shape != (k, sample.shape[1]):
        raise SpecError(f"k-means of {k} concepts cannot start from centroids {init.shape}: give ({k}, dimension).")
    if engine == "faiss":
        if init is None and seeding != "random":
            init = start(sample, k, seeding=seeding, seed=seed, device=device)
        return _faiss(sample, k, niter, seed, threads, init)
    begin = start(sample, k, seeding=seeding, seed=seed, device=device) if init is None else on_grid(init)
    return _exact(sample, begin, niter, tolerance, device)


def start(
    sample: NDArray[np.float16] | NDArray[np.float32],
    k: int,
    *,
    seeding: Seeding = "random",
    seed: int,
    device: Device = "cpu",
) -> NDArray[np.float32]:
    """The k starting centroids that `train` uses, float32 [k, d]; see `seeding.seed_rows`."""
    rows = _seed_rows(sample, k, seeding=seeding, seed=seed, device=device)
    return unit_on_grid(as_float32(sample[rows]))


def _exact(
    sample: NDArray[np.float16] | NDArray[np.float32],
    centroids: NDArray[np.float32],
    niter: int,
    tolerance: float,
    device: Device,
) -> Training:
    lloyd = InMemory(sample, centroids, device=device)
    objective: list[float] = []
    while not objective or not ended(objective, lloyd.still, niter, tolerance):
        objective.append(lloyd.iterate() / DISTANCE_SCALE / len(sample))
    return Training(lloyd.centroids, objective, lloyd.empty, len(sample))


def _faiss(
    sample: NDArray[np.float16] | NDArray[np.float32],
    k: int,
    niter: int,
    seed: int,
    threads: int,
    init: NDArray[np.float32] | None,
) -> Training:
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
        model.train(np.ascontiguousarray(sample, dtype=np.float32), init_centroids=init)
    finally:
        faiss.omp_set_num_threads(before)
    stats: list[dict[str, float]] = list(model.iteration_stats or [])
    objective = [1.0 - float(s["obj"]) / n for s in stats]
    centroids = np.asarray(model.centroids, dtype=np.float32).reshape(k, dim)
    return Training(unit_on_grid(centroids), objective, int(stats[-1]["nsplit"]), n)
