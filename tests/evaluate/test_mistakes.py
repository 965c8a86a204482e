"""Spellings, folding and counts of lists of mistakes, by hand."""

from __future__ import annotations

import numpy as np

from curate.evaluate import mistakes
from curate.evaluate.mistakes import Mistake
from curate.evaluate.sets import from_lists

LIST = [
    Mistake("a", 1, "Fine-grained error with OOV", "Minor"),
    Mistake("b", 2, "Fine-grained with OOV", "Borderline"),
    Mistake("c", 3, "Fine-grained error", "Major"),
]


def test_two_spellings_are_one_category() -> None:
    table = mistakes.tally(LIST)
    assert table == {
        "Fine-grained error with OOV": {"Borderline": 1, "Major": 0, "Minor": 1},
        "Fine-grained error": {"Borderline": 0, "Major": 1, "Minor": 0},
    }
    assert mistakes.severities(table) == {"Borderline": 1, "Major": 1, "Minor": 1}
    assert mistakes.severities(mistakes.tally(LIST, fold=True)) == {"Major": 1, "Minor": 2}


def test_label_sets_judge_again() -> None:
    rows, predictions = np.array([0, 1, -1]), np.array([1, 2, 3], dtype=np.int32)
    verdicts = mistakes.judged(rows, predictions, from_lists([[1, 5], []]))
    assert (verdicts.images, verdicts.right, verdicts.without_labels) == (2, 1, 1)
    assert mistakes.repeated(LIST, rows, np.array([1, 9], dtype=np.int32)) == [LIST[0]]
    assert mistakes.shared(LIST, [Mistake("c", 9, "x", "y")]) == [(LIST[2], Mistake("c", 9, "x", "y"))]
