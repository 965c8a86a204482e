"""One undisturbed run with two workers, made once: what all other runs of the same pipeline must equal."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import realdata
from whole_runs import SHARDS, is_server, is_worker, pipeline, release_of, start, write_pipeline, write_shard


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed, and when its processes were there."""

    shards: Path
    workspace: Path
    release: dict[str, str]
    lived: dict[str, tuple[float, float]]
    """For driver, ray (its servers) and worker: from when to when there was one, in seconds from the start."""
    files: int
    """Files of the workspace that stay."""


def lasting_files(workspace: Path) -> int:
    """Files of a workspace, without scratch, events and what is half written."""
    count = 0
    for folder, folders, names in os.walk(workspace):  # unlike rglob it shrugs at what vanishes meanwhile
        if Path(folder) == workspace:
            folders[:] = [name for name in folders if name not in {"scratch", "events", "runs"}]
            continue
        count += sum(not name.startswith(".") for name in names)
    return count


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[str]:
    """A folder of our own for Ray's logs and sockets; short, because socket paths are limited to 107 bytes."""
    folder = tempfile.mkdtemp(prefix="curate-ray-", dir="/tmp")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The input: 4 shards of 10 samples."""
    realdata.lite0()  # the weights are in the cache before anything is timed
    folder = tmp_path_factory.mktemp("input")
    for number in range(SHARDS):
        write_shard(folder, number)
    return folder


@pytest.fixture(scope="session")
def undisturbed(shards: Path, ray_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    workspace = tmp_path_factory.mktemp("undisturbed") / "work"
    file = write_pipeline(workspace.parent / "whole.yaml", pipeline(shards, workspace))
    run = start(file, "--workers", "2", RAY_TMPDIR=ray_folder)
    seen: dict[str, list[float]] = {"driver": [0.0], "ray": [], "worker": []}
    while not run.over:
        family = run.family()
        seen["driver"].append(run.seconds)
        if sum(map(is_server, family)) == 2:
            seen["ray"].append(run.seconds)
        if any(map(is_worker, family)):
            seen["worker"].append(run.seconds)
        time.sleep(0.02)
    code, said = run.end()
    assert code == 0, said
    lived = {name: (times[0], times[-1]) for name, times in seen.items()}
    return Undisturbed(shards, workspace, release_of(workspace), lived, lasting_files(workspace))
