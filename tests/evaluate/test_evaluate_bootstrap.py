"""Intervals against closed forms and against resampling image by image."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.evaluate.bootstrap import Metric, Resampling, estimate, weights

RNG = np.random.default_rng(3)


def image_by_image(metric: Metric, resamples: int, seed: int) -> tuple[float, float]:
    """The slow way: draw images, compute the metric of those drawn."""
    rng = np.random.default_rng(seed)
    n = len(metric.numerator)
    group = np.zeros(n, dtype=int) if metric.group is None else np.asarray(metric.group)
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(0, n, n)
        above, below, which = np.asarray(metric.numerator)[rows], np.asarray(metric.denominator)[rows], group[rows]
        sums = [(above[which == g].sum(), below[which == g].sum()) for g in np.unique(which)]
        drawn.append(np.mean([a / b for a, b in sums if b]))
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def test_the_interval_of_a_share_is_the_one_of_the_binomial() -> None:
    n, share = 50_000, 0.76
    right = np.arange(n) < share * n
    told = estimate(Metric(right, np.ones(n, dtype=bool)), Resampling(4000, 1))
    half = 1.96 * np.sqrt(share * (1 - share) / n)
    assert told.value == pytest.approx(share)
    assert told.low == pytest.approx(share - half, abs=half * 0.06)
    assert told.high == pytest.approx(share + half, abs=half * 0.06)
    assert told.images == n


GROUP = RNG.integers(0, 5, 400)
USED = RNG.random(400) < 0.8
CASES = {
    "share of some": Metric((RNG.random(400) < 0.4) & USED, USED),
    "mean over groups": Metric((RNG.random(400) < GROUP / 6) & USED, USED, GROUP),
    "ratio of counts": Metric(RNG.integers(0, 3, 400), RNG.integers(1, 4, 400)),
    "all different": Metric(RNG.random(400), np.ones(400, dtype=bool)),
    "all different, over groups": Metric(RNG.random(400) * USED, USED, GROUP),
}


@pytest.mark.parametrize("name", CASES)
def test_patterns_are_resampled_as_images_are(name: str) -> None:
    metric = CASES[name]
    told = estimate(metric, Resampling(3000, 5))
    assert told.low is not None
    assert told.high is not None
    low, high = image_by_image(metric, 1500, 6)
    assert told.low == pytest.approx(low, abs=0.15 * (high - low))
    assert told.high == pytest.approx(high, abs=0.15 * (high - low))


def test_a_seed_gives_the_same_interval_and_no_resamples_none() -> None:
    metric = CASES["mean over groups"]
    assert estimate(metric, Resampling(100, 7)) == estimate(metric, Resampling(100, 7))
    assert estimate(metric, Resampling(100, 7)).low != estimate(metric, Resampling(100, 8)).low
    bare = estimate(metric, Resampling(0))
    assert bare.value is not None
    assert (bare.low, bare.high) == (None, None)


def test_nothing_to_count_is_no_value() -> None:
    nothing: NDArray[np.bool_] = np.zeros(3, dtype=bool)
    assert estimate(Metric(nothing, nothing), Resampling(10)).value is None
    assert estimate(Metric(nothing[:0], nothing[:0]), Resampling(10)).value is None


def test_weights_draw_every_image_once_on_average() -> None:
    drawn = np.concatenate(list(weights(50, Resampling(2000, 2))))
    assert drawn.shape == (2000, 50)
    assert (drawn.sum(axis=1) == 50).all()
    assert drawn.mean(axis=0) == pytest.approx(np.ones(50), abs=0.15)
    assert drawn.var() == pytest.approx(1 - 1 / 50, rel=0.05)
