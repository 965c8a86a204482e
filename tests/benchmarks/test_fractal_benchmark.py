from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lines(*options: str) -> dict[str, str]:
    command = [sys.executable, "benchmarks/fractal.py", *options, "--systems=3", "--rounds=1", "--size=32", "--no-peak"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {match[1].strip(): line for line in done.splitlines() if (match := re.match(r"  (\w.{14}) ", line))}


def test_points_of_all_sides() -> None:
    found = lines("points", "--points=20000")
    assert set(found) >= {"curate", "fast generator", "plain", "floor"}
    nanoseconds = {side: float(re.findall(r"([\d.]+) ns", line)[0]) for side, line in found.items()}
    assert 0 < nanoseconds["floor"] < nanoseconds["plain"]
    assert "as fast" in found["plain"]


@pytest.mark.slow
def test_images_of_all_sides() -> None:
    found = lines("images", "--points=2000", "--images=2")
    assert set(found) == {"curate", "plain", "plain, cached"}
    assert all(float(re.findall(r"([\d.]+) images/s", line)[0]) > 0 for line in found.values())
