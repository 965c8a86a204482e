"""Two models on the same images: the paired interval against drawing image by image, McNemar's p against scipy."""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from curate.errors import SpecError
from curate.evaluate.bootstrap import Metric, Resampling, estimate, weights
from curate.evaluate.paired import Counts, Paired, compare, mcnemar, verdict

RNG = np.random.default_rng(8)
N = 300
ALL = np.ones(N, dtype=bool)


def value(metric: Metric, rows: np.ndarray[Any, Any]) -> float:
    """The metric of some images, each as often as it is named."""
    group = np.zeros(N, dtype=int) if metric.group is None else np.asarray(metric.group)
    above, below, which = np.asarray(metric.numerator)[rows], np.asarray(metric.denominator)[rows], group[rows]
    sums = [(above[which == g].sum(), below[which == g].sum()) for g in np.unique(which)]
    return float(np.mean([a / b for a, b in sums if b]))


def image_by_image(this: Metric, other: Metric, resamples: int, seed: int) -> tuple[float, float]:
    """The slow way: draw images, compute both metrics of those drawn, subtract."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(0, N, N) for _ in range(resamples))
    low, high = np.quantile([value(this, rows) - value(other, rows) for rows in draws], [0.025, 0.975])
    return float(low), float(high)


GROUP = RNG.integers(0, 5, N)
USED = RNG.random(N) < 0.8
HARD = RNG.random(N)
CASES = {
    "right or wrong": (Metric(HARD < 0.6, ALL), Metric(np.roll(HARD, 1) < 0.5, ALL)),
    "of some": (Metric((HARD < 0.6) & USED, USED), Metric((HARD + RNG.normal(0, 0.1, N) < 0.6) & USED, USED)),
    "mean over groups": (Metric((HARD < 0.6) & USED, USED, GROUP), Metric((HARD < GROUP / 6) & USED, USED, GROUP)),
    "shares": (Metric(RNG.integers(0, 4, N) / 3 * USED, USED), Metric(RNG.integers(0, 4, N) / 3 * USED, USED)),
    "all different": (Metric(RNG.random(N), ALL), Metric(RNG.random(N), ALL)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_interval_is_the_one_of_drawing_the_same_images_for_both(name: str) -> None:
    this, other = CASES[name]
    told = compare(this, other, Resampling(3000, 5))
    every = np.arange(N)
    assert told.this == pytest.approx(value(this, every))
    assert told.other == pytest.approx(value(other, every))
    assert told.difference.value == pytest.approx(value(this, every) - value(other, every), abs=1e-12)
    low, high = image_by_image(this, other, 1500, 6)
    assert told.difference.low == pytest.approx(low, abs=0.15 * (high - low))
    assert told.difference.high == pytest.approx(high, abs=0.15 * (high - low))


def test_the_same_draws_give_the_same_interval_to_the_last_digits() -> None:
    this, other = CASES["all different"]
    how = Resampling(200, 3)
    drawn = [
        value(this, np.repeat(np.arange(N), row)) - value(other, np.repeat(np.arange(N), row))
        for chunk in weights(N, how)
        for row in chunk
    ]
    told = compare(this, other, how).difference
    assert (told.low, told.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)


def test_a_difference_that_intervals_of_each_alone_hide_is_found() -> None:
    n = 10_000
    right = np.arange(n) < 7600
    better = right.copy()
    better[7600:7680] = True  # 80 images more
    better[:20] = False  # and 20 fewer
    one, two = Metric(better, np.ones(n, dtype=bool)), Metric(right, np.ones(n, dtype=bool))
    first, second = estimate(one, Resampling(2000)), estimate(two, Resampling(2000))
    assert first.low is not None
    assert second.high is not None
    assert first.low < second.high  # the two intervals overlap
    told = compare(one, two, Resampling(4000))
    assert told.counts is not None
    assert told.counts == Counts(7580, 80, 20, 2320, mcnemar(80, 20))
    assert told.difference.value == pytest.approx(0.006)
    half = 1.96 * np.sqrt((100 - 60**2 / n) / n**2)  # the variance of paired shares
    assert told.difference.low == pytest.approx(0.006 - half, abs=0.06 * half)
    assert told.difference.high == pytest.approx(0.006 + half, abs=0.06 * half)
    assert verdict(told, 0.95) == 1
    assert verdict(compare(two, one, Resampling(500)), 0.95) == -1


@pytest.mark.parametrize("name", CASES)
def test_a_model_and_itself_differ_by_exactly_nothing(name: str) -> None:
    this, _ = CASES[name]
    told = compare(this, this, Resampling(300))
    assert (told.difference.value, told.difference.low, told.difference.high) == (0, 0, 0)
    assert told.this == told.other
    assert told.differing == 0
    assert told.counts is None or (told.counts.only_this, told.counts.only_other, told.counts.p) == (0, 0, 1)
    assert verdict(told, 0.95) == 0


@given(st.integers(0, 300), st.integers(0, 300))
@settings(deadline=None, max_examples=60)
def test_p_is_the_one_of_an_exact_binomial_test(only_this: int, only_other: int) -> None:
    n = only_this + only_other
    expected = binomtest(only_this, n, 0.5).pvalue if n else 1.0
    assert mcnemar(only_this, only_other) == pytest.approx(expected, rel=1e-9)
    exact = Fraction(2 * sum(comb(n, k) for k in range(min(only_this, only_other) + 1)), 2**n)
    assert mcnemar(only_this, only_other) == pytest.approx(min(1.0, float(exact)), rel=1e-9)
    assert mcnemar(only_this, only_other) == mcnemar(only_other, only_this)


def test_p_of_many_images() -> None:
    assert mcnemar(25_000, 24_600) == pytest.approx(binomtest(25_000, 49_600, 0.5).pvalue, rel=1e-8)
    assert mcnemar(2551, 3055) == pytest.approx(binomtest(2551, 5606, 0.5).pvalue, rel=1e-8)
    assert mcnemar(20_000, 100) == 0


def test_models_that_are_equally_good_seldom_look_different() -> None:
    rng = np.random.default_rng(2)
    shown = 0
    for seed in range(300):
        hard = rng.random(200)
        one, two = (hard + rng.normal(0, 0.2, 200) < 0.7 for _ in range(2))
        shown += verdict(compare(Metric(one, ALL[:200]), Metric(two, ALL[:200]), Resampling(200, seed)), 0.95) != 0
    assert shown <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)


def test_only_plain_shares_of_right_images_are_counted() -> None:
    counted = {name for name, (this, other) in CASES.items() if compare(this, other, Resampling(0)).counts}
    assert counted == {"right or wrong", "of some"}
    this, other = CASES["of some"]
    told = compare(this, other, Resampling(0))
    assert told.counts is not None
    found = told.counts
    assert found.both + found.only_this + found.only_other + found.neither == USED.sum() == told.difference.images
    assert told.differing == found.only_this + found.only_other
    assert told.difference.value == pytest.approx((found.only_this - found.only_other) / USED.sum())


def test_a_few_images_show_nothing_whatever_the_resamples_say() -> None:
    for differing, expected in ((5, 0), (6, 1)):
        share = np.where(np.arange(differing) < 40, 0.5, 0.0)
        none = np.ones(differing, dtype=bool)
        told = compare(Metric(share, none), Metric(share * 0, none), Resampling(100))
        assert (told.difference.low, told.difference.high) == (0.5, 0.5)
        assert verdict(told, 0.95) == expected
    five = np.ones(5, dtype=bool)
    told = compare(Metric(five, five), Metric(~five, five), Resampling(100))
    assert told.counts == Counts(0, 5, 0, 0, 0.0625)
    assert verdict(told, 0.95) == 0


def test_a_verdict_needs_the_interval_and_p() -> None:
    def said(low: float | None, high: float | None, p: float | None, sign: int = 1) -> int | None:
        counts = None if p is None else Counts(0, 0, 0, 0, p)
        return verdict(Paired(0.5, 0.4, type(nothing)(0.1 * sign, low, high, 50), 40, counts), 0.95)

    nothing = estimate(Metric(ALL[:0], ALL[:0]), Resampling(0))
    assert said(0.01, 0.2, 0.04) == 1
    assert said(-0.2, -0.01, 0.04, -1) == -1
    assert said(0.01, 0.2, 0.06) == said(0.0, 0.2, 0.04) == said(-0.01, 0.2, None) == 0
    assert said(None, None, 0.04) == 1  # no resamples: p alone
    assert said(None, None, None) is None
    assert verdict(compare(Metric(~ALL, ~ALL), Metric(~ALL, ~ALL), Resampling(10)), 0.95) is None


def test_measures_of_other_images_are_no_difference() -> None:
    this = Metric(ALL, ALL)
    for other in (Metric(USED, USED), Metric(ALL, ALL, GROUP), Metric(ALL[:9], ALL[:9])):
        with pytest.raises(SpecError, match="only on the same images"):
            compare(this, other, Resampling(10))
