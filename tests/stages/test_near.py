from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench

from curate.concepts.assign import assign
from curate.errors import InputError, SpecError
from curate.stages.cluster import ClusterStage
from curate.stages.near import NearStage

SIZES = [40, 25, 35]
DIM = 12


def bunches(rows: int, seed: int, which: np.ndarray | None = None) -> np.ndarray:
    """Unit rows around eight directions that do not depend on the seed."""
    centres = np.random.default_rng(99).normal(size=(8, DIM))
    rng = np.random.default_rng(seed)
    member = rng.integers(0, 8, rows) if which is None else which
    wide = centres[member] + 0.3 * rng.normal(size=(rows, DIM))
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)


def clustered(made: Bench) -> np.ndarray:
    vectors = bunches(sum(SIZES), 0)
    made.index(SIZES)
    made.embed(vectors, SIZES)
    made.stage(ClusterStage, concepts=10, iterations=5)
    return vectors


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_rows_of_concepts_that_the_reference_reaches_stay(
    bench: Callable[..., Bench], tmp_path: Path, dtype: Any, rows: int
) -> None:
    made = bench(len(SIZES))
    clustered(made)
    # of any length: only the direction counts
    reference = bunches(rows, 1, np.arange(rows) % 3).astype(dtype) * dtype(5)
    np.save(tmp_path / "reference.npy", reference)
    frame = made.stage(NearStage, reference=str(tmp_path / "reference.npy"))
    centroids = made.plan.part(0, "near").artifacts("cluster")["centroids"]
    unit = reference.astype(np.float64) / np.linalg.norm(reference.astype(np.float64), axis=1, keepdims=True)
    reached = set(np.argmax(unit @ centroids.astype(np.float64).T, axis=1).tolist())
    concept = made.frame("cluster")["concept"].to_list()
    assert frame["keep"].to_list() == [one in reached for one in concept]
    assert set(frame.filter(~pl.col("keep"))["reason"]) == {"far_from_reference"}
    told = made.plan.step("near")
    from curate.store.artifacts import read_artifacts

    artifacts = read_artifacts(made.workspace, told.folder, told.whole)
    assert artifacts["reached"].tolist() == sorted(reached)
    assert artifacts["reference"] == {"concepts": 10, "reached": len(reached), "reference_rows": rows}


def test_the_result_does_not_depend_on_parts(bench: Callable[..., Bench], tmp_path: Path) -> None:
    vectors = bunches(100, 0)
    np.save(tmp_path / "reference.npy", bunches(30, 1, np.arange(30) % 4))
    found = []
    for sizes in ([100], SIZES, [20] * 5):
        made = bench(len(sizes))
        made.index(sizes)
        made.embed(vectors, sizes)
        made.stage(ClusterStage, concepts=10, iterations=5)
        found.append(made.stage(NearStage, reference=str(tmp_path / "reference.npy"))["keep"].to_list())
    assert found[0] == found[1] == found[2]
    assert 0 < sum(found[0]) < 100


def test_a_vector_is_nearest_for_itself() -> None:
    centroids = np.eye(3, 4, dtype=np.float32)
    assert assign(np.eye(3, 4, dtype=np.float16), centroids)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        (np.ones((3, DIM + 1)), f"vectors of {DIM + 1} numbers, the concepts of cluster have {DIM}"),
        (np.zeros((3, DIM)), "row 0 is zero"),
        (np.concatenate([np.ones((2, DIM)), np.full((1, DIM), np.nan)]), "row 2 is zero, or holds NaN"),
        (np.ones((0, DIM)), "holds no vector"),
        (np.ones(4), r"of shape \(4,\)"),
    ],
)
def test_a_reference_that_does_not_fit_is_refused(
    bench: Callable[..., Bench], tmp_path: Path, reference: np.ndarray, told: str
) -> None:
    made = bench(len(SIZES))
    clustered(made)
    np.save(tmp_path / "reference.npy", reference)
    with pytest.raises((InputError, SpecError), match=told):
        made.stage(NearStage, reference=str(tmp_path / "reference.npy"))
