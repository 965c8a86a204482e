"""Exact duplicates: equal keys among records that stand in keep order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError


def first_of_group(keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Mark the first record of each equal key as the one to keep.

    keys: uint64 [n] or [n, words] (a 128-bit hash is two words), in keep order: an earlier record is preferred, so sort
    canonically (by part and row, or by uid) first; equal keys need not stand together.
    Returns keep bool [n] and keeper int64 [n], the index of the first record with the same key (itself where kept).
    Memory and time: O(n) and O(n log n). Raises SpecError for another shape.
    """
    if keys.ndim == 1:
        keys = keys[:, None]
    if keys.ndim != 2 or keys.shape[1] == 0:
        raise SpecError(f"duplicate keys must have the shape [n] or [n, words], they have {keys.shape}.")
    n = keys.shape[0]
    # lexsort is stable: inside a group of equal keys the smallest index comes first
    order = np.lexsort(keys.T[::-1])
    ordered = keys[order]
    new = np.ones(n, dtype=np.bool_)
    new[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    heads = order[new]
    keeper = np.empty(n, dtype=np.int64)
    keeper[order] = heads[np.cumsum(new) - 1]
    return keeper == np.arange(n), keeper
