"""Pytest plugin: names the tests that the marker expression left out, so that a green run hides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

_LEFT_OUT = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Start with nothing left out."""
    config.stash[_LEFT_OUT] = set()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remember each deselected test with the markers that left it out."""
    for item in items:
        marks = [name for name in ("gpu", "slow") if item.get_closest_marker(name)]
        nodeid = item.nodeid.partition("@")[0]  # what xdist adds is no part of its name
        item.config.stash[_LEFT_OUT].add(f"{nodeid}  [{', '.join(marks) or 'by option'}]")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that started this worker; every worker collects, and so leaves out, the same."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["left_out"] = sorted(session.config.stash[_LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Hear what a worker left out."""
    node.config.stash[_LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left_out", ()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """List them before pytest's closing line."""
    left_out = config.stash[_LEFT_OUT]
    if left_out:
        terminalreporter.section(f"not run here: {len(left_out)} tests (make test-slow, make test-gpu)")
        for line in sorted(left_out):
            terminalreporter.write_line(line)
