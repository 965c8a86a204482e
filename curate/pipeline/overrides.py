"""`--set path=value`: options of a pipeline file changed from the command line.

The path is `seed`, `input.shards` or `stages.<stage>.<option>`, where <stage> is the name of a stage, its place
counted from 0, or its kind when only one stage is of that kind. The value is read like an unquoted YAML scalar
(`0.3`, `true`, `null`), as a list when it is written `[a, b]`, and as text when it is in quotes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from curate.pipeline.locate import parse, resolve_scalar
from curate.pipeline.problems import Path, Problem, SpecProblems, at_path, nearest, shown
from curate.pipeline.spec import InputSpec, PipelineHead, StageConfig, stage_names

SOURCE = "--set"


@dataclass
class Overridden:
    """The changed tree; `paths` says which values came from the command line, `plain` which of them were unquoted."""

    tree: Any
    paths: set[Path] = field(default_factory=set)
    plain: dict[Path, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


class _Wrong(Exception):
    def __init__(self, message: str, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.suggestion = suggestion


def apply_overrides(tree: Any, overrides: Iterable[str], registry: Mapping[str, type[StageConfig]]) -> Overridden:
    """Return a changed copy of `tree`. A later override of the same path wins.

    Names of stages are those of the file, whatever an override does to them. Wrong overrides become problems and
    change nothing.
    """
    result = Overridden(copy.deepcopy(tree))
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        try:
            if not equals or not key:
                raise _Wrong(f"{shown(override)} is not of the form path=value, such as stages.prune.keep=0.3")
            path = _resolve(key.split("."), tree, registry)
            value, is_plain = _value(text)
            _assign(result.tree, path, value)
        except _Wrong as wrong:
            message = str(wrong)
            result.problems.append(Problem(SOURCE, None, None, shown(key), shown(text), message, wrong.suggestion))
            continue
        for old in [old for old in result.plain if old[: len(path)] == path]:
            del result.plain[old]
        result.paths.add(path)
        if is_plain:
            result.plain[path] = text.strip()
    return result


def _value(text: str) -> tuple[Any, bool]:
    text = text.strip()
    if text[:1] in ("'", '"', "["):
        try:
            return parse(text, SOURCE).tree, False
        except SpecProblems as problems:
            raise _Wrong(problems.problems[-1].message) from None
    return resolve_scalar(text), True


def _resolve(parts: Sequence[str], tree: Any, registry: Mapping[str, type[StageConfig]]) -> Path:
    top, rest = parts[0], list(parts[1:])
    if top == "stages":
        return _resolve_stage(rest, tree, registry)
    if top not in PipelineHead.model_fields:
        raise _Wrong("unknown option", nearest(top, [*PipelineHead.model_fields, "stages"]))
    if top == "input":
        if not rest:
            raise _Wrong("name an option of the input, such as input.shards")
        if rest[0] not in InputSpec.model_fields:
            close = nearest(rest[0], InputSpec.model_fields)
            raise _Wrong("unknown option", close and f"input.{close}")
    return _indices((top,), rest, tree)


def _resolve_stage(rest: list[str], tree: Any, registry: Mapping[str, type[StageConfig]]) -> Path:
    if len(rest) < 2:
        raise _Wrong("name a stage and an option, such as stages.prune.keep")
    entries = _entries(tree)
    names = stage_names([(kind, name) for _, kind, name in entries])
    wanted = rest[0]
    matches = [entry for entry, name in zip(entries, names, strict=True) if name == wanted]
    if not matches and wanted.isdecimal():
        matches = [entry for entry in entries if entry[0] == int(wanted)]
    if not matches:
        matches = [entry for entry in entries if entry[1] == wanted]
    if len(matches) > 1:
        places = ", ".join(str(entry[0]) for entry in matches)
        raise _Wrong(f"several stages are called {shown(wanted)}; say which by its place: one of {places}")
    if not matches:
        known = ", ".join(names) or "none"
        raise _Wrong(f"no stage is called {shown(wanted)}; the stages are {known}", nearest(wanted, names))
    index, kind, _ = matches[0]
    config = registry.get(kind)
    if config is not None and rest[1] not in config.model_fields:
        close = nearest(rest[1], config.model_fields)
        options = ", ".join(config.model_fields)
        raise _Wrong(
            "unknown option" if close else f"unknown option; {kind} has {options}",
            close and f"stages.{wanted}.{close}",
        )
    return _indices(("stages", index, kind), rest[1:], tree)


def _entries(tree: Any) -> list[tuple[int, str, str | None]]:
    stages = tree.get("stages") if isinstance(tree, dict) else None
    found: list[tuple[int, str, str | None]] = []
    for index, entry in enumerate(stages if isinstance(stages, list) else []):
        if isinstance(entry, str):
            found.append((index, entry, None))
        elif isinstance(entry, dict) and len(entry) == 1:
            kind, options = next(iter(entry.items()))
            name = options.get("name") if isinstance(options, dict) else None
            found.append((index, kind, name if isinstance(name, str) else None))
    return found


def _indices(base: Path, rest: Sequence[str], tree: Any) -> Path:
    """Return `base` and `rest` as a path, with numbers where the file has a list."""
    path = base
    for part in rest:
        node = at_path(tree, path)[1]
        if isinstance(node, list):
            if not part.isdecimal() or int(part) >= len(node):
                raise _Wrong(f"{shown(part)} is not a place in a list of {len(node)}, counted from 0")
            path = (*path, int(part))
        else:
            path = (*path, part)
    return path


def _assign(tree: Any, path: Path, value: Any) -> None:
    if not isinstance(tree, dict):
        raise _Wrong("the pipeline file is not a mapping of options")
    node: Any = tree
    steps: list[Any] = list(path)
    for depth, step in enumerate(steps[:-1]):
        child = node[step] if isinstance(node, list) else node.get(step)
        if depth == 1 and path[0] == "stages" and isinstance(child, str):
            child = {child: {}}
        elif child is None:
            child = {}
        if not isinstance(child, dict | list):
            raise _Wrong(f"{'.'.join(map(str, path[: depth + 1]))} is not a mapping of options")
        node[step] = child
        node = child
    node[steps[-1]] = value
