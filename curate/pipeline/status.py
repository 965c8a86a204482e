"""How far a run is, from what it left in its workspace: run.json, its events, and what is stored.

Works for a run of another process, one that was killed and one that is finished; nothing but the workspace is read.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from curate.engine.events import read_events
from curate.pipeline.runfile import RunFile, StepRecord, read_run
from curate.store.columns import part_file
from curate.store.groups import group_file, read_group
from curate.store.workspace import Workspace

QUIET_S = 60.0
"""A run is taken for dead after this long without an event, or after QUIET_TIMES its usual time between events."""
QUIET_TIMES = 5.0
_PART = re.compile(r"part-(\d{5,})\.[0-9a-f]{12}\.parquet\Z")
_UNIT = re.compile(r"(shard|dropped)-\d{5,}\.([0-9a-f]{12})\.json\Z")

Event = dict[str, Any]
State = Literal["running", "silent", "done", "failed", "interrupted"]


@dataclass(frozen=True)
class StepStatus:
    """One step. `parts_stored`: parts of any run in its folder; equal to the run's own once it is done."""

    name: str
    kind: str
    status: Literal["waiting", "running", "done", "failed", "interrupted", "stopped"]
    parts: int
    parts_stored: int
    reused_parts: int
    rows_before: int | None
    alive: int | None
    dropped: dict[str, int]
    seconds: float | None
    samples_per_second: float | None
    phase: str = ""
    """What it is doing: emit, buckets, summary, ...; empty for the map itself."""
    unit: str = "part"
    done: int | None = None
    """Items of the phase that are finished, as far as the events tell."""
    total: int | None = None
    seconds_left: float | None = None
    """For the phase, at the rate so far."""


@dataclass(frozen=True)
class Status:
    """A run. `state` is `silent` when run.json says it is running but nothing has been heard of it for a while."""

    name: str
    workspace: str
    plan: str
    command: str
    state: State
    error: str | None
    exit_code: int | None
    """Of the error that ended the run."""
    seconds: float
    silent_seconds: float | None
    """Since the last event; None for a run that has ended."""
    rows: int
    alive: int
    quarantined: int
    release: str | None
    notes: list[dict[str, Any]]
    made: bool = False
    """Whether the run makes its samples instead of reading an input."""
    steps: list[StepStatus] = field(default_factory=list)

    @property
    def current(self) -> StepStatus | None:
        """The step that is being worked on, or at which the run stopped."""
        return next((step for step in self.steps if step.status not in ("waiting", "done")), None)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def read_status(workspace: Workspace, now: float | None = None, seen: dict[str, list[Event]] | None = None) -> Status:
    """Status of the last run of a workspace. Raises StorageError when there is none. Memory: its events.

    now: seconds since the epoch, default the clock's. seen: what an earlier call has read of the events; give the same
    dict again and only new ones are read.
    """
    now = time.time() if now is None else now
    record = read_run(workspace)
    events = read_events(workspace, record.driver, seen)
    last = max([record.started, *(event["t"] for event in events)])
    state, silent = _state(record, events, last, now)
    ended = record.finished or (last if state == "silent" else now)
    steps = []
    first_open = next((step.name for step in record.steps if step.status != "done"), None)
    for step in record.steps:
        how: Any = step.status
        # run.json is written when a step ends, so the first open step of a live run is the one at work
        if how in ("waiting", "running") and step.name == first_open and state != "done":
            how = {"running": "running", "silent": "stopped"}.get(state, state)
        own = [event for event in events if event.get("step") == step.name]
        steps.append(_step(workspace, step, how, own, record.made))
    return Status(
        name=record.name,
        workspace=workspace.url,
        plan=record.plan,
        command=record.command,
        state=state,
        error=record.error,
        exit_code=record.exit_code,
        seconds=max(0.0, ended - record.started),
        silent_seconds=silent,
        rows=record.rows,
        alive=record.alive,
        made=record.made,
        quarantined=record.quarantined,
        release=_release(record),
        notes=record.notes,
        steps=steps,
    )


def is_live(workspace: Workspace, record: RunFile, now: float | None = None) -> bool:
    """Whether a run seems to be at work right now: it has not ended, and was heard of lately."""
    if record.status != "running":
        return False
    events = read_events(workspace, record.driver)
    last = max([record.started, *(event["t"] for event in events)])
    return _state(record, events, last, time.time() if now is None else now)[0] == "running"


def _state(record: RunFile, events: Sequence[Event], last: float, now: float) -> tuple[State, float | None]:
    if record.status != "running":
        return record.status, None
    silent = max(0.0, now - last)
    return ("silent" if silent > max(QUIET_S, QUIET_TIMES * _longest_gap(events)) else "running"), silent


def _release(record: RunFile) -> str | None:
    return next((str(step.facts["url"]) for step in record.steps if "manifest_sha256" in step.facts), None)


def _longest_gap(events: Sequence[Event]) -> float:
    """Longest time between neighbouring events of the phase that is on: a part of it takes about that long."""
    start = max((n for n, event in enumerate(events) if event["event"] == "phase"), default=0)
    times = [event["t"] for event in events[start:]]
    return max((after - before for before, after in pairwise(times)), default=0.0)


def _step(workspace: Workspace, step: StepRecord, how: Any, events: Sequence[Event], made: bool) -> StepStatus:
    phase: dict[str, Any] = {}
    if how in ("running", "stopped", "failed", "interrupted"):
        phase = _phase(events)
    rate = None
    if step.status == "done" and step.seconds and step.rows_before and step.computed_all:
        rate = step.rows_before / step.seconds
    elif "samples_per_second" in phase:
        rate = phase.pop("samples_per_second")
    return StepStatus(
        name=step.name,
        kind=step.kind,
        status=how,
        parts=step.parts,
        parts_stored=_stored(workspace, step, how, "shard" if made else "dropped"),
        reused_parts=step.reused_parts,
        rows_before=step.rows_before,
        alive=step.rows_after,
        dropped=step.reasons,
        seconds=step.seconds,
        samples_per_second=rate,
        **phase,
    )


def _stored(workspace: Workspace, step: StepRecord, how: str, unit: str) -> int:
    """Parts there: of a finished group exactly its own, else the part numbers that any configuration left. unit: what
    is counted of a sink.
    """
    names = workspace.listing(step.folder)
    if step.group is None:
        if how == "done":
            return step.parts
        # a sink has no parts of its own; one table of dropped samples a part says how far it is, or one shard a unit
        return sum(bool(match and match[1] == unit and match[2] == step.whole) for match in map(_UNIT.match, names))
    if how == "done" and group_file(step.group) in names:
        group = read_group(workspace, step.folder, step.group)
        return sum(part_file(part.part, part.fingerprint) in names for part in group.parts)
    numbers = {match[1] for match in map(_PART.match, names) if match}
    return min(len(numbers), step.parts)


def _phase(events: Sequence[Event]) -> dict[str, Any]:
    """The phase that the events end in: what, how far, how fast, how long it will take at this rate."""
    start = next((n for n in range(len(events) - 1, -1, -1) if events[n]["event"] == "phase"), None)
    if start is None:
        return {}
    head, progress = events[start], [event for event in events[start + 1 :] if event["event"] == "progress"]
    done = progress[-1]["done"] if progress else head["done"]
    found = {"phase": head["phase"], "unit": head["unit"], "done": done, "total": head["total"]}
    passed = progress[-1]["t"] - head["t"] if progress else 0.0
    if passed > 0:
        rows = sum(event["rows"] for event in progress)
        if rows:
            found["samples_per_second"] = rows / passed
        if done > head["done"]:
            found["seconds_left"] = (head["total"] - done) * passed / (done - head["done"])
    return found
