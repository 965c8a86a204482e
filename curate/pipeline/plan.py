"""From a checked specification to steps with folders and fingerprints: what a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, repeat
from typing import Any, Literal

import polars as pl

from curate.errors import CurateError, ExitCode, ModelError, SpecError
from curate.formats.archive import list_archive
from curate.formats.clip_retrieval import list_embeddings
from curate.formats.datacomp_metadata import CAPTION, FIELDS, list_ranges
from curate.formats.folder import list_folder
from curate.formats.img2dataset import with_sidecars
from curate.formats.labels import open_labels
from curate.formats.samples import IndexOptions
from curate.formats.shards import expand_shards, records_of
from curate.formats.sources import PartSource, plan_parts
from curate.pipeline.locate import Place
from curate.pipeline.problems import Path, Problem, SpecProblems
from curate.pipeline.retries import Retries, read_retries
from curate.pipeline.spec import PipelineSpec, StageEntry, references_of
from curate.stages import STAGES, registry
from curate.stages.base import Context, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Layer, Part
from curate.stages.sink import Sink
from curate.store.fingerprint import combine, fingerprint
from curate.store.workspace import Workspace


@dataclass
class Step:
    """One stage of the run, with everything that decides its result."""

    name: str
    stage: Stage[Any]
    folder: str
    alive_from: str | None
    """Name of the nearest earlier step that drops samples."""
    own: str = ""
    """Fingerprint of what holds for all parts: kind, version, options, folders read."""
    inputs: list[Step] = field(default_factory=list)
    """Earlier steps whose columns decide the result, the nearest that drops included."""
    parts: list[str] = field(default_factory=list)
    """Fingerprint of each part."""
    again: set[int] = field(default_factory=set)
    """Parts that were tried again (--retry-failed)."""
    whole: str = ""
    """Fingerprint of all parts and artifacts read: names what a reduce or an exchange makes."""

    @property
    def kind(self) -> str:
        """Kind of stage."""
        return self.stage.kind

    @property
    def group(self) -> str:
        """Fingerprint of the group: all its parts."""
        return combine(self.parts)


@dataclass
class Plan:
    """A run, resolved."""

    spec: PipelineSpec
    workspace: Workspace
    sources: list[PartSource]
    steps: list[Step]
    total_shards: int
    """Shards of the input before --limit-shards."""
    retries: Retries = field(default_factory=Retries)
    """Parts of this workspace that were tried again."""

    def step(self, name: str) -> Step:
        """A step by name."""
        for step in self.steps:
            if step.name == name:
                return step
        raise SpecError(f"no step named {name}; this pipeline has {', '.join(step.name for step in self.steps)}")

    def part(self, index: int, before: str) -> Part:
        """Part `index` as the step `before` sees it."""
        layers = []
        for step in self.steps:
            if step.name == before:
                break
            if not isinstance(step.stage, Sink):
                layers.append(layer(step, index))
        return Part(self.workspace, index, self.sources[index], tuple(layers))

    @property
    def fingerprint(self) -> str:
        """Names this plan: same input, same options, same results."""
        return combine(step.group if self.sources else step.whole for step in self.steps)

    @property
    def nbytes(self) -> int:
        """Bytes of the input."""
        return sum(source.nbytes for source in self.sources)


def layer(step: Step, index: int) -> Layer:
    """How a later stage finds the columns of a step."""
    return Layer(
        step=step.name,
        kind=step.kind,
        folder=step.folder,
        fingerprint=step.parts[index] if index >= 0 else "",
        columns=tuple(step.stage.schema()),
        drops=step.stage.drops,
        artifacts=step.whole if step.stage.has_reduce() else None,
    )


def make_plan(
    spec: PipelineSpec,
    *,
    limit_shards: int | None = None,
    sample: float | None = None,
    source: str = "pipeline",
    positions: Mapping[Path, Place] | None = None,
) -> Plan:
    """Resolve the input, the steps and all fingerprints; reads no sample.

    Raises InputError for the input, and SpecProblems with everything that is wrong with any stage (an unknown encoder,
    a missing file, a number of samples that cannot be there), each with its place in the file.
    """
    workspace = Workspace(spec.workspace)
    sources, total = input_sources(spec, limit_shards)
    options = input_options(spec, sources)
    if spec.input is None and sample is not None:
        raise SpecError(
            f"--sample takes a share of an input, and {spec.stages[0].name} makes its samples; for a look at the first "
            "ones use --limit-shards 1"
        )
    plan = Plan(spec, workspace, sources, [], total, read_retries(workspace))
    failures: list[tuple[int, str, CurateError]] = []
    for number, entry in enumerate(spec.stages):
        for name, stage_class, config in _expanded(entry, sample):
            try:
                add_step(plan, name, stage_class, config, options, limit_shards)
            except (SpecError, ModelError) as error:
                failures.append((number, entry.kind, error))
    if failures:
        raise _problems(failures, source, positions or {})
    return plan


def _expanded(entry: StageEntry, sample: float | None) -> Iterator[tuple[str, type[Stage[Any]], StageConfig]]:
    """The steps of one stage of the file: itself, and those that always come before or after it."""
    stage_class = registry()[entry.kind]
    for companion, config in stage_class.companions_before(entry.name, entry.config):
        yield config.name or companion.kind, companion, config
    yield entry.name, stage_class, entry.config
    for companion, config in stage_class.companions_after(entry.name, entry.config):
        yield config.name or companion.kind, companion, config
    if entry.kind == "index" and sample is not None:
        sampler = STAGES["sample"]
        yield "sample", sampler, sampler.Config.model_validate({"fraction": sample})


def _problems(
    failures: list[tuple[int, str, CurateError]], source: str, positions: Mapping[Path, Place]
) -> SpecProblems:
    found = []
    for number, kind, error in failures:
        paths: list[Path] = [("stages", number, kind, "model")] if isinstance(error, ModelError) else []
        place = next(
            (positions[p] for p in [*paths, ("stages", number, kind), ("stages", number)] if p in positions), None
        )
        line, column = (place.line, place.column) if place else (None, None)
        found.append(Problem(source, line, column, f"stages.{number}.{kind}", None, str(error)))
    problems = SpecProblems(found)
    if all(isinstance(error, ModelError) for _, _, error in failures):
        problems.exit_code = ExitCode.MODEL
    return problems


def add_step(
    plan: Plan,
    name: str,
    stage_class: type[Stage[Any]],
    config: StageConfig,
    options: IndexOptions,
    limit_shards: int | None = None,
) -> None:
    """Append a step with its fingerprints to the plan. Raises SpecError or ModelError; a step whose check fails is
    appended all the same, so that later steps can be checked too.
    """
    if any(step.name == name for step in plan.steps):
        raise SpecError(f"two steps are named {name}; give one of them another name with the option `name`")
    if bool(plan.steps) == stage_class.first:
        raise SpecError(
            f"{name} stands a second time; one is enough"
            if plan.steps and stage_class.kind == plan.steps[0].kind
            else f"a pipeline begins with index, not with {name}; put - index before it"
        )
    schema: Mapping[str, Mapping[str, pl.DataType]] = {
        step.name: step.stage.schema() for step in plan.steps if not isinstance(step.stage, Sink)
    }
    references = resolve_references(plan.steps, name, config)
    referred = {step.name: step.stage.context.references for step in plan.steps}
    limit = limit_shards if plan.spec.input is None else None
    context = Context(name, plan.spec.seed, options, references, schema, plan.spec.name, referred, limit)
    stage = stage_class(config, context)
    alive = next((s for s in reversed(plan.steps) if s.stage.drops), None)
    step = Step(name, stage, "", alive.name if alive else None, parts=[""] * len(plan.sources))
    plan.steps.append(step)
    stage.check()
    if most := stage.needs_samples():
        _check_enough(plan, name, most)
    reads = [plan.step(read) for read in stage.reads()]
    # a reference counts as what it refers to, not as the name it has
    hashed = config.model_dump(mode="json", exclude={"name", *references, *stage.not_hashed})
    hashed |= {option: plan.step(to).folder if to else None for option, to in references.items()}
    seed = plan.spec.seed if stage.uses_seed else None
    step.own = fingerprint(stage.kind, stage.VERSION, hashed, stage.identity(), seed, [read.folder for read in reads])
    # what a sink works with stays apart from what it writes: the release is complete in itself
    step.folder = f"{name}-work@{step.own}" if isinstance(stage, Sink) else f"{name}@{step.own}"
    step.inputs = list(reads)
    if alive is not None and stage.sees_alive and alive not in step.inputs:
        step.inputs.append(alive)
    name_states(plan, step)


def name_states(plan: Plan, step: Step, again: Container[int] = ()) -> None:
    """Fingerprints of a step from those of the steps before it. again: parts to be tried once more; they are noted in
    `plan.retries` and so get another fingerprint than any stored state.
    """
    artifacts = [read.whole for read in step.inputs if read.name in step.stage.reads() and read.stage.has_reduce()]
    step.whole = fingerprint(step.own, combine(part for read in step.inputs for part in read.parts), artifacts)
    apart = step.stage.depends == "part" or not (step.stage.has_reduce() or step.stage.has_exchange())
    spread: Iterator[str] = repeat("" if apart else step.whole)
    if step.stage.depends == "earlier" and step.inputs and not step.stage.has_reduce():
        spread = accumulate(zip(*(read.parts for read in step.inputs), strict=True), fingerprint, initial="")
        spread = (fingerprint(before, artifacts) for before in spread)
    step.again.clear()
    for index, (source, mixed) in enumerate(zip(plan.sources, spread, strict=False)):
        read = [read.parts[index] for read in step.inputs] if step.inputs else [source.identity()]
        first = fingerprint(step.own, read, mixed)
        if index in again:
            plan.retries.again(step.folder, first)
        if plan.retries.generation(step.folder, first):
            step.again.add(index)
        step.parts[index] = plan.retries.state(step.folder, first)


def _check_enough(plan: Plan, name: str, most: int) -> None:
    """Refuse what cannot be, before work starts: a sample in a tar takes two blocks of 512 bytes at the least."""
    least = {"tar": 1024}  # a row of a table may take next to nothing
    there = sum(len(s.files) if s.kind == "folder" else s.nbytes // least.get(s.kind, 1) for s in plan.sources)
    if most > there:
        raise SpecError(
            f"stage {name} needs {most:,} samples, but the input cannot hold more than {there:,}; lower the number "
            "that it asks for, or give it more input"
        )


def resolve_references(steps: Sequence[Step], name: str, config: StageConfig) -> dict[str, str | None]:
    """Step name for each option that refers to an earlier step; an option left out means the nearest of its kind."""
    resolved: dict[str, str | None] = {}
    for option, reference in references_of(type(config)).items():
        chosen = getattr(config, option)
        if chosen in reference.words:
            resolved[option] = None
            continue
        if chosen is None and reference.follow is not None and resolved[reference.follow] is not None:
            followed = next(s for s in steps if s.name == resolved[reference.follow])
            chosen = followed.stage.context.references.get(option)
        if chosen is None:
            chosen = next((s.name for s in reversed(steps) if s.kind in reference.kinds), None)
        if chosen is None and not reference.optional:
            kinds = " or ".join(sorted(reference.kinds))
            raise SpecError(f"stage {name} needs an earlier {kinds} stage for its option {option}; add one before it")
        resolved[option] = chosen
    return resolved


def input_options(spec: PipelineSpec, sources: Sequence[PartSource]) -> IndexOptions:
    """What the index needs to know of the input."""
    given = spec.input
    if given is None:
        return IndexOptions(input_name=spec.name)
    ready = FIELDS if given.datacomp is not None else {}
    return IndexOptions(
        input_name=given.name or _folder_name(sources) or spec.name,
        image_exts=given.image_extensions,
        caption_ext=given.caption or (CAPTION if given.datacomp is not None else None),
        caption_required=given.caption is not None and given.caption_required,
        label_ext=given.label,
        max_pixels=given.max_pixels,
        max_member_bytes=given.max_bytes,
        fields=tuple((ready | given.fields).items()),
        labels=open_labels(given.labels) if given.labels is not None else None,
        embeddings=given.embeddings,
        datacomp=given.datacomp,
    )


def _folder_name(sources: Sequence[PartSource]) -> str | None:
    """Name of the input's root folder, or of its archive: part of uids, so it must not change with the pipeline's."""
    if not sources:
        return None
    first = sources[0]
    if first.shards and first.shards[0].start:  # a tar inside a tar: the outer one is the collection
        return first.shards[0].url.rpartition("/")[2].removesuffix(".tar") or None
    root = first.root if first.kind == "folder" else first.shards[0].url.removesuffix(first.shards[0].rel)
    return root.rstrip("/").rpartition("/")[2] or None


def input_sources(spec: PipelineSpec, limit: int | None) -> tuple[list[PartSource], int]:
    """The parts of the input, of its first `limit` shards if given, and the number of shards there are in all; none
    where the first stage makes its samples.
    """
    given = spec.input
    if given is None:
        return [], 0
    if given.folder is not None:
        parts = list(list_folder(given.folder, given.image_extensions, given.files_per_part).parts)
        return (parts if limit is None else parts[:limit]), len(parts)
    kind: Literal["tar", "parquet", "embeddings", "datacomp"] = "tar"
    if given.embeddings is not None:
        shards, kind = list_embeddings(given.embeddings), "embeddings"
    elif given.datacomp is not None:
        shards, kind = list_ranges(given.datacomp), "datacomp"
    elif given.parquet is not None:
        shards, kind = expand_shards(list(given.shard_list), ".parquet"), "parquet"
    elif given.archive is not None:
        shards = list_archive(given.archive)
    else:
        shards = expand_shards(list(given.shard_list))
    kept = shards if limit is None else shards[:limit]
    if given.shards is not None:
        kept = with_sidecars(kept, given.upstream, records_of)
    return plan_parts(kept, given.shards_per_part, kind), len(shards)
