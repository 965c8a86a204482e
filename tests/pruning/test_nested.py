import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.pruning.nested import nested_quotas


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    balance=st.sampled_from([0.0, 0.5, 1.0]),
    cap=st.sampled_from([None, 0.4, 30.0]),
    rule=st.sampled_from(["additive", "proportional"]),
)
def test_every_budget_lies_in_the_next(seed, balance, cap, rule):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(3, 15))
    counts, weights = rng.integers(1, 60, k), rng.dirichlet(np.full(k, 0.4))
    most = int(np.minimum(counts, 30 if cap == 30.0 else 10**6).sum())
    totals = sorted({int(t) for t in rng.integers(1, most + 1, 4)})
    try:
        found = nested_quotas(weights, counts, totals, balance=balance, cap=cap, rule=rule)
    except SpecError as error:
        assert "raise cap" in str(error)  # noqa: PT017
        return
    for one, total in zip(found, totals, strict=True):
        assert one.allocation.quota.sum() == total == one.total
        assert (one.allocation.quota <= counts).all()
    for small, large in itertools.pairwise(found):
        assert (small.allocation.quota <= large.allocation.quota).all()
    assert found[0].moved == 0
    if rule == "additive" and not balance:  # floors of the ratio may give way to the smaller budget
        assert all(one.free_objective <= one.objective + 1e-9 for one in found)
    assert all((one.moved == 0) == (one.objective == one.free_objective) or one.moved for one in found)


def test_the_cost_is_the_best_possible_under_the_smaller_budget():
    """Against all integer quotas that contain the smaller budget's, on small problems."""
    rng = np.random.default_rng(0)
    moved = 0
    for _ in range(300):
        counts, weights = rng.integers(1, 6, 3), rng.dirichlet(np.ones(3))
        totals = sorted(rng.choice(int(counts.sum()), 2, replace=False) + 1)
        small, large = nested_quotas(weights, counts, totals, balance=float(rng.choice([0.0, 1.0])))
        ranges = [range(max(q, f), n + 1) for q, f, n in zip(small.allocation.quota, large.floor, counts, strict=True)]
        every = [np.array(x) for x in itertools.product(*ranges) if sum(x) == totals[1]]
        best = min(float(np.square(x - weights * totals[1]).sum() / 2) for x in every)
        assert large.objective == pytest.approx(best, abs=1e-9)
        moved += large.moved
    assert moved > 0


def test_budgets_must_increase():
    with pytest.raises(SpecError, match="must increase"):
        nested_quotas(np.array([0.5, 0.5]), np.array([5, 5]), [3, 3])
