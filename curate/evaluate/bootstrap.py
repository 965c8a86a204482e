"""Values with intervals: images are drawn again with replacement, all metrics are means of ratios of sums.

A resample of n images is one multinomial draw over the distinct rows (numerator, denominator, group): most metrics have
a handful of them, so that 1,000 resamples of 50,000 images cost milliseconds, and have exactly the distribution that
drawing image by image gives. Intervals are percentiles (Efron & Tibshirani, An Introduction to the Bootstrap, 13.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS = 4_000_000
"""Numbers drawn together: 32 MB."""


@dataclass(frozen=True, slots=True)
class Resampling:
    """How intervals are made: resamples (0 = no intervals), seed, and the share of resamples inside."""

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and the ends of its interval; None where nothing can be said. ``images``: how many count."""

    value: float | None
    low: float | None
    high: float | None
    images: int


@dataclass(frozen=True, slots=True)
class Metric:
    """Mean over groups of (sum of numerators / sum of denominators); images with denominator 0 do not count.

    ``numerator``, ``denominator``: [n] (bool, integer or float); ``group``: [n] integers, None = one group.
    """

    numerator: NDArray[np.generic]
    denominator: NDArray[np.generic]
    group: NDArray[np.integer] | None = None


def estimate(metric: Metric, how: Resampling) -> Estimate:
    """The value of a metric with its percentile interval. Memory: about 100 bytes an image, and 32 MB."""
    patterns, codes, counts = _patterns(metric)
    value = _values(patterns, counts[None, :].astype(np.float64))[0]
    images = int((np.asarray(metric.denominator) != 0).sum())
    if np.isnan(value):
        return Estimate(None, None, None, 0)
    drawn = [_values(patterns, chunk) for chunk in _resampled(counts, codes, how)]
    return interval(float(value), np.concatenate(drawn) if drawn else np.zeros(0), how, images)


def interval(value: float, drawn: NDArray[np.float64], how: Resampling, images: int) -> Estimate:
    """An estimate from the values that the resamples gave; resamples without a value are left out."""
    held = drawn[~np.isnan(drawn)]
    if not len(held):
        return Estimate(value, None, None, images)
    low, high = np.quantile(held, [(1 - how.level) / 2, (1 + how.level) / 2])
    return Estimate(value, float(low), float(high), images)


def weights(n: int, how: Resampling) -> Iterator[NDArray[np.uint16]]:
    """How often each image is drawn: uint16 [resamples of a chunk, n], chunk after chunk. The same for one seed.

    Memory: 32 MB of drawn numbers and as much of counts.
    """
    rng = np.random.default_rng(how.seed)
    for rows in _chunks(how.resamples, n):
        drawn = rng.integers(0, n, size=(rows, n)) + np.arange(rows)[:, None] * n
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.uint16)


def _chunks(resamples: int, width: int) -> Iterator[int]:
    step = max(1, _CELLS // max(1, width))
    for first in range(0, resamples, step):
        yield min(step, resamples - first)


@dataclass(frozen=True, slots=True)
class _Patterns:
    """Distinct rows of a metric, ascending by group: their values, and where each group begins."""

    numerator: NDArray[np.float64]
    denominator: NDArray[np.float64]
    starts: NDArray[np.int64]


def _patterns(metric: Metric) -> tuple[_Patterns, NDArray[np.int64], NDArray[np.int64]]:
    """Distinct rows, which of them each image has, and how many images have each."""
    group = metric.group if metric.group is not None else np.zeros(len(metric.numerator), dtype=np.int64)
    codes: NDArray[np.int64] = np.zeros(len(group), dtype=np.int64)
    for column in (group, metric.numerator, metric.denominator):
        place = _numbered(np.asarray(column))
        codes = _numbered(codes * (int(place.max(initial=0)) + 1) + place)
    size = int(codes.max(initial=-1)) + 1
    first = np.zeros(size, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    starts = np.flatnonzero(np.diff(group[first], prepend=group[first][:1] - 1))
    held = _Patterns(
        np.asarray(metric.numerator)[first].astype(np.float64),
        np.asarray(metric.denominator)[first].astype(np.float64),
        starts,
    )
    return held, codes, np.bincount(codes, minlength=size)


def _numbered(column: NDArray[np.generic]) -> NDArray[np.int64]:
    """Number of each value among the distinct ones, ascending; counted instead of sorted where values are small."""
    if column.dtype.kind in "biu" and len(column):
        whole = column.astype(np.int64)
        whole -= whole.min()
        if int(whole.max()) < 4 * len(whole):
            numbers: NDArray[np.int64] = np.cumsum(np.bincount(whole) > 0) - 1
            return numbers[whole]
    place: NDArray[np.int64] = np.unique(column, return_inverse=True)[1].astype(np.int64)
    return place


def _resampled(counts: NDArray[np.int64], codes: NDArray[np.int64], how: Resampling) -> Iterator[NDArray[np.float64]]:
    """How many images of each pattern are drawn: float64 [resamples of a chunk, patterns]."""
    n = len(codes)
    if len(counts) <= max(64, n // 4):
        rng = np.random.default_rng(how.seed)
        for rows in _chunks(how.resamples, len(counts)):
            yield rng.multinomial(n, counts / n, size=rows).astype(np.float64)
        return
    for drawn in weights(n, how):
        out = np.empty((len(drawn), len(counts)))
        for row, weight in enumerate(drawn):
            out[row] = np.bincount(codes, weights=weight, minlength=len(counts))
        yield out


def _values(patterns: _Patterns, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The metric of each resample [b]; NaN where no image counts."""
    if not counts.shape[1]:
        return np.full(len(counts), np.nan)
    if len(patterns.starts) == 1:
        above = (counts @ patterns.numerator)[:, None]
        below = (counts @ patterns.denominator)[:, None]
    else:
        above = np.add.reduceat(counts * patterns.numerator, patterns.starts, axis=1)
        below = np.add.reduceat(counts * patterns.denominator, patterns.starts, axis=1)
    ratio = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    groups = (below > 0).sum(axis=1)
    out = np.full(len(counts), np.nan)
    np.divide(ratio.sum(axis=1), groups, out=out, where=groups > 0)
    return out
