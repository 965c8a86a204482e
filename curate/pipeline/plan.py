"""From a checked specification to steps with folders and fingerprints: what a run would do, without doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from curate.errors import SpecError
from curate.pipeline.spec import PipelineSpec, references_of
from curate.stages import STAGES, registry
from curate.stages.base import Context, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Layer, Part
from curate.stages.sink import Sink
from curate.store.fingerprint import combine, fingerprint
from curate.store.inputs import PartSource, expand_shards, list_folder, plan_parts
from curate.store.samples import IndexOptions
from curate.store.workspace import Workspace


@dataclass
class Step:
    """One stage of the run, with everything that decides its result."""

    name: str
    stage: Stage[Any]
    folder: str
    alive_from: str | None
    """Name of the nearest earlier step that drops samples."""
    parts: list[str] = field(default_factory=list)
    """Fingerprint of each part."""
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
            if step.name == before or isinstance(step.stage, Sink):
                break
            layers.append(layer(step, index))
        return Part(self.workspace, index, self.sources[index], tuple(layers))

    @property
    def fingerprint(self) -> str:
        """Names this plan: same input, same options, same results."""
        return combine(step.group for step in self.steps)

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


def make_plan(spec: PipelineSpec, *, limit_shards: int | None = None, sample: float | None = None) -> Plan:
    """Resolve the input, the steps and all fingerprints. Raises SpecError, InputError, ModelError; reads no sample."""
    workspace = Workspace(spec.workspace)
    sources, total = _sources(spec, limit_shards)
    options = input_options(spec, sources)
    plan = Plan(spec, workspace, sources, [], total)
    kinds: list[tuple[str, type[Stage[Any]], StageConfig]] = []
    known = registry()
    for entry in spec.stages:
        stage_class = known[entry.kind]
        for companion, config in stage_class.companions_before(entry.name, entry.config):
            kinds.append((config.name or companion.kind, companion, config))
        kinds.append((entry.name, stage_class, entry.config))
        for companion, config in stage_class.companions_after(entry.name, entry.config):
            kinds.append((config.name or companion.kind, companion, config))
        if entry.kind == "index" and sample is not None:
            sampler = STAGES["sample"]
            kinds.append(("sample", sampler, sampler.Config.model_validate({"fraction": sample})))
    for name, stage_class, config in kinds:
        if any(step.name == name for step in plan.steps):
            raise SpecError(f"two steps are named {name}; give one of them another name with the option `name`")
        add_step(plan, name, stage_class, config, options)
    return plan


def add_step(plan: Plan, name: str, stage_class: type[Stage[Any]], config: StageConfig, options: IndexOptions) -> None:
    """Append a step with its fingerprints to the plan. Raises SpecError, ModelError."""
    schema: Mapping[str, Mapping[str, pl.DataType]] = {step.name: step.stage.schema() for step in plan.steps}
    context = Context(
        name, plan.spec.seed, options, resolve_references(plan.steps, name, config), schema, plan.spec.name
    )
    stage = stage_class(config, context)
    stage.check()
    reads = [plan.step(read) for read in stage.reads()]
    hashed = config.model_dump(mode="json", exclude={"name", *stage.not_hashed})
    seed = plan.spec.seed if stage.uses_seed else None
    own = fingerprint(stage.kind, stage.VERSION, hashed, stage.identity(), seed, [read.folder for read in reads])
    alive = next((s for s in reversed(plan.steps) if s.stage.drops), None)
    # what a sink works with stays apart from what it writes: the release is complete in itself
    folder = f"{name}-work@{own}" if isinstance(stage, Sink) else f"{name}@{own}"
    step = Step(name, stage, folder, alive.name if alive else None)
    inputs = list(reads)
    if alive is not None and stage.sees_alive and alive not in inputs:
        inputs.append(alive)
    step.whole = fingerprint(
        own,
        combine(part for read in inputs for part in read.parts),
        [read.whole for read in reads if read.stage.has_reduce()],
    )
    for index, source in enumerate(plan.sources):
        made_from = [read.parts[index] for read in inputs] if inputs else [source.identity()]
        spread = step.whole if stage.has_reduce() or stage.has_exchange() else ""
        step.parts.append(fingerprint(own, made_from, spread))
    plan.steps.append(step)


def resolve_references(steps: Sequence[Step], name: str, config: StageConfig) -> dict[str, str | None]:
    """Step name for each option that refers to an earlier step; an option left out means the nearest of its kind."""
    resolved: dict[str, str | None] = {}
    for option, reference in references_of(type(config)).items():
        chosen = getattr(config, option)
        if chosen is None and reference.follow is not None:
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
    return IndexOptions(
        input_name=spec.input.name or _folder_name(sources) or spec.name,
        image_exts=given.image_extensions,
        caption_ext=given.caption,
        caption_required=given.caption is not None and given.caption_required,
        label_ext=given.label,
        max_pixels=given.max_pixels,
        max_member_bytes=given.max_bytes,
    )


def _folder_name(sources: Sequence[PartSource]) -> str | None:
    """Name of the input's root folder: part of uids, so it must not change with the pipeline's name."""
    if not sources:
        return None
    first = sources[0]
    root = first.root if first.kind == "folder" else first.shards[0].url.removesuffix(first.shards[0].rel)
    return root.rstrip("/").rpartition("/")[2] or None


def _sources(spec: PipelineSpec, limit: int | None) -> tuple[list[PartSource], int]:
    given = spec.input
    if given.folder is not None:
        parts = list(list_folder(given.folder, given.image_extensions, given.files_per_part).parts)
        return (parts if limit is None else parts[:limit]), len(parts)
    shards = expand_shards(list(given.shard_list))
    kept = shards if limit is None else shards[:limit]
    return plan_parts(kept, given.shards_per_part), len(shards)
