"""`${NAME}` in values: what is expanded, how it is typed, and that the tree as written is kept."""

from __future__ import annotations

from typing import Any

import pytest

from curate.pipeline.environment import expand

ENV = {"ROOT": "s3://b", "KEEP": "0.3", "EMPTY": "", "NESTED": "${ROOT}", "FLAG": "true"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${ROOT}/x", "s3://b/x"), ("${ROOT}${KEEP}", "s3://b0.3"), ("${GONE:-runs}", "runs"), ("${EMPTY:-d}", "d"),
        ("${EMPTY}", ""), ("${ROOT:-d}", "s3://b"), ("${GONE:-}", ""), ("$${ROOT}", "${ROOT}"), ("$ROOT", "$ROOT"),
        ("${NESTED}", "${ROOT}"), ("a $ b", "a $ b"), ("${GONE:-a:-b}", "a:-b"),
    ],
)  # fmt: skip
def test_quoted_values_are_text(text: str, value: str) -> None:
    assert expand({"a": text}, ENV, {}).tree == {"a": value}


@pytest.mark.parametrize(
    ("text", "value"), [("${KEEP}", 0.3), ("${FLAG}", True), ("1${GONE:-5}", 15), ("${EMPTY}", None)]
)
def test_unquoted_values_follow_the_typing_rules(text: str, value: Any) -> None:
    expansion = expand({"a": [text]}, ENV, {("a", 0): text})
    assert expansion.tree == {"a": [value]}
    assert isinstance(expansion.other[("a", 0)], str)


def test_keys_are_not_expanded_and_the_written_tree_is_kept() -> None:
    tree = {"${ROOT}": {"a": "${KEEP}", "b": 3}}
    expansion = expand(tree, ENV, {})
    assert expansion.tree == {"${ROOT}": {"a": "0.3", "b": 3}}
    assert expansion.other == {("${ROOT}", "a"): 0.3}
    assert expansion.unexpanded == {"${ROOT}": {"a": "${KEEP}", "b": 3}} == tree


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("${ROOTS}", "the environment variable ROOTS is not set; set it, or write ${ROOTS:-default}"),
        ("${A B}", "a variable is written ${NAME} or ${NAME:-default}"),
        ("${}", "a variable is written"),
        ("${ROOT", "a variable is written"),
        ("${ROOT-x}", "a variable is written"),
        ("${BAD}", "holds control characters or is not UTF-8"),
    ],
)
def test_what_cannot_be_expanded_is_a_finding(text: str, said: str) -> None:
    expansion = expand({"a": text}, {**ENV, "BAD": "a\udcffb"}, {})
    (finding,) = expansion.findings
    assert finding.path == ("a",)
    assert said in finding.message
    assert expansion.tree == {"a": text}


def test_the_nearest_variable_is_suggested() -> None:
    (finding,) = expand(["${ROTO}"], ENV, {}).findings
    assert finding.suggestion == "ROOT"
