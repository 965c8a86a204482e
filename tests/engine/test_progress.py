from __future__ import annotations

import io

import pytest
from rich.console import Console

from curate.engine import progress
from curate.engine.progress import Phase, clock


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)


def text(of: Console) -> str:
    assert isinstance(of.file, io.StringIO)
    return of.file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (59.6, "1:00"),
        (61, "1:01"),
        (3599, "59:59"),
        (3600, "1:00:00"),
        (90_061, "25:01:01"),
    ],
)
def test_clock(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


def test_plain_lines_when_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = console(terminal=False)
    with Phase(out, "embed", 40, "part", 10, quiet=False) as phase:
        for _ in range(10):
            now[0] += 2.0
            phase.advance(1, 50)
    # a line at most every 10 s: at 12 s (6 parts, 300 samples) and not again before 22 s
    lines = text(out).splitlines()
    assert lines == ["  embed: 16 of 40 parts, 25 samples/s, 0:48 left"]
    assert phase.rate == pytest.approx(25.0)


def test_items_a_second_where_samples_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = console(terminal=False)
    with Phase(out, "dedup buckets", 8, "bucket", 0, quiet=False) as phase:
        now[0] = 20.0
        phase.advance(2, 0)
    assert text(out) == "  dedup buckets: 2 of 8 buckets, 1:00 left\n"
    assert phase.rate == pytest.approx(0.1)


def test_a_bar_on_a_terminal() -> None:
    out = console(terminal=True)
    with Phase(out, "index", 3, "part", 0, quiet=False) as phase:
        phase.advance(3, 30)
    assert "index" in text(out)
    assert "3/3" in text(out)


@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_says_nothing(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    out = console(terminal)
    with Phase(out, "index", 3, "part", 0, quiet=True) as phase:
        phase.advance(3, 30)
    assert text(out) == ""
    assert (phase.done, phase.rows) == (3, 30)
