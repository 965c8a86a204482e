"""From the text of a pipeline file to a checked specification, or to all of its mistakes at once."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from curate.errors import InputError
from curate.pipeline import locate, sentences
from curate.pipeline.environment import Expansion, expand
from curate.pipeline.overrides import SOURCE as OVERRIDE
from curate.pipeline.overrides import Overridden, apply_overrides
from curate.pipeline.problems import MAX_PATH, Finding, Path, Problem, SpecProblems, at_path, nearest, shown
from curate.pipeline.spec import (
    SPEC_VERSION,
    PipelineHead,
    PipelineSpec,
    Reference,
    StageConfig,
    StageEntry,
    references_of,
    stage_names,
)
from curate.stages.config import check_slug
from curate.store import urls

__all__ = ["Loaded", "Problem", "SpecProblems", "load"]

Registry = Mapping[str, type[StageConfig]]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Loaded:
    """A checked pipeline. `unexpanded` is the tree with overrides but without values of variables, for run.json."""

    spec: PipelineSpec
    unexpanded: dict[str, Any]
    source_name: str
    positions: Mapping[Path, locate.Place]


@dataclass(frozen=True)
class _Stage:
    index: int
    kind: str
    options: dict[str, Any]

    @property
    def path(self) -> Path:
        return ("stages", self.index, self.kind)


def load(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    registry: Registry,
    overrides: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    source_name: str | None = None,
) -> Loaded:
    """Read, expand and check a pipeline.

    `source` is a path, a URL, a text of several lines, or a mapping; `registry` gives the Config of every kind of
    stage; `overrides` are `path=value` texts; `env` is the environment (default: that of the process).
    Raises SpecProblems (a SpecError, exit code 2) with every mistake. Memory: bounded by the limits of `locate`.
    """
    document, name = _read(source, source_name)
    overridden = apply_overrides(document.tree, overrides, registry)
    plain = {path: text for path, text in document.plain.items() if path not in overridden.paths} | overridden.plain
    expansion = expand(overridden.tree, os.environ if env is None else env, plain)
    checker = _Checker(document, name, overridden, expansion, registry)
    spec = checker.check()
    problems = [*document.problems, *checker.problems(), *overridden.problems]
    if problems or spec is None:
        raise SpecProblems(sorted(problems, key=_order))
    return Loaded(spec, expansion.unexpanded, name, document.keys)


class _Checker:
    """Checks one tree and gathers what is wrong with it."""

    def __init__(
        self,
        document: locate.Document,
        name: str,
        overridden: Overridden,
        expansion: Expansion,
        registry: Registry,
    ) -> None:
        self.document = document
        self.name = name
        self.overridden = overridden
        self.expansion = expansion
        self.registry = registry
        self.findings: list[Finding] = list(expansion.findings)
        self.labels: dict[int, str] = {}
        self.unusable: set[str] = set()
        """Names of stages that are wrong as a whole; what refers to them is not reported again."""
        self.kinds: list[str] = []
        """Kinds of the stages as given, known or not."""

    def check(self) -> PipelineSpec | None:
        """Return the specification, or None after adding findings."""
        tree = self.expansion.tree
        if not isinstance(tree, dict):
            found = "is empty" if tree is None else "is not a mapping of options"
            self.findings.append(Finding((), f"the pipeline {found}; it begins with name: and input:", None, False))
            return None
        version = tree.get("version")
        if isinstance(version, int) and version > SPEC_VERSION:
            message = (
                f"this file is version {version} and this curate reads version {SPEC_VERSION}; install a newer one"
            )
            self.findings.append(Finding(("version",), message, None, False))
            return None
        stages = self._stages(tree.get("stages"))
        names = stage_names([(stage.kind, _given_name(stage)) for stage in stages])
        self._names(stages, names)
        for position in range(len(stages)):
            self._references(stages, names, position)
        configs = [self._model(self.registry[stage.kind], stage.options, stage.path) for stage in stages]
        head = self._model(PipelineHead, {key: tree[key] for key in tree if key != "stages"}, ())
        self._sources(tree, stages)
        if head is None or self.findings:
            return None
        entries = []
        for stage, name, config in zip(stages, names, configs, strict=True):
            assert config is not None
            place = self.document.place(("stages", stage.index))
            entries.append(StageEntry(kind=stage.kind, name=name, config=config, line=place.line if place else None))
        given = {field: getattr(head, field) for field in head.model_fields_set}
        return PipelineSpec(**given, stages=tuple(entries))

    def problems(self) -> list[Problem]:
        """Return the findings with their places."""
        return [self._problem(finding) for finding in self.findings]

    def _stages(self, listed: Any) -> list[_Stage]:
        if not isinstance(listed, list) or not listed:
            what = "is required and missing" if listed is None else "must be a list with at least one stage"
            self.findings.append(Finding(("stages",), f"{what}; write stages: and below it - index", None, False))
            return []
        stages: list[_Stage] = []
        for index, entry in enumerate(listed):
            path: Path = ("stages", index)
            if isinstance(entry, str):
                entry = {entry: None}
            if not isinstance(entry, dict) or len(entry) != 1:
                keys = ", ".join(map(shown, entry)) if isinstance(entry, dict) else ""
                message = "must be the name of one stage, or one stage with its options"
                if keys:
                    message += f"; this item has {keys}: indent options below their stage, begin each stage with -"
                self.findings.append(Finding(path, message, None, not keys and entry is not None))
                self.unusable.add("")
                continue
            kind, options = next(iter(entry.items()))
            self.labels[index] = kind
            self.kinds.append(kind)
            if kind not in self.registry or (options is not None and not isinstance(options, dict)):
                given = options.get("name") if isinstance(options, dict) else None
                self.unusable.add(given if isinstance(given, str) else kind)
            if kind not in self.registry:
                close = nearest(kind, self.registry)
                known = "" if close else f"; the stages are {', '.join(self.registry)}"
                self.findings.append(Finding((*path, kind), f"unknown stage{known}", close, False))
            elif options is not None and not isinstance(options, dict):
                self.findings.append(Finding((*path, kind), "must be a mapping of options"))
            else:
                stages.append(_Stage(index, kind, options or {}))
        return stages

    def _sources(self, tree: dict[str, Any], stages: list[_Stage]) -> None:
        """A stage that makes its samples stands alone and without an input; all others need one."""
        source = next((stage for stage in stages if self.registry[stage.kind].makes_samples), None)
        if source is None:
            close = [kind if kind in self.registry else nearest(kind, self.registry) for kind in self.kinds]
            meant = any(self.registry[kind].makes_samples for kind in close if kind is not None)
            if tree.get("input") is None and not meant:
                message = "must be a mapping of options" if "input" in tree else "this option is required and missing"
                self.findings.append(Finding(("input",), message, None, False))
            return
        if tree.get("input") is not None:
            message = f"{source.kind} makes its samples and reads none; take input: out"
            self.findings.append(Finding(("input",), message, None, False))
        to = source.options.get("to")
        shards = f"{to if isinstance(to, str) else f'<folder of {source.kind}>'}/*.tar"
        if len(tree["stages"]) > 1:
            message = (
                f"{source.kind} stands alone in its pipeline; other stages go into a second one, which reads what this "
                f'one writes with input: {{shards: "{shards}"}}'
            )
            self.findings.append(Finding(source.path, message, None, False))

    def _names(self, stages: list[_Stage], names: list[str]) -> None:
        first: dict[str, _Stage] = {}
        for stage, name in zip(stages, names, strict=True):
            path = (*stage.path, "name")
            if name in first:
                other = self.document.place((*first[name].path, "name"))
                where = f"on line {other.line}" if other else f"as stages[{first[name].index}]"
                message = f"two stages are named {shown(name)}, the other one {where}; rename one"
                self.findings.append(Finding(path, message, None, False))
                continue
            first[name] = stage
            self.labels[stage.index] = name
            try:
                check_slug(name)
            except ValueError as error:
                self.findings.append(Finding(path, str(error)))

    def _references(self, stages: list[_Stage], names: list[str], position: int) -> None:
        stage = stages[position]
        for field, reference in references_of(self.registry[stage.kind]).items():
            wanted = reference.kinds | reference.named
            known = {name: s.kind for s, name in zip(stages, names, strict=True) if s.kind in wanted}
            earlier = list(dict.fromkeys(name for name in names[:position] if name in known))
            given = stage.options.get(field)
            path = (*stage.path, field)
            if given is None:
                nameless = [name for name in earlier if known[name] in reference.kinds]
                self._default_reference(stage, path, reference, nameless)
                continue
            for item in given if isinstance(given, list) else [given]:
                if not isinstance(item, str) or item in earlier or item in self.unusable or item in reference.words:
                    continue
                kinds = " or ".join(sorted(wanted))
                have = f"; the earlier ones are {', '.join(earlier)}" if earlier else "; there is none before this one"
                if item == names[position] or item in names[position + 1 :]:
                    message = f"a stage can only refer to an earlier one, and {shown(item)} is not earlier{have}"
                elif item in names:
                    message = f"{shown(item)} is not a {kinds} stage{have}"
                else:
                    message = f"no {kinds} stage has this name{have}"
                self.findings.append(Finding(path, message, nearest(item, earlier)))

    def _default_reference(self, stage: _Stage, path: Path, reference: Reference, earlier: list[str]) -> None:
        # Kinds outside the registry are made by other stages; whether they exist is known when the run is planned.
        known = reference.kinds <= set(self.registry)
        if earlier or self.unusable or reference.optional or reference.follow is not None or not known:
            return
        default = self.registry[stage.kind].model_fields[path[-1]].default  # type: ignore[index]
        if default is None:
            kinds = " or ".join(sorted(reference.kinds))
            message = f"needs an earlier stage of kind {kinds}; add one before this stage"
            self.findings.append(Finding(path, message, None, False))

    def _model(self, model: type[M], options: dict[str, Any], base: Path) -> M | None:
        """Validate `options`, which stand at `base`; a value from a variable may be read as text or as typed."""
        result: M | None = None
        errors: list[ErrorDetails] = []
        for _ in range(2):
            result, errors = None, []
            try:
                # JSON mode: a list may become a tuple, but text never a number and true never 1.
                result = model.model_validate_json(json.dumps(options), strict=True)
            except ValidationError as error:
                errors = error.errors(include_url=False)
            retry = False
            for wrong in errors:
                path = sentences.error_path(options, wrong)
                full = (*base, *path)
                if sentences.is_type_error(wrong) and full in self.expansion.other:
                    options = _replaced(options, path, self.expansion.other.pop(full))
                    retry = True
            if not retry:
                break
        infinite = [(*base, *path) for path in _numbers(options)]
        self.findings += [Finding(path, "must be a finite number") for path in infinite]
        done = {finding.path for finding in self.findings}
        for finding in sentences.findings(errors, options, model):
            path = (*base, *finding.path)
            if path not in done:
                self.findings.append(Finding(path, finding.message, finding.suggestion, finding.show_value))
        return None if infinite else result

    def _problem(self, finding: Finding) -> Problem:
        path = finding.path
        # Values are shown as written: what a variable holds may be a secret.
        exists, value = at_path(self.expansion.unexpanded, path)
        text = shown(value) if finding.show_value and exists and not isinstance(value, dict) else None
        label = _label(path, self.labels)
        if any(path[: len(set_path)] == set_path for set_path in self.overridden.paths):
            return Problem(OVERRIDE, None, None, label, text, finding.message, finding.suggestion)
        place = self.document.place(path, key=finding.message.startswith("unknown"))
        line, column = (place.line, place.column) if place else (None, None)
        return Problem(self.name, line, column, label, text, finding.message, finding.suggestion)


def _given_name(stage: _Stage) -> str | None:
    name = stage.options.get("name")
    return name if isinstance(name, str) else None


def _order(problem: Problem) -> tuple[bool, int, int]:
    return (problem.file == OVERRIDE, problem.line or 0, problem.column or 0)


def _label(path: Path, labels: Mapping[int, str]) -> str:
    """Return a path as `--set` takes it: stages by name where they have one of their own."""
    if path[:1] == ("stages",) and len(path) >= 3 and isinstance(path[1], int):
        name = labels.get(path[1], str(path[1]))
        if list(labels.values()).count(name) > 1:
            name = str(path[1])
        path = ("stages", name, *path[3:])
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{shown(step)}" if text else shown(step)
    return text


def _numbers(tree: Any, path: Path = ()) -> list[Path]:
    """Return the paths of NaN and infinities, which no option takes."""
    if isinstance(tree, dict):
        return [found for key, value in tree.items() for found in _numbers(value, (*path, key))]
    if isinstance(tree, list):
        return [found for index, value in enumerate(tree) for found in _numbers(value, (*path, index))]
    return [path] if isinstance(tree, float) and not math.isfinite(tree) else []


def _replaced(tree: Any, path: Path, value: Any) -> Any:
    if not path:
        return value
    if isinstance(tree, list):
        return [_replaced(item, path[1:], value) if index == path[0] else item for index, item in enumerate(tree)]
    return {key: _replaced(item, path[1:], value) if key == path[0] else item for key, item in tree.items()}


def _read(source: str | os.PathLike[str] | Mapping[str, Any], name: str | None) -> tuple[locate.Document, str]:
    if isinstance(source, Mapping):
        name = name or "<mapping>"
        return locate.Document(_plain_tree(source, (), name)), name
    if isinstance(source, str) and "\n" in source:
        name = name or "<text>"
        return locate.parse(source, name), name
    name = name or shown(os.fspath(source), MAX_PATH)
    return locate.parse(_bytes(os.fspath(source), name), name), name


def _bytes(source: str, name: str) -> bytes:
    limit = locate.MAX_BYTES + 1
    try:
        if "://" in source:
            with urls.open_read(source) as remote:
                return remote.read(limit)
        with FilePath(source).open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        message = "no such file"
    except InputError as error:
        message = "no such file" if isinstance(error.__cause__, FileNotFoundError) else str(error)
    except (OSError, ValueError, ImportError) as error:
        message = f"cannot be read: {error}"
    raise SpecProblems([Problem(name, None, None, "", None, message)]) from None


def _plain_tree(value: Any, path: Path, name: str) -> Any:
    """Return mappings, sequences, paths and numbers of other libraries as the types that YAML gives."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain_tree(item, (*path, str(key)), name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_tree(item, (*path, index), name) for index, item in enumerate(value)]
    item = getattr(value, "item", None)
    if callable(item) and isinstance(number := item(), bool | int | float | str):
        return number
    message = f"a value of type {type(value).__name__} has no place in a pipeline"
    raise SpecProblems([Problem(name, None, None, _label(path, {}), None, message)])
