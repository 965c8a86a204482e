"""YAML with places: a text becomes a tree of dicts, lists and scalars, and every path of it a line and a column.

The reader takes the YAML 1.2 core schema, which has none of the surprises of YAML 1.1: `no`, `on` and `12:30` are
text, `1e-3` is a number, `010` is ten. One extension: digits may be grouped, `50_000` is a number. Tags, merge keys
and several documents in a file are refused, a key written twice is a problem, and size, depth and the number of
values (aliases counted as often as they are used) are bounded, so an untrusted file costs at most a few seconds.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml

from curate.pipeline.problems import Path, Problem, SpecProblems, shown

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_VALUES = 50_000

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_RADIX = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MAX_DIGITS = 400


@dataclass(frozen=True)
class Place:
    """A position in a text; both numbers count from 1."""

    line: int
    column: int


@dataclass
class Document:
    """A parsed text. `plain` holds the text of every unquoted scalar, because only those follow the typing rules."""

    tree: Any
    keys: dict[Path, Place] = field(default_factory=dict)
    values: dict[Path, Place] = field(default_factory=dict)
    plain: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def place(self, path: Path, *, key: bool = False) -> Place | None:
        """Return the place of the value at `path` (of its key if `key`), or of the nearest value that holds it."""
        for size in range(len(path), -1, -1):
            # Only the path asked for points at its value; for a parent the key is the better place to look.
            table = self.values if size == len(path) and not key else self.keys
            if path[:size] in table:
                return table[path[:size]]
        return self.values.get(())


def resolve_scalar(text: str) -> str | int | float | bool | None:
    """Return the value that an unquoted scalar `text` stands for (YAML 1.2 core schema, plus digit grouping)."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if len(text) <= _MAX_DIGITS:
        if _INT.fullmatch(text):
            return int(text)
        if _RADIX.fullmatch(text):
            return int(text, 0)
        if _FLOAT.fullmatch(text):
            return float(text)
        if special := _SPECIAL.fullmatch(text):
            return float(special[1] + "inf") if special[2] else float("nan")
    return text


@dataclass(frozen=True)
class _Row:
    path: Path
    key: Place
    value: Place
    plain: str | None


class _Composer:
    """Builds the tree from parser events, so that nothing is ever built that a limit would refuse."""

    def __init__(self, text: str, source: str) -> None:
        self.source = source
        self.text = text
        self.events: Iterator[Any] = yaml.parse(text, Loader=yaml.SafeLoader)
        self.rows: list[_Row] = []
        self.anchors: dict[str, tuple[Path, Any, int, int] | None] = {}
        self.problems: list[Problem] = []

    def fail(self, place: Place | None, message: str, path: Path = ()) -> NoReturn:
        raise SpecProblems([*self.problems, self.problem(place, message, path)])

    def problem(self, place: Place | None, message: str, path: Path = ()) -> Problem:
        line, column = (place.line, place.column) if place else (None, None)
        return Problem(self.source, line, column, ".".join(map(shown, path)), None, message)

    def document(self) -> Document:
        tree: Any = None
        seen = False
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if seen:
                    self.fail(_place(event), "a second document starts here; a pipeline file holds one document")
                seen = True
                tree = self.node(next(self.events), (), None)
        document = Document(tree, problems=self.problems)
        for row in self.rows:
            document.keys[row.path] = row.key
            document.values[row.path] = row.value
            if row.plain is not None:
                document.plain[row.path] = row.plain
        return document

    def node(self, event: Any, path: Path, key: Place | None) -> Any:
        place = _place(event)
        if len(path) > MAX_DEPTH:
            self.fail(place, f"values are nested deeper than {MAX_DEPTH} levels")
        if len(self.rows) >= MAX_VALUES:
            self.fail(place, f"the file has more than {MAX_VALUES} values; give long lists as a glob or a file of URLs")
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event, path, key or place)
        if event.tag is not None:
            self.fail(place, f"the tag {shown(event.tag)} is not allowed; write the value without a tag", path)
        if event.anchor is not None:
            self.anchors[event.anchor] = None
        start = len(self.rows)
        plain = event.value if isinstance(event, yaml.ScalarEvent) and event.style is None else None
        self.rows.append(_Row(path, key or place, place, plain))
        value: Any
        if isinstance(event, yaml.ScalarEvent):
            value = self.scalar(event, path)
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := next(self.events), yaml.SequenceEndEvent):
                value.append(self.node(item, (*path, len(value)), None))
        else:
            value = self.mapping(path)
        if event.anchor is not None:
            self.anchors[event.anchor] = (path, value, start, len(self.rows))
        return value

    def scalar(self, event: Any, path: Path) -> Any:
        try:
            event.value.encode("utf-8")
        except UnicodeEncodeError:
            self.fail(_place(event), "the text holds half of a surrogate pair, which is not a character", path)
        return resolve_scalar(event.value) if event.style is None else event.value

    def mapping(self, path: Path) -> dict[str, Any]:
        value: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            place = _place(event)
            if not isinstance(event, yaml.ScalarEvent):
                self.fail(place, 'a name is expected here; put text that begins with {, [ or * in quotes: "..."', path)
            name: str = event.value
            if name == "<<" and event.style is None:
                self.fail(place, "merge keys (<<) are not supported; write the options out", path)
            self.scalar(event, path)
            inner = (*path, name)
            if name in value:
                first = next(row.key for row in self.rows if row.path == inner)
                message = f"{shown(name)} is given twice, first on line {first.line}; remove one of the two"
                self.problems.append(self.problem(place, message, path))
                kept = len(self.rows)
                self.node(next(self.events), inner, place)
                del self.rows[kept:]
            else:
                value[name] = self.node(next(self.events), inner, place)
        return value

    def alias(self, event: Any, path: Path, key: Place) -> Any:
        place = _place(event)
        if event.anchor not in self.anchors:
            self.fail(place, f"*{event.anchor} refers to no anchor; put text that begins with * in quotes", path)
        target = self.anchors[event.anchor]
        if target is None:
            self.fail(place, f"*{event.anchor} refers to a value that holds it", path)
        base, value, start, end = target
        if len(self.rows) + end - start > MAX_VALUES:
            self.fail(place, f"aliases repeat values until there are more than {MAX_VALUES}")
        rows = self.rows[start:end]
        if len(path) + max((len(row.path) - len(base) for row in rows), default=0) > MAX_DEPTH:
            self.fail(place, f"values are nested deeper than {MAX_DEPTH} levels")
        for row in rows:
            rest = row.path[len(base) :]
            self.rows.append(_Row((*path, *rest), row.key if rest else key, row.value if rest else place, row.plain))
        return copy.deepcopy(value)


def _place(event: Any) -> Place:
    return Place(event.start_mark.line + 1, event.start_mark.column + 1)


_SYNTAX = (
    ("mapping values are not allowed", "a ':' is not expected here; check the indentation of this line and the one "
     "above, and put text that contains ': ' in quotes"),
    ("sequence entries are not allowed", "a '-' is not expected here; a list begins on a line of its own"),
    ("found unexpected end of stream", "a quoted text is not closed"),
    ("could not find expected ':'", "a name without ':' (or a wrong indentation)"),
    ("expected alphabetic or numeric character", 'put text that begins with * or & in quotes: "*.tar"'),
    ("found unknown escape character", "unknown escape in a text in double quotes; write \\\\ for a backslash, or use "
     "single quotes"),
    ("expected ',' or '}', but got '{'", 'put text that contains { or } in quotes: "${NAME}"'),
    ("expected ',' or '}'", "a '{' is not closed, or a ',' is missing"),
    ("expected ',' or ']'", "a '[' is not closed, or a ',' is missing"),
    ("expected <block end>, but found '<scalar>'", "text follows a value that is complete; put text that begins with "
     '{, [, \' or " in quotes: "{0..9}.tar"'),
    ("expected <block end>", "the indentation does not fit the lines above"),
    ("found duplicate anchor", "an anchor is defined twice"),
)  # fmt: skip


def _syntax_problem(error: yaml.YAMLError, text: str, source: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        line, column = error.problem_mark.line, error.problem_mark.column
        rows = text.splitlines()
        character = rows[line][column : column + 1] if line < len(rows) else ""
        detail = error.problem or "not valid YAML"
        if character == "\t":
            message = "a tab stands where YAML allows only spaces; indent and separate with spaces"
        elif "cannot start any token" in detail:
            message = f"text cannot begin with {character}; put it in quotes"
        else:
            message = next((say for part, say in _SYNTAX if part in detail), f"not valid YAML: {detail}")
        return Problem(source, line + 1, column + 1, "", None, message)
    if isinstance(error, yaml.reader.ReaderError):
        position = int(error.position)
        before = text[:position]
        line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
        message = f"the control character {ord(text[position]):#04x} is not allowed"
        return Problem(source, line, column, "", None, message)
    return Problem(source, None, None, "", None, f"not valid YAML: {error}")


def decode(data: bytes, source: str) -> str:
    """Return the text of a pipeline file; raise SpecProblems when it is too large or not UTF-8."""
    if len(data) > MAX_BYTES:
        message = f"the file is larger than {MAX_BYTES // 1024} KiB; a pipeline file is a page of text"
        raise SpecProblems([Problem(source, None, None, "", None, message)])
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SpecProblems([Problem(source, 1, 1, "", None, "the file is UTF-16; save it as UTF-8")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        message = f"byte {data[error.start]:#04x} is not UTF-8; save the file as UTF-8"
        raise SpecProblems([Problem(source, line, column, "", None, message)]) from None


def parse(text: str | bytes, source: str) -> Document:
    """Parse one YAML document with the place of every value.

    Raises SpecProblems for a text that has no tree (syntax, limits, tags). Keys given twice are listed in
    `Document.problems` and the first value is kept, so that the rest of the file can still be checked.
    Memory: bounded by MAX_BYTES of text and MAX_VALUES values.
    """
    text = decode(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"), source)
    composer = _Composer(text, source)
    try:
        return composer.document()
    except yaml.YAMLError as error:
        raise SpecProblems([*composer.problems, _syntax_problem(error, text, source)]) from None
