"""What compiled predicates mean: against sqlite3 on random tables, and in closed forms."""

from __future__ import annotations

import math
import sqlite3
import warnings
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.filtering.predicate import compile_predicate

SCHEMA: dict[str, pl.DataType] = {
    "width": pl.UInt32(),
    "height": pl.UInt32(),
    "score": pl.Float32(),
    "caption": pl.String(),
    "label": pl.String(),
    "alive": pl.Boolean(),
    "uid_hi": pl.UInt64(),
    "members": pl.List(pl.String()),
    "embed.clip_score": pl.Float64(),
    "format": pl.Enum(["jpeg", "png"]),
}


def evaluate(sql: str, **data: list[Any]) -> list[bool | None]:
    frame = pl.DataFrame({name: pl.Series(values, dtype=SCHEMA[name]) for name, values in data.items()})
    return frame.select(compile_predicate(sql, SCHEMA).expr.alias("it"))["it"].to_list()


# --- truth: sqlite3 ------------------------------------------------------------------------------------------------
# What sqlite does otherwise is given to it as functions that follow our documented meaning (float arithmetic, %
# of floats, ILIKE, round), or not generated (order of booleans). sqlite stores booleans as 0 and 1.

COLUMNS = {"i": pl.Int64(), "u": pl.UInt32(), "f": pl.Float64(), "s": pl.String(), "b": pl.Boolean()}


def sqlite_rows(sql: str, rows: list[tuple[Any, ...]]) -> list[bool | None]:
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA case_sensitive_like = ON")
    connection.create_function("ln", 1, lambda x: None if x is None or x <= 0 else math.log(x))
    connection.create_function("sqrt", 1, lambda x: None if x is None or x < 0 else math.sqrt(x))
    connection.create_function("ceil", 1, lambda x: None if x is None else math.ceil(x))
    connection.create_function("floor", 1, lambda x: None if x is None else math.floor(x))
    connection.create_function("rem", 2, lambda x, y: None if x is None or y is None or not y else math.fmod(x, y))
    connection.create_function("starts_with", 2, lambda x, y: None if x is None else x.startswith(y))
    connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, i INTEGER, u INTEGER, f REAL, s TEXT, b INTEGER)")
    connection.executemany("INSERT INTO t (i, u, f, s, b) VALUES (?, ?, ?, ?, ?)", rows)
    found = [row[0] for row in connection.execute(f"SELECT ({sql}) FROM t ORDER BY n")]
    connection.close()
    return [None if value is None else bool(value) for value in found]


# A term is (our text, sqlite's text, binding strength): operands are put in parentheses only where they bind weaker,
# so that the precedence of the parser is tested too.
Term = tuple[str, str, int]


def wrap(term: Term, least: int) -> Term:
    return term if term[2] >= least else (f"({term[0]})", f"({term[1]})", 9)


def binary(sign: str, strength: int, a: Term, b: Term) -> Term:
    a, b = wrap(a, strength), wrap(b, strength + 1)
    ours = f"{a[0]} {sign} {b[0]}"
    if sign == "%":
        return ours, f"rem({a[1]}, {b[1]})", strength
    if sign == "/":
        return ours, f"CAST({a[1]} AS REAL) / {b[1]}", strength
    return ours, f"{a[1]} {sign} {b[1]}", strength


def call(ours: str, theirs: str, *terms: Term) -> Term:
    return f"{ours}({', '.join(t[0] for t in terms)})", f"{theirs}({', '.join(t[1] for t in terms)})", 9


def same(text: str, strength: int = 9) -> Term:
    return text, text, strength


def choose(a: Term, b: Term, c: Term) -> Term:
    both = [f"CASE WHEN {a[at]} THEN {b[at]} ELSE {c[at]} END" for at in (0, 1)]
    return both[0], both[1], 9


numbers = st.one_of(
    st.sampled_from(["i", "u", "f"]).map(same),
    st.integers(0, 9).map(lambda n: same(str(n))),
    st.sampled_from(["0.5", "2.25", ".125", "1e1"]).map(same),
)
texts = st.one_of(st.just(same("s")), st.sampled_from(["'a'", "'Ab'", "''", "'it''s'", "'b_'"]).map(same))


def grown_numbers(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    return st.one_of(
        st.builds(lambda s, a, b: binary(s, 6, a, b), st.sampled_from("+-"), inner, inner),
        st.builds(lambda s, a, b: binary(s, 7, a, b), st.sampled_from("*/%"), inner, inner),
        inner.map(lambda a: (f"-{wrap(a, 9)[0]}", f"-{wrap(a, 9)[1]}", 8)),
        inner.map(lambda a: call("abs", "abs", a)),
        inner.map(lambda a: call("sqrt", "sqrt", a)),
        inner.map(lambda a: call("ceil", "ceil", a)),
        inner.map(lambda a: call("floor", "floor", a)),
        st.builds(lambda a, b: call("least", "min", a, b), inner, inner),
        st.builds(lambda a, b: call("greatest", "max", a, b), inner, inner),
        st.builds(lambda a, b: call("coalesce", "coalesce", a, b), inner, inner),
        texts.map(lambda a: call("length", "length", a)),
        st.builds(lambda a, b, c: choose(a, b, c), simple_conditions, inner, inner),
    )


simple_conditions = st.one_of(
    st.just(same("b")),
    st.sampled_from(
        ["i IS NULL", "f IS NOT NULL", "s IS NULL", "s LIKE 'a%'", "s NOT LIKE '%_b'", "i IN (1, 2, -3)"]
    ).map(lambda text: same(text, 4)),
    st.sampled_from(["u NOT IN (0, 7)", "f IN (0.5, 1)", "s IN ('a', 'Ab')", "i BETWEEN 1 AND u"]).map(
        lambda text: same(text, 4)
    ),
    st.just(same("starts_with(s, 'a')")),
)
number_terms = st.recursive(numbers, grown_numbers, max_leaves=6)
comparisons = st.builds(
    lambda s, a, b: binary(s, 5, a, b),
    st.sampled_from(["=", "!=", "<>", "<", "<=", ">", ">="]),
    number_terms,
    number_terms,
) | st.builds(lambda s, a, b: binary(s, 5, a, b), st.sampled_from(["=", "<", ">="]), texts, texts)


def grown_conditions(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    return st.one_of(
        st.builds(lambda a, b: binary("AND", 2, a, b), inner, inner),
        st.builds(lambda a, b: binary("OR", 1, a, b), inner, inner),
        inner.map(lambda a: (f"NOT {wrap(a, 4)[0]}", f"NOT {wrap(a, 4)[1]}", 3)),
    )


conditions = st.recursive(simple_conditions | comparisons, grown_conditions, max_leaves=6)
rows_of = st.lists(
    st.tuples(
        st.none() | st.integers(-9, 9),
        st.none() | st.integers(0, 2**32 - 1) | st.integers(0, 9),
        st.none() | st.sampled_from([-2.5, -0.5, 0.0, 0.5, 1.0, 2.25, 9.0]),
        st.none() | st.sampled_from(["", "a", "A", "ab", "Ab", "it's", "b_", "a\nb", "é", "a%"]),
        st.none() | st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(term=conditions, rows=rows_of)
def test_it_agrees_with_sqlite(term: Term, rows: list[tuple[Any, ...]]) -> None:
    ours, theirs, _ = term
    if not any(name in ours for name in ("i", "u", "f", "s", "b")):
        return
    try:
        predicate = compile_predicate(ours, COLUMNS)
    except SpecError as error:
        if "names no column" in str(error):
            return
        raise
    frame = pl.DataFrame(rows, schema=COLUMNS, orient="row")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = frame.select(predicate.expr.alias("it"))["it"]
    assert got.dtype == pl.Boolean
    assert got.to_list() == sqlite_rows(theirs, rows), ours
    again = compile_predicate(predicate.sql, COLUMNS)
    assert again.sql == predicate.sql
    assert set(again.columns) == set(predicate.columns)
    assert frame.select(again.expr.alias("it"))["it"].to_list() == got.to_list()


@settings(max_examples=100, deadline=None)
@given(pattern=st.text("a%_b.*\\[é\n", max_size=8), text=st.text("ab.*\\[é\n", max_size=8))
def test_like_agrees_with_sqlite(pattern: str, text: str) -> None:
    got = evaluate(f"caption LIKE '{pattern}'", caption=[text])
    assert got == sqlite_rows(f"s LIKE '{pattern}'", [(None, None, None, text, None)])


# --- truth: closed forms -------------------------------------------------------------------------------------------


def test_unsigned_columns_subtract_below_zero() -> None:
    assert evaluate("width - height < 0", width=[1, 3], height=[2, 2]) == [True, False]
    assert evaluate("-width < 0", width=[1]) == [True]


def test_products_of_large_sides_do_not_wrap() -> None:
    assert evaluate("width * height * width > 1e28", width=[2**32 - 1], height=[2**32 - 1]) == [True]


def test_division_is_exact_and_by_zero_null() -> None:
    assert evaluate("width / height = 3.5", width=[7, 7], height=[2, 0]) == [True, None]
    assert evaluate("width % height = 1", width=[7, 7], height=[2, 0]) == [True, None]
    assert evaluate("-7 % width = -1", width=[2]) == [True]


def test_uids_compare_exactly_over_all_64_bits() -> None:
    top = 2**64 - 1
    assert evaluate(f"uid_hi = {top}", uid_hi=[top, top - 1]) == [True, False]
    assert evaluate(f"uid_hi IN ({top}, 3)", uid_hi=[top, top - 1, None]) == [True, False, None]
    assert evaluate("uid_hi > -1", uid_hi=[0, top]) == [True, True]


def test_halves_round_away_from_zero() -> None:
    assert evaluate("round(width / 2) = 3", width=[5, 6, 4]) == [True, True, False]
    assert evaluate("round(-width / 2) = -3", width=[5]) == [True]
    assert evaluate("round(width / 8, 1) = 0.4", width=[3]) == [True]


def test_logarithms_and_roots_outside_their_domain_are_null() -> None:
    assert evaluate("ln(width) >= 0", width=[0, 1, 9]) == [None, True, True]
    assert evaluate("sqrt(width - 4) = 1", width=[3, 4, 5]) == [None, False, True]


def test_nan_counts_as_null() -> None:
    frame = pl.DataFrame({"score": pl.Series([math.nan, 0.5], dtype=pl.Float32)})
    predicate = compile_predicate("score > 0.1", SCHEMA)
    got = frame.select(predicate.expr.alias("it"), predicate.null_column().alias("why"))
    assert got.rows() == [(None, "score"), (True, None)]
    assert frame.select(compile_predicate("score IS NULL", SCHEMA).expr.alias("it"))["it"].to_list() == [True, False]


def test_three_valued_logic() -> None:
    three = [True, False, None]
    data = {
        "alive": [a for a in three for _ in three],
        "width": [1 if b else 0 if b is not None else None for _ in three for b in three],
    }
    assert evaluate("alive AND width = 1", **data) == [True, False, None, False, False, False, None, False, None]
    assert evaluate("alive OR width = 1", **data) == [True, True, True, True, False, None, True, None, None]
    assert evaluate("NOT alive", alive=three) == [False, True, None]


def test_least_and_greatest_are_null_with_a_null() -> None:
    assert evaluate("greatest(width, height) >= 5", width=[9, None, 1], height=[1, 9, 5]) == [True, None, True]


def test_text_functions() -> None:
    assert evaluate("length(caption) = 2", caption=["éa", "abc", None]) == [True, False, None]
    assert evaluate("upper(caption) = 'É' AND lower(caption) = 'é'", caption=["é"]) == [True]
    assert evaluate("caption ILIKE '%CAT%'", caption=["a cat", "dog"]) == [True, False]
    assert evaluate("starts_with(caption, label)", caption=["ab", "ab"], label=["a", "b"]) == [True, False]


def test_enumerations_are_text_and_lists_are_only_there_or_not() -> None:
    assert evaluate("format = 'png' OR format LIKE 'jp%'", format=["png", "jpeg", None]) == [True, True, None]
    assert evaluate("members IS NOT NULL", members=[["a"], None]) == [True, False]
    with pytest.raises(SpecError, match="List"):
        compile_predicate("members = 'a'", SCHEMA)


def test_simple_case_and_default_null() -> None:
    sql = "CASE label WHEN 'a' THEN 1 WHEN 'b' THEN 2.5 END > 1"
    assert evaluate(sql, label=["a", "b", "c"]) == [False, True, None]


def test_a_long_pattern_of_wildcards_runs() -> None:
    assert evaluate(f"caption ILIKE '{'_' * 250 + 'é' * 250}'", caption=["x"]) == [False]


def test_a_long_chain_runs() -> None:
    sql = " OR ".join(f"width={n}" for n in range(700))
    assert evaluate(sql, width=[0, 699, 700]) == [True, True, False]
