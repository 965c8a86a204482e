"""The number of workers decides nothing: 0 (this process), 1, 2 and 4 give the same bytes."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from conftest import Undisturbed
from whole_runs import pipeline, release_of, releases, run, write_pipeline


def with_workers(workers: int, known: Undisturbed, folder: Path, ray_folder: str) -> dict[str, str]:
    file = write_pipeline(folder / "whole.yaml", pipeline(known.shards, folder / "work"))
    done = run(file, "--workers", str(workers), RAY_TMPDIR=ray_folder)
    assert done.returncode == 0, done.stderr
    return release_of(folder / "work")


@pytest.mark.parametrize("workers", [0, 1, pytest.param(4, marks=pytest.mark.slow)])
def test_the_same_release_as_with_two_workers(
    workers: int, undisturbed: Undisturbed, tmp_path: Path, ray_folder: str
) -> None:
    assert with_workers(workers, undisturbed, tmp_path, ray_folder) == undisturbed.release


def test_the_run_that_all_are_compared_with_tells_something(undisturbed: Undisturbed) -> None:
    """Every reason to drop a sample occurs in it, and several shards are written."""
    (release,) = releases(undisturbed.workspace)
    dropped = pl.read_parquet(release / "dropped.parquet")
    reasons = dict(dropped.group_by("reason").len().iter_rows())
    assert reasons["false"] == 4  # one small picture a shard
    assert reasons["same_bytes"] == 4  # one copy a shard, of a sample of the same shard
    assert reasons["semantic_duplicate"] == 4  # one re-encoded picture a shard
    assert reasons["over_quota"] >= 4
    assert len(list(release.glob("*.tar"))) >= 4
