"""The script runs, and its sides solve the same problem."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import allocation


def test_sides_agree() -> None:
    ours, theirs = allocation.solve("curate", 60), allocation.solve("quadprog", 60)
    assert (ours.sum_error, ours.beyond, ours.off) == (0, 0, 0.0)
    mean = allocation.problem(60).total / 60
    assert theirs.off <= 1e-9 * mean
    p = allocation.problem(60)
    assert np.array_equal(allocation._curate(p)[1].sum(), p.total)


@pytest.mark.slow
def test_the_script_runs() -> None:
    script = Path(allocation.__file__)
    command = [sys.executable, str(script), "--sizes", "40", "--rounds", "1"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=script.parents[1]).stdout
    assert "curate " in told
    assert "sum +0" in told
    assert "quadprog" in told
