"""A condition over columns, written in a small part of SQL, as a polars expression.

    compile_predicate("width - height < 0 AND clip_score >= 0.28", schema).expr

The text is held against a list of allowed words, parsed with sqlglot, and its tree walked against a list of allowed
nodes; the expression is built from the tree and polars never sees the text. Nothing in a predicate can read a file,
call a function of the host or name another table.

Meaning, where SQL dialects differ:

- A missing value makes what depends on it missing (null), with SQL's three-valued AND, OR and NOT. `least` and
  `greatest` are null when one argument is. NaN counts as null.
- Arithmetic is in float64, so `width - height` of unsigned columns may be negative and `7 / 2` is 3.5; results are
  exact for whole numbers up to 2^53. `%` has the sign of its left side. Division by zero, the root of a negative
  number and the logarithm of a number that is not positive are null.
- Whole numbers are compared exactly with whole numbers. A float32 column is compared as the float64 of the same value.
- `LIKE` minds letter case, `ILIKE` does not; text is compared by code points; `round` takes halves away from zero.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import polars as pl
import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError, TokenError
from sqlglot.tokens import Token, TokenType

from curate.errors import SpecError
from curate.filtering.compiler import Compiler
from curate.filtering.values import Refused, Value

MAX_LENGTH = 10_000
MAX_NESTING = 40

FUNCTIONS = (
    "abs", "ceil", "ceiling", "char_length", "coalesce", "floor", "greatest", "least", "length", "ln", "lower",
    "round", "sqrt", "starts_with", "upper",
)  # fmt: skip
_KEYWORDS = frozenset((
    "and", "or", "not", "between", "in", "is", "null", "like", "ilike", "case", "when", "then", "else", "end",
    "true", "false",
))  # fmt: skip
_OPERATORS = frozenset(("(", ")", ",", ".", "=", "==", "!=", "<>", "<", "<=", ">", ">=", "+", "-", "*", "/", "%"))
_PREFIXES = frozenset(("(", "not", "-", "+", "case"))
ALLOWED = (
    "allowed are columns, numbers, 'text', TRUE, FALSE, AND, OR, NOT, = != < <= > >=, + - * / %, BETWEEN, IN (...), "
    f"IS NULL, LIKE, ILIKE, CASE, and the functions {', '.join(FUNCTIONS)}"
)


@dataclass(frozen=True)
class Predicate:
    """A compiled condition.

    `expr` is Boolean and may be null; `columns` are the columns it reads, in the order of the text; `sql` is the
    condition in one canonical spelling (case, spaces, parentheses and aliases do not matter); `causes` pairs each
    column that can make it null with an expression that is true where its value is missing.
    """

    expr: pl.Expr
    columns: tuple[str, ...]
    sql: str
    causes: tuple[tuple[str, pl.Expr], ...]

    def null_column(self) -> pl.Expr:
        """Return an expression (String) that names, per row, the column whose missing value made the result null.

        It is null where the result is not, and `expression` where no column is missing (a division by zero). Columns
        that stand only in COALESCE are named last, those that stand only in IS NULL never.
        """
        cause: pl.Expr = pl.lit("expression")
        for name, is_missing in reversed(self.causes):
            cause = pl.when(is_missing).then(pl.lit(name)).otherwise(cause)
        return pl.when(self.expr.is_null()).then(cause).otherwise(None)


def compile_predicate(
    sql: str, columns: Mapping[str, pl.DataType], aliases: Mapping[str, str] | None = None
) -> Predicate:
    """Compile the condition `sql` over a frame with these `columns` (name -> dtype).

    `aliases` are further names for columns. A column named `embed.clip_score` may be written `clip_score` when no other
    column ends that way; names mind letter case and stand in double quotes when they are not plain words.
    Raises SpecError for anything that is not allowed, for unknown columns and for types that do not fit.
    """
    value, compiler = _compiled(sql, columns, aliases or {}, "bool", "predicate", "true or false")
    return Predicate(_every_row(value.expr), tuple(compiler.used), value.sql, compiler.causes())


@dataclass(frozen=True)
class Number:
    """A compiled number: `expr` is Float64, null where it has no value; `columns` and `sql` as of `Predicate`."""

    expr: pl.Expr
    columns: tuple[str, ...]
    sql: str


def compile_number(sql: str, columns: Mapping[str, pl.DataType], aliases: Mapping[str, str] | None = None) -> Number:
    """Compile `sql`, a number for each row of a frame with these `columns`; words, meaning and errors are those of
    `compile_predicate`. NaN and infinity count as null.
    """
    value, compiler = _compiled(sql, columns, aliases or {}, "int float", "expression", "a number")
    number = _every_row(value.number())
    return Number(pl.when(number.is_finite()).then(number), tuple(compiler.used), value.sql)


def _compiled(
    sql: str, columns: Mapping[str, pl.DataType], aliases: Mapping[str, str], kinds: str, what: str, wanted: str
) -> tuple[Value, Compiler]:
    names = _names(columns, aliases)
    try:
        _check_text(sql)
        tokens = sqlglot.tokenize(sql)
        _check_tokens(sql, tokens, names)
        trees = sqlglot.parse(sql)
        if len(trees) != 1 or trees[0] is None:
            raise Refused("must be one condition" if what == "predicate" else "must be one number")
        tree = trees[0]
        _check_depth(tree)
        compiler = Compiler(columns, names)
        value = compiler.compile(tree)
        if value.kind not in kinds.split():
            raise Refused(f"must be {wanted} for each row, but it is {value.noun}")
        if not compiler.used:
            raise Refused("names no column, so it would say the same of every row")
    except Refused as refused:
        raise SpecError(f"{what} {_excerpt(sql)}: {refused}") from None
    except (SqlglotError, RecursionError) as error:
        raise SpecError(f"{what} {_excerpt(sql)}: {_syntax(error)}") from None
    return value, compiler


def _every_row(expr: pl.Expr) -> pl.Expr:
    # polars 2.1 gives one row for `literal == CASE ...` when the condition is null in every row; this widens it again
    return pl.when(pl.int_range(pl.len()) >= 0).then(expr)


def _names(columns: Mapping[str, pl.DataType], aliases: Mapping[str, str]) -> dict[str, str]:
    """Return every way to write a column -> its name in the frame; ambiguous short forms map to an empty text."""
    names: dict[str, str] = {}
    for name in columns:
        short = name.rpartition(".")[2]
        names[short] = "" if short in names else name
    for alias, name in aliases.items():
        if name not in columns:
            raise SpecError(f"alias {alias} names no column: {name}")
        names[alias] = name
    return names | {name: name for name in columns}


def _check_text(sql: str) -> None:
    if not sql.strip():
        raise Refused("is empty")
    if len(sql) > MAX_LENGTH:
        raise Refused(f"is longer than {MAX_LENGTH} characters")
    for offset, character in enumerate(sql):
        if not character.isprintable() and character not in "\n\r\t":
            raise Refused(f"holds the control character {character!r} at character {offset + 1}")


def _check_tokens(sql: str, tokens: list[Token], names: Mapping[str, str]) -> None:
    """Refuse, with its place, every word and sign that is not on the list, and what nests too deep to be parsed."""
    words = {part for name in names for part in (name, *name.split("."))}
    end = depth = prefixes = 0
    for token, after in zip(tokens, [*tokens[1:], None], strict=False):
        if token.comments or sql[end : token.start].strip():
            raise Refused("comments are not allowed")
        end = token.end + 1
        place = f"at character {token.start + 1}"
        written = sql[token.start : end]
        lower = written.lower()
        depth += (lower in ("(", "case")) - (lower in (")", "end"))
        prefixes = prefixes + 1 if lower in _PREFIXES else 0
        if max(depth, prefixes) > MAX_NESTING:
            raise Refused(f"is nested deeper than {MAX_NESTING} levels {place}")
        if token.token_type in (TokenType.STRING, TokenType.NUMBER) or written in _OPERATORS:
            continue
        if written[0] == '"':
            if token.text not in words:
                raise Refused(_unknown(token.text, names, place) + "; text stands in single quotes")
        elif not (written[0].isalpha() or written[0] == "_"):
            raise Refused(f"{written[:20]} is not allowed {place}; {ALLOWED}")
        elif after is not None and after.text == "(" and lower not in _KEYWORDS:
            if lower not in FUNCTIONS:
                close = difflib.get_close_matches(lower, FUNCTIONS, n=1)
                guess = f"; did you mean {close[0]}?" if close else ""
                raise Refused(f"the function {written} is not allowed {place}{guess}; {ALLOWED}")
        elif lower not in _KEYWORDS and written not in words:
            raise Refused(_unknown(written, names, place))
    if sql[end:].strip():
        raise Refused("comments are not allowed")


def _unknown(name: str, names: Mapping[str, str], place: str) -> str:
    folded = {known.casefold(): known for known in names}
    close = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    guess = f"did you mean {folded[close[0]]}?" if close else f"the columns are {_listed(names)}"
    return f"unknown column or word {name} {place}; {guess}"


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    return ", ".join(known[:40]) + (", ..." if len(known) > 40 else "")


def _check_depth(tree: exp.Expression) -> None:
    """Refuse trees that nest deeper than MAX_NESTING; a chain of ANDs or of ORs counts as one level."""
    stack = [(tree, 0)]
    while stack:
        node, depth = stack.pop()
        if depth > MAX_NESTING:
            raise Refused(f"is nested deeper than {MAX_NESTING} levels")
        for child in node.iter_expressions():
            chain = isinstance(node, exp.And | exp.Or) and type(child) is type(node)
            stack.append((child, depth if chain else depth + 1))


def _excerpt(sql: str) -> str:
    text = " ".join(sql.split())
    return repr(text if len(text) <= 100 else text[:97] + "...")


def _syntax(error: Exception) -> str:
    if isinstance(error, TokenError):
        return "holds a quote that is not closed"
    details = getattr(error, "errors", None)
    if isinstance(error, RecursionError) or not details:
        return f"is not a condition that can be read; {ALLOWED}"
    place = f"near {details[0]['highlight']!r} (line {details[0]['line']}, column {details[0]['col']})"
    return f"is not complete or not in order {place}; a column named like an SQL word stands in double quotes"
