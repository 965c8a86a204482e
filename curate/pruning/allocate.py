"""How many samples each concept may keep: targets, then quotas that sum exactly to the budget within exact bounds.

The quadratic programme of Density-Based Pruning (Abbas et al. 2024, arXiv 2401.04578, appendix), solved exactly instead
of iteratively: minimise 1/2 |x - t|^2 with sum x = N and l <= x <= u has the unique solution x = clip(t + lam, l, u),
where lam is the root of a nondecreasing piecewise linear function of 2k breakpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.pruning.portable import exp

Rule = Literal["additive", "proportional"]

_FRACTION = 10**9  # fractional parts are compared in these units, so that float noise decides nothing


@dataclass(frozen=True)
class Allocation:
    """Quotas and how hard the bounds pressed."""

    quota: NDArray[np.int64]
    """[k], sum = total, lower <= quota <= upper."""
    exact: NDArray[np.float64]
    """[k], the optimum before rounding."""
    saturated: NDArray[np.bool_]
    """[k], true where a concept with members keeps all of them (exact == upper > 0)."""
    lam: float
    """additive: what every unbounded concept gets on top of its target; proportional: the factor on it."""
    saturated_share: float
    """Share of the concepts with members that are saturated."""
    at_lower_share: float
    """Share of the concepts with members held up by their lower bound."""
    shift_over_mean_target: float
    """lam / mean target (additive), lam - 1 (proportional): far from 0 means that the complexity barely acts."""


def targets(
    complexity: NDArray[np.float64], temperature: float, n: int, counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """n * softmax(complexity / temperature) over the concepts with members; 0.0 for empty ones. float64 [k].

    Concept sizes play no part (they are the upper bounds of `allocate`). Only single IEEE operations and exactly
    rounded sums are used, so the values have the same bits on every machine and in every order of concepts.
    Raises SpecError for a temperature that is not positive, and when all concepts are empty.
    """
    if not (temperature > 0.0 and math.isfinite(temperature)):
        raise SpecError(f"temperature is {temperature}; it must be a positive number (the paper uses 0.1).")
    alive = counts > 0
    if not alive.any():
        raise SpecError("every concept is empty, so there is nothing to keep; loosen the filters before prune.")
    value = complexity[alive]
    if not np.isfinite(value).all():
        raise SpecError(f"the complexity of concept {np.flatnonzero(alive)[~np.isfinite(value)][0]} is not finite.")
    weight = exp((value - value.max()) / temperature)
    out = np.zeros(len(counts), dtype=np.float64)
    out[alive] = weight / math.fsum(weight) * n
    return out


def lower_bounds(
    counts: NDArray[np.int64],
    total: int,
    ratio: float,
    *,
    at_least: NDArray[np.int64] | None = None,
    limit: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Smallest number each group keeps: min(m, members), m = int(total / groups with members * ratio). int64 [k].

    Groups are concepts, or classes as in Sorscher et al. 2022. ratio is the class balance ratio (0 is best for DBP, 0.5
    is Sorscher et al. and SSP), taken as the decimal it is written as. m is lowered to the largest value whose bounds
    sum to at most total. at_least int64 [k]: floors that hold besides, such as the quotas of a smaller budget inside
    this one; limit int64 [k]: no floor of the ratio exceeds it (see `upper_bounds`).
    Raises SpecError if ratio < 0, or if at_least alone is more than total.
    """
    if not (ratio >= 0.0 and math.isfinite(ratio)):
        raise SpecError(f"the balance ratio is {ratio}; it must be 0 or more.")
    most = counts if limit is None else np.minimum(counts, limit)
    least = np.zeros_like(counts) if at_least is None else at_least
    if int(least.sum()) > total:
        raise SpecError(f"{total} samples are to be kept but the smaller budget inside has {int(least.sum())} already.")
    alive = int(np.count_nonzero(counts > 0))
    high = int(Fraction(total) * Fraction(repr(float(ratio))) / max(alive, 1))
    high = min(high, int(most.max(initial=0)))
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if int(np.maximum(np.minimum(most, middle), least).sum()) <= total:
            low = middle
        else:
            high = middle - 1
    return np.maximum(np.minimum(most, low), least).astype(np.int64)


def upper_bounds(
    counts: NDArray[np.int64], total: int, cap: float | None = None, *, repeats: int = 1
) -> NDArray[np.int64]:
    """Largest number each group keeps: its members, `repeats` times, and at most `cap`. int64 [k].

    cap: a share of total (at most 1), taken as the decimal it is written as and rounded down, or a number (above 1).
    Raises SpecError when so few may stay that total is out of reach.
    """
    upper = counts.astype(np.int64) * np.int64(repeats)
    if cap is not None:
        most = int(Fraction(repr(float(cap))) * total) if cap <= 1 else int(cap)
        upper = np.minimum(upper, most)
        if int(upper.sum()) < total <= int(counts.sum()) * repeats:
            raise SpecError(
                f"{total} samples are to be kept but with cap {cap:g} no group gives more than {most}, which is "
                f"{int(upper.sum())} together: raise cap, or lower keep."
            )
    return upper


def allocate(
    targets: NDArray[np.float64],
    lower: NDArray[np.int64],
    upper: NDArray[np.int64],
    total: int,
    *,
    rule: Rule = "additive",
) -> Allocation:
    """Integer quotas closest to the targets that sum exactly to total with lower <= quota <= upper.

    rule "additive" (the reference's problem): what full concepts leave over is spread equally over the others.
    rule "proportional": x = clip(c * t, lower, upper), the projection in relative entropy; a zero target counts as
    vanishingly small. Rounding is by largest remainder, which is the integer optimum; fractional parts are compared in
    units of 1e-9 and equal ones go to the lower concept number.
    targets float64 [k]; lower, upper int64 [k]. Time O(k log k), memory O(k).
    Raises SpecError when the bounds leave no solution or the arguments do not fit together.
    """
    if not len(targets) == len(lower) == len(upper):
        raise SpecError(f"{len(targets)} targets, {len(lower)} lower and {len(upper)} upper bounds: lengths differ.")
    if not np.isfinite(targets).all() or (lower < 0).any() or (lower > upper).any():
        raise SpecError("targets must be finite and bounds must satisfy 0 <= lower <= upper for every concept.")
    least, most = int(lower.sum()), int(upper.sum())
    if total > most:
        raise SpecError(
            f"{total} samples are to be kept but only {most} are there: lower keep, or change what it is a share of."
        )
    if total < least:
        raise SpecError(
            f"{total} samples are to be kept but the concepts keep at least {least}: lower the balance ratio."
        )
    if rule == "additive":
        lam, exact = _additive(targets, lower, upper, total)
    elif rule == "proportional":
        lam, exact = _proportional(targets, lower, upper, total)
    else:
        raise SpecError(f'the allocation rule is "additive" or "proportional", not "{rule}".')
    quota = _round(exact, lower, upper, total)
    members = upper > 0
    saturated = members & (exact >= upper)
    held = members & (exact <= lower) & ~saturated
    alive = max(1, int(np.count_nonzero(members)))
    mean_target = math.fsum(targets[members]) / alive
    shift = lam - 1.0 if rule == "proportional" else (lam / mean_target if mean_target > 0.0 else 0.0)
    return Allocation(quota, exact, saturated, lam, int(saturated.sum()) / alive, int(held.sum()) / alive, shift)


def _additive(
    t: NDArray[np.float64], lower: NDArray[np.int64], upper: NDArray[np.int64], total: int
) -> tuple[float, NDArray[np.float64]]:
    def value(lam: float) -> NDArray[np.float64]:
        return np.clip(t + lam, lower, upper)

    first, last, free, bound = _segment(lower - t, upper - t, lower, upper, total, value)
    if not free.any():
        return first, value(first)
    lam = (total - bound - math.fsum(t[free])) / int(free.sum())
    lam = min(max(lam, first), last)
    return lam, value(lam)


def _proportional(
    t: NDArray[np.float64], lower: NDArray[np.int64], upper: NDArray[np.int64], total: int
) -> tuple[float, NDArray[np.float64]]:
    peak = float(t.max(initial=0.0))
    p = np.maximum(t, peak * 1e-100) if peak > 0.0 else np.ones_like(t)

    def value(factor: float) -> NDArray[np.float64]:
        return np.clip(factor * p, lower, upper)

    first, last, free, bound = _segment(lower / p, upper / p, lower, upper, total, value)
    if not free.any():
        return first, value(first)
    factor = (total - bound) / math.fsum(p[free])
    factor = min(max(factor, first), last)
    return factor, value(factor)


def _segment(
    rise: NDArray[np.float64],
    fall: NDArray[np.float64],
    lower: NDArray[np.int64],
    upper: NDArray[np.int64],
    total: int,
    value: Callable[[float], NDArray[np.float64]],
) -> tuple[float, float, NDArray[np.bool_], int]:
    """Neighbouring breakpoints around the root, the concepts that move between them, the exact sum of the others.

    Bisection over the sorted breakpoints: about log2(2k) evaluations, and unlike prefix sums of slopes it loses nothing
    when targets differ by many orders of magnitude.
    """
    moving = lower < upper
    at = np.unique(np.concatenate([rise[moving], fall[moving]]))
    if len(at) == 0:
        return 0.0, 0.0, moving, int(lower.sum())
    low, high = 0, len(at) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if float(value(float(at[middle])).sum()) <= total:
            low = middle
        else:
            high = middle - 1
    first = float(at[low])
    last = float(at[min(low + 1, len(at) - 1)])
    full = fall <= first
    free = moving & ~full & (rise <= first)
    return first, last, free, int(upper[full].sum()) + int(lower[~full & ~free].sum())


def _round(
    exact: NDArray[np.float64], lower: NDArray[np.int64], upper: NDArray[np.int64], total: int
) -> NDArray[np.int64]:
    """Largest remainder: floors, then one more for the largest fractional parts (ties: lower concept number)."""
    quota = np.floor(exact).astype(np.int64)
    part = np.rint((exact - quota) * _FRACTION).astype(np.int64)
    quota += part // _FRACTION
    part %= _FRACTION
    quota = np.clip(quota, lower, upper)
    while (rest := total - int(quota.sum())) != 0:  # one round, unless float noise of a huge total asks for another
        step = 1 if rest > 0 else -1
        room = np.flatnonzero(quota < upper if rest > 0 else quota > lower)
        order = room[np.lexsort((room, -step * part[room]))]
        quota[order[: abs(rest)]] += step
    return quota
