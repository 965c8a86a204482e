"""A dataset that is made: the same bytes in this process, with Ray, and after a kill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from whole_runs import contents, run, start, write_pipeline

from curate.pipeline.api import open_run

SHARDS = 40


def file(folder: Path) -> Path:
    """A scene in every image, forty shards."""
    options: dict[str, Any] = {"ifs": {"points": 2000}, "scene": {"objects": [1, 3]}, "classes": 5, "size": 64}
    options |= {"images": 50 * SHARDS, "samples_per_shard": 50}
    spec = {"name": "made", "workspace": str(folder / "work"), "seed": 5, "stages": [{"fractal": options}]}
    return write_pipeline(folder / "p.yaml", spec)


def dataset(folder: Path) -> dict[str, str]:
    (found,) = (folder / "work").glob("fractal@*")
    return contents(found)


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inline")
    done = run(file(folder), "--workers", "0")
    assert done.returncode == 0, done.stderr
    return dataset(folder)


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "4"])
def test_any_number_of_workers_makes_the_same_bytes(
    inline: dict[str, str], workers: str, tmp_path: Path, ray_folder: str
) -> None:
    done = run(file(tmp_path), "--workers", workers, RAY_TMPDIR=ray_folder)
    assert done.returncode == 0, done.stderr
    assert dataset(tmp_path) == inline


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, SHARDS // 2])
def test_a_killed_run_is_finished_by_the_same_command(inline: dict[str, str], done: int, tmp_path: Path) -> None:
    begun = start(file(tmp_path), "--workers", "0")
    while not list((tmp_path / "work").glob(f"fractal-work@*/shard-{done - 1:05d}.*")):
        assert not begun.over, begun.end()
        time.sleep(0.002)
    begun.process.kill()
    assert begun.end()[0] == -9
    again = run(file(tmp_path), "--workers", "0")
    assert again.returncode == 0, again.stderr
    assert dataset(tmp_path) == inline
    assert done <= open_run(str(tmp_path / "work")).record.steps[0].reused_parts < SHARDS
