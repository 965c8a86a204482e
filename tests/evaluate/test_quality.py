"""Measures of label sets against scikit-learn and against definitions written out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_score, recall_score

from curate.evaluate import quality
from curate.evaluate.bootstrap import Estimate, Resampling, weights
from curate.evaluate.sets import Sets, from_lists

N, C = 60, 6
NONE = Resampling(0)


def dense(seed: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Truth [N, C] and scores with many ties; some images without a label, no class without one."""
    rng = np.random.default_rng(seed)
    truth = rng.random((N, C)) < 0.25
    scores: NDArray[np.float64] = np.round(np.where(truth, 0.4, 0.0) + rng.random((N, C)) * 0.6, 1)
    return truth, scores


def sets_of(table: NDArray[np.bool_]) -> Sets:
    return from_lists([np.flatnonzero(row).tolist() for row in table])


def value(told: dict[str, Estimate], name: str) -> float:
    found = told[name].value
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(5))
def test_scikit_learn_says_the_same(seed: int) -> None:
    truth, scores = dense(seed)
    kept = scores >= 0.5
    every = from_lists([list(range(C))] * N)
    pairs = quality.judge(every, sets_of(truth), score=scores.ravel(), kept=kept.ravel())
    told = quality.measures(pairs, NONE)
    for average, prefix in (("micro", ""), ("macro", "macro_")):
        for name, score in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
            assert value(told, prefix + name) == pytest.approx(score(truth, kept, average=average))
        assert value(told, prefix + "ap") == pytest.approx(average_precision_score(truth, scores, average=average))
    assert value(told, "jaccard") == pytest.approx(jaccard_score(truth, kept, average="samples", zero_division=1))
    assert value(told, "exact_set") == pytest.approx((truth == kept).all(axis=1).mean())
    assert value(told, "abstention") == pytest.approx((~kept).all(axis=1).mean())
    assert value(told, "brier") == pytest.approx(((scores - truth) ** 2).mean())
    assert value(told, "coverage") == 1


def test_what_was_never_proposed_lowers_recall_coverage_and_average_precision() -> None:
    proposed, truth = from_lists([[0, 1], [0]]), from_lists([[0, 2], [1]])
    pairs = quality.judge(proposed, truth, score=np.array([0.9, 0.2, 0.5]), kept=np.array([True, False, True]))
    told = quality.measures(pairs, NONE)
    assert value(told, "precision") == pytest.approx(1 / 2)
    assert value(told, "recall") == pytest.approx(1 / 3)
    assert value(told, "coverage") == pytest.approx(1 / 3)
    assert value(told, "ap") == pytest.approx(1 / 3)  # the right one comes first, two are never found
    assert value(told, "false_adds") == 1


def test_pairs_nobody_judged_and_unclear_ones_do_not_count() -> None:
    proposed, truth = from_lists([[0, 1, 2, 3]]), from_lists([[0, 3]])
    asked = quality.judge(proposed, truth, known=from_lists([[0, 1, 3]]), ignored=from_lists([[3]]))
    told = quality.measures(asked, NONE)
    assert value(told, "precision") == 0.5
    assert value(told, "recall") == 1
    assert "ap" not in told


def test_abstention_is_measured_against_images_without_a_label() -> None:
    proposed, truth = from_lists([[], [], [1], [1]]), from_lists([[], [1], [], [1]])
    told = quality.measures(quality.judge(proposed, truth), NONE)
    assert [value(told, f"abstention{end}") for end in ("", "_precision", "_recall")] == [0.5, 0.5, 0.5]
    assert value(told, "jaccard") == 0.5
    assert value(told, "jaccard_both") == 1


def test_intervals_are_those_of_resampled_images() -> None:
    truth, scores = dense(9)
    pairs = quality.judge(from_lists([list(range(C))] * N), sets_of(truth), score=scores.ravel())
    how = Resampling(300, 4)
    told = quality.measures(pairs, how)
    drawn = []
    for weight in np.concatenate(list(weights(N, how))):
        rows = np.repeat(np.arange(N), weight)
        drawn.append([average_precision_score(truth[rows], scores[rows], average=a) for a in ("micro", "macro")])
    for column, name in enumerate(("ap", "macro_ap")):
        low, high = np.quantile([row[column] for row in drawn], [0.025, 0.975])
        assert told[name].low == pytest.approx(low)
        assert told[name].high == pytest.approx(high)
    assert told == quality.measures(pairs, how)


def test_nothing_right_has_no_recall() -> None:
    told = quality.measures(quality.judge(from_lists([[0]]), from_lists([[]]), score=np.array([0.5])), Resampling(20))
    assert (told["recall"].value, told["macro_recall"].value, told["ap"].value) == (None, None, None)
    assert value(told, "precision") == 0
