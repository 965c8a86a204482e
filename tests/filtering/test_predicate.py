"""Predicates: names of columns, canonical text, and a corpus of texts that must be refused."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.filtering.predicate import MAX_LENGTH, MAX_NESTING, Predicate, compile_predicate

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


def refused(sql: str, **more: Any) -> str:
    with pytest.raises(SpecError) as caught:
        compile_predicate(sql, SCHEMA, **more)
    return str(caught.value)


# --- names ---------------------------------------------------------------------------------------------------------


def test_columns_and_canonical_text() -> None:
    predicate = compile_predicate('((Width)>=200) and EMBED > .28  and "width"<>3'.replace("Width", "width").replace(
        "EMBED", "embed.clip_score"), SCHEMA)  # fmt: skip
    assert predicate.columns == ("width", "embed.clip_score")
    assert predicate.sql == "(width >= 200) AND (embed.clip_score > 0.28) AND (width != 3)"


def test_short_names_and_aliases() -> None:
    assert compile_predicate("clip_score > 0", SCHEMA).columns == ("embed.clip_score",)
    assert compile_predicate("w > 0", SCHEMA, {"w": "width"}).sql == "width > 0"
    two = {"a.x": pl.Int64(), "b.x": pl.Int64(), "my-embed.x y": pl.Int64()}
    assert compile_predicate("a.x > b.x", two).columns == ("a.x", "b.x")
    with pytest.raises(SpecError, match=r"x is ambiguous; write one of a.x, b.x"):
        compile_predicate("x > 0", two)
    odd = compile_predicate('"my-embed"."x y" > 0', two)
    assert odd.columns == ("my-embed.x y",)
    assert compile_predicate(odd.sql, two).sql == odd.sql
    with pytest.raises(SpecError, match="alias w names no column: wide"):
        compile_predicate("w > 0", two, {"w": "wide"})


def test_columns_named_like_words_of_sql() -> None:
    words = ["key", "format", "label", "reason", "keep", "status", "index", "extension", "license", "left", "date"]
    for word in words:
        predicate = compile_predicate(f'"{word}" = 1', {word: pl.Int64()})
        assert predicate.columns == (word,)
        assert compile_predicate(predicate.sql, {word: pl.Int64()}).sql == predicate.sql


def test_the_missing_column_is_named() -> None:
    predicate: Predicate = compile_predicate("(label IS NULL OR width > 1) AND width / height > 2", SCHEMA)
    frame = pl.DataFrame(
        {"label": [None, None, None, "a"], "width": [None, 3, 3, 9], "height": [1, None, 0, 1]},
        schema={name: SCHEMA[name] for name in ("label", "width", "height")},
    )
    assert frame.select(predicate.null_column().alias("why"))["why"].to_list() == [
        "width",
        "height",
        "expression",
        None,
    ]


# --- refusals ------------------------------------------------------------------------------------------------------

ATTACKS = [
    "read_csv('/etc/passwd') IS NOT NULL",
    "width IN (SELECT 1)",
    "width = (SELECT max(width) FROM read_parquet('x'))",
    "EXISTS (SELECT 1)",
    "width > 1; DROP TABLE x",
    "width > 1;",
    "width > 1 -- comment",
    "width > /* x */ 1",
    "width > 1 /* open",
    "/*+ hint */ width > 1",
    "{{ width }} > 1",
    "width > 1 {# x #}",
    "* > 1",
    "count(*) > 1",
    "width.* > 1",
    "CAST(width AS VARCHAR) = 'x'",
    "width::int > 1",
    "TRY_CAST(width AS INT) > 1",
    "sum(width) OVER () > 1",
    "width > 1 AND system('ls') = 0",
    "lower(caption, label) = 'x'",
    "caption || 'x' = 'y'",
    "caption RLIKE '(a+)+$'",
    "regexp_like(caption, 'a')",
    "caption SIMILAR TO 'x'",
    "caption LIKE label",
    "caption LIKE 'a' ESCAPE 'b'",
    "caption LIKE ANY ('x')",
    "caption COLLATE nocase = 'x'",
    "width BETWEEN SYMMETRIC 1 AND 2",
    "width IN (height)",
    "width IN ()",
    "width IN (1, NULL)",
    "(width, height) IN ((1, 2))",
    "width = NULL",
    "alive IS TRUE",
    "width IS NOT DISTINCT FROM 1",
    "width <=> 1",
    "width & 1 = 1",
    "width << 1 > 2",
    "width ^ 2 > 2",
    "~width > 2",
    "width // 2 = 1",
    "width DIV 2 = 1",
    "@x > width",
    ":x > width",
    "? > width",
    "$1 > width",
    "x'ff' = caption",
    "N'x' = caption",
    "$$x$$ = caption",
    "caption = 'a' 'b'",
    "caption -> 'x' = 'y'",
    "members[0] = 'x'",
    "[width] = 1",
    "{'a': width} = 1",
    "a.b.c.width > 1",
    "embed.clip_score.x > 1",
    "width AS w",
    "width w",
    "width > 1 LIMIT 1",
    "SELECT width",
    "INTERVAL '1' DAY = width",
    "DATE '2020-01-01' = caption",
    "current_date = caption",
    "if(alive, 1, 2) = 1",
    "nullif(width, 1) = 1",
    "pow(width, 2) > 1",
    "abs(width => 1) = 1",
    "least(DISTINCT width, 1) = 1",
    "lower(caption ORDER BY label) = 'x'",
    "abs(width) FILTER (WHERE alive) > 1",
    "ceil(width, 1) = 1",
    "round(width, height) = 1",
    "round(width, 1, 1) = 1",
    "round(width, 99) = 1",
    "lambda x: 1",
    "caption = 'unclosed",
    'caption = "x"',
    "width >",
    "(width > 1",
    "width > 1)",
    "width > 1 width > 2",
    "width = 1e999",
    "width = 1e",
    "width = 0x1F",
    "width > 1\x00",
    "width\u2028> 1",
    "",
    "   ",
    "--",
    "1 = 1",
    "TRUE",
    "width",
    "width + 1",
    "caption",
    "caption > 3",
    "caption + 1 = 2",
    "-caption = 2",
    "alive > TRUE",
    "alive = 1",
    "width AND height",
    "NOT width",
    "coalesce(width, 'x') = 1",
    "CASE WHEN width THEN 1 END = 1",
    "CASE WHEN alive THEN 1 ELSE 'x' END = 1",
    "greatest(width, 'x') = 1",
    "length(width) = 1",
    "lower(width) = 'x'",
    "abs(caption) = 1",
    "caption IN (1, 2)",
    "caption BETWEEN 1 AND 2",
    "width LIKE '1%'",
    "starts_with(width, 'x')",
    "starts_with(caption)",
    "abs(width, 1) > 1",
    "abs() > width",
]


@pytest.mark.parametrize("sql", ATTACKS)
def test_what_is_not_on_the_list_is_refused_in_a_sentence(sql: str) -> None:
    message = refused(sql)
    assert message.startswith("predicate ")
    assert "\n" not in message
    assert "\x1b" not in message


def test_limits() -> None:
    assert "longer than" in refused("width > 1 " + " " * MAX_LENGTH)
    for deep in ("(" * 3000 + "alive" + ")" * 3000, "NOT " * 2400 + "alive", "-" + " -" * 3000 + "width > 1"):
        assert "nested deeper" in refused(deep)
    assert "nested deeper" in refused("+".join(["width"] * (MAX_NESTING + 5)) + " > 1")
    assert "nested deeper" in refused("CASE WHEN alive THEN " * 60 + "1" + " END" * 60 + " = 1")
    assert "longer than" in refused(f"caption LIKE '{'a' * 600}'")
    many = "-1 = -1 = " * 900 + "alive"
    assert refused(many)


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("heigth > 3", "unknown column or word heigth at character 1; did you mean height?"),
        ("width > 3 AND Score > 1", "unknown column or word Score at character 15; did you mean score?"),
        ("'é' = caption AND widht = 1", "unknown column or word widht at character 19; did you mean width?"),
        ("zzz > 3", "the columns are width, height"),
        ("lenght(caption) > 3", "the function lenght is not allowed at character 1; did you mean length?"),
        ("caption > 3", "caption > 3 holds text against a number"),
        ('caption = "cat"', "text stands in single quotes"),
        ("width ^ 2 > 3", "^ is not allowed at character 7; allowed are columns"),
        ("width = NULL", "NULL stands only in IS NULL"),
        ("width + 1", "must be true or false for each row, but it is a number"),
        ("width > 1 -- x", "comments are not allowed"),
        ("1 < 2", "names no column"),
    ],
)
def test_refusals_say_what_where_and_the_way_out(sql: str, part: str) -> None:
    assert part in refused(sql)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([
    "width", "caption", "alive", "1", "'x'", "(", ")", "AND", "OR", "NOT", "=", "<", "+", "-", "*", "/", "%", "IN",
    "IS", "NULL", "LIKE", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "END", ",", ".", "abs", "coalesce", "TRUE", "--",
    ";",
]), max_size=9).map(" ".join))  # fmt: skip
def test_any_row_of_words_is_compiled_or_refused_and_what_is_compiled_runs(sql: str) -> None:
    try:
        predicate = compile_predicate(sql, SCHEMA)
    except SpecError:
        return
    frame = pl.DataFrame({"width": [1, None], "caption": ["x", None], "alive": [True, None]}, schema_overrides=SCHEMA)
    got = frame.select(predicate.expr.alias("it"))["it"]
    assert got.dtype == pl.Boolean
    assert len(got) == 2


@pytest.mark.parametrize(
    "sql", ["0 = sqrt(-i)", "0 = floor(CASE WHEN b THEN i ELSE 0 END)", "1 < CASE WHEN b THEN i END"]
)
def test_a_column_that_is_missing_in_every_row_still_gives_a_verdict_a_row(sql: str) -> None:
    schema = {"i": pl.Int64(), "b": pl.Boolean()}
    frame = pl.DataFrame({"i": [None, None, None], "b": [None, None, None]}, schema=schema)
    verdict = frame.with_columns(it=compile_predicate(sql, schema).expr)["it"].to_list()
    assert verdict == ([True] * 3 if "ELSE 0" in sql else [None] * 3)
