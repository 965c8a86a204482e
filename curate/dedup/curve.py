"""The curve epsilon -> samples kept, and the epsilon for a wanted number: exact order statistics of the similarities.

Under the rule "paper" a sample is dropped iff its largest similarity M to an earlier one is above 1 - epsilon (Abbas et
al. 2023), and M does not depend on epsilon: counts of M, which add up over parts, say everything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

DIGITS = 4
"""16-bit digits of a float64; positive values order as their bit patterns do."""

_BASE = 2**16


def dropped(similarity: NDArray[np.float64], epsilons: NDArray[np.float64]) -> NDArray[np.int64]:
    """Samples dropped at each epsilon, int64 [g]: values above 1 - epsilon, strictly. Adds up over parts.

    similarity: float64 [m] of rows whose value is exact (`MaxSimilarity.exact`); epsilons: float64 [g], none above the
    epsilon_max of the search. Memory: a sorted copy of the values.
    """
    values = np.sort(similarity)
    return (len(values) - np.searchsorted(values, 1.0 - epsilons, side="right")).astype(np.int64)


def grid(epsilon_max: float, points: int = 64) -> NDArray[np.float64]:
    """Epsilons for a curve, float64 ascending: 0, then `points` steps up to epsilon_max, finer towards 0.

    Step i is epsilon_max * (i / points)**2: single IEEE operations, the same on every machine.
    """
    if not 0.0 <= epsilon_max <= 1.0:
        raise SpecError(f"epsilon_max is {epsilon_max}; it must lie between 0 and 1.")
    part = np.arange(points + 1) / points
    return np.unique(epsilon_max * (part * part))


def digit_counts(similarity: NDArray[np.float64], leading: int = 0, digits: int = 0) -> NDArray[np.int64]:
    """Histogram int64 [65536] of one 16-bit digit of the bit patterns; adds up over parts.

    Counted are the values whose first `digits` digits equal `leading`, by their next digit. Values lie in 0..1.
    """
    pattern = np.ascontiguousarray(similarity, dtype=np.float64).view(np.uint64)
    if digits:
        pattern = pattern[pattern >> np.uint64(64 - 16 * digits) == np.uint64(leading)]
    digit = (pattern >> np.uint64(48 - 16 * digits)) & np.uint64(_BASE - 1)
    return np.bincount(digit.astype(np.int64), minlength=_BASE).astype(np.int64)


def largest(counts: NDArray[np.int64], rank: int) -> tuple[int, int]:
    """The digit that holds the rank-th largest value (rank from 0) of a histogram, and its rank among those."""
    above = np.cumsum(counts[::-1])
    at = int(np.searchsorted(above, rank, side="right"))
    return _BASE - 1 - at, rank - (int(above[at - 1]) if at else 0)


def epsilon_for(parts: Callable[[], Iterable[NDArray[np.float64]]], drop: int) -> float | None:
    """The largest epsilon that drops at most `drop` samples: 1 minus the (drop + 1)-th largest similarity.

    parts: called up to four times, yields the similarities (where exact) of each part. Equal similarities stand or fall
    together, so fewer than `drop` may go. Returns None when there are only `drop` values or fewer: no epsilon up to the
    epsilon_max of the search drops more. The result is exact for similarities of at least 0.5: 1 - epsilon gives the
    order statistic back. Memory: one histogram and one part. Raises SpecError for a negative number.
    """
    if drop < 0:
        raise SpecError(f"the number of samples to drop is {drop}; it cannot be negative.")
    leading, rank = 0, drop
    for digits in range(DIGITS):
        counts = np.zeros(_BASE, dtype=np.int64)
        for similarity in parts():
            counts += digit_counts(similarity, leading, digits)
        if rank >= int(counts.sum()):
            return None
        digit, rank = largest(counts, rank)
        leading = leading << 16 | digit
    return 1.0 - float(np.array([leading], dtype=np.uint64).view(np.float64)[0])
