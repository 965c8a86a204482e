import itertools
import math

import numpy as np
import pytest
import quadprog
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax

from curate.errors import SpecError
from curate.pruning.allocate import allocate, lower_bounds, targets, upper_bounds
from curate.pruning.portable import exp


def problem(rng, k, largest=1000):
    upper = rng.integers(0, largest + 1, k)
    lower = np.minimum(rng.integers(0, largest // 4 + 1, k), upper)
    total = int(rng.integers(lower.sum(), upper.sum() + 1))
    p = rng.dirichlet(np.full(k, 0.5))
    return p * total, lower, upper, total


@pytest.mark.parametrize(
    ("n", "p", "total", "lower", "exact", "quota"),
    [
        ([10, 4, 7, 1], [0.5, 0.3, 0.15, 0.05], 12, 0, [6, 3.6, 1.8, 0.6], [6, 4, 2, 0]),
        ([3, 100, 100], [0.8, 0.15, 0.05], 50, 0, [3, 26, 21], [3, 26, 21]),
        ([5, 5, 5, 5], [0.97, 0.01, 0.01, 0.01], 10, 0, [5, 5 / 3, 5 / 3, 5 / 3], [5, 2, 2, 1]),
        ([10, 10, 10], [0.9, 0.05, 0.05], 12, 2, [8, 2, 2], [8, 2, 2]),
    ],
)
def test_known_answers(n, p, total, lower, exact, quota):
    a = allocate(np.array(p) * total, np.full(len(n), lower), np.array(n), total)
    assert a.exact == pytest.approx(exact, abs=1e-12)
    assert a.quota.tolist() == quota
    assert a.quota.dtype == np.int64


def test_diagnostics():
    a = allocate(np.array([40.0, 7.5, 2.5, 0.0]), np.array([0, 0, 0, 0]), np.array([3, 100, 100, 0]), 50)
    assert a.lam == pytest.approx(18.5)
    assert a.saturated.tolist() == [True, False, False, False]
    assert a.saturated_share == pytest.approx(1 / 3)
    assert a.at_lower_share == 0.0
    assert a.shift_over_mean_target == pytest.approx(18.5 / (50 / 3))


def test_proportional_known_answer():
    a = allocate(np.array([40.0, 7.5, 2.5]), np.zeros(3, int), np.array([3, 100, 100]), 50, rule="proportional")
    assert a.exact == pytest.approx([3, 35.25, 11.75])
    assert a.quota.tolist() == [3, 35, 12]
    zero = allocate(np.array([4.0, 0.0]), np.zeros(2, int), np.array([4, 4]), 6, rule="proportional")
    assert zero.quota.tolist() == [4, 2]


def test_infeasible():
    with pytest.raises(SpecError, match="10 samples are to be kept but only 6"):
        allocate(np.array([5.0, 5.0]), np.zeros(2, int), np.array([3, 3]), 10)
    with pytest.raises(SpecError, match="keep at least 4"):
        allocate(np.array([1.0, 1.0]), np.array([2, 2]), np.array([3, 3]), 2)
    with pytest.raises(SpecError, match="lower <= upper"):
        allocate(np.array([1.0, 1.0]), np.array([4, 2]), np.array([3, 3]), 6)
    with pytest.raises(SpecError, match="lengths"):
        allocate(np.array([1.0]), np.array([4, 2]), np.array([3, 3]), 6)
    with pytest.raises(SpecError, match="rule"):
        allocate(np.array([1.0]), np.array([0]), np.array([3]), 1, rule="random")


@pytest.mark.parametrize("rule", ["additive", "proportional"])
def test_corners(rule):
    upper = np.array([4, 0, 9])
    wish = np.array([1.0, 1.0, 1.0])
    assert allocate(wish, np.zeros(3, int), upper, 13, rule=rule).quota.tolist() == [4, 0, 9]
    assert allocate(wish, np.zeros(3, int), upper, 0, rule=rule).quota.tolist() == [0, 0, 0]
    assert allocate(wish, upper, upper, 13, rule=rule).quota.tolist() == [4, 0, 9]
    assert allocate(wish[:0], upper[:0], upper[:0], 0, rule=rule).quota.tolist() == []


def test_brute_force_over_all_integer_vectors():
    rng = np.random.default_rng(0)
    for _ in range(800):
        k = int(rng.integers(1, 5))
        t, lower, upper, total = problem(rng, k, 6)
        quota = allocate(t, lower, upper, total).quota
        ranges = [range(a, b + 1) for a, b in zip(lower, upper, strict=True)]
        best = min(sum((x - t) ** 2) for x in itertools.product(*ranges) if sum(x) == total)
        assert ((quota - t) ** 2).sum() == pytest.approx(best, abs=1e-9)


def test_against_quadprog():
    rng = np.random.default_rng(1)
    for _ in range(300):
        k = int(200 ** rng.uniform(0, 1)) + 1
        t, lower, upper, total = problem(rng, k)
        free = lower < upper  # quadprog wants an interior
        if not free.any() or total in (lower.sum(), upper.sum()):
            continue
        rest, m = total - lower[~free].sum(), int(free.sum())
        sides = np.hstack([np.ones((m, 1)), np.eye(m), -np.eye(m)])
        bounds = np.concatenate([[rest], lower[free], -upper[free]]).astype(float)
        x = quadprog.solve_qp(np.eye(m), t[free], sides, bounds, 1)[0]
        ours = allocate(t, lower, upper, total).exact[free]
        assert np.abs(x - ours).max() <= 1e-9 * max(1.0, np.abs(x).max())


def test_ten_thousand_random_problems():
    """k log-uniform to 2,000: sums, bounds, and the conditions that make the solution the only one."""
    rng = np.random.default_rng(2)
    for i in range(10_000):
        k = int(2_000 ** rng.uniform(0, 1))
        t, lower, upper, total = problem(rng, k, int(10 ** rng.uniform(0, 7)))
        a = allocate(t, lower, upper, total, rule="additive" if i % 4 else "proportional")
        assert a.quota.sum() == total
        assert (a.quota >= lower).all()
        assert (a.quota <= upper).all()
        assert np.abs(a.quota - a.exact).max() < 1.0
        if i % 4:  # Karush-Kuhn-Tucker conditions of the quadratic programme
            slack = 1e-9 * (1.0 + np.abs(t).max() + upper.max())
            multiplier = a.exact - t - a.lam
            assert abs(a.exact.sum() - total) <= slack
            assert (multiplier[a.exact > lower] <= slack).all()
            assert (multiplier[a.exact < upper] >= -slack).all()


@pytest.mark.slow
def test_a_million_concepts_twenty_times():
    rng = np.random.default_rng(9)
    for i in range(20):
        t, lower, upper, total = problem(rng, 1_000_000, int(10 ** rng.uniform(1, 6)))
        a = allocate(t, lower, upper, total, rule="additive" if i % 4 else "proportional")
        assert a.quota.sum() == total
        assert (a.quota >= lower).all()
        assert (a.quota <= upper).all()
        assert np.abs(a.quota - a.exact).max() < 1.0


def test_proportional_is_a_common_factor():
    rng = np.random.default_rng(3)
    for _ in range(300):
        t, lower, upper, total = problem(rng, 12)
        a = allocate(t, lower, upper, total, rule="proportional")
        free = (a.exact > lower) & (a.exact < upper)
        assert a.exact[free] == pytest.approx(a.lam * t[free], rel=1e-12)
        assert a.exact.sum() == pytest.approx(total, rel=1e-9)
        full, held = (a.exact >= upper) & (lower < upper), (a.exact <= lower) & (lower < upper)
        assert (a.lam * t[full] >= upper[full] * (1 - 1e-9)).all()
        assert (a.lam * t[held] <= lower[held] * (1 + 1e-9)).all()


@pytest.mark.parametrize("rule", ["additive", "proportional"])
def test_targets_many_orders_of_magnitude_apart(rule):
    rng = np.random.default_rng(8)
    for _ in range(100):
        t, upper = 10.0 ** rng.uniform(-60, 6, 30), rng.integers(1, 10**6, 30)
        total = int(rng.integers(1, upper.sum()))
        a = allocate(t, np.zeros(30, int), upper, total, rule=rule)
        assert a.exact.sum() == pytest.approx(total, rel=1e-12)
        assert np.abs(a.quota - a.exact).max() < 1.0


def test_permutation_of_concepts_permutes_the_solution():
    rng = np.random.default_rng(4)
    for _ in range(200):
        t, lower, upper, total = problem(rng, 20)
        p = rng.permutation(20)
        a, b = allocate(t, lower, upper, total), allocate(t[p], lower[p], upper[p], total)
        assert np.array_equal(a.exact[p], b.exact)
        assert np.array_equal(a.quota[p], b.quota)  # no exact ties in random targets


def test_monotone_in_the_budget():
    rng = np.random.default_rng(5)
    p, upper = rng.dirichlet(np.ones(15)), rng.integers(1, 200, 15)
    last = np.zeros(15)
    for total in range(0, int(upper.sum()) + 1, 37):
        x = allocate(p * total, np.zeros(15, int), upper, total).exact
        assert (x >= last - 1e-9).all()
        last = x


def test_ten_thousand_million_samples():
    rng = np.random.default_rng(6)
    upper = rng.integers(1, 5 * 10**7, 1000)
    total = int(upper.sum() * 0.4)
    a = allocate(rng.dirichlet(np.ones(1000)) * total, np.zeros(1000, int), upper, total)
    assert a.quota.sum() == total
    assert np.abs(a.quota - a.exact).max() < 1.0 + 1e-5


def test_targets_are_a_softmax_of_the_concepts_with_members():
    rng = np.random.default_rng(7)
    c, counts = rng.uniform(0, 0.5, 50), rng.integers(0, 3, 50)
    out = targets(c, 0.1, 1000, counts)
    assert not out[counts == 0].any()
    assert out[counts > 0] == pytest.approx(1000 * softmax(c[counts > 0] / 0.1), rel=1e-13)
    assert out.max() / out[counts > 0].min() == pytest.approx(math.exp(np.ptp(c[counts > 0]) / 0.1), rel=1e-12)
    p = rng.permutation(50)
    assert np.array_equal(out[p], targets(c[p], 0.1, 1000, counts[p]))


def test_targets_at_extreme_temperatures():
    counts = np.array([5, 5, 5])
    assert targets(np.array([0.1, 0.2, 0.3]), 1e-6, 10, counts) == pytest.approx([0, 0, 10])
    assert targets(np.array([0.1, 0.2, 0.3]), 1e9, 9, counts) == pytest.approx([3, 3, 3])
    with pytest.raises(SpecError, match="temperature is 0"):
        targets(np.array([0.1]), 0.0, 10, np.array([1]))
    with pytest.raises(SpecError, match="empty"):
        targets(np.array([0.1]), 0.1, 10, np.array([0]))
    with pytest.raises(SpecError, match="concept 1 is not finite"):
        targets(np.array([0.1, np.nan]), 0.1, 10, np.array([1, 1]))


@given(st.floats(-690.0, 0.0))
def test_exp(x):
    assert exp(np.array([x]))[0] == pytest.approx(math.exp(x), rel=1e-14)


def test_lower_bounds():
    counts = np.array([10, 10, 10])
    assert lower_bounds(counts, 12, 0.5).tolist() == [2, 2, 2]
    assert lower_bounds(counts, 12, 0.0).tolist() == [0, 0, 0]
    assert lower_bounds(np.array([1, 10, 0]), 12, 0.5).tolist() == [1, 3, 0]
    assert lower_bounds(counts, 30, 0.7).tolist() == [7, 7, 7]  # 10 * 0.7 is not below 7 here
    assert lower_bounds(np.array([3, 9]), 8, 5.0).tolist() == [3, 5]  # m lowered so that the sum fits
    with pytest.raises(SpecError, match="balance ratio"):
        lower_bounds(counts, 12, -1.0)


def test_floors_besides_those_of_the_ratio():
    counts = np.array([10, 10, 10])
    inside = np.array([7, 0, 0])
    assert lower_bounds(counts, 12, 0.5, at_least=inside).tolist() == [7, 2, 2]
    assert lower_bounds(counts, 9, 1.0, at_least=inside).tolist() == [7, 1, 1]  # m lowered from 3 so that it fits
    assert lower_bounds(counts, 12, 0.5, limit=np.array([1, 10, 10])).tolist() == [1, 2, 2]
    with pytest.raises(SpecError, match="has 7 already"):
        lower_bounds(counts, 6, 0.5, at_least=inside)


def test_upper_bounds():
    counts = np.array([10, 3, 0])
    assert upper_bounds(counts, 12).tolist() == [10, 3, 0]
    assert upper_bounds(counts, 10, 0.7).tolist() == [7, 3, 0]  # 10 * 0.7 is not below 7 here
    assert upper_bounds(counts, 8, 6.0).tolist() == [6, 3, 0]
    assert upper_bounds(counts, 30, repeats=3).tolist() == [30, 9, 0]
    assert upper_bounds(counts, 16, 0.5, repeats=3).tolist() == [8, 8, 0]
    with pytest.raises(SpecError, match="no group gives more than 5, which is 8 together: raise cap"):
        upper_bounds(counts, 10, 0.5)
