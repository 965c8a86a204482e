"""The most similar row of a fixed reference set, for rows that may not resemble it: decontamination, exact.

Similarity is the cosine as `curate.dedup.semantic` defines it: float64, the same bits everywhere, exactly 1 for equal
rows. A row resembles the set when its similarity is above 1 - epsilon, or is 1: equal vectors count at epsilon 0 too.
float32 products only propose. What never lives here: where references come from, and what happens to such rows.

Concepts save most of the products (specs: SemDeDup across clusters). Let row x of concept a have its nearest centroid
there, so x.(c_b - c_a) <= 0 for every b. For unit x and y with cosine above 1 - epsilon, |x - y| <= sqrt(2 epsilon), so
y.(c_b - c_a) <= sqrt(2 epsilon) |c_b - c_a|: a reference y that breaks this for any b resembles no row of concept a.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, SpecError

_UNIT_ROUNDOFF = 2.0**-24
_TILE = 2**23  # float32 scores held at once (32 MiB)
_GATHER = 2**20  # float64 entries gathered at once while settling candidates (8 MiB a side)
_GATHER_COST = 60
"""To gather a reference costs about as much as to compare it with so many rows."""


@dataclass(frozen=True)
class Reach:
    """Which references a row of a group of concepts could resemble; a reference that is left out cannot."""

    group: NDArray[np.int32]
    """[k] group of each concept, 0 .. groups - 1."""
    bits: NDArray[np.uint8]
    """[groups, ceil(m / 8)] one bit a reference (numpy.packbits): groups / 8 bytes each."""
    m: int

    @property
    def share(self) -> float:
        """Share of all (group, reference) pairs that are left to compare."""
        ones = sum(int(np.bitwise_count(line).sum()) for line in self.bits)
        return ones / max(1, self.m * len(self.bits))


def reach(
    references: NDArray[np.float16], centroids: NDArray[np.float32], group: NDArray[np.int32], epsilon: float
) -> Reach:
    """What the rows of each group of concepts could resemble, by the rule above with b = each reference's own concept.

    references: float16 [m, d], nonzero and finite (a memmap works). centroids: float32 [k, d], those that rows were
    assigned to by `assign`. group: int32 [k], every number below its maximum + 1 used. The rounding of float32 is
    allowed for, so nothing that resembles is lost; which further pairs are left may differ between machines and changes
    no result. Time O(m k d); memory O(groups * m / 8 + block * (k + d)). Raises SpecError for shapes that do not fit.
    """
    m, dim = references.shape
    k = len(centroids)
    if centroids.shape != (k, dim) or group.shape != (k,) or not k:
        raise SpecError(
            f"references {references.shape}, centroids {centroids.shape} and groups {group.shape} do not fit together."
        )
    groups = int(group.max()) + 1
    bits = np.zeros((groups, -(-m // 8)), dtype=np.uint8)
    by_group = np.argsort(group, kind="stable")
    heads = np.searchsorted(group[by_group], np.arange(groups))
    table = np.ascontiguousarray(centroids[by_group])
    norm2 = np.einsum("kd,kd->k", table, table, dtype=np.float64)
    longest = float(np.sqrt(norm2.max()))
    error = (dim + 16) * _UNIT_ROUNDOFF
    # the products of a row with two centroids, each off by at most error * longest, and as much again for the rest
    slack = np.float32(4.0 * error * longest)
    radius = np.float32(np.sqrt(2.0 * epsilon))
    block = max(8, min(4096, _TILE // k) // 8 * 8)
    for start in range(0, m, block):
        y = _scaled(np.asarray(references[start : start + block]), None)
        scores = y @ table.T
        own = scores.argmax(axis=1)
        used, where = np.unique(own, return_inverse=True)
        apart2 = norm2[used][:, None] + norm2[None, :] - 2.0 * (table[used] @ table.T)
        bound = radius * np.sqrt(np.maximum(apart2, 0.0) + 4.0 * error * longest**2).astype(np.float32) + slack
        near = scores[np.arange(len(y)), own][:, None] - scores <= bound[where]
        any_ = np.logical_or.reduceat(near, heads, axis=1)
        bits[:, start // 8 : start // 8 + -(-len(y) // 8)] = np.packbits(any_.T, axis=1)
    return Reach(group, bits, m)


def most_similar(
    rows: NDArray[np.float16],
    references: NDArray[np.float16],
    epsilon: float,
    *,
    concept: NDArray[np.int32] | None = None,
    within: Reach | None = None,
    block: int = 4096,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Largest similarity of each row to a reference and which one, for rows that resemble any; 0.0 and -1 for others.

    rows: float16 [n, d]; references: float16 [m, d] (a memmap works), nonzero and finite both. concept: int32 [n], the
    nearest concept of each row, and within: what `reach` made of the same references and an epsilon at least as large;
    both or neither. Returns float64 [n] and int64 [n] (of equal ones the lowest). The result does not depend on
    `within`, on `block` or on how rows are cut into parts.

    Time O(n m d) products without `within`, its `share` of that with it. Memory O(n d) float32 and a block. Raises
    SpecError for shapes or an epsilon that do not fit, InputError for rows that are zero or not finite.
    """
    n, dim = rows.shape
    m = len(references)
    if references.ndim != 2 or references.shape[1] != dim or not rows.dtype == references.dtype == np.float16:
        raise SpecError(
            f"rows {rows.dtype} {rows.shape} and references {references.dtype} {references.shape} must be float16 "
            "vectors of one length."
        )
    if not 0.0 <= epsilon <= 1.0:
        raise SpecError(f"epsilon is {epsilon}; it must lie between 0 (equal vectors only) and 1.")
    if (within is None) != (concept is None) or (within is not None and within.m != m):
        raise SpecError("concept and within belong together, and within to these references.")
    search = _Search(rows, epsilon)
    if within is None or concept is None:
        spans: list[tuple[int, int, NDArray[np.uint8] | None]] = [(0, n, None)] if n else []
        order = np.arange(n)
    else:
        group = within.group[concept]
        order = np.argsort(group, kind="stable")
        starts = np.flatnonzero(np.diff(group[order], prepend=-1))
        spans = [(int(a), int(b), within.bits[group[order[a]]]) for a, b in zip(starts, [*starts[1:], n], strict=True)]
    x = _scaled(rows[order], search.norm2[order])
    block = max(8, block // 8 * 8)
    for start in range(0, m if n else 0, block):
        raw = np.asarray(references[start : start + block])
        y2 = _norms2(raw)
        y = np.empty((0, dim), dtype=np.float32)
        whole: list[NDArray[np.int64]] = []
        for first, last, bits in spans:
            columns = np.arange(len(raw))
            if bits is not None:
                columns = np.flatnonzero(np.unpackbits(bits[start // 8 : (start + block) // 8])[: len(raw)])
                if not len(columns):
                    continue
            if not len(y):
                y = _scaled(raw, y2)
            count = last - first
            if len(columns) * (count + _GATHER_COST) >= len(raw) * count:
                whole.append(np.arange(first, last))  # few are spared: cheaper with others, against the block as it is
                continue
            search.tiles(order[first:last], x[first:last], y[columns], raw, y2, columns, start)
        if whole:
            at = np.concatenate(whole)
            search.tiles(order[at], x if len(at) == n else x[at], y, raw, y2, np.arange(len(raw)), start)
    return np.where(search.found >= 0, search.best, 0.0), search.found


class _Search:
    """Running exact maximum of each row over the references seen so far."""

    def __init__(self, rows: NDArray[np.float16], epsilon: float) -> None:
        self.rows = rows
        self.norm2 = _norms2(rows)
        bad = np.flatnonzero(~(np.isfinite(self.norm2) & (self.norm2 > 0.0)))
        if bad.size:
            raise InputError(f"vector {bad[0]} of the part is zero or not finite; quarantine it before this stage.")
        self.threshold = 1.0 - epsilon
        # rigorous: float32 dot of rows scaled to norm 1 (two roundings an entry) against the float64 cosine
        self.error = (rows.shape[1] + 16) * _UNIT_ROUNDOFF
        self.best = np.full(len(rows), -np.inf)
        self.found = np.full(len(rows), -1, dtype=np.int64)

    def tiles(
        self,
        lines: NDArray[np.int64],
        x: NDArray[np.float32],
        y: NDArray[np.float32],
        raw: NDArray[np.float16],
        raw_norm2: NDArray[np.float64],
        columns: NDArray[np.int64],
        start: int,
    ) -> None:
        """`tile` for as many rows at a time as fit into `_TILE` scores."""
        step = max(16, _TILE // len(columns))
        for at in range(0, len(lines), step):
            self.tile(lines[at : at + step], x[at : at + step], y, raw, raw_norm2, columns, start)

    def tile(
        self,
        lines: NDArray[np.int64],
        x: NDArray[np.float32],
        y: NDArray[np.float32],
        raw: NDArray[np.float16],
        raw_norm2: NDArray[np.float64],
        columns: NDArray[np.int64],
        start: int,
    ) -> None:
        """Raise best and found of rows `lines` by the references start + columns, whose scaled rows are y."""
        scores = x @ y.T
        top = scores.max(axis=1)
        floor = np.maximum(self.threshold, self.best[lines]) - self.error
        hot = np.flatnonzero((top >= floor) & (self.best[lines] < 1.0))
        if not len(hot):
            return
        # whatever lies two errors below the float32 maximum of the tile cannot be the exact maximum
        at, column = np.nonzero(scores[hot] >= np.maximum(floor[hot], top[hot] - 2.0 * self.error)[:, None])
        row, reference = lines[hot[at]], columns[column]
        value = np.empty(len(row))
        step = max(1, _GATHER // max(1, x.shape[1]))
        for p in range(0, len(row), step):
            i, j = row[p : p + step], reference[p : p + step]
            left, right = self.rows[i].astype(np.float64), raw[j].astype(np.float64)
            dots = np.einsum("pd,pd->p", left, right)
            value[p : p + step] = np.minimum(dots / np.sqrt(self.norm2[i] * raw_norm2[j]), 1.0)
        order = np.lexsort((reference, -value, at))
        first = order[np.flatnonzero(np.diff(at[order], prepend=-1))]
        row, reference, value = row[first], reference[first], value[first]
        # strict: an equal reference before was there first
        better = (value > self.best[row]) & ((value > self.threshold) | (value == 1.0))
        self.best[row[better]] = value[better]
        self.found[row[better]] = reference[better] + start


def _norms2(rows: NDArray[np.float16]) -> NDArray[np.float64]:
    """Squared norms float64 [n], exact; 4,096 rows at a time."""
    out = np.empty(len(rows))
    for start in range(0, len(rows), 4096):
        wide = np.asarray(rows[start : start + 4096]).astype(np.float64)
        out[start : start + 4096] = np.einsum("nd,nd->n", wide, wide)
    return out


def _scaled(rows: NDArray[np.float16], norm2: NDArray[np.float64] | None) -> NDArray[np.float32]:
    """Rows as float32 of norm 1."""
    x = rows.astype(np.float32)
    x *= (1.0 / np.sqrt(_norms2(rows) if norm2 is None else norm2)).astype(np.float32)[:, None]
    return x
