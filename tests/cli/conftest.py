"""The small run for the tests of commands that look at a run."""

from __future__ import annotations

import pytest
from small_run import SmallRun, small_run


@pytest.fixture(scope="session")
def small() -> SmallRun:
    """A finished run; not to be changed."""
    return small_run()
