"""Spanning forests of the graph "similarity above 1 - epsilon": what the rule "components" needs of all pairs.

Tile by tile, as `search`, with the components found so far: pairs within one component are not looked at, so a crowd of
near copies costs one pass over the crowd. The edges are the same on every machine: of each tile, in the order of tiles,
they are what the exact graph says.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.dedup.cosine import Rows
from curate.dedup.prefix import Prefix, choose
from curate.dedup.search import Part, Search
from curate.errors import SpecError

_FEW = 8  # a component with fewer than one in so many rows of a tile is not worth a tile of its own


def forest(
    vectors: NDArray[np.float16], *, epsilon: float, block: int = 2048, prefix: int | Prefix | None = None
) -> NDArray[np.int64]:
    """Edges int64 [e, 2] (later row, earlier row) that join exactly the rows that chains of similar pairs join.

    vectors: float16 [n, d] of one concept (a memmap works). A pair is similar when its similarity is strictly above
    1 - epsilon, as in `semantic.semantic_duplicates`. The edges are such pairs and never close a cycle: e <= n - 1.
    Memory O(block * (block + d)) beside O(n) numbers. Raises as `semantic.max_similarity`.
    """
    joining = _Joining(Rows(vectors, block), None, epsilon, block)
    rows = joining.rows
    index = np.arange(rows.n)
    if 1.0 - epsilon < 1.0:  # copies are similar: the first of them stands for all
        index, of = rows.distinct(block)
        copy = np.flatnonzero(of != np.arange(rows.n))
        joining.add(copy, of[copy])
    chosen = choose(rows, None, len(index) * (len(index) - 1) / 2.0, joining.search.threshold, prefix)
    for start in range(0, len(index), block):
        some = index[start : start + block]
        later = Part.of(rows, some, some, chosen)
        for other in range(0, start, block):
            some = index[other : other + block]
            if not joining.done(later.index, some):
                joining.tile(later, Part.of(rows, some, some, chosen))
        joining.tile(later, later)
    return joining.edges()


def cross_forest(
    members: NDArray[np.float16],
    probes: NDArray[np.float16],
    *,
    epsilon: float,
    block: int = 2048,
    prefix: int | Prefix | None = None,
) -> NDArray[np.int64]:
    """Edges int64 [e, 2] (member, probe): a spanning forest of the similar pairs of a member and a probe.

    members: float16 [m, d], probes: float16 [p, d] (memmaps work); e <= m + p - 1. Memory and errors as `forest`.
    """
    a, b = Rows(members, block), Rows(probes, block)
    joining = _Joining(a, b, epsilon, block)
    chosen = choose(a, b, float(a.n) * b.n, joining.search.threshold, prefix)
    for start in range(0, a.n, block):
        some = np.arange(start, min(start + block, a.n))
        part = Part.of(a, some, some, chosen)
        for other in range(0, b.n, block):
            some = np.arange(other, min(other + block, b.n))
            if not joining.done(part.index, some):
                joining.tile(part, Part.of(b, some, some, chosen))
    return joining.edges()


class _Joining:
    """The components so far and the edges that made them; nodes of the second side follow those of the first."""

    def __init__(self, rows: Rows, other: Rows | None, epsilon: float, block: int) -> None:
        if not 0.0 <= epsilon <= 1.0:
            raise SpecError(f"epsilon is {epsilon}; it must lie between 0 (drop nothing) and 1.")
        self.rows = rows
        self.shift = 0 if other is None else rows.n
        self.search = Search(1.0 - epsilon, block)
        self._parent = np.arange(rows.n + (0 if other is None else other.n))
        self._edges: list[NDArray[np.int64]] = []

    def edges(self) -> NDArray[np.int64]:
        """All edges so far, [e, 2]."""
        return np.concatenate([np.zeros((0, 2), dtype=np.int64), *self._edges])

    def add(self, later: NDArray[np.int64], earlier: NDArray[np.int64]) -> None:
        """Edges that are known to join, each from a node on its own to a root."""
        self._parent[later] = earlier
        self._edges.append(np.stack([later, earlier], axis=1))

    def done(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> bool:
        """Whether rows a and rows b of the other side already lie in one component."""
        left, right = self._roots(a), self._roots(b + self.shift)
        return bool((left == left[0]).all() and (right == left[0]).all())

    def tile(self, a: Part, b: Part) -> None:
        """Join what the pairs of a and b join; pairs of a row with itself or a later one do not count."""
        left, right = self._roots(a.index), self._roots(b.index + self.shift)
        names, size = np.unique(np.concatenate([left, right]), return_counts=True)
        crowd = names[size.argmax()]
        in_a, in_b = left == crowd, right == crowd
        if int(size.max()) * _FEW < len(a) + len(b):
            self._join(a, b, left, right)
            return
        self._join(a[~in_a], b, left[~in_a], right)  # all but the pairs within the crowd
        left, right = self._roots(a.index[in_a]), self._roots(b.index[~in_b] + self.shift)
        self._join(a[in_a], b[~in_b], left, right)

    def _join(self, a: Part, b: Part, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        if not len(a) or not len(b):
            return
        similar = self.search.above(a, b)
        if not self.shift:
            similar &= b.index[None, :] < a.index[:, None]
        while True:  # a round of Boruvka: every row proposes its first pair that leaves its component
            similar &= left[:, None] != right[None, :]
            line = np.flatnonzero(similar.any(axis=1))
            if not line.size:
                return
            column = similar[line].argmax(axis=1)
            taken = [p for p, (i, j) in enumerate(zip(left[line], right[column], strict=True)) if self._hook(i, j)]
            pairs = np.stack([a.index[line[taken]], b.index[column[taken]]], axis=1)
            self._edges.append(pairs)
            left, right = self._roots(left), self._roots(right)

    def _hook(self, i: np.int64, j: np.int64) -> bool:
        """Join the components of two nodes; False when they are one already."""
        a, b = int(self._roots_one(int(i))), int(self._roots_one(int(j)))
        if a != b:
            self._parent[max(a, b)] = min(a, b)
        return a != b

    def _roots_one(self, node: int) -> int:
        parent = self._parent
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    def _roots(self, nodes: NDArray[np.int64]) -> NDArray[np.int64]:
        at = self._parent[nodes]
        while True:
            further = self._parent[at]
            if np.array_equal(further, at):
                self._parent[nodes] = at
                return at
            at = further
