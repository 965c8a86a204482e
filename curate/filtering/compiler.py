"""Polars expressions from the syntax tree of a predicate. What has no method here is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

import polars as pl
from sqlglot import exp
from sqlglot.errors import SqlglotError

from curate.filtering.values import (
    Refused,
    Value,
    balanced,
    common_type,
    compare,
    need,
    negated,
    number_literal,
    quoted,
    text_literal,
    where,
)

MAX_PATTERN = 500

_COMPARISONS: dict[type[Any], tuple[str, Callable[[Any, Any], pl.Expr]]] = {
    exp.EQ: ("=", lambda a, b: a == b),
    exp.NEQ: ("!=", lambda a, b: a != b),
    exp.LT: ("<", lambda a, b: a < b),
    exp.LTE: ("<=", lambda a, b: a <= b),
    exp.GT: (">", lambda a, b: a > b),
    exp.GTE: (">=", lambda a, b: a >= b),
}
# Arguments that only record how something was spelled or which dialect it came from.
_HARMLESS = frozenset({"typed", "safe", "ignore_nulls", "is_nvl", "is_null", "big_int"})
_META = frozenset(".+*?()|[]{}^$\\#&-~")


class Compiler:
    """Compiles one predicate and records the columns it reads."""

    def __init__(self, columns: Mapping[str, pl.DataType], names: Mapping[str, str]) -> None:
        self.columns = columns
        self.names = names
        self.used: list[str] = []
        self.needed: list[str] = []
        self.spare: list[str] = []
        self.in_coalesce = 0
        self.in_is_null = 0

    def causes(self) -> tuple[tuple[str, pl.Expr], ...]:
        """Each column that can make the result null, with `is missing`; those that COALESCE may replace come last."""
        found = []
        for name in dict.fromkeys([*self.needed, *self.spare]):
            missing = pl.col(name).is_null()
            if self.columns[name].is_float():
                missing = missing | pl.col(name).is_nan().fill_null(False)
            found.append((name, missing))
        return tuple(found)

    def compile(self, node: exp.Expression) -> Value:
        """Return the value of a node; raise Refused for every node that is not on the list."""
        if type(node) in _COMPARISONS:
            _only(node, "this", "expression")
            sign, build = _COMPARISONS[type(node)]
            return compare(sign, build, self.compile(node.this), self.compile(node.expression))
        method = _METHODS.get(type(node))
        if method is None:
            raise Refused(f"{_written(node)} is not allowed")
        value = method(self, node)
        return negated(value) if node.args.get("negate") else value

    # --- columns and literals ------------------------------------------------------------------------------------

    def _column(self, node: exp.Expression) -> Value:
        name = self._resolve(node)
        dtype = self.columns[name]
        expr = pl.col(name)
        sql = quoted(name)
        if dtype.is_integer():
            return Value(expr, "int", sql, wide=dtype in (pl.UInt64, pl.Int128))
        if dtype.is_float() or dtype.is_decimal():
            return Value(expr.cast(pl.Float64).fill_nan(None), "float", sql)
        if dtype == pl.Boolean:
            return Value(expr, "bool", sql)
        if dtype == pl.String:
            return Value(expr, "text", sql)
        if isinstance(dtype, pl.Categorical | pl.Enum):
            return Value(expr.cast(pl.String), "text", sql)
        raise Refused(f"the column {name} is of type {dtype}, which a predicate can only hold against IS NULL")

    def _resolve(self, node: exp.Expression) -> str:
        _only(node, "this", "table")
        parts = [node.args.get("table"), node.this]
        if not all(part is None or isinstance(part, exp.Identifier) for part in parts):
            raise Refused(f"{_written(node)} is not a column")
        written = ".".join(str(part.this) for part in parts if part is not None)
        name = self.names.get(written)
        if name == "":
            choices = [known for known in self.columns if known.rpartition(".")[2] == written]
            raise Refused(f"{written} is ambiguous; write one of {', '.join(choices)}")
        if name is None:
            raise Refused(f"unknown column {written}")
        if name not in self.used:
            self.used.append(name)
        if not self.in_is_null:
            (self.spare if self.in_coalesce else self.needed).append(name)
        return name

    def _literal(self, node: exp.Expression) -> Value:
        _only(node, "this", "is_string")
        if node.args.get("is_string"):
            return text_literal(str(node.this))
        return number_literal(str(node.this))

    def _boolean(self, node: exp.Expression) -> Value:
        _only(node, "this")
        return Value(pl.lit(bool(node.this)), "bool", "TRUE" if node.this else "FALSE", literal=bool(node.this))

    def _null(self, node: exp.Expression) -> NoReturn:
        raise Refused("NULL stands only in IS NULL and IS NOT NULL; no value equals NULL")

    def _paren(self, node: exp.Expression) -> Value:
        _only(node, "this")
        return self.compile(node.this)

    # --- logic ---------------------------------------------------------------------------------------------------

    def _logic(self, node: exp.Expression) -> Value:
        word = "AND" if isinstance(node, exp.And) else "OR"
        terms: list[Value] = []
        stack: list[exp.Expression] = [node]
        while stack:
            term = stack.pop()
            if type(term) is type(node):
                _only(term, "this", "expression")
                stack += [term.expression, term.this]
                continue
            value = self.compile(term)
            if value.kind != "bool":
                raise Refused(f"{word} joins conditions, but {value.sql} is {value.noun}")
            terms.append(value)
        join: Callable[[Any, Any], pl.Expr] = (lambda a, b: a & b) if word == "AND" else (lambda a, b: a | b)
        return Value(balanced(join, [t.expr for t in terms]), "bool", f" {word} ".join(t.inner for t in terms), True)

    def _negation(self, node: exp.Expression) -> Value:
        _only(node, "this")
        return negated(self.compile(node.this))

    def _between(self, node: exp.Expression) -> Value:
        _only(node, "this", "low", "high")
        value, low, high = (self.compile(node.args[name]) for name in ("this", "low", "high"))
        above = compare(">=", _COMPARISONS[exp.GTE][1], value, low)
        below = compare("<=", _COMPARISONS[exp.LTE][1], value, high)
        return Value(above.expr & below.expr, "bool", f"{value.inner} BETWEEN {low.inner} AND {high.inner}", True)

    def _contained(self, node: exp.Expression) -> Value:
        _only(node, "this", "expressions")
        value = self.compile(node.this)
        items = [self.compile(item) for item in node.expressions]
        if not items or any(item.literal is None for item in items):
            raise Refused("IN takes a list of numbers or texts in parentheses, at least one")
        for item in items:
            compare("IN", lambda a, b: a == b, value, item)
        sql = f"{value.inner} IN ({', '.join(item.sql for item in items)})"
        if value.wide or any(item.wide for item in items):
            equal = [compare("=", lambda a, b: a == b, value, item).expr for item in items]
            return Value(balanced(lambda a, b: a | b, equal), "bool", sql, True)
        common, kind, _ = common_type([value, *items], "IN")
        literals = [float(str(item.literal)) if kind == "float" else item.literal for item in items]
        found = common[0].is_in(literals)
        return Value(pl.when(common[0].is_not_null()).then(found).otherwise(None), "bool", sql, True)

    def _is_null(self, node: exp.Expression) -> Value:
        _only(node, "this", "expression")
        if not isinstance(node.expression, exp.Null):
            raise Refused(f"{_written(node)}: IS takes only NULL or NOT NULL; write a condition as it is, or NOT")
        inner = node.this
        while isinstance(inner, exp.Paren):
            inner = inner.this
        self.in_is_null += 1
        if isinstance(inner, exp.Column):
            # A column of any type may be asked whether it is there.
            name = self._resolve(inner)
            dtype = self.columns[name]
            expr = pl.col(name).fill_nan(None) if dtype.is_float() else pl.col(name)
            value = Value(expr, "bool", quoted(name))
        else:
            value = self.compile(inner)
        self.in_is_null -= 1
        return Value(value.expr.is_null(), "bool", f"{value.inner} IS NULL", True)

    def _like(self, node: exp.Expression) -> Value:
        _only(node, "this", "expression", "negate")
        value, pattern = self.compile(node.this), self.compile(node.expression)
        word = "ILIKE" if isinstance(node, exp.ILike) else "LIKE"
        if value.kind != "text" or not isinstance(pattern.literal, str):
            raise Refused(f"{word} compares text with a pattern in single quotes, such as '%cat%'")
        if len(pattern.literal) > MAX_PATTERN:
            raise Refused(f"the pattern of {word} is longer than {MAX_PATTERN} characters")
        flags = "(?is)" if word == "ILIKE" else "(?s)"
        body = "".join(
            ".*" if c == "%" else "." if c == "_" else f"\\{c}" if c in _META else c
            for c in re.sub("%+", "%", pattern.literal)
        )
        matched = value.expr.str.contains(rf"{flags}\A{body}\z")
        return Value(matched, "bool", f"{value.inner} {word} {pattern.sql}", True)

    # --- numbers -------------------------------------------------------------------------------------------------

    def _arithmetic(self, node: exp.Expression) -> Value:
        _only(node, "this", "expression")
        left, right = self.compile(node.this), self.compile(node.expression)
        sign = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/", exp.Mod: "%"}[type(node)]
        for value in (left, right):
            need(value, "int float", sign)
        a, b = left.number(), right.number()
        if sign == "+":
            result = a + b
        elif sign == "-":
            result = a - b
        elif sign == "*":
            result = a * b
        elif sign == "/":
            result = a / where(b != 0, b)
        else:
            result = where(b != 0, a.abs() % b.abs()) * pl.when(a < 0).then(-1.0).otherwise(1.0)
        return Value(result.fill_nan(None), "float", f"{left.inner} {sign} {right.inner}", True)

    def _minus(self, node: exp.Expression) -> Value:
        _only(node, "this")
        value = self.compile(node.this)
        need(value, "int float", "-")
        if isinstance(value.literal, int | float):
            return number_literal(str(-value.literal))
        return Value(-value.number(), "float", f"-{value.inner}", True)

    # --- functions -----------------------------------------------------------------------------------------------

    def _of_number(self, node: exp.Expression) -> Value:
        _only(node, "this")
        value = self.compile(node.this)
        name = {exp.Abs: "abs", exp.Ceil: "ceil", exp.Floor: "floor", exp.Sqrt: "sqrt", exp.Ln: "ln"}[type(node)]
        need(value, "int float", name)
        sql = f"{name}({value.sql})"
        if value.kind == "int" and name in ("abs", "ceil", "floor"):
            # In 128 bits the smallest Int64 has an absolute value.
            expr = value.expr.cast(pl.Int128).abs() if name == "abs" else value.expr
            return Value(expr, "int", sql, wide=name == "abs" or value.wide)
        number = value.number()
        if name == "sqrt":
            return Value(where(number >= 0, number).sqrt(), "float", sql)
        if name == "ln":
            return Value(where(number > 0, number).log(), "float", sql)
        return Value(getattr(number, name)(), "float", sql)

    def _round(self, node: exp.Expression) -> Value:
        _only(node, "this", "decimals")
        value = self.compile(node.this)
        need(value, "int float", "round")
        decimals, sql = 0, f"round({value.sql})"
        if node.args.get("decimals") is not None:
            places = self.compile(node.args["decimals"]).literal
            if type(places) is not int or not 0 <= places <= 15:
                raise Refused("the second argument of round is a whole number from 0 to 15")
            decimals, sql = places, f"round({value.sql}, {places})"
        if value.kind == "int":
            return replace(value, sql=sql, compound=False, literal=None)
        return Value(value.number().round(decimals, mode="half_away_from_zero"), "float", sql)

    def _of_text(self, node: exp.Expression) -> Value:
        _only(node, "this")
        value = self.compile(node.this)
        name = {exp.Length: "length", exp.Lower: "lower", exp.Upper: "upper"}[type(node)]
        need(value, "text", name)
        if name == "length":
            return Value(value.expr.str.len_chars(), "int", f"length({value.sql})")
        expr = value.expr.str.to_lowercase() if name == "lower" else value.expr.str.to_uppercase()
        return Value(expr, "text", f"{name}({value.sql})")

    def _starts_with(self, node: exp.Expression) -> Value:
        _only(node, "this", "expression")
        value, prefix = self.compile(node.this), self.compile(node.expression)
        need(value, "text", "starts_with")
        need(prefix, "text", "starts_with")
        return Value(value.expr.str.starts_with(prefix.expr), "bool", f"starts_with({value.sql}, {prefix.sql})")

    def _extreme(self, node: exp.Expression) -> Value:
        _only(node, "this", "expressions")
        name = "least" if isinstance(node, exp.Least) else "greatest"
        values = [self.compile(item) for item in (node.this, *node.expressions)]
        for value in values:
            need(value, "int float text", name)
        common, kind, wide = common_type(values, name)
        best = common[0]
        for other in common[1:]:
            better = other < best if name == "least" else other > best
            best = pl.when(best.is_null() | other.is_null()).then(None).when(better).then(other).otherwise(best)
        return Value(best, kind, f"{name}({', '.join(v.sql for v in values)})", wide=wide)

    def _coalesce(self, node: exp.Expression) -> Value:
        _only(node, "this", "expressions")
        self.in_coalesce += 1
        values = [self.compile(item) for item in (node.this, *node.expressions)]
        self.in_coalesce -= 1
        common, kind, wide = common_type(values, "coalesce")
        return Value(pl.coalesce(common), kind, f"coalesce({', '.join(v.sql for v in values)})", wide=wide)

    def _case(self, node: exp.Expression) -> Value:
        _only(node, "this", "ifs", "default")
        subject = self.compile(node.this) if node.this is not None else None
        tests: list[Value] = []
        results: list[Value] = []
        for branch in node.args["ifs"]:
            _only(branch, "this", "true")
            test = self.compile(branch.this)
            if subject is None and test.kind != "bool":
                raise Refused(f"CASE WHEN takes a condition, but {test.sql} is {test.noun}")
            tests.append(test)
            results.append(self.compile(branch.args["true"]))
        default = node.args.get("default")
        if default is not None:
            results.append(self.compile(default))
        common, kind, wide = common_type(results, "CASE")
        expr = common[-1] if default is not None else pl.lit(None)
        for test, result in reversed(list(zip(tests, common, strict=False))):
            met = test.expr if subject is None else compare("=", lambda a, b: a == b, subject, test).expr
            expr = pl.when(met).then(result).otherwise(expr)
        sql = "CASE" if subject is None else f"CASE {subject.sql}"
        for test, value in zip(tests, results, strict=False):
            sql += f" WHEN {test.sql} THEN {value.sql}"
        sql += f" ELSE {results[-1].sql} END" if default is not None else " END"
        return Value(expr, kind, sql, wide=wide)


_METHODS: dict[type[Any], Callable[[Compiler, Any], Value]] = {
    exp.Column: Compiler._column,
    exp.Literal: Compiler._literal,
    exp.Boolean: Compiler._boolean,
    exp.Null: Compiler._null,
    exp.Paren: Compiler._paren,
    exp.And: Compiler._logic,
    exp.Or: Compiler._logic,
    exp.Not: Compiler._negation,
    exp.Between: Compiler._between,
    exp.In: Compiler._contained,
    exp.Is: Compiler._is_null,
    exp.Like: Compiler._like,
    exp.ILike: Compiler._like,
    exp.Neg: Compiler._minus,
    **dict.fromkeys((exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod), Compiler._arithmetic),
    **dict.fromkeys((exp.Abs, exp.Ceil, exp.Floor, exp.Sqrt, exp.Ln), Compiler._of_number),
    **dict.fromkeys((exp.Length, exp.Lower, exp.Upper), Compiler._of_text),
    exp.Round: Compiler._round,
    exp.StartsWith: Compiler._starts_with,
    exp.Least: Compiler._extreme,
    exp.Greatest: Compiler._extreme,
    exp.Coalesce: Compiler._coalesce,
    exp.Case: Compiler._case,
}


def _only(node: exp.Expression, *names: str) -> None:
    """Refuse a node with any argument but these, so that no modifier of a dialect is overlooked."""
    for name, argument in node.args.items():
        if argument not in (None, False, []) and name not in names and name not in _HARMLESS and name != "negate":
            raise Refused(f"{_written(node)} is not allowed in this form")


def _written(node: exp.Expression) -> str:
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", type(node).__name__).lower()
    try:
        text = node.sql()
    except (SqlglotError, RecursionError, ValueError):
        return words
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({words})"
