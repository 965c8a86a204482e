"""What a run says while it works: progress for people, events for programs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from curate.engine.events import EventLog
from curate.engine.progress import Phase


class Advancing:
    """Progress of one phase that also leaves events."""

    def __init__(self, phase: Phase, events: EventLog, step: str) -> None:
        self._phase, self._events, self._step = phase, events, step

    def advance(self, items: int, rows: int) -> None:
        """Count finished items."""
        self._phase.advance(items, rows)
        self._events.emit("progress", step=self._step, done=self._phase.done, total=self._phase.total, rows=rows)


class Reporter:
    """Progress bars (or lines) and events of one run."""

    def __init__(self, console: Console, events: EventLog, quiet: bool = False) -> None:
        self.console, self.events, self.quiet = console, events, quiet

    @contextmanager
    def phase(self, step: str, name: str, total: int, unit: str, done: int, quiet: bool) -> Iterator[Advancing]:
        """One stretch of equal items."""
        title = f"{step} {name}".strip()
        self.events.emit("phase", step=step, phase=name, total=total, unit=unit, done=done)
        self.events.flush()
        with Phase(self.console, title, total, unit, done, quiet or self.quiet) as phase:
            yield Advancing(phase, self.events, step)

    def reused(self, step: str, items: int, unit: str = "part") -> None:
        """A step that was finished already."""
        self.events.emit("reused", step=step, items=items, unit=unit)

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.quiet:
            self.console.print(text, highlight=False, soft_wrap=True)
