import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.pruning.allocate import lower_bounds
from curate.pruning.balance import class_balance
from curate.pruning.select import ssp_select


@given(st.lists(st.integers(0, 50), min_size=2, max_size=12))
def test_equals_the_mean_over_pairs(counts):
    pairs = [1.0 if a == b else min(a, b) / max(a, b) for a, b in itertools.combinations(counts, 2)]
    assert class_balance(np.array(counts)) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


def test_ends():
    assert class_balance(np.array([7, 7, 7])) == 1.0
    assert class_balance(np.array([9, 0])) == 0.0
    assert class_balance(np.array([5])) == 1.0


def test_pruning_by_score_makes_classes_uneven_and_the_half_rule_mends_it():
    """20 classes of 100 whose scores have different means: Sorscher et al. 2022 on every metric they tried."""
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(20, dtype=np.int32), 100)
    score = np.rint(1000 * (rng.normal(size=2000) + 0.08 * label)).astype(np.int64)
    uid = np.arange(2000, dtype=np.uint64)
    counts, found = np.bincount(label), []
    for ratio in (0.0, 0.5, 1.0):
        keep = ssp_select(label, score, uid, uid, 600, lower_bounds(counts, 600, ratio))
        found.append(class_balance(np.bincount(label[keep], minlength=20)))
    assert class_balance(counts) == 1.0
    assert found[0] < 0.6 < found[1] < 0.8
    assert found[2] == 1.0
