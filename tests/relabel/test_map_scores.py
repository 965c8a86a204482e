from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.relabel.maps import LabelMap, dense, top_k
from curate.relabel.scores import Rule, image_scores, sparse_scores

RULES: tuple[Rule, ...] = ("max", "mean", "top")


def by_hand(values: list[float], rule: Rule, share: float) -> float:
    ordered = sorted(values, reverse=True)
    count = {"max": 1, "mean": len(values), "top": max(1, math.ceil(round(share * len(values), 9)))}[rule]
    return math.fsum(ordered[:count]) / count


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 8),
    st.integers(1, 7),
    st.integers(1, 7),
    st.sampled_from(RULES),
    st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0]),
)
def test_scores_are_those_of_sorted_lists(seed: int, c: int, h: int, w: int, rule: Rule, share: float) -> None:
    values = (np.random.default_rng(seed).standard_normal((c, h, w)) * 5).astype(np.float32)
    wanted = [by_hand([float(v) for v in plane.ravel()], rule, share) for plane in values]
    np.testing.assert_allclose(image_scores(values, rule, share), wanted, rtol=1e-6, atol=1e-6)


def test_a_tenth_of_thirty_cells_is_three() -> None:
    values = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    assert image_scores(values, "top", 0.1)[0] == 28
    assert image_scores(values, "top", 1e-6)[0] == 29


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 40), st.integers(1, 5), st.floats(0.1, 12), st.sampled_from(RULES))
def test_sparse_scores_hold_the_dense_one_between_them_and_their_upper(
    seed: int, classes: int, k: int, scale: float, rule: Rule
) -> None:
    logits = (np.random.default_rng(seed).standard_normal((classes, 6, 5)) * scale).astype(np.float32)
    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(axis=0)
    true = image_scores(exact, rule, 0.2)
    kept = top_k(logits, min(k, classes))
    found = sparse_scores(kept, rule, 0.2)
    assert found.upper is not None
    assert found.unseen is not None
    assert (np.diff(found.classes.astype(int)) > 0).all()
    assert set(found.classes.tolist()) == set(kept.classes.ravel().tolist())
    rounding = 1 + np.abs(kept.scores.astype(np.float64)).max() / 2048 * 1.1 + 1e-4
    assert (found.scores <= true[found.classes] * rounding).all()
    assert (true[found.classes] <= found.upper * (1 + 1e-6)).all()
    unseen = np.setdiff1d(np.arange(classes), found.classes)
    assert (true[unseen] <= found.unseen * (1 + 1e-6)).all()
    assert (found.scores <= found.upper * (1 + 1e-6)).all()


@pytest.mark.parametrize("rule", RULES)
def test_with_all_classes_stored_nothing_is_unknown(rule: Rule) -> None:
    logits = np.random.default_rng(3).standard_normal((7, 5, 4)).astype(np.float32)
    exact = np.exp(logits.astype(np.float64))
    exact /= exact.sum(axis=0)
    found = sparse_scores(top_k(logits, 7), rule)
    assert found.upper is not None
    assert found.unseen is not None
    np.testing.assert_allclose(found.scores, image_scores(exact, rule), rtol=2e-3)
    np.testing.assert_allclose(found.upper, found.scores, rtol=2e-3)
    assert found.unseen < 1e-2


def test_the_bound_of_a_class_that_is_not_stored() -> None:
    """Two cells, one class stored in each: (0.6 of class 0) and (0.9 of class 1); others have at most 0.4 and 0.1."""
    kept = LabelMap(
        np.log(np.array([[[0.6, 0.9]]], dtype=np.float32)),
        np.array([[[0, 1]]], dtype=np.uint16),
        np.zeros((1, 2), dtype=np.float32),
    )
    found = sparse_scores(kept, "mean")
    np.testing.assert_allclose(found.scores, [0.3, 0.45], rtol=1e-5)
    np.testing.assert_allclose(found.upper, [(0.6 + 0.1) / 2, (0.9 + 0.4) / 2], rtol=1e-5)
    assert found.unseen == pytest.approx(0.25, rel=1e-5)
    best = sparse_scores(kept, "max")
    np.testing.assert_allclose(best.upper, [0.6, 0.9], rtol=1e-5)
    assert best.unseen == pytest.approx(0.4, rel=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_without_lse_they_are_scores_of_the_dense_map_with_zeros(rule: Rule) -> None:
    logits = np.random.default_rng(4).standard_normal((20, 6, 6)).astype(np.float32) * 3
    kept = top_k(logits, 3)
    bare = LabelMap(kept.scores, kept.classes)
    found = sparse_scores(bare, rule)
    assert found.upper is None
    assert found.unseen is None
    np.testing.assert_allclose(found.scores, image_scores(dense(bare, 20), rule)[found.classes], rtol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="classes x rows x columns"):
        image_scores(np.zeros((3, 3)), "max")
    with pytest.raises(InputError, match="share of cells is 0"):
        image_scores(np.zeros((1, 2, 2)), "top", 0)
    with pytest.raises(InputError, match="'median'"):
        image_scores(np.zeros((1, 2, 2)), "median")  # type: ignore[arg-type]
