from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.svm import SVC

from benchmarks.perceptron import SHARES, crossovers, largest_margin, student_error, table, theory, verdict

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = {
    1: (0.2657, 0.3288, 0.4057, 0.2502, 0.3763, 0.4712, 0.2700),
    4: (0.1137, 0.1885, 0.1361, 0.1173, 0.2657, 0.3987, 0.1430),
    16: (0.0311, 0.0609, 0.0311, 0.0366, 0.1137, 0.0312, 0.0515),
}


@pytest.mark.parametrize("alpha", [1, 4])
def test_the_equations_have_the_known_solutions(alpha: int) -> None:
    found = [theory(alpha, share, keep) for share, keep in SHARES]
    np.testing.assert_allclose(found, PUBLISHED[alpha], atol=6e-5)


def test_the_student_is_the_support_vector_machine() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 20))
    y = np.sign(x @ rng.normal(size=20))
    rows = x * y[:, None]
    both = np.concatenate([rows, -rows])
    machine = SVC(kernel="linear", C=1e8, tol=1e-8).fit(both, np.repeat([1, -1], 60))
    np.testing.assert_allclose(largest_margin(rows), machine.coef_[0], rtol=1e-4, atol=1e-6)


def test_easy_samples_win_where_data_is_scarce() -> None:
    errors = {
        keep: np.mean([student_error(60, 1.0, 0.5, keep, seed) for seed in range(12)]) for keep in ("hard", "easy")
    }
    assert errors["easy"] < errors["hard"] - 0.05


@pytest.mark.slow
def test_the_table_is_that_of_theory() -> None:
    cells = list(table(200, 8))
    near, most = verdict(cells)
    assert near >= 0.95
    assert most <= 4
    assert crossovers(cells) == {0.5: (4.0, 8.0), 0.25: (8.0, 16.0)}
    found = [cell.theory for cell in cells if cell.alpha == 16]
    np.testing.assert_allclose(found, PUBLISHED[16], atol=6e-5)


def test_the_command_prints_a_row_a_cell() -> None:
    command = [sys.executable, "benchmarks/perceptron.py", "--dim", "30", "--seeds", "2", "--alphas", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(SHARES), done.stderr
    assert "7 cells" in done.stdout
