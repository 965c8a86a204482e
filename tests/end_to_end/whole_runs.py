"""Whole runs as a user starts them: a pipeline file over tiny shards, the `curate run` command in its own process."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import psutil
import yaml
from PIL import Image

SHARDS, SAMPLES = 4, 10


def write_shard(folder: Path, number: int) -> None:
    """Ten samples: seven plain ones, a copy of the first shard's, the same pixels in other bytes, and a small one."""
    folder.mkdir(parents=True, exist_ok=True)
    members: list[tuple[str | bytes, bytes]] = []
    for i in range(SAMPLES - 3):
        members += corpus.sample(f"s{number}-{i}", corpus.jpeg(100 * number + i), f"picture {number} {i}".encode(), i=i)
    members += corpus.sample(f"s{number}-copy", corpus.jpeg(100 * number))
    same = corpus.encode(Image.open(io.BytesIO(corpus.jpeg(100 * number + 1))), "PNG")
    members += corpus.sample(f"s{number}-same", same, ext="png")
    members += corpus.sample(f"s{number}-small", corpus.jpeg(900 + number, (24, 24)))
    (folder / f"{number:05d}.tar").write_bytes(corpus.tar_bytes(members))


def pipeline(
    shards: Path, workspace: Path, *, keep: float = 0.7, epsilon: float = 0.001, hashes: bool = True
) -> dict[str, Any]:
    """Stages of every shape, over the shards of a folder; one part a shard. Without hashes, epsilon 0 drops nothing."""
    by_hash: list[Any] = ["hash", {"dedup_hash": {"distance": 2}}]
    return {
        "name": "whole",
        "input": {"shards": f"{shards}/*.tar", "shards_per_part": 1, "caption": "txt"},
        "workspace": str(workspace),
        "seed": 3,
        "stages": [
            "index",
            {"filter": {"where": "width >= 40"}},
            {"embed": {"model": "packaged:efficientnet_lite0", "batch_size": 4}},
            {"cluster": {"concepts": 3, "train": "full", "iterations": 4, "seeding": "kmeans||", "training_sample": 9}},
            {"dedup": {"epsilon": epsilon, "probes": "all"}},
            *(by_hash if hashes else []),
            {"prune": {"keep": keep}},
            {"release": {"samples_per_shard": 4}},
        ],
    }


def write_pipeline(path: Path, spec: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def command(file: Path, *options: str) -> list[str]:
    """`curate run FILE`, by module, so that it needs no PATH."""
    return [sys.executable, "-m", "curate.cli.main", "run", str(file), "--quiet", "--no-report", *options]


def environment(**more: str) -> dict[str, str]:
    """One thread a worker: so many processes share few cores."""
    plain = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return plain | {"OMP_NUM_THREADS": "1"} | more


def run(file: Path, *options: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    """The command, to its end."""
    return subprocess.run(
        command(file, *options), env=environment(**env), capture_output=True, text=True, timeout=timeout, check=False
    )


@dataclass
class Started:
    """A run under way."""

    process: subprocess.Popen[str]
    began: float

    def family(self) -> list[psutil.Process]:
        """All processes that it started and that are children still."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    def end(self, timeout: float = 120) -> tuple[int, str]:
        """Exit code and what it said."""
        _, said = self.process.communicate(timeout=timeout)
        return self.process.returncode, said


def start(file: Path, *options: str, **env: str) -> Started:
    process = subprocess.Popen(
        command(file, *options),
        env=environment(**env),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    return Started(process, time.monotonic())


def is_server(process: psutil.Process) -> bool:
    return name_of(process) in {"raylet", "gcs_server"}


def is_worker(process: psutil.Process) -> bool:
    name = name_of(process)
    return name.startswith("ray::") and "Agent" not in name


def name_of(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def releases(workspace: Path) -> list[Path]:
    return sorted(path for path in workspace.glob("release@*") if path.is_dir())


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder, hidden ones too, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def release_of(workspace: Path) -> dict[str, str]:
    """Contents of the one release of a workspace."""
    (folder,) = releases(workspace)
    return contents(folder)
