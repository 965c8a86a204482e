"""Whether rows of predictions belong to the images they are said to belong to, judged by agreement with the labels.

Predictions of other images agree with the labels as often as chance has it: sum over classes of (share of predictions)
x (share of images with that label). A file in the wrong order does just that, as a whole or in a stretch of rows.
What agreement cannot see: a change of places among images of the same label.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.evaluate.sets import Sets

LEAST = 100
"""Rows below which nothing is concluded."""
_BLOCK = 250
_SURE = 1e-3
_CERTAIN = 1e-12


@dataclass(frozen=True, slots=True)
class OrderCheck:
    """Agreement of best predictions with the labels, what chance gives, and what follows.

    ``verdict``: "right", "wrong" (no better than chance), "in part" (rows [first, last] are no better than chance, the
    others are) or "unknown" (fewer than 100 rows with labels).
    """

    verdict: str
    agreement: float
    chance: float
    rows: tuple[int, int] | None = None


def check(best: NDArray[np.int32], sets: Sets) -> OrderCheck:
    """Compare best predictions (int32 [n], in the order of their file) with the labels of the images they are for.

    A stretch counts as wrong when 250 rows agree no better than chance while the rate of all rows would make that all
    but impossible (p < 1e-12); rows whose labels are never predicted anywhere are left out, as of a model with fewer
    classes. Memory: about 100 bytes a row and label.
    """
    rows = np.flatnonzero(sets.sizes > 0)
    n = len(rows)
    right = sets.contain(np.arange(len(best)), best)
    size = 1 + int(max(best.max(initial=0), sets.classes.max(initial=0)))
    said = np.bincount(best[rows][best[rows] >= 0], minlength=size) / max(1, n)
    luck = np.bincount(sets.images, weights=said[sets.classes], minlength=len(sets))
    agreement = float(right[rows].mean()) if n else 0.0
    chance = float(luck[rows].mean()) if n else 0.0
    if n < LEAST:
        return OrderCheck("unknown", agreement, chance)
    if at_least(int(right[rows].sum()), n, chance) > _SURE:
        return OrderCheck("wrong", agreement, chance)
    seen = np.flatnonzero(luck > 0)
    usual = float(right[seen].mean())
    bad = []
    for first in range(0, len(seen) - _BLOCK + 1, _BLOCK):
        some = seen[first : first + _BLOCK]
        found = int(right[some].sum())
        by_chance = at_least(found, _BLOCK, float(luck[some].mean())) > _SURE
        if by_chance and at_least(_BLOCK - found, _BLOCK, 1 - usual) < _CERTAIN:
            bad.append(some)
    if bad:
        return OrderCheck("in part", agreement, chance, (int(bad[0][0]), int(bad[-1][-1])))
    return OrderCheck("right", agreement, chance)


def at_least(found: int, n: int, rate: float) -> float:
    """Probability that a binomial variable (n, rate) is `found` or more."""
    if found <= 0 or rate >= 1:
        return 1.0
    if rate <= 0:
        return 0.0
    k = np.arange(found, n + 1)
    log_choose = math.lgamma(n + 1) - _lgamma(k + 1) - _lgamma(n - k + 1)
    return float(min(1.0, np.exp(log_choose + k * math.log(rate) + (n - k) * math.log1p(-rate)).sum()))


def _lgamma(x: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.fromiter((math.lgamma(float(value)) for value in x), np.float64, len(x))
