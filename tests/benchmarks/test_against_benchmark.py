from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_all_sides_decide_alike() -> None:
    options = ["--rows=400", "--references=600", "--dim=32", "--concepts=8", "--rounds=1"]
    command = [sys.executable, "benchmarks/against.py", *options]
    out = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    told = {line.split()[0]: re.findall(r"(\d+) found, (\d+) differ", line)[0] for line in out.splitlines()}
    assert set(told) == {"all", "concepts", "faiss"}
    assert told["all"] == told["concepts"] == ("20", "0")
    assert abs(int(told["faiss"][0]) - 20) <= 1
