"""Hierarchically balanced quotas: a budget shared as evenly as a tree of concepts allows, level by level.

Hierarchical sampling of Vo et al. 2024 (arXiv 2405.15613, section 3.3), exact: at every node, from the root down, the
budget T of the node goes to its children as min(c, a_i) with the largest whole cut c for which these sum to at most T,
where a_i is what the subtree of child i can give; the rest goes, one each, to children that could give more. That is
max-min fair sharing (water-filling with one level for all), found by sorting instead of by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

_LARGEST = 2**62
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def hierarchical_quotas(
    sizes: NDArray[np.int64],
    parents: Sequence[NDArray[np.int32]],
    total: int,
    *,
    repeats: int = 1,
    seed: int = 0,
) -> NDArray[np.int64]:
    """Quota of every leaf: int64 [k], 0 <= quota <= sizes * repeats, sum exactly min(total, sum(sizes) * repeats).

    sizes: int64 [k], samples of each leaf (a concept of level 1); zeros are allowed. parents: from the leaves up,
    parents[0] int32 [k] is the concept of level 2 of each leaf, parents[1] the concept of level 3 of each of those, and
    so on, as the artifacts `parents_2`, `parents_3`, ... of a hierarchy hold them; all concepts of the last level are
    children of one root; an empty sequence shares among the leaves alone. repeats: how often one sample may be taken
    at most, a whole number >= 1; a quota above the size means copies, see `split`.

    The ones left over at a node go to those of its unfilled children whose hash of (seed, level, number) is smallest.
    The hash does not know the total, so a smaller total never takes more from any leaf than a larger one: budgets nest.
    Time O(k log k), memory O(k) and no loop over nodes. Raises SpecError for negative sizes or totals, repeats below 1,
    parents that do not fit, or sums beyond 2**62.
    """
    counts = _checked(sizes, parents, total, repeats)
    capacity = [counts * np.int64(repeats)]
    for level, parent in enumerate(parents, 1):
        nodes = len(parents[level]) if level < len(parents) else int(parent.max(initial=-1)) + 1
        capacity.append(_sums(parent, capacity[-1], nodes))
    target = np.array([min(total, int(capacity[-1].sum()))], dtype=np.int64)
    root = np.zeros(len(capacity[-1]), dtype=np.int32)
    for level in range(len(parents), -1, -1):
        parent = parents[level] if level < len(parents) else root
        target = _share(target, parent, capacity[level], _order(len(parent), level + 1, seed))
    return target


def split(quota: NDArray[np.int64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Whole copies of every sample of a leaf and how many samples get one copy more; both int64 [k].

    quota = copies * size + extra with 0 <= extra < size; a leaf without samples has 0 and 0. Raises SpecError for a
    quota above 0 where there are no samples.
    """
    quota, sizes = np.asarray(quota, dtype=np.int64), np.asarray(sizes, dtype=np.int64)
    if quota.shape != sizes.shape:
        raise SpecError(f"quotas {quota.shape} and sizes {sizes.shape} need the same shape.")
    wrong = np.flatnonzero((quota < 0) | ((sizes < 1) & (quota > 0)))
    if wrong.size:
        raise SpecError(f"concept {wrong[0]} has {sizes[wrong[0]]} samples, it cannot give {quota[wrong[0]]}.")
    copies, extra = np.divmod(quota, np.maximum(sizes, 1))
    return copies, extra


def _checked(
    sizes: NDArray[np.int64], parents: Sequence[NDArray[np.int32]], total: int, repeats: int
) -> NDArray[np.int64]:
    counts = np.asarray(sizes)
    if counts.ndim != 1 or (counts.size and counts.dtype.kind not in "iu"):
        raise SpecError(f"sizes are whole numbers in one row, these are {counts.dtype} of shape {counts.shape}.")
    counts = counts.astype(np.int64)
    if (counts < 0).any():
        at = int(np.flatnonzero(counts < 0)[0])
        raise SpecError(f"concept {at} has {counts[at]} samples; a size is 0 or more.")
    if total < 0:
        raise SpecError(f"the budget is {total}; it must be 0 or more.")
    if repeats < 1 or repeats != int(repeats):
        raise SpecError(f"repeats is {repeats}; it must be a whole number, 1 or more.")
    if counts.size and int(counts.max()) * int(repeats) * counts.size > _LARGEST:
        raise SpecError(f"{counts.size:,} concepts of up to {counts.max():,} samples, {repeats} times, are too many.")
    n = len(counts)
    for level, parent in enumerate(parents, 2):
        if parent.shape != (n,) or (n and (parent.dtype.kind not in "iu" or int(parent.min()) < 0)):
            raise SpecError(
                f"the parents of level {level} must be {n} numbers >= 0, one for each concept of level {level - 1}; "
                f"they are {parent.dtype} of shape {parent.shape}."
            )
        n = len(parents[level - 1]) if level - 1 < len(parents) else int(parent.max(initial=-1)) + 1
        if int(parent.max(initial=-1)) >= n:
            raise SpecError(f"a parent of level {level} is {parent.max()}, but that level has {n} concepts.")
    return counts


def _sums(parent: NDArray[Any], values: NDArray[np.int64], nodes: int) -> NDArray[np.int64]:
    """Sum of int64 values by parent, int64 [nodes], exact."""
    out = np.zeros(nodes, dtype=np.int64)
    np.add.at(out, parent, values)
    return out


def _order(n: int, level: int, seed: int) -> NDArray[np.uint64]:
    """SplitMix64 of (seed, level, number), uint64 [n]; a bijection of the number, so there are no ties."""
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed % 2**64], dtype=np.uint64)) + np.uint64(level)
        return _mix(np.arange(n, dtype=np.uint64) + _mix(key))


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = z + np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def _share(
    target: NDArray[np.int64], parent: NDArray[np.int32], capacity: NDArray[np.int64], order: NDArray[np.uint64]
) -> NDArray[np.int64]:
    """What each child gets, int64 [children]; target of each parent is at most the sum of its children's capacities."""
    if not len(parent):
        return np.zeros(0, dtype=np.int64)
    nodes = len(target)
    by_size = np.lexsort((capacity, parent))
    owner, a = parent[by_size].astype(np.int64), capacity[by_size]
    width = np.bincount(owner, minlength=nodes).astype(np.int64)
    first = np.cumsum(width) - width
    before = np.cumsum(a) - a
    before -= before[np.minimum(first, len(a) - 1)][owner]  # capacity of smaller siblings
    left = width[owner] - (np.arange(len(a)) - first[owner])  # this child and its larger siblings
    # a child is filled when the cut that all larger ones would share reaches its capacity; smaller ones are then too
    filled = a <= (target[owner] - before) // left
    got = np.where(filled, a, 0)
    spent = _sums(owner, got, nodes)
    unfilled = width - np.bincount(owner[filled], minlength=nodes)
    cut, rest = np.divmod(target - spent, np.maximum(unfilled, 1))
    got = np.where(filled, a, cut[owner])
    # the ones left over: rank of each unfilled child among its siblings by hash
    open_ = np.flatnonzero(~filled)
    by_hash = open_[np.lexsort((order[by_size[open_]], owner[open_]))]
    start = np.cumsum(unfilled) - unfilled
    rank = np.arange(len(by_hash)) - start[owner[by_hash]]
    got[by_hash] += rank < rest[owner[by_hash]]
    out = np.empty(len(a), dtype=np.int64)
    out[by_size] = got
    return out
