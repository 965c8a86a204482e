"""How a mistake is written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.pipeline.problems import Problem, SpecProblems, at_path, mask, nearest, shown


def test_a_problem_is_one_line() -> None:
    problem = Problem("x.yaml", 12, 7, "stages.prune.temprature", "0.1", "unknown option", "temperature")
    said = "x.yaml:12:7: stages.prune.temprature: unknown option (value 0.1); did you mean temperature?"
    assert str(problem) == said
    assert str(SpecProblems([problem])) == f"{said}\n1 problem found; nothing was run."
    assert str(Problem("--set", None, None, "", None, "is wrong")) == "--set: is wrong"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("s3://me:pw@b/x", "s3://***@b/x"),
        ("a::https://u@h/x", "a::https://***@h/x"),
        ("s3://b/x@y", "s3://b/x@y"),
        ("me@example", "me@example"),
    ],
)
def test_passwords_are_masked(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert shown(text) == masked


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_values_are_shown_on_one_short_line(value: object) -> None:
    assert shown(value).isprintable()
    assert 1 <= len(shown(value)) <= 80


def test_nearest_ignores_letter_case_and_says_nothing_of_far_names() -> None:
    assert nearest("TEMPRATURE", ["temperature", "keep"]) == "temperature"
    assert nearest("zebra", ["temperature", "keep"]) is None


def test_at_path() -> None:
    tree = {"a": [{"b": None}]}
    assert at_path(tree, ("a", 0, "b")) == (True, None)
    assert at_path(tree, ()) == (True, tree)
    for wrong in (("a", 1), ("a", -1), ("a", "b"), ("b",), ("a", 0, "b", "c")):
        assert at_path(tree, wrong) == (False, None)
