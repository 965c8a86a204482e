from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_it_compares_all_sides_from_the_same_start() -> None:
    options = ["--rows=1500", "--dim=16", "--concepts=20", "--iterations=10", "--rounds=1"]
    command = [sys.executable, "benchmarks/kmeans.py", *options]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    objective = {line.split()[0]: float(re.findall(r"objective ([\d.]+)", line)[0]) for line in out.splitlines()}
    assert set(objective) == {"exact", "full", "faiss", "sklearn"}
    assert objective["exact"] == objective["full"]
    assert abs(objective["exact"] / objective["faiss"] - 1) < 1e-3
    assert objective["sklearn"] > 0
