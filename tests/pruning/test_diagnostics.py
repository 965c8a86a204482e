import json
import math

import numpy as np
import pytest

from curate.pruning.allocate import allocate, lower_bounds, targets
from curate.pruning.diagnostics import diagnose, warnings


def found(counts, complexity, total, temperature=0.1, balance=0.0):
    lower = lower_bounds(counts, total, balance)
    a = allocate(targets(complexity, temperature, total, counts), lower, counts, total)
    return diagnose(
        counts, a.quota, lower, counts, complexity=complexity, temperature=temperature, shift=a.shift_over_mean_target
    )


def test_numbers():
    facts = diagnose(
        np.array([10, 20, 30, 40, 0]), np.array([10, 2, 9, 9, 0]), np.array([0, 2, 2, 2, 0]), np.array([9, 9, 9, 9, 0]),
        complexity=np.array([0.1, 0.2, 0.3, 0.4, 9.0]), temperature=0.1, shift=0.25,
    )  # fmt: skip
    assert (facts["concepts"], facts["saturated_share"], facts["at_floor_share"], facts["at_cap_share"]) == (
        4, 0.25, 0.25, 0.5,
    )  # fmt: skip
    assert facts["complexity_spread"] == pytest.approx(0.3)
    assert facts["target_ratio"] == pytest.approx(math.exp(3.0))
    assert facts["balance_before"] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4 + 2 / 3 + 2 / 4 + 3 / 4) / 6)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    plain = diagnose(np.array([5]), np.array([2]), np.array([0]), np.array([5]))
    assert plain["complexity_spread"] is plain["target_ratio"] is plain["shift_over_mean_target"] is None


def test_the_ratio_is_that_of_the_targets_and_finite():
    rng = np.random.default_rng(0)
    counts, value = rng.integers(1, 99, 30), rng.uniform(0, 0.5, 30)
    wish = targets(value, 0.1, 500, counts)
    assert found(counts, value, 500)["target_ratio"] == pytest.approx(wish.max() / wish.min(), rel=1e-12)
    assert 1e300 < found(counts, value, 500, temperature=1e-5)["target_ratio"] < math.inf


def test_a_warning_says_what_to_change():
    rng = np.random.default_rng(1)
    counts, value = rng.integers(800, 1200, 40), rng.uniform(0.0, 0.3, 40)
    assert warnings(found(counts, value, 8_000)) == []
    (full,) = warnings(found((rng.pareto(1.0, 40) * 100 + 1).astype(int), value, 6_000))
    assert "keep all they have" in full
    assert full.endswith("To change that, lower keep or use fewer concepts.")
    (flat,) = warnings(found(counts, value, 8_000, temperature=9.0))
    assert "the largest target is only 1.03 times the smallest" in flat
    assert flat.endswith("lower temperature.")
    (held,) = warnings(found(counts, value * 10, 2_000, balance=1.0))
    assert "bounds shift the other quotas by -" in held
    assert "lower balance" in held
