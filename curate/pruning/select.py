"""Which samples stay, given quotas or a total: the best by (score, uid), whatever the order of the input."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

Which = Literal["hard", "easy", "middle", "random"]
"""Which samples of a ranking come first; see `best_first` and `run_of`."""


def best_first(score: NDArray[np.int64], which: Which, draw: NDArray[np.uint64] | None = None) -> NDArray[np.int64]:
    """Scores turned so that ascending order is the order of the ranking. Raises SpecError.

    "hard": highest first; "easy": lowest first; "middle": as hard, of which `run_of` takes a run around the median;
    "random": by `draw` (uint64 [n], a hash of seed and uid), whatever the score.
    """
    if which in ("hard", "middle"):
        return ~score  # reverses int64 order without overflow
    if which == "easy":
        return score
    if which == "random":
        if draw is None:
            raise SpecError("a random choice needs a draw for each sample.")
        return (np.asarray(draw, dtype=np.uint64) ^ np.uint64(1 << 63)).view(np.int64)
    raise SpecError(f'the samples to keep are "hard", "easy", "middle" or "random", not "{which}".')


def run_of(size: NDArray[np.int64], quota: NDArray[np.int64], which: Which) -> NDArray[np.int64]:
    """Rank, counted from 0, at which the `quota` kept samples of a ranking of `size` begin; int64, any shape.

    0, but for "middle": kept are the ranks closest to the median rank (size - 1) / 2, the harder one of two that are
    equally close. That is a run which begins at (size - quota) // 2; the run of a smaller quota lies inside it.
    """
    return (size - quota) // 2 if which == "middle" else np.zeros_like(quota)


def select(
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    quota: NDArray[np.int64],
    which: Which = "hard",
    draw: NDArray[np.uint64] | None = None,
) -> NDArray[np.bool_]:
    """Keep the best min(quota, size) samples of each concept; ties go to the smaller uid.

    concept int32 [n] in 0..k-1, score int64 [n] (HIGH = hard), uid words uint64 [n], quota int64 [k], draw uint64 [n]
    for which="random". Returns keep bool [n]. With distinct uids the choice does not depend on the order of the rows. A
    concept must be passed whole; `search` gives the same answer part by part. Time O(n log n), memory O(n).
    Raises SpecError for a concept out of range.
    """
    k = len(quota)
    _check(concept, k)
    return _runs(_order(score, uid_hi, uid_lo, which, draw), concept, quota, which)


def ssp_select(
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    total: int,
    floor: NDArray[np.int64],
    which: Which = "hard",
    draw: NDArray[np.uint64] | None = None,
    limit: NDArray[np.int64] | None = None,
) -> NDArray[np.bool_]:
    """Keep exactly `total` samples: the best floor[j] of each concept, the rest by one ranking of all others.

    This is the class balance rule of Sorscher et al. 2022 (arXiv 2206.14486), with classes or concepts: of all choices
    that keep min(floor, size) per concept it has the best scores (hard, easy). limit: others are only taken from the
    best limit[j] of their concept. "middle": the floor is the run around the median of the concept, the rest the run
    around the median of the others. Arguments as in `select`; floor and limit int64 [k] (see `lower_bounds`,
    `upper_bounds`). Time O(n log n), memory O(n); `search` works part by part.
    Raises SpecError when total is more than the samples or less than the floors.
    """
    k = len(floor)
    _check(concept, k)
    sizes = np.bincount(concept, minlength=k)
    most = sizes if limit is None else np.minimum(limit, sizes)
    check_total(total, most, floor)
    order = _order(score, uid_hi, uid_lo, which, draw)
    keep = _runs(order, concept, np.minimum(floor, sizes), which)
    open_ = ~keep & _runs(order, concept, most, which)
    others = order[open_[order]]
    rest = total - int(keep.sum())
    start = int(run_of(np.asarray(len(others)), np.asarray(rest), which))
    keep[others[start : start + rest]] = True
    return keep


def check_total(total: int, most: NDArray[np.int64], floor: NDArray[np.int64]) -> None:
    """Raise SpecError unless the floors (int64 [k]) fit in total and total in what there is (most int64 [k])."""
    there, least = int(most.sum()), int(np.minimum(floor, most).sum())
    if total > there:
        raise SpecError(f"{total} samples are to be kept but only {there} are there: lower keep.")
    if total < least or (floor < 0).any():
        raise SpecError(
            f"{total} samples are to be kept but the concepts keep at least {least}: lower the balance ratio."
        )


def _check(concept: NDArray[np.int32], k: int) -> None:
    if concept.size and (int(concept.min()) < 0 or int(concept.max()) >= k):
        raise SpecError(f"concepts lie in {concept.min()}..{concept.max()} but only {k} have a quota.")


def _order(
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    which: Which,
    draw: NDArray[np.uint64] | None,
) -> NDArray[np.int64]:
    return np.lexsort((uid_lo, uid_hi, best_first(score, which, draw)))


def _runs(
    order: NDArray[np.int64], concept: NDArray[np.int32], quota: NDArray[np.int64], which: Which
) -> NDArray[np.bool_]:
    """The run of each concept's ranking that its quota (at most its size) takes; order: rows by rank."""
    sizes = np.bincount(concept, minlength=len(quota))
    quota = np.minimum(quota, sizes)
    first = run_of(sizes, quota, which)
    by_concept = order[np.argsort(concept[order], kind="stable")]
    mine = concept[by_concept]
    rank = np.arange(len(mine)) - (np.cumsum(sizes) - sizes)[mine]
    keep = np.zeros(len(concept), dtype=np.bool_)
    keep[by_concept] = (rank >= first[mine]) & (rank < (first + quota)[mine])
    return keep
