"""`curate status`: how far a run is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from curate.cli.output import clean, columns, count, line, print_json, stdout
from curate.engine.progress import clock
from curate.pipeline.status import Status, StepStatus, read_status
from curate.store.workspace import Workspace

_STYLES = {"done": "green", "running": "bold", "failed": "red", "silent": "yellow", "interrupted": "yellow"}


def status(
    workspace: Annotated[str, typer.Argument(help="Workspace of the run: a folder or URL.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Show how far a run is: one that works now, one that was stopped, or one that is finished."""
    found = read_status(Workspace(workspace))
    if as_json:
        print_json(found.as_dict())
        return 0
    show(stdout(), found)
    return 0


def show(console: Console, found: Status) -> None:
    """The steps as a table, and around it what one needs to know."""
    line(console, clean(_head(found)), _STYLES[found.state])
    steps_table(console, found)
    for text in _after(found):
        line(console, clean(text))


def steps_table(console: Console, found: Status) -> None:
    """One line a step."""
    heads = ("step", "state", ">parts", ">alive", ">dropped", ">samples/s", ">time", "what")
    columns(console, heads, ([*_row(step)] for step in found.steps))


def _head(found: Status) -> str:
    done = sum(step.status == "done" for step in found.steps)
    where = f"{done} of {len(found.steps)} steps done"
    if found.state == "done":
        return (
            f"{found.name}: done in {clock(found.seconds)}, {found.alive:,} of {found.rows:,} samples kept, "
            f"{found.quarantined:,} quarantined"
        )
    if found.state == "silent":
        return f"{found.name}: stopped after {clock(found.seconds)}, {where}"
    return (
        f"{found.name}: {found.state} {'for' if found.state == 'running' else 'after'} {clock(found.seconds)}, {where}"
    )


def _row(step: StepStatus) -> Iterator[object]:
    yield step.name
    yield step.status
    yield f"{step.parts_stored:,}/{step.parts:,}"
    yield step.alive if step.status == "done" else None
    yield sum(step.dropped.values()) if step.status == "done" else None
    yield None if step.samples_per_second is None else round(step.samples_per_second)
    yield None if step.seconds is None else f"{step.seconds:.1f} s"
    if step.status == "done":
        told = [", ".join(f"{reason} {n:,}" for reason, n in step.dropped.items())]
        told += [f"reused {count(step.reused_parts, 'part')}"] if step.reused_parts else []
        yield "; ".join(text for text in told if text)
    elif step.total is not None:
        left = (
            f", {clock(step.seconds_left)} left" if step.seconds_left is not None and step.status == "running" else ""
        )
        yield f"{step.phase or step.kind}: {step.done:,} of {count(step.total, step.unit)}{left}"
    else:
        yield "parts stored by an earlier run" if step.parts_stored else ""


def _after(found: Status) -> Iterator[str]:
    if found.error and found.state in ("failed", "interrupted"):
        step = found.current
        yield f"error{f' in step {step.name}' if step else ''}: {found.error}"
    if found.state == "silent":
        yield (
            f"no sign of life for {clock(found.silent_seconds or 0)}; if its process is gone, run the same command "
            f"again to continue: {found.command}"
        )
    elif found.state in ("failed", "interrupted"):
        yield f"run the same command again to continue: {found.command}"
    broken = [note for note in found.notes if note.get("kind") == "shard"]
    if broken:
        names = ", ".join(str(note.get("shard")) for note in broken[:5])
        yield f"{count(len(broken), 'broken shard')}: {names}{' and more' if len(broken) > 5 else ''}"
    if found.release:
        yield f"release: {found.release}"
