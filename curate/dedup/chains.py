"""Keepers and components over all samples of a run: chains and disjoint sets in int64 arrays, possibly mapped files.

Nodes are 0..N-1. An array `parent` holds for each node the next node of its chain; a root holds itself or -1.
Everything works block by block: memory O(block) beside the mapped arrays, plain numpy, one result on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError

BLOCK = 2**20
"""Entries of an array that are looked at together."""

_PASSES = 70  # chains halve with every pass; no array has 2**70 entries


def resolve(parent: NDArray[np.int64], block: int = BLOCK) -> None:
    """Point every node straight at its root, in place; a root then holds itself.

    parent: int64 [N], free of cycles. Pointer jumping: O(N log(longest chain)) reads, memory O(block). Raises
    InputError for an entry of N or above, or when chains do not end (a cycle).
    """
    n = len(parent)
    for _ in range(_PASSES):
        moved = False
        for start in range(0, n, block):
            stop = min(start + block, n)
            here = np.asarray(parent[start:stop])
            own = np.arange(start, stop)
            at = np.where(here < 0, own, here)
            if at.size and int(at.max()) >= n:
                raise InputError(f"node {start + int(at.argmax())} names node {int(at.max())} of {n} nodes.")
            further = np.asarray(parent[at])
            further = np.where(further < 0, at, further)
            moved |= not np.array_equal(further, at)
            if not np.array_equal(further, here):
                parent[start:stop] = further
        if not moved:
            return
    raise InputError("the chains of duplicates do not end: a sample would be its own earlier duplicate.")


def union(parent: NDArray[np.int64], edges: NDArray[np.int64], block: int = BLOCK) -> None:
    """Join the two ends of every edge, in place; the root of a set is its smallest node.

    parent: int64 [N] that starts as all -1 (or as an earlier call left it): entries are -1 or a node that is not larger
    than the own, so chains never cycle. edges: int64 [e, 2] (a mapped file works). The sets do not depend on the order
    of edges or on the cut into calls; entries on the way to a root do, so call `resolve` at the end. Memory O(block).
    Raises InputError for an end outside 0..N-1.
    """
    n = len(parent)
    for start in range(0, len(edges), block):
        ends = np.asarray(edges[start : start + block]).reshape(-1, 2)
        if ends.size and (int(ends.min()) < 0 or int(ends.max()) >= n):
            raise InputError(f"edges {start} to {start + len(ends) - 1} name a node outside 0..{n - 1}.")
        node, where = np.unique(ends, return_inverse=True)
        root = _roots(parent, node)
        parent[node] = root  # shorter ways for the next block
        tops, at = np.unique(root, return_inverse=True)
        parent[tops] = tops[_smallest(len(tops), at[where.reshape(-1, 2)])]


def _roots(parent: NDArray[np.int64], node: NDArray[np.int64]) -> NDArray[np.int64]:
    """Roots of some nodes."""
    at = node.copy()
    moving = np.arange(len(at))
    while moving.size:
        up = np.asarray(parent[at[moving]])
        moving, up = moving[(up >= 0) & (up != at[moving])], up[(up >= 0) & (up != at[moving])]
        at[moving] = up
    return at


def _smallest(n: int, edges: NDArray[np.intp]) -> NDArray[np.intp]:
    """The smallest node of each node's component in a graph in memory; hooks larger roots onto smaller, then jumps."""
    label = np.arange(n)
    while len(edges):
        low = label[edges].min(axis=1)
        high = label[edges].max(axis=1)
        open_ = low < high
        edges, low, high = edges[open_], low[open_], high[open_]
        np.minimum.at(label, high, low)
        while True:
            further = label[label]
            if np.array_equal(further, label):
                break
            label = further
    return label


def earliest(
    root: NDArray[np.int64],
    best: NDArray[np.int64],
    key: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    block: int = BLOCK,
) -> None:
    """Fill best[r], for every root r, with the member of its set that comes first by (key, uid_hi, uid_lo).

    root: int64 [N] as `resolve` leaves it; best: int64 [N], overwritten, -1 for nodes that are no root; key, uid_hi,
    uid_lo: [N]. Then `best[root]` is each node's keeper under the rule "components". All arrays may be mapped files;
    memory O(block).
    """
    n = len(root)
    for start in range(0, n, block):
        best[start : start + block] = -1
    for start in range(0, n, block):
        stop = min(start + block, n)
        mine = np.asarray(root[start:stop])
        order = np.lexsort((uid_lo[start:stop], uid_hi[start:stop], key[start:stop], mine))
        first = order[np.flatnonzero(np.diff(mine[order], prepend=-1))]
        top, node = mine[first], start + first
        rival = np.asarray(best[top])
        free = rival < 0
        best[top[free]] = node[free]
        top, node, rival = top[~free], node[~free], rival[~free]
        wins = _before(key, uid_hi, uid_lo, node, rival)
        best[top[wins]] = node[wins]


def _before(
    key: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    a: NDArray[np.int64],
    b: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """True where node a comes before node b by (key, uid_hi, uid_lo)."""
    result = np.zeros(len(a), dtype=np.bool_)
    equal = np.ones(len(a), dtype=np.bool_)
    for values in (key, uid_hi, uid_lo):
        left, right = np.asarray(values[a]), np.asarray(values[b])
        result |= equal & (left < right)
        equal &= left == right
    return result
