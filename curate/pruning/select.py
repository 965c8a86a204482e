"""Which samples stay, given quotas or a total: the best by (score, uid), whatever the order of the input."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

Which = Literal["hard", "easy"]


def best_first(score: NDArray[np.int64], which: Which) -> NDArray[np.int64]:
    """Scores turned so that ascending order is order of preference ("hard" = highest first). Raises SpecError."""
    if which == "hard":
        return ~score  # reverses int64 order without overflow
    if which == "easy":
        return score
    raise SpecError(f'the samples to keep are "hard" or "easy", not "{which}".')


def select(
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    quota: NDArray[np.int64],
    which: Which = "hard",
) -> NDArray[np.bool_]:
    """Keep the best min(quota, size) samples of each concept; ties go to the smaller uid.

    concept int32 [n] in 0..k-1, score int64 [n] (HIGH = hard), uid words uint64 [n], quota int64 [k]. Returns keep
    bool [n]. With distinct uids the choice does not depend on the order of the rows. A concept must be passed whole;
    `thresholds` gives the same answer part by part. Time O(n log n), memory O(n). Raises SpecError for a concept out
    of range.
    """
    _check(concept, len(quota))
    order = np.lexsort((uid_lo, uid_hi, best_first(score, which), concept))
    keep = np.zeros(len(concept), dtype=np.bool_)
    keep[order] = _rank(concept[order], len(quota)) < quota[concept[order]]
    return keep


def ssp_select(
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    total: int,
    floor: NDArray[np.int64],
    which: Which = "hard",
) -> NDArray[np.bool_]:
    """Keep exactly `total` samples: the best floor[j] of each concept, the rest by one global ranking.

    This is the class balance rule of Sorscher et al. 2022 (arXiv 2206.14486), with concepts for classes: of all
    choices that keep min(floor, size) per concept it has the best scores. Arguments as in `select`; floor int64 [k]
    (see `lower_bounds`). Time O(n log n), memory O(n); `thresholds` works part by part.
    Raises SpecError when total is more than the samples or less than the floors.
    """
    k = len(floor)
    _check(concept, k)
    sizes = np.bincount(concept, minlength=k)
    check_total(total, sizes, floor)
    first = best_first(score, which)
    order = np.lexsort((uid_lo, uid_hi, first))
    by_concept = order[np.argsort(concept[order], kind="stable")]
    keep = np.zeros(len(concept), dtype=np.bool_)
    keep[by_concept] = _rank(concept[by_concept], k) < floor[concept[by_concept]]
    others = order[~keep[order]]
    keep[others[: total - int(keep.sum())]] = True
    return keep


def check_total(total: int, sizes: NDArray[np.int64], floor: NDArray[np.int64]) -> None:
    """Raise SpecError unless the floors (int64 [k]) fit in total and total in the samples (sizes int64 [k])."""
    most, least = int(sizes.sum()), int(np.minimum(floor, sizes).sum())
    if total > most:
        raise SpecError(f"{total} samples are to be kept but only {most} are there: lower keep.")
    if total < least or (floor < 0).any():
        raise SpecError(
            f"{total} samples are to be kept but the concepts keep at least {least}: lower the balance ratio."
        )


def _check(concept: NDArray[np.int32], k: int) -> None:
    if concept.size and (int(concept.min()) < 0 or int(concept.max()) >= k):
        raise SpecError(f"concepts lie in {concept.min()}..{concept.max()} but only {k} have a quota.")


def _rank(ordered: NDArray[np.int32], k: int) -> NDArray[np.int64]:
    """Position 0, 1, ... inside its concept of each row of a column sorted by concept."""
    sizes = np.bincount(ordered, minlength=k)
    return np.arange(len(ordered)) - (np.cumsum(sizes) - sizes)[ordered]
