"""YAML with places: the typing rules of YAML 1.2, positions counted by hand, limits, sentences for syntax errors."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from curate.pipeline.locate import MAX_BYTES, MAX_VALUES, Place, parse, resolve_scalar
from curate.pipeline.problems import SpecProblems


def fails(text: str | bytes) -> str:
    with pytest.raises(SpecProblems) as caught:
        parse(text, "x.yaml")
    return str(caught.value).splitlines()[0]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("y", "y"), ("12:30:45", "12:30:45"), ("2024-01-02", "2024-01-02"),
        ("1e-3", 0.001), ("1E3", 1000.0), ("-.5", -0.5), ("5.", 5.0), ("1_000", 1000), ("1_000.5", 1000.5),
        ("010", 10), ("0x1f", 31), ("0o17", 15), ("+7", 7), ("true", True), ("False", False), ("null", None),
        ("~", None), ("", None), ("1__0", "1__0"), ("_1", "_1"), ("1e", "1e"), ("e3", "e3"), (".", "."), ("-", "-"),
        (".inf", math.inf), ("-.inf", -math.inf), ("v1.2", "v1.2"), ("1.2.3", "1.2.3"), ("9" * 500, "9" * 500),
    ],
)  # fmt: skip
def test_unquoted_scalars(text: str, value: Any) -> None:
    got = resolve_scalar(text)
    assert got == value
    assert type(got) is type(value)


def test_quoted_scalars_stay_text() -> None:
    assert parse("a: '1'\nb: \"true\"\nc: |\n  2\n", "x").tree == {"a": "1", "b": "true", "c": "2\n"}


def test_places_of_keys_and_values() -> None:
    text = "name: x\nstages:\n  - index\n  - prune: {keep: 0.3,\n      'a b': [1, two]}\n"
    document = parse(text, "x")
    assert document.place(("name",)) == Place(1, 7)
    assert document.place(("name",), key=True) == Place(1, 1)
    assert document.place(("stages", 0)) == Place(3, 5)
    assert document.place(("stages", 1, "prune", "keep")) == Place(4, 19)
    assert document.place(("stages", 1, "prune", "keep"), key=True) == Place(4, 13)
    assert document.place(("stages", 1, "prune", "a b", 1)) == Place(5, 18)
    # A value that is not there is looked for where it belongs: at the key of its mapping.
    assert document.place(("stages", 1, "prune", "gone")) == Place(4, 5)
    assert document.plain[("stages", 1, "prune", "keep")] == "0.3"


def scalars() -> st.SearchStrategy[Any]:
    return st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)


@given(
    st.recursive(
        scalars(), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    )
)
def test_it_reads_what_pyyaml_writes(tree: Any) -> None:
    """PyYAML quotes every text that YAML 1.1 would not read as text, which is more than YAML 1.2 needs."""
    text = yaml.safe_dump(tree, allow_unicode=True)
    if tree != "" and yaml.safe_load(text) == tree and not _explicit(text):
        assert parse(text, "x").tree == tree


def _explicit(text: str) -> bool:
    return "!!" in text or "? " in text or "&id" in text


def test_key_twice_is_a_problem_and_the_rest_is_read() -> None:
    document = parse("a: 1\nb:\n  c: 2\n  d: 3\n  c: {e: 4}\n", "x.yaml")
    assert document.tree == {"a": 1, "b": {"c": 2, "d": 3}}
    assert [str(problem) for problem in document.problems] == [
        "x.yaml:5:3: b: c is given twice, first on line 3; remove one of the two"
    ]


def test_aliases_copy_values_and_keep_places() -> None:
    document = parse("a: &one {x: [1, 2]}\nb: *one\n", "x")
    assert document.tree == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}}
    assert document.tree["a"] is not document.tree["b"]
    assert document.place(("b",)) == Place(2, 4)
    assert document.place(("b", "x", 1)) == Place(1, 17)


def test_bombs_are_refused_quickly() -> None:
    laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    assert f"aliases repeat values until there are more than {MAX_VALUES}" in fails(laughs)
    assert "nested deeper" in fails("a: " + "[" * 5000)
    chain = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))
    assert "nested deeper" in fails(chain)
    assert "refers to a value that holds it" in fails("a: &a [*a]")
    assert "larger than 256 KiB" in fails(b"a" * (MAX_BYTES + 1))
    assert "more than 50000 values" in fails("[" + "1," * (MAX_VALUES + 1) + "]")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a:\n\t- b\n", "x.yaml:2:1: a tab stands where YAML allows only spaces"),
        ("a: {0..9}.tar\n", 'x.yaml:1:10: text follows a value that is complete; put text that begins with {'),
        ("a: *.tar\n", 'x.yaml:1:5: put text that begins with * or & in quotes'),
        ("a: @b\n", "x.yaml:1:4: text cannot begin with @; put it in quotes"),
        ("a: b: c\n", "x.yaml:1:5: a ':' is not expected here"),
        ("a: 'b\n", "a quoted text is not closed"),
        ("a: [1\n", "a '[' is not closed"),
        ("a: {b: ${C}}\n", 'put text that contains { or } in quotes: "${NAME}"'),
        ("a: !!python/object:os.system x\n", "the tag tag:yaml.org,2002:python/object:os.system is not allowed"),
        ("a: !x 1\n", "the tag !x is not allowed"),
        ("a: *b\n", "*b refers to no anchor"),
        ("<<: {a: 1}\n", "merge keys (<<) are not supported"),
        ("a: 1\n---\nb: 2\n", "x.yaml:2:1: a second document starts here"),
        ("{[1]: 2}\n", "a name is expected here"),
        ("a: \"\\ud800\"\n", "half of a surrogate pair"),
        (b"a: 1\nb: \xff\n", "x.yaml:2:4: byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a: 1".encode("utf-16"), "the file is UTF-16; save it as UTF-8"),
        ("a: 1\nb: \x07\n", "x.yaml:2:4: the control character 0x07 is not allowed"),
    ],
)  # fmt: skip
def test_syntax_errors_are_sentences_with_places(text: str | bytes, said: str) -> None:
    assert said in fails(text)


def test_a_byte_order_mark_and_windows_line_ends_are_fine() -> None:
    assert parse(b"\xef\xbb\xbfa: 1\r\nb: x\r\n", "x").tree == {"a": 1, "b": "x"}


@given(st.text(alphabet="ab:-[]{}&*!#|>'\"%@`,? \n\t1.~<", max_size=30))
def test_any_text_gives_a_tree_or_problems(text: str) -> None:
    with contextlib.suppress(SpecProblems):
        parse(text, "x")
