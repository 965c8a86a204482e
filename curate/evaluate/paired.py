"""Whether one model is better than another on the same images.

Two models err on mostly the same images, so that the intervals of each alone say little about their difference. Here
the difference itself is resampled: each drawn image counts for both models (paired bootstrap). Of measures that are
right or wrong for each image, the images that only one of the two has right also give a p: the test of McNemar 1947 in
its exact binomial form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.evaluate.bootstrap import Estimate, Metric, Resampling, estimate
from curate.evaluate.order import at_least


@dataclass(frozen=True, slots=True)
class Counts:
    """Images that both models have right, one of them alone, or neither; ``p``: see :func:`mcnemar`."""

    both: int
    only_this: int
    only_other: int
    neither: int
    p: float


@dataclass(frozen=True, slots=True)
class Paired:
    """The values of a measure for two models, this - other with its paired interval, and images counted one by one.

    ``differing``: images for which the two are not equally right. ``counts``: None unless the measure is a plain share
    of images that are right.
    """

    this: float | None
    other: float | None
    difference: Estimate
    differing: int
    counts: Counts | None


def compare(this: Metric, other: Metric, how: Resampling) -> Paired:
    """Compare one measure of two models; row i of both is the same image. Memory: that of `bootstrap.estimate`.

    A metric is linear in its numerators, so the metric of their differences is the difference of the two metrics, in
    every resample too. Raises SpecError when other images count, or in other groups: that would be no difference.
    """
    if not _same(this.denominator, other.denominator) or not _same(this.group, other.group):
        raise SpecError("two models can be compared only on the same images, counted in the same way")
    one, two = np.asarray(this.numerator), np.asarray(other.numerator)
    whole = one.dtype == np.bool_ and two.dtype == np.bool_
    kind = np.int8 if whole else np.float64  # whole numbers are told apart without sorting
    gap = one.astype(kind) - two.astype(kind)
    used = np.asarray(this.denominator) != 0
    plain = whole and np.asarray(this.denominator).dtype == np.bool_ and this.group is None
    return Paired(
        estimate(this, Resampling(0)).value,
        estimate(other, Resampling(0)).value,
        estimate(Metric(gap, this.denominator, this.group), how),
        int((used & (gap != 0)).sum()),
        _counts(one[used].astype(np.bool_), two[used].astype(np.bool_)) if plain else None,
    )


def mcnemar(only_this: int, only_other: int) -> float:
    """Exact two-sided p of two models that are equally often right: of the images that one alone has right, each is a
    fair coin. 1 when there are none; 0 when below what a float can hold (about 1e-308). Right to about 1e-9 of itself.
    """
    return min(1.0, 2 * at_least(max(only_this, only_other), only_this + only_other, 0.5))


def verdict(paired: Paired, level: float) -> int | None:
    """1: this model has the higher value; -1: the lower; 0: no difference is shown; None: nothing can be said.

    Shown is a difference whose interval leaves out 0 and whose p, where there is one, is at most 1 - level. Resamples
    of a few images vary too little; so at least so many images must differ that a coin could not put all of them on one
    side that often (6 for a level of 0.95). Without resamples p decides alone.
    """
    found, alpha = paired.difference, 1 - level
    if found.value is None or (found.low is None and paired.counts is None):
        return None
    if 2.0 ** (1 - paired.differing) > alpha or (paired.counts is not None and paired.counts.p > alpha):
        return 0
    if found.low is not None and found.high is not None and found.low <= 0 <= found.high:
        return 0
    return int(np.sign(found.value))


def _same(one: NDArray[np.generic] | None, other: NDArray[np.generic] | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _counts(one: NDArray[np.bool_], two: NDArray[np.bool_]) -> Counts:
    both, first, second = int((one & two).sum()), int((one & ~two).sum()), int((~one & two).sum())
    return Counts(both, first, second, len(one) - both - first - second, mcnemar(first, second))
