"""Metrics that `prune` makes itself, from the columns of a cluster stage or from nothing: int64 fixed point."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def by_distance(distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distance to the nearest centroid: the farthest sample is the hardest (Sorscher et al. 2022, arXiv 2206.14486)."""
    return np.asarray(distance, dtype=np.int64)


def by_random(draw: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A uniform control: the top 63 bits of a 64-bit hash of (seed, stage, uid) that the caller drew."""
    return (np.asarray(draw, dtype=np.uint64) >> np.uint64(1)).astype(np.int64)
