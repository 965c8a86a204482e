from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from bench import cut
from numpy.typing import NDArray
from score_bench import SIZES, Made, N

from curate.pruning.metrics import geometry


def unit(n: int, d: int = 8) -> NDArray[np.float16]:
    rows = np.random.default_rng(n).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_prototypes_over_parts_are_those_of_all_rows(tmp_path: Path, leave_one_out: bool) -> None:
    labels = [None if i == 5 else "alone" if i == 6 else f"n{i % 3}" for i in range(N)]
    made = Made(tmp_path, label=labels)
    vectors = unit(N)
    made.bench.embed(vectors, SIZES)
    alive = np.arange(N) != 8
    made.bench.given("filter", cut(pl.DataFrame({"keep": alive, "reason": ["x"] * N}), SIZES))
    got = made.run(metric="prototypes", leave_one_out=leave_one_out)
    for i in range(N):
        mine = [j for j in range(N) if alive[j] and labels[j] == labels[i] and (j != i or not leave_one_out)]
        if labels[i] is None or not alive[i] or not mine:
            assert got[i] is None
            continue
        mean = vectors[mine].astype(np.float64).mean(0)
        x = vectors[i].astype(np.float64)
        expected = 1 - x @ mean / np.linalg.norm(x) / np.linalg.norm(mean)
        assert got[i] == pytest.approx(max(expected, 0), abs=1e-9)
    table = made.artifacts()["classes"]
    assert isinstance(table, pl.DataFrame)
    assert dict(table.rows()) == {"alone": 1, "n0": 7, "n1": 8, "n2": 5}


@pytest.mark.parametrize("reference", [100, 9])
def test_knn_over_parts_is_that_of_all_rows(tmp_path: Path, reference: int) -> None:
    made = Made(tmp_path)
    vectors = unit(N)
    made.bench.embed(vectors, SIZES)
    got = made.run(metric="knn", neighbours=3, reference=reference)
    drawn = made.artifacts()["reference"]
    assert isinstance(drawn, np.ndarray)
    assert len(drawn) == N if reference == 100 else 3 <= len(drawn) <= 16
    itself = np.asarray([next((j for j, r in enumerate(drawn) if np.array_equal(r, v)), -1) for v in vectors])
    assert got == (geometry.knn(vectors, drawn, 3, itself) / 2**32).tolist()


def test_a_clip_score_is_turned_round(tmp_path: Path) -> None:
    made = Made(tmp_path, clip_score=[None if i == 1 else i / 32 for i in range(N)])
    assert made.run(metric="clip") == [None if i == 1 else 1 - i / 32 for i in range(N)]


def test_random_scores_differ_by_step_and_lie_between_0_and_1(tmp_path: Path) -> None:
    made = Made(tmp_path)
    one, two = made.run("one", metric="random"), made.run("two", metric="random")
    assert one != two
    assert all(v is not None and 0 <= v < 1 for v in one + two)
