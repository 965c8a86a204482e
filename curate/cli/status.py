"""`curate status`: how far a run is."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from curate.cli.output import clean, columns, count, line, print_json, stdout
from curate.engine.progress import clock
from curate.errors import Detached, ExitCode
from curate.pipeline.status import Status, StepStatus, read_status
from curate.store.workspace import Workspace

_STYLES = {"done": "green", "running": "bold", "failed": "red", "silent": "yellow", "interrupted": "yellow"}
_LOOK_S = 2.0
_LINE_S = 10.0


def status(
    workspace: Annotated[str, typer.Argument(help="Workspace of the run: a folder or URL.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run ends, and exit as it did: 0 when it is done.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Show how far a run is: one that works now, one that was stopped, or one that is finished."""
    place, console = Workspace(workspace), stdout()
    found = _follow(place, console, quiet=as_json) if follow else read_status(place)
    if as_json:
        print_json(found.as_dict())
    else:
        show(console, found)
    return _exit_code(found) if follow else 0


def _follow(place: Workspace, console: Console, quiet: bool) -> Status:
    """Look at a run until it ends: a table that changes on a terminal, a line now and then elsewhere."""
    seen: dict[str, list[dict[str, Any]]] = {}
    said, at = "", 0.0
    try:
        with (
            Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else nullcontext() as live
        ):
            while (found := read_status(place, seen=seen)).state == "running":
                if quiet:
                    pass
                elif live is not None:
                    live.update(_as_text(console, found), refresh=True)
                else:
                    step = found.current
                    where = f"{step.name} {step.phase}" if step else ""
                    if where != said or time.monotonic() - at > _LINE_S:
                        said, at = where, time.monotonic()
                        line(console, clean(_now(found)))
                time.sleep(_LOOK_S)
    except KeyboardInterrupt:
        raise Detached(f"no longer following; the run goes on: curate status {place.url}") from None
    return found


def _as_text(console: Console, found: Status) -> Text:
    """What `show` prints, as one piece."""
    page = Console(
        file=io.StringIO(), force_terminal=True, width=console.width, highlight=False, markup=False, emoji=False
    )
    with page.capture() as shown:
        show(page, found)
    return Text.from_ansi(shown.get())


def _now(found: Status) -> str:
    """A line about a run at work."""
    step = found.current
    if step is None:
        return f"{clock(found.seconds)}  {found.name}"
    what = list(_row(step))[-1]
    rate = f", {step.samples_per_second:,.0f} samples/s" if step.samples_per_second else ""
    return f"{clock(found.seconds)}  {step.name}  {what or 'begins'}{rate}"


def _exit_code(found: Status) -> int:
    """As the run's own; a run that fell silent has lost its process."""
    if found.state == "done":
        return 0
    if found.state == "silent":
        return int(ExitCode.ENGINE)
    return found.exit_code or int(ExitCode.INTERNAL)


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
    if found.state == "done" and found.made:
        return f"{found.name}: done in {clock(found.seconds)}, {count(found.rows, 'sample')} made"
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
