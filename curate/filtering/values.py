"""The parts of a predicate while it is compiled: an expression with its kind and canonical text, and how kinds meet."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

import polars as pl
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

_NOUNS = {"int": "a number", "float": "a number", "text": "text", "bool": "true or false"}


class Refused(Exception):
    """Something in a predicate is not allowed or does not fit; the message says what."""


@dataclass(frozen=True)
class Value:
    """A part of a predicate: its expression, its kind (int, float, text, bool), and its canonical text."""

    expr: pl.Expr
    kind: str
    sql: str
    compound: bool = False
    wide: bool = False
    """True for whole numbers that may lie outside Int64."""
    literal: int | float | str | bool | None = None

    @property
    def noun(self) -> str:
        """The kind in words."""
        return _NOUNS[self.kind]

    @property
    def inner(self) -> str:
        """The canonical text as part of a larger one."""
        return f"({self.sql})" if self.compound else self.sql

    def number(self) -> pl.Expr:
        """The value as Float64."""
        return self.expr.cast(pl.Float64)


def negated(value: Value) -> Value:
    """NOT; refuses what is not a condition."""
    if value.kind != "bool":
        raise Refused(f"NOT takes a condition, but {value.sql} is {value.noun}")
    return Value(~value.expr, "bool", f"NOT {value.inner}", True)


def need(value: Value, kinds: str, what: str) -> None:
    """Refuse a value whose kind is not one of `kinds` (separated by spaces)."""
    if value.kind not in kinds.split():
        wanted = "numbers" if kinds == "int float" else "text" if kinds == "text" else "numbers or text"
        raise Refused(f"{what} takes {wanted}, but {value.sql} is {value.noun}")


def compare(sign: str, build: Callable[[Any, Any], pl.Expr], left: Value, right: Value) -> Value:
    """Compare two values as their common type; null when one of them is."""
    if left.noun != right.noun:
        raise Refused(f"{left.inner} {sign} {right.inner} holds {left.noun} against {right.noun}")
    if left.kind == "bool" and sign not in ("=", "!=", "IN"):
        raise Refused(f"{left.inner} {sign} {right.inner} puts true and false in order")
    (a, b), _, _ = common_type([left, right], sign)
    return Value(build(a, b), "bool", f"{left.inner} {sign} {right.inner}", True)


def common_type(values: Sequence[Value], what: str) -> tuple[list[pl.Expr], str, bool]:
    """Return the values cast to the one type that holds them all, its kind, and whether it is wide."""
    for value in values:
        if value.noun != values[0].noun:
            first = values[0]
            raise Refused(f"{what} mixes {first.noun} ({first.sql}) and {value.noun} ({value.sql})")
    kinds = {value.kind for value in values}
    wide = kinds == {"int"} and any(value.wide for value in values)
    kind = "float" if "float" in kinds else values[0].kind
    dtype: Any = {"float": pl.Float64, "int": pl.Int128 if wide else pl.Int64, "text": pl.String, "bool": pl.Boolean}[
        kind
    ]
    return [value.expr.cast(dtype) for value in values], kind, wide


def where(condition: pl.Expr, value: pl.Expr) -> pl.Expr:
    """`value` where the condition holds, null elsewhere."""
    return pl.when(condition).then(value).otherwise(None)


def balanced(join: Callable[[Any, Any], pl.Expr], terms: Sequence[pl.Expr]) -> pl.Expr:
    """Join many expressions in a tree of logarithmic depth."""
    found = list(terms)
    while len(found) > 1:
        found = [reduce(join, found[at : at + 2]) for at in range(0, len(found), 2)]
    return found[0]


def text_literal(text: str) -> Value:
    """A text in single quotes."""
    return Value(pl.lit(text, dtype=pl.String), "text", "'" + text.replace("'", "''") + "'", literal=text)


def number_literal(text: str) -> Value:
    """A number as written; refuses what is none and what float64 cannot hold."""
    if re.fullmatch(r"-?[0-9]{1,20}", text):
        whole = int(text)
        wide = not -(2**63) <= whole < 2**63
        return Value(pl.lit(whole, dtype=pl.Int128 if wide else pl.Int64), "int", str(whole), whole < 0, wide, whole)
    try:
        number = float(text)
    except ValueError:
        raise Refused(f"{text} is not a number") from None
    if not math.isfinite(number):
        raise Refused(f"{text} is too large")
    return Value(pl.lit(number, dtype=pl.Float64), "float", repr(number), number < 0, literal=number)


@cache
def quoted(name: str) -> str:
    """Return a column name as it is written in a predicate."""
    if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", name, re.ASCII):
        try:
            if isinstance(sqlglot.parse_one(name), exp.Column):
                return name
        except SqlglotError:
            pass
    return '"' + name.replace('"', '""') + '"'
