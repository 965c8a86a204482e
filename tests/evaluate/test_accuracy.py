"""Accuracies against definitions written out with Python's sets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.evaluate import accuracy
from curate.evaluate.bootstrap import Metric, Resampling, estimate
from curate.evaluate.sets import from_lists

CLASSES = 7
ROW = st.tuples(
    st.permutations(range(CLASSES)), st.lists(st.integers(0, CLASSES - 1), unique=True, max_size=5), st.integers(0, 6)
)


def value(metric: Metric) -> float | None:
    return estimate(metric, Resampling(0)).value


def mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


@settings(max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=12))
def test_all_measures_are_their_definitions(rows: list[tuple[list[int], list[int], int]]) -> None:
    width = 4
    classes = np.array([row[0][:width] for row in rows], dtype=np.int32)
    lists, original = [row[1] for row in rows], np.array([row[2] for row in rows], dtype=np.int32)
    sets = from_lists(lists)
    hit = accuracy.hits(classes, sets)
    said = classes.tolist()
    for k in (1, 3):
        expected = mean([float(o in p[:k]) for p, o in zip(said, original.tolist(), strict=True)])
        assert value(accuracy.top(classes, original, k)) == pytest.approx(expected)
        held = mean([float(bool(set(p[:k]) & set(s))) for p, s in zip(said, lists, strict=True) if s])
        assert value(accuracy.real(hit, sets, k)) == pytest.approx(held)
    parts = [(len(s), len(set(p[: len(s)]) & set(s)) / len(s)) for p, s in zip(said, lists, strict=True) if s]
    counted = [(k, share) for k, share in parts if k <= width]
    told = accuracy.variable_top(hit, sets)
    assert told.beyond == len(parts) - len(counted)
    assert value(told.pooled) == pytest.approx(mean([share for _, share in counted]))
    assert value(told.exact) == pytest.approx(mean([float(share == 1) for _, share in counted]))
    by_size = {k: mean([share for size, share in counted if size == k]) for k in {size for size, _ in counted}}
    assert {k: value(right) for k, (right, _) in told.by_size.items()} == pytest.approx(by_size)
    assert value(told.uniform) == pytest.approx(mean([float(share or 0) for share in by_size.values()]))


def test_a_number_of_labels_with_few_images_stays_out_of_the_uniform_mean() -> None:
    sets = from_lists([[0], [0], [0], [0, 1]])
    hit = accuracy.hits(np.array([[0, 2], [0, 2], [1, 2], [2, 3]], dtype=np.int32), sets)
    assert value(accuracy.variable_top(hit, sets).uniform) == pytest.approx((2 / 3 + 0) / 2)
    assert value(accuracy.variable_top(hit, sets, least=2).uniform) == pytest.approx(2 / 3)


def test_multi_label_accuracy_by_hand() -> None:
    reviewed = accuracy.Reviewed(
        correct=from_lists([[0], [0], [1], [1]]),
        unclear=from_lists([[], [2], [], []]),
        wrong=from_lists([[3], [], [3], []]),
        problematic=np.array([False, False, False, True]),
    )
    original = np.array([0, 0, 1, 1], dtype=np.int32)
    best = np.array([0, 2, 4, 1], dtype=np.int32)  # right, unclear, seen by nobody, problematic
    told = {
        (strict, by_class): value(accuracy.multi_label(best, reviewed, original, strict=strict, by_class=by_class))
        for strict in (False, True)
        for by_class in (False, True)
    }
    assert told == pytest.approx({(False, False): 2 / 3, (False, True): 0.5, (True, False): 1 / 3, (True, True): 0.25})
    assert value(accuracy.unreviewed(best, reviewed)) == pytest.approx(1 / 3)


def test_more_predictions_than_there_are_cannot_be_judged() -> None:
    sets = from_lists([[0]])
    with pytest.raises(SpecError, match="top-5 accuracy needs 5 predictions an image, the file has 1"):
        accuracy.real(accuracy.hits(np.zeros((1, 1), dtype=np.int32), sets), sets, 5)
