"""Sentences for the errors of pydantic: what the value must be, in the words of this project."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from curate.pipeline.problems import Finding, Path, at_path, nearest, shown

_NOUNS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "dict_type": "a mapping of options",
    "model_type": "a mapping of options",
    "model_attributes_type": "a mapping of options",
    "none_required": "null",
}
_BOUNDS = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "multiple_of"}
_BOOL_WORDS = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def findings(errors: Sequence[ErrorDetails], tree: Any, model: type[BaseModel]) -> list[Finding]:
    """Return one finding for each wrong value. The branches of a union speak of one value and become one sentence."""
    by_path: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        by_path.setdefault(_path(tree, error), []).append(error)
    found = []
    for path, group in by_path.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in by_path)
        if deeper and all(error["type"] in _NOUNS or error["type"] == "literal_error" for error in group):
            continue  # another branch of the union took this value and found the mistake inside it
        found.append(_finding(path, group, tree, model))
    return found


def is_type_error(error: ErrorDetails) -> bool:
    """Whether another type of value at the same place could be right."""
    return error["type"] in _NOUNS or error["type"] in {"literal_error", "enum"}


def error_path(tree: Any, error: ErrorDetails) -> Path:
    """Return the path of the value an error speaks of (without the names of union branches)."""
    return _path(tree, error)


def _path(tree: Any, error: ErrorDetails) -> Path:
    path: Path = ()
    node = tree
    for step in error["loc"]:
        exists, child = at_path(node, (step,))
        if exists:
            path, node = (*path, step), child
    return (*path, error["loc"][-1]) if error["type"] == "missing" else path


def _finding(path: Path, group: Sequence[ErrorDetails], tree: Any, model: type[BaseModel]) -> Finding:
    first = group[0]
    value = at_path(tree, path)[1]
    show = bool(path) and not isinstance(value, dict)
    kinds = {error["type"] for error in group}
    if "extra_forbidden" in kinds:
        owner = _model_at(model, path[:-1])
        names = list(owner.model_fields) if owner else []
        close = nearest(str(path[-1]), names)
        known = "" if close or not names else f"; the options here are {', '.join(names)}"
        return Finding(path, f"unknown option{known}", close, show)
    if "missing" in kinds:
        return Finding(path, "this option is required and missing", None, False)
    for error in group:
        if error["type"] in {"value_error", "assertion_error"}:
            message = str(error.get("ctx", {}).get("error") or "is not valid")
            return Finding(path, message, None, show)
    nouns: list[str] = []
    suggestion = None
    for error in group:
        for noun in _nouns(error, path, model):
            if noun not in nouns:
                nouns.append(noun)
        if error["type"] in {"literal_error", "enum"} and isinstance(value, str):
            suggestion = suggestion or nearest(value, _choices(error))
    if not nouns:
        message = first["msg"].removeprefix("Input ").removeprefix("Value ")
        message = re.sub(r"^should ", "must ", message)
        return Finding(path, message[:1].lower() + message[1:], None, show)
    message = "must be " + " or ".join(nouns)
    return Finding(path, message + _advice(value, kinds), suggestion, show)


def _nouns(error: ErrorDetails, path: Path, model: type[BaseModel]) -> Iterator[str]:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _NOUNS:
        yield _NOUNS[kind]
    elif kind in {"literal_error", "enum"}:
        choices = _choices(error)
        yield choices[0] if len(choices) == 1 else "one of " + ", ".join(choices)
    elif kind in _BOUNDS:
        yield _bounds(model, path, context)
    elif kind == "string_pattern_mismatch":
        yield f"text that matches {context.get('pattern')}"
    elif kind in {"too_short", "string_too_short"}:
        least = context.get("min_length")
        yield f"at least {least} {'characters' if kind.startswith('string') else 'entries'} long"
    elif kind in {"too_long", "string_too_long"}:
        yield f"at most {context.get('max_length')} {'characters' if kind.startswith('string') else 'entries'} long"


def _choices(error: ErrorDetails) -> list[str]:
    expected = str(error.get("ctx", {}).get("expected", ""))
    return [quoted or bare for quoted, bare in re.findall(r"'([^']*)'|([^\s,']+)", expected) if bare != "or"]


def _advice(value: Any, kinds: set[str]) -> str:
    if isinstance(value, float) and value.is_integer() and kinds & {"int_type", "int_from_float"}:
        return f"; write {int(value)}"
    if isinstance(value, str) and kinds & {"bool_type", "bool_parsing"} and value.lower() in _BOOL_WORDS:
        return f"; write {_BOOL_WORDS[value.lower()]}"
    if isinstance(value, bool | int | float) and "string_type" in kinds:
        return f'; put it in quotes: "{shown(value)}"'
    return ""


def _bounds(model: type[BaseModel], path: Path, context: dict[str, Any]) -> str:
    """Return every bound of the field ("> 0 and <= 1"), not only the one that was broken."""
    symbols = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}
    known: dict[str, Any] = {}
    owner = _model_at(model, path[:-1])
    info = owner.model_fields.get(str(path[-1])) if owner and path else None
    if info is not None:
        for constraint in (*info.metadata, *_within(info.annotation)):
            for name in symbols:
                if isinstance(constraint, annotated_types.BaseMetadata) and hasattr(constraint, name):
                    known.setdefault(name, getattr(constraint, name))
    known = {**known, **{name: value for name, value in context.items() if name in symbols}}
    return " and ".join(f"{symbol} {_number(known[name])}" for name, symbol in symbols.items() if name in known)


def _number(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _within(annotation: Any) -> Iterator[Any]:
    """Yield the metadata of an annotation and of the members of its unions."""
    if typing.get_origin(annotation) is typing.Annotated:
        for item in annotation.__metadata__:
            yield from getattr(item, "metadata", [item])
        yield from _within(annotation.__origin__)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for member in typing.get_args(annotation):
            yield from _within(member)


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel] | None:
    """Return the model whose fields stand at `path`, or None when that is not one model."""
    annotation: Any = model
    for step in path:
        if isinstance(step, int):
            continue  # the models inside a list are found through its annotation
        mapping = next((part for part in _parts(annotation) if typing.get_origin(part) in (dict, Mapping)), None)
        owner = _one_model(annotation)
        if mapping is not None:
            annotation = typing.get_args(mapping)[1]
        elif owner is not None and step in owner.model_fields:
            annotation = owner.model_fields[step].annotation
        else:
            return None
    return _one_model(annotation)


def _one_model(annotation: Any) -> type[BaseModel] | None:
    models = [part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    return models[0] if len(models) == 1 else None


def _parts(annotation: Any) -> Iterator[Any]:
    """Yield an annotation and, through unions and lists but not through mappings, what it is made of."""
    yield annotation
    if typing.get_origin(annotation) not in (dict, Mapping):
        for inner in typing.get_args(annotation):
            yield from _parts(inner)
