"""Which rows are sent to which other concepts, and which rows are audited."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.dedup import bisector
from curate.store.uids import hash64


def drawn_rows(
    hi: NDArray[np.uint64], lo: NDArray[np.uint64], share: float, seed: int, stage: str
) -> NDArray[np.bool_]:
    """About this share of the uids: those whose hash is small."""
    if share >= 1:
        return np.ones(len(hi), dtype=bool)
    return hash64(hi, lo, seed, stage) < np.uint64(share * 2**64)


def one_way(
    x: NDArray[np.float16],
    concept: NDArray[np.int32],
    centroids: NDArray[np.float32],
    epsilon: float,
    budget: int | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row, concept) int64 of what is sent to other concepts, at most `budget` a row: see `bisector.probes`."""
    if budget == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    found = bisector.probes(x, concept, centroids, epsilon=epsilon, budget=budget)
    return found.row, found.concept.astype(np.int64)


def both_ways(
    x: NDArray[np.float16], concept: NDArray[np.int32], centroids: NDArray[np.float32], epsilon: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All concepts that can hold a duplicate: those a row probes, and those that probe its concept.

    Which of two concepts probes the other turns round when concepts are numbered backwards.
    """
    last = len(centroids) - 1
    row, there = one_way(x, concept, centroids, epsilon, None)
    row_of, here = one_way(x, (last - concept).astype(np.int32), centroids[::-1], epsilon, None)
    return np.concatenate([row, row_of]), np.concatenate([there, last - here])
