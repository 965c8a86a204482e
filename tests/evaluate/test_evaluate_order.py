"""Rows in a wrong order are seen, rows in the right one are left alone, for strong, weak and specialised models."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from curate.evaluate.order import at_least, check
from curate.evaluate.sets import Sets, from_lists

N, CLASSES = 10_000, 100


def model(truth: NDArray[np.int64], accuracy: float, seed: int, known: int = CLASSES) -> NDArray[np.int32]:
    """Best predictions that are right with some probability, else any class; only the first `known` classes."""
    rng = np.random.default_rng(seed)
    guess = rng.integers(0, known, len(truth))
    return np.where((rng.random(len(truth)) < accuracy) & (truth < known), truth, guess).astype(np.int32)


def single(truth: NDArray[np.int64]) -> Sets:
    return from_lists(truth[:, None].tolist())


MIXED = np.random.default_rng(1000).integers(0, CLASSES, N)
SORTED = np.sort(MIXED)


@pytest.mark.parametrize("truth", [MIXED, SORTED], ids=["mixed", "sorted by class"])
@pytest.mark.parametrize(("accuracy", "known"), [(0.95, CLASSES), (0.3, CLASSES), (0.05, CLASSES), (0.8, 40)])
def test_the_right_order_is_accepted(truth: NDArray[np.int64], accuracy: float, known: int) -> None:
    for seed in range(2):
        assert check(model(truth, accuracy, seed, known), single(truth)).verdict == "right"


@pytest.mark.parametrize("accuracy", [0.95, 0.3])
def test_another_order_is_refused(accuracy: float) -> None:
    for seed in range(2):
        found = check(model(SORTED, accuracy, seed), single(MIXED))
        assert found.verdict == "wrong"
        assert found.agreement == pytest.approx(found.chance, abs=0.005)


def test_a_stretch_in_another_order_is_found_and_named() -> None:
    best = model(MIXED, 0.8, 1)
    best[4000:6000] = best[4000:6000][::-1]
    found = check(best, single(MIXED))
    assert found.verdict == "in part"
    assert found.rows is not None
    assert 3750 <= found.rows[0] <= 4250
    assert 5750 <= found.rows[1] <= 6250


def test_one_row_too_many_shifts_all_that_follow() -> None:
    best = model(MIXED, 0.8, 1)
    shifted = np.concatenate([best[:3000], best[2999:-1]])
    found = check(shifted, single(MIXED))
    assert found.verdict == "in part"
    assert found.rows is not None
    assert found.rows[1] == N - 1


def test_a_few_rows_prove_nothing() -> None:
    assert check(model(SORTED[:99], 0.9, 1), single(MIXED[:99])).verdict == "unknown"


@pytest.mark.parametrize(("found", "n", "rate"), [(0, 5, 0.1), (3, 5, 0.5), (12, 10_000, 0.001), (60, 50_000, 0.00125)])
def test_the_tail_is_the_binomial_one(found: int, n: int, rate: float) -> None:
    assert at_least(found, n, rate) == pytest.approx(float(binom.sf(found - 1, n, rate)), rel=1e-6)
