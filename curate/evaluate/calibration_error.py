"""How far probabilities are from what comes true: calibration error, Brier score, reliability table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Reliability:
    """Equal-width bins of [0, 1]: pairs in each (int64), mean probability and share that is true (NaN when empty)."""

    pairs: NDArray[np.int64]
    probability: NDArray[np.float64]
    share: NDArray[np.float64]


def bins_of(probability: NDArray[np.floating], bins: int) -> NDArray[np.int64]:
    """Bin of each probability: bin b is [b/bins, (b+1)/bins), the last one with its right end."""
    return np.minimum((probability.astype(np.float64) * bins).astype(np.int64), bins - 1)


def reliability(probability: NDArray[np.floating], target: NDArray[np.bool_], bins: int = 15) -> Reliability:
    """The table behind a reliability diagram (Guo et al. 2017, section 2)."""
    place = bins_of(probability, bins)
    pairs = np.bincount(place, minlength=bins)
    filled = pairs > 0
    means = [
        np.divide(np.bincount(place, weights=x, minlength=bins), pairs, out=np.full(bins, np.nan), where=filled)
        for x in (probability.astype(np.float64), target.astype(np.float64))
    ]
    return Reliability(pairs, means[0], means[1])


def calibration_error(probability: NDArray[np.floating], target: NDArray[np.bool_], bins: int = 15) -> float:
    """Expected calibration error: mean over pairs of |share - mean probability| of their bin (Guo et al., eq. 3)."""
    table = reliability(probability, target, bins)
    filled = table.pairs > 0
    gap = np.abs(table.share[filled] - table.probability[filled])
    return float((gap * table.pairs[filled]).sum() / max(1, table.pairs.sum()))


def brier(probability: NDArray[np.floating], target: NDArray[np.bool_]) -> float:
    """Mean squared difference of probability and truth (Brier 1950, of one outcome)."""
    return float(np.mean((probability.astype(np.float64) - target) ** 2))
