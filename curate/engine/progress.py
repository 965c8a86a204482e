"""Progress for people: a bar on a terminal, plain lines elsewhere. Counts, rate and time left, nothing else."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


class Phase:
    """One stretch of equal items of one step; a context manager."""

    def __init__(self, console: Console, title: str, total: int, unit: str, done: int, quiet: bool) -> None:
        self.title, self.total, self.unit, self.done, self.quiet = title, total, unit, done, quiet
        self.rows = 0
        self.start = time.monotonic()
        self._began_at = done
        self._console = console
        self._last_line = self.start
        self._bar: Progress | None = None
        if console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("  {task.description:<24}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(title, total=total, completed=done, rate=f"{unit}s")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Samples a second, or items a second where samples are not counted."""
        return (self.rows or self.done - self._began_at) / max(time.monotonic() - self.start, 1e-3)

    def advance(self, items: int, rows: int) -> None:
        """Count finished items and the samples in them."""
        self.done += items
        self.rows += rows
        what = f"{self.unit}s, {self.rate:,.0f} samples/s" if self.rows else f"{self.unit}s"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, rate=what)
        elif not self.quiet and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            items_a_second = (self.done - self._began_at) / max(time.monotonic() - self.start, 1e-3)
            left = (self.total - self.done) / max(items_a_second, 1e-9)
            self._console.print(
                f"  {self.title}: {self.done} of {self.total} {what}, {clock(left)} left", highlight=False
            )


def clock(seconds: float) -> str:
    """m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
