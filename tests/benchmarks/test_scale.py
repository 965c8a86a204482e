from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import scale


def test_copies_are_near_their_originals_and_others_are_not() -> None:
    for dim in (64, 768):
        made = scale.vectors(7, 2000, dim).astype(np.float64)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        at, source = scale.copies(7, 2000)
        assert 0 <= source < 7
        assert abs(len(at) - 100) < 4.5 * 10
        near = np.einsum("ij,ij->i", made[at], scale.originals(source, 2000, dim)[at])
        assert near.min() > 1 - scale.EPSILON / 2
        alike = made @ made.T
        np.fill_diagonal(alike, 0.0)
        assert alike.max() < 1 - scale.EPSILON


def test_the_command_checks_and_prints_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ["--rows", "4e3", "--part-rows", "500", "--concepts", "8", "--workers", "0", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["scale.py", *options, "--dim", "16", "--probes", "all"])
    assert scale.main() == 0
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[0] == "| 4,000 x 16"
    found = dict(zip(["after", "kept", "copies"], row[-6:-3], strict=True))
    alive = int(found["after"].replace(",", ""))
    assert int(found["kept"].replace(",", "")) == int(scale.KEEP * alive)
    assert float(found["copies"]) == 1.0  # all concepts are asked
    assert list(tmp_path.iterdir()) == []
