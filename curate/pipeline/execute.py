"""Run the steps of a plan on an engine. Done is what is stored: nothing else decides whether work is left."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

from curate.engine import exchange
from curate.engine.base import Engine, Need
from curate.errors import StorageError
from curate.pipeline import jobs
from curate.pipeline.plan import Plan, Step, layer
from curate.pipeline.reporting import Reporter
from curate.stages.base import Stage, Totals
from curate.stages.part import Twin
from curate.stages.sink import Lost, Sink, Source
from curate.store.artifacts import marker
from curate.store.columns import PartEntry, part_file
from curate.store.contents import write_contents
from curate.store.groups import Group, group_file, read_group, write_group
from curate.store.workspace import Workspace

JobArguments = tuple[Workspace, str, Stage[Any], str, str]
"""What every job begins with: workspace, step, stage, folder, fingerprint of the whole."""
LIGHT = Need(cpus=1.0)
_PART = re.compile(r"part-(\d{5,})\.([0-9a-f]{12})\.parquet")
_CONTENTS = re.compile(r"contents\.[0-9a-f]{12}\.parquet")


@dataclass
class StepResult:
    """What happened in one step."""

    group: Group | None
    seconds: float
    reused_parts: int
    parts: int
    """Parts in all, or units of a sink."""
    sink: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, int] = field(default_factory=dict)
    """Counts of the work done in this run."""


class Executor:
    """Runs steps in order and remembers only counts between them. Memory: the part entries of the current step."""

    def __init__(self, plan: Plan, engine: Engine, reporter: Reporter) -> None:
        self.plan, self.engine, self.reporter = plan, engine, reporter
        self.rows = 0
        self.alive: dict[str, int] = {}
        self.alive_parts: list[int] = [0] * len(plan.sources)
        self.rows_parts: list[int] = [0] * len(plan.sources)

    @property
    def alive_now(self) -> int | None:
        """Samples still in; None before the index."""
        return next(reversed(self.alive.values())) if self.alive else (self.rows or None)

    def run(self, step: Step) -> StepResult:
        """Bring one step to its end, whatever of it is stored already."""
        start = time.monotonic()
        result = self._sink(step, start) if isinstance(step.stage, Sink) else self._group(step, start)
        if isinstance(step.stage, Source):
            self.rows = int(result.sink["samples"])
        if result.group is not None:
            if not self.rows:
                self.rows = result.group.rows
                self.rows_parts = [entry.rows for entry in result.group.parts]
                self.alive_parts = self.rows_parts
            if result.group.drops:
                self.alive[step.name] = result.group.alive or 0
                self.alive_parts = [entry.alive or 0 for entry in result.group.parts]
        return result

    # --- column groups ----------------------------------------------------------------------------------------------

    def _group(self, step: Step, start: float) -> StepResult:
        workspace = self.plan.workspace
        listing = workspace.listing(step.folder)
        files = [part_file(index, fp) for index, fp in enumerate(step.parts)]
        there = {index for index, file in enumerate(files) if file in listing}
        finished = group_file(step.group) in listing and len(there) == len(files)
        if finished and (not step.stage.has_reduce() or marker(step.whole) in listing):
            group = read_group(workspace, step.folder, step.group)
            self.reporter.reused(step.name, len(files))
            return StepResult(group, time.monotonic() - start, len(files), len(files))
        job = (workspace, step.name, step.stage, step.folder, step.whole)
        missing = [index for index in range(len(files)) if index not in there]
        if step.stage.has_reduce() and marker(step.whole) not in listing:
            self._reduce(step, job)
        # where parts depend on earlier ones only, all of them may be stored while the tables of this input are not
        open_tables = step.stage.depends == "earlier" and group_file(step.group) not in listing
        buckets = self._exchange(step, job) if step.stage.has_exchange() and (missing or open_tables) else None
        entries: dict[int, PartEntry] = {}
        stored = [self._parts(step, [index]) for index in sorted(there)]
        for read in self._map(step, "reading", jobs.ReadEntries(*job), stored, LIGHT, quiet=True):
            entries.update({entry.part: entry for entry in read})
        size = 1 if buckets is None else len(exchange.part_groups(len(files))[0])
        twins, contents = _stored_rows(step, listing, missing)
        todo = [self._parts(step, group, twins=twins) for group in _groups(missing, size)]
        facts: Counter[str] = Counter()
        work = jobs.MapParts(*job, buckets, contents)
        for mapped in self._map(step, "", work, todo, _need(step), done=len(there)):
            entries.update({entry.part: entry for entry in mapped.entries})
            facts.update(mapped.facts)
        group = Group(
            step=step.name,
            kind=step.kind,
            folder=step.folder,
            fingerprint=step.group,
            config=step.stage.config.model_dump(mode="json"),
            columns={name: str(dtype) for name, dtype in step.stage.schema().items()},
            artifacts=step.whole if step.stage.has_reduce() else None,
            drops=step.stage.drops,
            quarantines=step.stage.quarantines,
            parts=[entries[index] for index in range(len(files))],
        )
        if step.stage.reuses_rows:
            write_contents(workspace, step.folder, step.whole, group.parts)
        write_group(workspace, group)
        workspace.sweep(step.folder)
        workspace.remove(f"scratch/{step.folder}")
        return StepResult(group, time.monotonic() - start, len(there), len(files), facts=dict(facts))

    def _totals(self, step: Step) -> Totals:
        layers = []
        for earlier in self.plan.steps:
            if earlier is step:
                break
            layers.append(layer(earlier, -1))
        alive = self.alive[step.alive_from] if step.alive_from else self.rows
        return Totals(self.plan.workspace, tuple(layers), self.rows, alive, dict(self.alive))

    def _reduce(self, step: Step, job: JobArguments) -> None:
        totals, number, again = self._totals(step), 0, True
        need = _need(step, model=False) if step.stage.has_merge() else LIGHT
        while again:
            summarise = jobs.Summarise(*job, totals, number)
            spans = jobs.summarised(self.plan.workspace.listing(summarise.folder_of(number)))
            there = {index for first, last in spans for index in range(first, last + 1)}
            missing = [index for index in range(len(step.parts)) if index not in there]
            todo = self._shares(missing, need) if step.stage.has_merge() else [[index] for index in missing]
            phase = "summary" if number == 0 else f"summary {number + 1}"
            items = [self._parts(step, share) for share in todo]
            unit = "share" if step.stage.has_merge() else "part"
            for _ in self._map(step, phase, summarise, items, need, unit=unit):
                pass
            # a run that stopped in a later pass left the state that this one ended with
            again = jobs.STATE_FILE in self.plan.workspace.listing(summarise.folder_of(number + 1))
            if not again:
                spans = sorted([*spans, *((share[0], share[-1]) for share in todo)])
                reduce = jobs.Reduce(*job, totals, number, spans)
                (again,) = self._map(step, "reduce", reduce, [step.name], _need(step, model=False), unit="step")
            number += 1

    def _shares(self, parts: list[int], need: Need) -> list[list[int]]:
        """Neighbouring parts cut into about as many shares of alive rows as there are workers: each worker hands
        over one merged summary a pass. A share has no gaps.
        """
        if not parts:
            return []
        done = np.cumsum([self.alive_parts[index] + 1 for index in parts])
        share = ((done - 1) * max(1, self.engine.workers(need)) // int(done[-1])).tolist()
        cuts = [i for i in range(1, len(parts)) if share[i] != share[i - 1] or parts[i] != parts[i - 1] + 1]
        return [parts[start:stop] for start, stop in pairwise([0, *cuts, len(parts)])]

    def _exchange(self, step: Step, job: JobArguments) -> int:
        workspace = self.plan.workspace
        artifacts = jobs.Job(*job).opened()[1] if step.stage.has_reduce() else {}
        buckets = step.stage.buckets(artifacts, self._totals(step))
        folder = f"scratch/{step.folder}/{step.whole}"
        listing = workspace.listing(folder)
        groups = exchange.part_groups(len(step.parts))
        todo = [
            self._parts(step, list(group), run)
            for run, group in enumerate(groups)
            if exchange.run_marker(run) not in listing
        ]
        for _ in self._map(step, "emit", jobs.Emit(*job, buckets), todo, LIGHT):
            pass
        work = [b for b in range(buckets.n) if exchange.bucket_marker(b) not in listing]
        for _ in self._map(step, "buckets", jobs.WorkBucket(*job, len(groups)), work, _need(step), unit="bucket"):
            pass
        return buckets.n

    # --- sinks --------------------------------------------------------------------------------------------------------

    def _sink(self, step: Step, start: float) -> StepResult:
        stage, workspace = step.stage, self.plan.workspace
        assert isinstance(stage, Sink)
        listing = workspace.listing(step.folder)
        target = stage.target(workspace, step.whole)
        report_file = f"finished.{step.whole}.json"
        if report_file in listing:
            report = json.loads(workspace.read(f"{step.folder}/{report_file}"))
            report["url"] = target.url  # the workspace may have moved since
            if stage.intact(report, target):
                self.reporter.reused(step.name, report["units"], "file")
                return StepResult(None, time.monotonic() - start, report["units"], report["units"], report)
        job = (workspace, step.name, stage, step.folder, step.whole)
        if report_file in listing or marker(step.whole) not in listing:
            # the marker of the reduce stands for the claim: from there on, what lies in the target is ours
            self._claim(step, target)
            for name in (name for name in listing if f".{step.whole}." in name):
                workspace.remove(f"{step.folder}/{name}")
            listing = {}
            self._reduce(step, job)
        artifacts = jobs.Job(*job).opened()[1]
        units = stage.units(artifacts, len(step.parts))
        todo = [unit for unit in units if jobs.unit_marker(unit, step.whole) not in listing]
        items = (jobs.UnitItem(unit, tuple(self.plan.part(index, step.name) for index in unit.parts)) for unit in todo)
        write = jobs.WriteUnit(*job, target)
        for _ in self._map(step, "", write, items, LIGHT, total=len(todo), unit="file", done=len(units) - len(todo)):
            pass
        markers = (f"{step.folder}/{jobs.unit_marker(unit, step.whole)}" for unit in units)
        try:
            report = stage.finish((json.loads(workspace.read(name)) for name in markers), artifacts, target)
        except Lost:
            for unit in units:  # the markers say more than is there: the next run writes all units again
                workspace.remove(f"{step.folder}/{jobs.unit_marker(unit, step.whole)}")
            raise
        target.sweep()
        report["units"] = len(units)
        workspace.put(f"{step.folder}/{report_file}", json.dumps(report).encode())
        workspace.remove(f"scratch/{step.folder}")
        return StepResult(None, time.monotonic() - start, len(units) - len(todo), len(units), report)

    def _claim(self, step: Step, target: Workspace) -> None:
        """A folder that holds something else is never written into."""
        if foreign := sorted([*target.listing(), *target.folders()]):
            raise StorageError(
                f"stage {step.name} is to write to {target.where()}, which already holds {foreign[0]}"
                f"{f' and {len(foreign) - 1} more files' if len(foreign) > 1 else ''}; "
                "choose another folder with `to`, or empty this one"
            )

    # --- one map ------------------------------------------------------------------------------------------------------

    def _parts(
        self, step: Step, indices: list[int], run: int = 0, twins: Mapping[int, tuple[Twin, ...]] | None = None
    ) -> jobs.Parts:
        parts = (
            replace(
                self.plan.part(index, step.name),
                fingerprint=step.parts[index],
                twins=(twins or {}).get(index, ()),
                retry=index in step.again,
            )
            for index in indices
        )
        return jobs.Parts(tuple(parts), run)

    def _map(
        self,
        step: Step,
        phase: str,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        need: Need,
        *,
        total: int | None = None,
        unit: str = "part",
        done: int = 0,
        quiet: bool = False,
    ) -> Iterable[Any]:
        if total is None:
            items = list(items)
            total = len(items)
        if not total:
            return
        with self.reporter.phase(step.name, phase, total + done, unit, done, quiet) as progress:
            for finished in self.engine.map(function, items, need):
                progress.advance(1, self._rows_of(finished.item))
                yield finished.result

    def _rows_of(self, item: Any) -> int:
        if isinstance(item, jobs.UnitItem):
            return item.unit.samples
        return int(np.sum([self.alive_parts[p.index] for p in item.parts])) if isinstance(item, jobs.Parts) else 0


def _stored_rows(
    step: Step, listing: Iterable[str], missing: list[int]
) -> tuple[dict[int, tuple[Twin, ...]], tuple[str, ...]]:
    """Where stored rows may be found for parts that are to be computed: other states of each, and the tables of what
    parts hold which content. Nothing for a stage that reuses no rows.
    """
    if not step.stage.reuses_rows:
        return {}, ()
    wanted, found, tables = set(missing), dict[int, list[Twin]](), []
    for name in sorted(listing):
        if match := _PART.fullmatch(name):
            part = int(match[1])
            if part in wanted:
                found.setdefault(part, []).append(Twin(step.folder, part, match[2]))
        elif _CONTENTS.fullmatch(name):
            tables.append(name)
    return {part: tuple(twins) for part, twins in found.items()}, tuple(tables)


def _groups(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _need(step: Step, model: bool = True) -> Need:
    resources = step.stage.resources()
    return Need(resources.cpus, resources.gpus, step.folder if resources.model and model else None)
