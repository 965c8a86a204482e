"""The Python API: `curate.run(spec)` and the run it gives back, with the same words as the command line."""

from __future__ import annotations

import contextlib
import shlex
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from curate.engine.auth import choose_auth
from curate.engine.base import Engine, InlineEngine
from curate.engine.events import EventLog
from curate.engine.job import copied_folder
from curate.errors import CurateError, ExitCode, InputError, SpecError, Terminated
from curate.formats.sources import PartSource
from curate.pipeline import lazy, letters
from curate.pipeline.added_lists import with_lists
from curate.pipeline.execute import Executor, StepResult
from curate.pipeline.load import Loaded, load
from curate.pipeline.plan import Plan, make_plan
from curate.pipeline.reporting import Reporter
from curate.pipeline.retries import Retried
from curate.pipeline.runfile import RunFile, StepRecord, read_run, versions
from curate.pipeline.vectors import Vectors
from curate.stages import configs
from curate.stages.cluster import ClusterStage
from curate.stages.embed import EmbedStage
from curate.stages.relabel import RelabelStage
from curate.stages.sink import Source as SourceStage
from curate.store.groups import Group
from curate.store.workspace import Workspace

Source = str | PathLike[str] | Mapping[str, Any]


def prepare(
    source: Source,
    *,
    overrides: Sequence[str] = (),
    limit_shards: int | None = None,
    sample: float | None = None,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
) -> tuple[Loaded, Plan]:
    """Read and check a pipeline, and plan it. Raises SpecError, InputError, ModelError; writes nothing."""
    loaded = with_lists(load(source, registry=configs(), overrides=overrides), allow, deny)
    plan = make_plan(
        loaded.spec,
        limit_shards=limit_shards,
        sample=sample,
        source=loaded.source_name,
        positions=loaded.positions,
    )
    return loaded, plan


def run(
    source: Source,
    *,
    overrides: Sequence[str] = (),
    limit_shards: int | None = None,
    sample: float | None = None,
    retry_failed: bool = False,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    address: str | None = None,
    workers: int | None = None,
    quiet: bool = True,
    console: Console | None = None,
) -> Run:
    """Run a pipeline to its end, reusing whatever of it is stored already.

    source: path or URL of a pipeline file, or the same as a dict. overrides: texts such as "stages.prune.keep=0.3".
    limit_shards, sample: pilot runs on the first shards or a share of the samples. retry_failed: samples that were set
    aside before are tried again; `record.retried` says what came of it. allow, deny: files of uids for a `lists` stage
    right before the release. address: a Ray cluster; otherwise a local Ray
    with `workers` CPUs (default: all) is started and stopped; workers=0 runs everything in this process.
    Raises SpecError, InputError, ModelError before work starts; StorageError and EngineError later. A bad sample is not
    an error: see `Run.quarantined`.
    """
    loaded, plan = prepare(
        source, overrides=overrides, limit_shards=limit_shards, sample=sample, allow=allow, deny=deny
    )
    _refuse_copy(plan.workspace)
    plan.workspace.check_writable()
    console = console or Console(stderr=True, quiet=quiet, markup=False, emoji=False, highlight=False)
    retry = letters.find(plan) if retry_failed else None
    engine = _engine(plan, address, workers)
    try:
        return _run(loaded, plan, engine, console, quiet, limit_shards, sample, retry)
    finally:
        engine.close()


def _refuse_copy(workspace: Workspace) -> None:
    """In a Ray job the working directory is a copy that Ray deletes: a run kept there would be lost."""
    copy = copied_folder()
    if copy is not None and workspace.is_local and Path(workspace.path()).is_relative_to(copy):
        raise SpecError(
            f"workspace {workspace.url} lies in the job's copy of its working directory, which Ray deletes; give an "
            "absolute path that every machine sees, or a URL: --set workspace=/shared/run"
        )


def _engine(plan: Plan, address: str | None, workers: int | None) -> Engine:
    if workers == 0:
        return InlineEngine()
    memory = [s.url for source in plan.sources for s in source.shards[:1] if s.url.startswith("memory:")]
    if memory or plan.workspace.url.startswith("memory:"):
        raise SpecError("memory:// exists in one process only; run with workers=0 (--workers 0), or use a folder")
    choose_auth(address)
    from curate.engine.ray_engine import RayEngine

    return RayEngine(address, workers)


def _run(
    loaded: Loaded,
    plan: Plan,
    engine: Engine,
    console: Console,
    quiet: bool,
    limit_shards: int | None,
    sample: float | None,
    retry: letters.Letters | None,
) -> Run:
    workspace = plan.workspace
    _resolve_devices(plan, engine)
    driver = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
    events = EventLog(workspace, driver)
    reporter = Reporter(console, events, quiet)
    if retry is not None:
        letters.begin(plan, retry, engine, reporter)
    record = RunFile(
        name=plan.spec.name,
        plan=plan.fingerprint,
        command=shlex.join(["curate", *sys.argv[1:]]) if sys.argv[0].endswith("curate") else "curate.run(...)",
        spec=loaded.unexpanded,
        source=loaded.source_name,
        limit_shards=limit_shards,
        sample=sample,
        driver=driver,
        started=time.time(),
        engine=engine.describe(),
        versions=versions(),
        input_bytes=plan.nbytes,
        parts=len(plan.sources),
        truth=_truth(plan),
        shards=sum(max(1, len(source.shards)) for source in plan.sources),
        steps=[
            StepRecord(
                name=step.name,
                kind=step.kind,
                folder=step.folder,
                group=step.group if step.stage.columns() or step.stage.drops else None,
                whole=step.whole,
                quarantines=step.stage.quarantines,
                parts=step.stage.outlook().shards if isinstance(step.stage, SourceStage) else len(step.parts),
                facts=step.stage.facts(),
            )
            for step in plan.steps
        ],
    )
    record.write(workspace)
    events.emit("run", name=record.name, plan=record.plan, engine=record.engine)
    executor = Executor(plan, engine, reporter)
    width = max(len(entry.name) for entry in record.steps)
    try:
        with events.heartbeat():
            for step, entry in zip(plan.steps, record.steps, strict=True):
                entry.status = "running"
                entry.rows_before = executor.alive_now
                result = executor.run(step)
                _note(record, entry, result, executor)
                events.emit("step", step=step.name, seconds=entry.seconds, reused_parts=entry.reused_parts)
                record.write(workspace)
                reporter.say(line_of(entry, width, "made" if record.made else "alive"))
                if not record.rows:
                    raise InputError(_nothing(record))
        record.status = "done"
        record.retried = letters.finish(plan) or (None if retry is None else Retried())
    except KeyboardInterrupt:
        record.status, record.error, record.exit_code = "interrupted", "stopped by the user", int(ExitCode.INTERRUPTED)
        raise
    except Terminated:
        record.status, record.error, record.exit_code = "interrupted", "stopped by SIGTERM", int(ExitCode.TERMINATED)
        raise
    except BaseException as error:
        record.status, record.error = "failed", str(error)
        record.exit_code = int(error.exit_code if isinstance(error, CurateError) else ExitCode.INTERNAL)
        for entry in record.steps:
            if entry.status == "running":
                entry.status = "failed"
        raise
    finally:
        record.finished = time.time()
        with contextlib.suppress(CurateError):
            events.emit("end", status=record.status, error=record.error)
            events.flush()
            record.write(workspace)
    return Run(workspace, record, plan.sources)


def _truth(plan: Plan) -> str | None:
    first = next((shard.url for source in plan.sources for shard in source.shards), None)
    if first is None or not Workspace(first.rpartition("/")[0] or ".").exists("truth.json"):
        return None
    return f"{first.rpartition('/')[0] or '.'}/truth.json"


def _resolve_devices(plan: Plan, engine: Engine) -> None:
    gpus = bool(engine.describe().get("gpus"))
    for step in plan.steps:
        if gpus and isinstance(step.stage, EmbedStage | ClusterStage | RelabelStage):
            step.stage.gpus = 1.0


def _note(record: RunFile, entry: StepRecord, result: StepResult, executor: Executor) -> None:
    entry.status = "done"
    entry.seconds = round(result.seconds, 3)
    entry.reused_parts, entry.parts = result.reused_parts, result.parts
    entry.facts |= result.sink | result.facts
    record.rows = executor.rows
    if result.group is not None:
        entry.reasons = result.group.counts
        record.notes += [
            {"step": entry.name, "part": part.part, **note} for part in result.group.parts for note in part.notes
        ]
        record.quarantined += sum(entry.set_aside.values())
    if entry.rows_before is None:
        entry.rows_before = executor.rows
    entry.rows_after = executor.alive_now
    record.alive = executor.alive_now or 0


def _nothing(record: RunFile) -> str:
    """Why an input that is there holds no sample."""
    broken = [note for note in record.notes if note.get("kind") == "shard"]
    said = f"The input holds no sample; {record.shards} shards or folders were read."
    if broken:
        said += f" The first of {len(broken)} broken shards is {broken[0]['shard']}: {broken[0]['detail']}."
    return f"{said} Check input in {record.source}."


def line_of(entry: StepRecord, width: int, what: str = "alive") -> str:
    """One line about a finished step; reasons come in the summary. `width`: of the longest step name of the run."""
    before, after = entry.rows_before or 0, entry.rows_after or 0
    gone = f"-{before - after:,}" if before != after else ""
    reused = f"   stored before: {entry.reused_parts} of {entry.parts}" if entry.reused_parts else ""
    taken = entry.facts.get("rows_taken_over")
    taken = f"   taken over: {taken:,} rows" if taken else ""
    return f"  {entry.name:<{width}}{after:>10,} {what} {gone:>9}   {entry.seconds:6.1f} s{reused}{taken}"


def open_run(workspace: str) -> Run:
    """The last run of a workspace. Raises StorageError when there is none."""
    place = Workspace(workspace)
    return Run(place, read_run(place))


class Run:
    """A run and what it left in its workspace."""

    def __init__(self, workspace: Workspace, record: RunFile, sources: Sequence[PartSource] = ()) -> None:
        self.workspace, self.record, self.sources = workspace, record, sources

    @property
    def release(self) -> str | None:
        """URL of the release, if the pipeline writes one."""
        return next((str(s.facts["url"]) for s in self.record.steps if "manifest_sha256" in s.facts), None)

    @property
    def quarantined(self) -> int:
        """Samples set aside because something is wrong with them."""
        return self.record.quarantined

    def group(self, step: str) -> Group:
        """The finished column group of a step. Raises StorageError when it is not finished."""
        found = self.record.group(self.workspace, self.record.step(step))
        if found is None:
            raise InputError(f"step {step} of this run has no finished columns; run the pipeline to its end")
        return found

    def columns(self, *steps: str) -> pl.LazyFrame:
        """Columns of one step, or of several side by side, as a polars LazyFrame over all parts, in input order.

        With several steps, columns are called `step.column`. Memory: nothing is read before `collect`.
        """
        frames = []
        for step in steps:
            frame = lazy.scan(self.workspace, self.group(step))
            frames.append(frame if len(steps) == 1 else frame.select(pl.all().name.prefix(f"{step}.")))
        return frames[0] if len(frames) == 1 else pl.concat(frames, how="horizontal")

    def vectors(self, step: str, which: str = "image") -> Vectors:
        """All vectors of a step as one read-only array on disk, float16 [n, d]; opening it reads nothing."""
        return Vectors(self.workspace, self.group(step), which)

    def vector_rows(self, step: str, which: str = "image") -> pl.LazyFrame:
        """One column, `vector_row` (Int64), a row a sample: its row in `vectors(step, which)`, null without one."""
        return lazy.vector_rows(self.workspace, self.group(step), which)

    def vector_parts(self, step: str, which: str = "image") -> Iterator[NDArray[np.float16]]:
        """Packed vectors of each part in order, float16 [n, d], memory-mapped; as `vectors(step, which).parts()`."""
        return self.vectors(step, which).parts()

    def artifacts(self, step: str) -> dict[str, Any]:
        """Artifacts of a step by name: centroids, concepts, diagnostics."""
        from curate.store.artifacts import read_artifacts

        entry = self.record.step(step)
        return dict(read_artifacts(self.workspace, entry.folder, entry.whole))

    def __repr__(self) -> str:
        record = self.record
        return (
            f"<Run {record.name}: {record.status}, {record.alive:,} of {record.rows:,} samples, {self.workspace.url}>"
        )
