from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_the_sides_run_and_agree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    for side in ("curate", "lse", "dense", "compare"):
        monkeypatch.setattr(sys, "argv", ["x", "--images=8", "--batches=2", "--classes=40", f"--side={side}"])
        runpy.run_path(str(BENCHMARKS / "label_pooling.py"), run_name="__main__")
    *sides, found = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert all(side["ms"] > 0 for side in sides)
    assert found["difference"] < 1e-5
    assert 0 < found["rounding"] < 4e-3
    assert found["curate"] == 5400
    assert found["curate"] <= 0.6 * found["legacy"] < found["zip"]
