"""One undisturbed run with two workers, made once: what all other runs of the same pipeline must equal."""

from __future__ import annotations

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
    """A run that nobody disturbed, and when things were there in it, in seconds from its start."""

    shards: Path
    workspace: Path
    release: dict[str, str]
    servers_at: float
    worker_at: float
    ended_at: float
    files: int
    """Files of the workspace that stay."""


def lasting_files(workspace: Path) -> int:
    """Files of a workspace, without scratch, events and what is half written."""
    count = 0
    for path in workspace.rglob("*"):
        top = path.relative_to(workspace).parts[0]
        count += top not in {"scratch", "events", "runs", "run.json"} and not path.name.startswith(".")
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
    servers_at = worker_at = 0.0
    while not run.over:
        family = run.family()
        if not servers_at and sum(map(is_server, family)) == 2:
            servers_at = run.seconds
        if not worker_at and any(map(is_worker, family)):
            worker_at = run.seconds
        time.sleep(0.02)
    ended_at = run.seconds
    code, said = run.end()
    assert code == 0, said
    return Undisturbed(
        shards, workspace, release_of(workspace), servers_at, worker_at, ended_at, lasting_files(workspace)
    )
