"""Calibration error and Brier score by hand, and of probabilities that are right by construction."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from curate.evaluate.calibration_error import brier, calibration_error, reliability


def test_by_hand() -> None:
    p, y = np.array([0.05, 0.15, 0.95, 0.85, 1.0]), np.array([False, True, True, False, True])
    # two bins: [0, .5) has mean .1 and share .5, [.5, 1] has mean 2.8 / 3 and share 2 / 3
    assert calibration_error(p, y, 2) == pytest.approx((2 * 0.4 + 3 * (2.8 / 3 - 2 / 3)) / 5)
    table = reliability(p, y, 4)
    assert table.pairs.tolist() == [2, 0, 0, 3]
    assert np.isnan(table.share[1])


def test_probabilities_that_come_true_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    y = rng.random(200_000) < p
    assert calibration_error(p, y) < 0.01
    assert calibration_error(np.minimum(p + 0.1, 1), y) == pytest.approx(0.095, abs=0.01)
    assert brier(p, y) == pytest.approx(brier_score_loss(y, p))
    assert brier(p, y) == pytest.approx(1 / 6, abs=0.005)
