from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import realdata

from benchmarks.edited_photos import EDITS
from benchmarks.near_duplicates import judge

ROOT = Path(__file__).resolve().parents[2]
OF = {"a.jpg": "a", "a--flip.jpg": "a", "a--half-size.jpg": "a", "b.jpg": "b", "b--flip.jpg": "b", "c.jpg": "c"}


def test_precision_is_of_nearest_partners_and_recall_of_edits() -> None:
    pairs = [
        ["a.jpg", "a--flip.jpg", 0.9],
        ["b.jpg", "a.jpg", 0.8],  # wrong, but a has a nearer one
        ["c.jpg", "b.jpg", 0.7],
        ["b--flip.jpg", "c.jpg", 0.75],
    ]
    precision, recall, there, kinds = judge(pairs, OF)
    # nearest: a and its flip each other; b a, c b's flip, b's flip c
    assert (precision, there) == (pytest.approx(2 / 5), 5)
    assert kinds == {"flip": (1, 2), "half-size": (0, 1)}
    assert recall == pytest.approx(1 / 3)
    assert judge([], OF)[:3] == (0.0, 0.0, 0)


def test_a_small_run_fills_its_row_and_is_not_run_again(tmp_path: Path) -> None:
    realdata.birds(), realdata.photos()
    command = [sys.executable, "-m", "benchmarks.near_duplicates", "tools", "--images", "24", "--work", str(tmp_path)]
    command += ["--sides", "curate, hash", "--workers", "0"]
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        row = next(line for line in done.stdout.splitlines() if line.startswith("| curate, hash"))
        assert row.split("|")[2].strip() == "1.000"
        (tmp_path / "curate-hash").rename(tmp_path / "elsewhere") if (tmp_path / "curate-hash").exists() else None
    of = json.loads((tmp_path / "photos-24.json").read_text())
    assert len(of) == 24
    found = json.loads((tmp_path / "result-24-curate-hash.json").read_text())["kinds"]
    assert {kind for kind, (n, planted) in found.items() if n == planted} >= {"jpeg-q25", "half-size"} & set(found)
    assert set(found) <= {kind.replace(" ", "-").replace("-%", "") for kind in EDITS}
