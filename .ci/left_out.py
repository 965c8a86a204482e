"""Pytest plugin: names the tests that the marker expression left out, so that a green run hides nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start with nothing left out."""
    config.stash[_LEFT_OUT] = []


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember each deselected test with the markers that left it out."""
    for item in items:
        marks = [name for name in ("gpu", "slow") if item.get_closest_marker(name)]
        item.config.stash[_LEFT_OUT].append(f"{item.nodeid}  [{', '.join(marks) or 'by option'}]")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List them before pytest's closing line."""
    left_out = config.stash[_LEFT_OUT]
    if left_out:
        terminalreporter.section(f"not run here: {len(left_out)} tests (make test-slow, make test-gpu)")
        for line in sorted(left_out):
            terminalreporter.write_line(line)
