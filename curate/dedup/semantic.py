"""SemDeDup within one concept (Abbas et al. 2023, arXiv 2303.09540), exact and in bounded memory.

Similarity of rows i and j is their cosine, dot / sqrt(|i|^2 * |j|^2), evaluated in float64 and clamped to at most 1:
the same bit pattern on every machine (see `cosine`). float32 matrix products, and bounds from a few rotated coordinates
(see `prefix`), only propose candidates: every value that can matter is recomputed exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.dedup.cosine import Rows
from curate.dedup.prefix import Prefix, choose
from curate.dedup.search import Best, Part, Search
from curate.errors import SpecError

Rule = Literal["paper", "greedy"]

_SUPER = 4  # blocks of rows that stay in memory while blocks of earlier rows are read past them
_SUPER_SKETCH = 16  # the same when only sketches stay


@dataclass(frozen=True)
class MaxSimilarity:
    """Per row: the largest similarity to an earlier row, and which one."""

    similarity: NDArray[np.float64]
    """[n] in 0..1; 0.0 where `exact` is false."""
    duplicate_of: NDArray[np.int64]
    """[n] the earlier row with that similarity (the earliest of equals), -1 where `exact` is false."""
    exact: NDArray[np.bool_]
    """[n] true where the largest similarity is at least 1 - epsilon_max; false: it is smaller, and not computed."""


@dataclass(frozen=True)
class Duplicates:
    """The decision for each row of one concept; all arrays [n], indices into the rows as given."""

    keep: NDArray[np.bool_]
    duplicate_of: NDArray[np.int64]
    """The row that made this one a duplicate, -1 where kept. Under the paper's rule it may itself be dropped."""
    keeper: NDArray[np.int64]
    """The kept row at the end of the duplicate_of chain; itself where kept."""
    similarity: NDArray[np.float64]
    """Similarity to duplicate_of (above 1 - epsilon), 0.0 where kept."""


def keep_order(
    distance: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    order: Literal["hard", "easy"] = "hard",
) -> NDArray[np.int64]:
    """Permutation [n] that puts the preferred row of a duplicate pair first.

    "hard" (the paper's default) prefers the row farthest from its centroid, "easy" the nearest; ties go to the smaller
    uid. Apply it to the vectors before `semantic_duplicates`. Raises SpecError for another word.
    """
    if order not in ("hard", "easy"):
        raise SpecError(f'the keep order is "hard" or "easy", not "{order}".')
    first = ~distance if order == "hard" else distance  # ~ reverses int64 order without overflow
    return np.lexsort((uid_lo, uid_hi, first)).astype(np.int64)


def semantic_duplicates(
    vectors: NDArray[np.float16], *, epsilon: float, rule: Rule = "paper", block: int = 2048
) -> Duplicates:
    """Drop rows too similar to an earlier row: similarity strictly above 1 - epsilon.

    vectors: float16 [n, d] of one concept (a memmap works) in keep order, see `keep_order`.
    rule "paper": a row is dropped for any earlier row, even one that is itself dropped (what the SemDeDup code does;
    epsilon = 0 therefore keeps exact copies, whose similarity is 1). rule "greedy": only for an earlier row that is
    kept; keeps at least as many rows. Memory O(block * (block + d) + n). Raises as `max_similarity`.
    """
    n = len(vectors)
    if rule == "paper":
        found = max_similarity(vectors, epsilon_max=epsilon, block=block)
        keep = ~(found.exact & (found.similarity > 1.0 - epsilon))
        similarity, duplicate_of = found.similarity, found.duplicate_of
    elif rule == "greedy":
        keep, similarity, duplicate_of = _greedy(vectors, epsilon, block)
    else:
        raise SpecError(f'the duplicate rule is "paper" or "greedy", not "{rule}".')
    duplicate_of = np.where(keep, -1, duplicate_of)
    return Duplicates(keep, duplicate_of, keepers(duplicate_of), np.where(keep, 0.0, similarity)) if n else _none()


def keepers(duplicate_of: NDArray[np.int64]) -> NDArray[np.int64]:
    """Follow duplicate_of (int64 [n], -1 = kept, otherwise an earlier row) to a kept row; O(n log n)."""
    keeper = np.where(duplicate_of < 0, np.arange(len(duplicate_of)), duplicate_of)
    while True:
        further = keeper[keeper]
        if np.array_equal(further, keeper):
            return keeper
        keeper = further


def max_similarity(
    vectors: NDArray[np.float16], *, epsilon_max: float, block: int = 2048, prefix: int | Prefix | None = None
) -> MaxSimilarity:
    """Largest similarity of each row to an earlier row, exact wherever it is at least 1 - epsilon_max.

    vectors: float16 [n, d] in keep order (a memmap works). One call serves every epsilon <= epsilon_max: a row is
    dropped iff `exact` and similarity > 1 - epsilon, so the distribution of the values is the share kept for each
    epsilon. prefix: see `prefix.choose`; None lets expected time decide, results never depend on it. Time O(n^2 d / 2)
    float32 products at most; memory O(block * (block + d)) beside O(n) numbers. Raises SpecError for an epsilon outside
    0..1 and InputError for rows that are zero or not finite.
    """
    _check(epsilon_max)
    rows = Rows(vectors, block)
    first, of = rows.distinct(block)
    best = Best(rows.n)
    search = Search(1.0 - epsilon_max, block)
    chosen = choose(rows, None, len(first) * (len(first) - 1) / 2.0, search.threshold, prefix)
    # a copy has the similarities of the row it equals, which is earlier: it matters neither as row nor as column
    many = block * (_SUPER if chosen is None else _SUPER_SKETCH)
    for start in range(0, len(first), many):
        here = first[start : start + many]
        later = whole = Part.of(rows, here, here, chosen)
        for other in range(0, start, block):
            some = first[other : other + block]
            search.compare(later, best, Part.of(rows, some, some, chosen), None)
            later = _still_open(later, best)
        for other in range(0, len(whole), block):
            part = whole[other : other + block]
            search.compare(later[int(np.searchsorted(later.rank, part.rank[0])) :], best, part, None)
    copy = np.flatnonzero(of != np.arange(rows.n))
    like = of[copy]  # what reached 1 with that row comes before it
    best.found[copy] = np.where(best.value[like] == 1.0, best.found[like], like)
    best.value[copy] = 1.0
    return _result(best)


def cross_similarity(
    members: NDArray[np.float16],
    probes: NDArray[np.float16],
    member_rank: NDArray[np.int64],
    probe_rank: NDArray[np.int64],
    *,
    epsilon_max: float,
    block: int = 2048,
    prefix: int | Prefix | None = None,
) -> tuple[MaxSimilarity, MaxSimilarity]:
    """Largest similarity of each member to an earlier probe, and of each probe to an earlier member.

    members: float16 [m, d], probes: float16 [p, d] (memmaps work); ranks: int64 [m] and [p], ascending, all different:
    the place of each row in one global order. `duplicate_of` of the first result names probes, of the second members.
    Exact wherever the similarity is at least 1 - epsilon_max; of equal similarities the earliest rank is named. Members
    are not compared with members, nor probes with probes. Memory O(block * (block + d) + m + p). Raises SpecError for
    ranks that do not ascend or do not fit, and as `max_similarity`.
    """
    _check(epsilon_max)
    a, b = Rows(members, block), Rows(probes, block)
    for what, rank, rows in (("members", member_rank, a), ("probes", probe_rank, b)):
        if rank.shape != (rows.n,) or (np.diff(rank) <= 0).any():
            raise SpecError(f"the {rows.n} {what} need as many ranks, ascending; got {rank.shape[0]}.")
    best_a, best_b = Best(a.n), Best(b.n)
    search = Search(1.0 - epsilon_max, block)
    chosen = choose(a, b, float(a.n) * b.n, search.threshold, prefix)
    many = block * (_SUPER if chosen is None else _SUPER_SKETCH)
    for start in range(0, a.n, many):
        mine = Part.of(a, np.arange(start, min(start + many, a.n)), member_rank[start : start + many], chosen)
        for other in range(0, b.n, block):
            stop = min(other + block, b.n)
            part = Part.of(b, np.arange(other, stop), probe_rank[other:stop], chosen)
            search.compare(mine, best_a, part, best_b)
    return _result(best_a), _result(best_b)


def _still_open(later: Part, best: Best) -> Part:
    is_open = best.value[later.index] < 1.0
    return later[is_open] if np.count_nonzero(is_open) < 0.75 * len(later) else later


def _result(best: Best) -> MaxSimilarity:
    exact = best.found >= 0
    return MaxSimilarity(np.where(exact, best.value, 0.0), best.found, exact)


def _check(epsilon: float) -> None:
    if not 0.0 <= epsilon <= 1.0:
        raise SpecError(f"epsilon is {epsilon}; it must lie between 0 (drop nothing) and 1.")


def _none() -> Duplicates:
    index = np.zeros(0, dtype=np.int64)
    return Duplicates(np.zeros(0, dtype=np.bool_), index, index.copy(), np.zeros(0))


def _greedy(
    vectors: NDArray[np.float16], epsilon: float, block: int
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.int64]]:
    """Keep, best similarity and partner per row, comparing with kept rows only."""
    _check(epsilon)
    rows = Rows(vectors, block)
    best = Best(rows.n)
    search = Search(1.0 - epsilon, block)
    keep = np.ones(rows.n, dtype=np.bool_)
    for start in range(0, rows.n, block):
        here = np.arange(start, min(start + block, rows.n))
        part = Part.of(rows, here, here, None)
        kept = np.flatnonzero(keep[:start])
        for at in range(0, len(kept), block):
            some = kept[at : at + block]
            search.compare(part, best, Part.of(rows, some, some, None), None)
        keep[here] = ~(best.value[here] > search.threshold)
        survivors = part[keep[here]]
        keep[survivors.index] = _alone(survivors, search)
        last = part[keep[here]]
        search.compare(part, best, last, None)
    return keep, best.value, best.found


def _alone(part: Part, search: Search) -> NDArray[np.bool_]:
    """Greedy decision among rows (ascending, at most a block): true where no earlier true row is too similar."""
    similar = np.tril(search.above(part, part), -1)
    alive = np.ones(len(part), dtype=np.bool_)
    for j in np.flatnonzero(similar.any(axis=1)):
        alive[j] = not (similar[j] & alive).any()
    return alive
