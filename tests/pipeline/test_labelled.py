from __future__ import annotations

import re
from typing import Any

import pytest

from curate.pipeline.labelled import _warnings, labelled_lines

CONFIG = {"precision": 0.9, "keep": None}
GOOD = {
    "known": {"images": 400}, "calibrated": True, "precision_shown": True, "given": "known",
    "questions": {"answered": 3, "of_this_input": 3},
}  # fmt: skip


def test_nothing_to_warn_of() -> None:
    assert list(_warnings(GOOD, CONFIG)) == []


@pytest.mark.parametrize(
    ("told", "config", "said"),
    [
        ({"calibrated": False}, {}, "no reviewed labels .* whether 0.9 of what is kept is true is not known"),
        ({"calibrated": False}, {"keep": 0.5}, "no reviewed labels .* count as probabilities$"),
        ({"precision_shown": False}, {}, "400 reviewed images are too few, .* a fitted probability of 0.9$"),
        ({"questions": {"answered": 3, "of_this_input": 0}}, {}, "^none of 3 questions that votes answers is about"),
        ({"questions": {"answered": 3, "of_this_input": 2}}, {}, "^only 2 of 3 questions that votes answers are about"),
        ({"given": "the label 'x' is none"}, {}, "^the given labels are not all compared .*: the label 'x' is none$"),
    ],
)
def test_one_warning_each(told: dict[str, Any], config: dict[str, Any], said: str) -> None:
    (one,) = _warnings(GOOD | told, CONFIG | config)
    assert re.search(said, one)


def test_lines_tell_outcomes_and_warnings() -> None:
    one = {"step": "label_sets", "labelled": 1200, "undecided": 3, "nothing": 0, "kept": 1500, "suspect": 1}
    assert list(labelled_lines([one | {"calibrated": True, "warnings": ["mind this"]}])) == [
        "label_sets: 1,200 labelled, 3 undecided, 0 nothing; 1,500 labels kept; 1 given label is suspect",
        "warning: label_sets: mind this",
    ]
    assert list(labelled_lines([])) == []
