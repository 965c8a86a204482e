"""Scores made into probabilities that come true, and thresholds that keep a promised precision.

Order: temperature on the logits of an image, then isotonic curves of (image, class) pairs, a class's own curve trusted
as far as it has data, then thresholds. Everything is float64 and deterministic. Fit on pairs with known truth (human
answers), judge on others: a curve fitted to the pairs it is judged on looks calibrated by construction.
What never lives here: measures of calibration, and files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import isotonic_regression

from curate.errors import InputError

PAIRS_OF_HALF_TRUST = 20.0
"""Number of examples with which a class's own estimate counts as much as that of all classes."""
_ROWS = 4096
_COLDEST, _HOTTEST = 1e-3, 1e3


# --- temperature ------------------------------------------------------------------------------------------------------


def negative_log_likelihood(
    logits: NDArray[np.floating], labels: NDArray[np.integer], temperature: float = 1.0
) -> float:
    """Mean of -log softmax(logits / temperature)[label] over the rows; logits [n, classes], labels [n]."""
    _checked(logits, labels)
    return _moments(logits, labels, 1 / temperature)[0]


def fit_temperature(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """The temperature with the least mean negative log likelihood (Guo et al. 2017, section 4.2).

    The likelihood is convex in 1 / temperature: Newton steps, kept inside a bracket of its one minimum by bisection, to
    a relative 1e-12 where rounding allows it. Within 0.001 to 1000, the ends where the minimum lies beyond: rows that
    are all right want 0, rows no better than chance infinity.
    logits: floats [n, classes]; labels: int [n]. Memory: 4,096 rows in float64 and their exponentials, besides logits.
    Raises InputError for no rows, labels out of range, or logits that are not finite.
    """
    _checked(logits, labels)
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if _moments(logits, labels, low)[1] >= 0:
        return _HOTTEST
    if _moments(logits, labels, high)[1] <= 0:
        return _COLDEST
    beta, best, flattest = 1.0, 1.0, math.inf
    for _ in range(100):
        _, slope, curvature = _moments(logits, labels, beta)
        if abs(slope) < flattest:
            best, flattest = beta, abs(slope)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = beta - slope / curvature if curvature > 0 else math.inf
        if abs(step - beta) <= 1e-12 * beta or high - low <= 1e-12 * beta:
            break
        beta = step if low < step < high else math.sqrt(low * high)
    return 1 / best


def _moments(logits: NDArray[np.floating], labels: NDArray[np.integer], beta: float) -> tuple[float, float, float]:
    """Mean loss at the inverse temperature beta, and its first and second derivative by beta."""
    sums = np.zeros(3)
    for start in range(0, len(labels), _ROWS):
        z = logits[start : start + _ROWS].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        p = np.exp(beta * z)
        total = p.sum(axis=1, keepdims=True)
        p /= total
        mean = (p * z).sum(axis=1)
        own = z[np.arange(len(z)), labels[start : start + _ROWS]]
        sums += [
            (np.log(total[:, 0]) - beta * own).sum(),
            (mean - own).sum(),
            (p * (z - mean[:, None]) ** 2).sum(),
        ]
    loss, slope, curvature = (sums / len(labels)).tolist()
    return loss, slope, curvature


def _checked(logits: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if logits.ndim != 2 or labels.shape != (len(logits),) or not len(labels):
        raise InputError(f"temperature: logits are {logits.shape}, labels {labels.shape}; wanted [n, classes] and [n].")
    wrong = np.flatnonzero((labels < 0) | (labels >= logits.shape[1]))
    if len(wrong):
        raise InputError(f"temperature: row {wrong[0]} has label {labels[wrong[0]]}, of {logits.shape[1]} classes.")
    for start in range(0, len(labels), _ROWS):
        if not np.isfinite(logits[start : start + _ROWS]).all():
            raise InputError(f"temperature: a logit of rows {start} to {start + _ROWS - 1} is not finite.")


# --- isotonic curves --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    """A rising curve through knots, straight between them and level beyond: x rising, y never falling; float64 [k]."""

    x: NDArray[np.float64]
    y: NDArray[np.float64]

    def __call__(self, score: NDArray[np.floating]) -> NDArray[np.float64]:
        """Height of the curve at each score: float64, the shape of score."""
        return np.interp(score.astype(np.float64), self.x, self.y)


def fit_isotonic(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> Curve:
    """The non-decreasing curve nearest to the truths in squares (pool adjacent violators; Zadrozny and Elkan 2002).

    score: [n], any scale; truth: bool [n]. Pairs with equal scores get one value. Of a level stretch only both ends are
    kept. Memory: 60 bytes a pair. Raises InputError for no pairs or scores that are not finite.
    """
    _pairs(score, truth)
    x, place = np.unique(score.astype(np.float64), return_inverse=True)
    n = np.bincount(place)
    mean = np.bincount(place, weights=truth) / n
    y = np.clip(np.asarray(isotonic_regression(mean, sample_weight=n.astype(np.float64)), dtype=np.float64), 0.0, 1.0)
    inner = np.zeros(len(y), dtype=bool)
    inner[1:-1] = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    return Curve(x[~inner], y[~inner])


@dataclass(frozen=True, slots=True)
class Calibrator:
    """Curves of one classifier. ``overall``: of all pairs; ``by_class``: class -> (its curve, trust in [0, 1))."""

    overall: Curve
    by_class: dict[int, tuple[Curve, float]]

    def __call__(self, score: NDArray[np.floating], classes: NDArray[np.integer]) -> NDArray[np.float64]:
        """Probabilities float64 [n]: trust x own curve + (1 - trust) x overall; a class without curve: overall.

        For one class a higher score never gives a lower probability. Memory: 40 bytes a pair.
        """
        p = self.overall(score)
        for number, rows in _by_class(classes):
            if number in self.by_class:
                curve, trust = self.by_class[number]
                p[rows] += trust * (curve(score[rows]) - p[rows])
        return np.clip(p, 0.0, 1.0)


def fit_calibrator(
    score: NDArray[np.floating],
    classes: NDArray[np.integer],
    truth: NDArray[np.bool_],
    half_trust: float = PAIRS_OF_HALF_TRUST,
) -> Calibrator:
    """Isotonic curves one class against the rest, each shrunk to the curve of all: trust = n / (n + half_trust).

    n is the number of the class's pairs of the rarer truth: a thousand pairs of which none is true say little of where
    the true ones begin, and the class keeps the curve of all. score, classes, truth: [n] pairs.
    Memory: 100 bytes a pair. Raises InputError as fit_isotonic.
    """
    overall = fit_isotonic(score, truth)
    by_class = {}
    for number, rows in _by_class(classes):
        told = truth[rows]
        n = min(int(told.sum()), int((~told).sum()))
        if n:
            by_class[number] = fit_isotonic(score[rows], told), n / (n + half_trust)
    return Calibrator(overall, by_class)


# --- thresholds -------------------------------------------------------------------------------------------------------


def wilson_lower(
    successes: NDArray[np.integer], n: NDArray[np.integer], confidence: float = 0.95
) -> NDArray[np.float64]:
    """Lower end of the one-sided interval of a share (Wilson 1927); 0 where n = 0. Any shape, float64.

    The true share is below it with probability of about 1 - confidence.
    """
    z = NormalDist().inv_cdf(confidence)
    total = np.maximum(n, 1).astype(np.float64)
    p = successes / total
    middle = p + z * z / (2 * total)
    half = z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return np.where(n > 0, np.maximum((middle - half) / (1 + z * z / total), 0.0), 0.0)


def threshold(
    score: NDArray[np.floating], truth: NDArray[np.bool_], precision: float, confidence: float = 0.95
) -> float:
    """The lowest score such that of the pairs at or above it surely `precision` are true; inf where there is none.

    Surely: the Wilson lower end at this confidence, taken at each score that occurs (not corrected for trying many).
    Memory: 60 bytes a pair. Raises InputError for no pairs, scores that are not finite, or precision outside (0, 1).
    """
    _pairs(score, truth)
    _shares_of_one(precision, confidence)
    return _threshold(score, truth, precision, confidence)


def _threshold(score: NDArray[np.floating], truth: NDArray[np.bool_], precision: float, confidence: float) -> float:
    x, place = np.unique(score.astype(np.float64), return_inverse=True)
    above = np.cumsum(np.bincount(place, minlength=len(x))[::-1])[::-1]
    true = np.cumsum(np.bincount(place, truth, len(x)).astype(np.int64)[::-1])[::-1]
    good = np.flatnonzero(wilson_lower(true, above, confidence) >= precision)
    return float(x[good[0]]) if len(good) else math.inf


def misses(true: int, n: int, precision: float, confidence: float = 0.95) -> bool:
    """Whether `true` of n are surely fewer than a share of `precision`: as few come by chance at most 1 - confidence of
    the time (binomial tail; beyond 200 Wilson's upper end, where both agree).
    """
    if n > 200:
        return bool(1 - wilson_lower(np.array(n - true), np.array(n), confidence) < precision)
    tail = sum(math.comb(n, k) * precision**k * (1 - precision) ** (n - k) for k in range(true + 1))
    return n > 0 and tail <= 1 - confidence


@dataclass(frozen=True, slots=True)
class Thresholds:
    """``overall``: for all classes together, ``by_class``: float64 [classes]. inf = nothing reaches the precision."""

    overall: float
    by_class: NDArray[np.float64]


def fit_thresholds(
    score: NDArray[np.floating],
    classes: NDArray[np.integer],
    truth: NDArray[np.bool_],
    n_classes: int,
    *,
    precision: float = 0.9,
    confidence: float = 0.95,
    half_trust: float = PAIRS_OF_HALF_TRUST,
    otherwise: float = math.inf,
) -> Thresholds:
    """Thresholds by target precision, of each class shrunk to the one of all: trust = n / (n + half_trust).

    n is the number of the class's pairs of the rarer truth. Where the class reaches the precision on its own
    (`threshold`), the result is trust x own + (1 - trust) x overall, own alone where overall is inf. Where it does not:
    overall, unless the class surely misses the precision there (`misses`), then inf: no label of that
    class is kept unseen. ``otherwise`` takes the place of overall for the classes where overall is inf.
    Fit on other pairs than the calibrator was: on its own pairs it looks better than it is.
    Memory: 100 bytes a pair. Raises InputError as threshold, or for a class beyond n_classes.
    """
    _pairs(score, truth)
    _shares_of_one(precision, confidence)
    if classes.shape != score.shape or classes.min() < 0 or classes.max() >= n_classes:
        raise InputError(f"thresholds: wanted one class from 0 to {n_classes - 1} for each of {len(score):,} pairs.")
    overall = _threshold(score, truth, precision, confidence)
    common = overall if math.isfinite(overall) else otherwise
    by_class = np.full(n_classes, common)
    for number, rows in _by_class(classes):
        mine, told = score[rows], truth[rows]
        own = _threshold(mine, told, precision, confidence)
        above = mine >= common
        if math.isfinite(own):
            n = min(int(told.sum()), int((~told).sum()))
            by_class[number] = common + n / (n + half_trust) * (own - common) if math.isfinite(common) else own
        elif misses(int((above & told).sum()), int(above.sum()), precision, confidence):
            by_class[number] = math.inf
    return Thresholds(overall, by_class)


def _by_class(classes: NDArray[np.integer]) -> list[tuple[int, NDArray[np.int64]]]:
    """(class, its rows) of the classes that occur, ascending."""
    order = np.argsort(classes, kind="stable")
    found, starts = np.unique(classes[order], return_index=True)
    return list(zip(found.tolist(), np.split(order, starts[1:]), strict=True)) if len(found) else []


def _pairs(score: NDArray[np.floating], truth: NDArray[np.bool_]) -> None:
    if score.ndim != 1 or score.shape != truth.shape or not len(score):
        raise InputError(f"calibration: scores are {score.shape}, truths {truth.shape}; wanted one of each, not none.")
    if not np.isfinite(score).all():
        raise InputError(f"calibration: the score of pair {int(np.flatnonzero(~np.isfinite(score))[0])} is not finite.")


def _shares_of_one(precision: float, confidence: float) -> None:
    if not (0 < precision < 1 and 0 < confidence < 1):
        raise InputError(f"thresholds: precision {precision} at confidence {confidence}; wanted both between 0 and 1.")
