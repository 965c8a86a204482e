from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_it_runs_and_prints_ratios() -> None:
    command = [sys.executable, "benchmarks/datacomp.py", "--tables=1", "--rounds=1"]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(out) == 4
    assert out[0].startswith("clip_score ")
    assert all("; ratio " in line or "left out" in line for line in out)
