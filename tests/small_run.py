"""One small real run, made once a session: three shards with planted faults and duplicates, pruned and released.

shards a.tar, b.tar, c.tar; every fault is planted by name below, so tests know what must become of each sample.
"""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import corpus
from PIL import Image

import curate
from curate.store.workspace import Workspace

TWICE = "00000000000000aa00000000000000bb"
"""A uid that two samples of the corpus give in their json."""


@dataclass(frozen=True)
class SmallRun:
    """Where it is, and the pipeline it came from."""

    root: Path
    spec: dict[str, Any]
    run: curate.Run

    @property
    def workspace(self) -> Path:
        return self.root / "work"

    @property
    def release(self) -> Path:
        return Path(str(self.run.release))

    def uid_of(self, key: str) -> str:
        """Text of the uid of a key (the first, in input order)."""
        frame = self.run.columns("index").collect()
        row = frame.row(frame["key"].to_list().index(key), named=True)
        return f"{row['uid_hi']:016x}{row['uid_lo']:016x}"


def _as_png(jpeg: bytes) -> bytes:
    """The same pixels in other bytes."""
    return corpus.encode(Image.open(io.BytesIO(jpeg)), "PNG")


def write_shards(folder: Path) -> None:
    """33 samples in three shards: 24 plain ones, and nine with something to tell."""
    folder.mkdir(parents=True)
    size = (96, 80)
    for s, shard in enumerate("abc"):
        members: list[tuple[str | bytes, bytes]] = []
        for i in range(8):
            members += corpus.sample(f"{shard}{i}", corpus.jpeg(100 * s + i, size), f"picture {shard}{i}".encode())
        if shard == "b":
            members += corpus.sample("copy-of-a1", corpus.jpeg(1, size))
            members += corpus.sample("like-a2", _as_png(corpus.jpeg(2, size)), ext="png")
            members += corpus.sample("page", corpus.html())
            members += [("wordy.txt", b"no picture"), ("wordy.json", b"{}")]
        if shard == "c":
            members += corpus.sample("small", corpus.jpeg(900, (24, 24)))
            members += corpus.sample("torn", corpus.truncated_jpeg(901))
            for n in range(2):
                data = json.dumps({"uid": TWICE}).encode()
                members += [
                    (f"twin{n}.jpg", corpus.jpeg(902 + n, size)),
                    (f"twin{n}.txt", b"twin"),
                    (f"twin{n}.json", data),
                ]
            members += corpus.sample("like-b3", _as_png(corpus.jpeg(103, size)), ext="png")
        (folder / f"{shard}.tar").write_bytes(corpus.tar_bytes(members))


def pipeline(root: Path) -> dict[str, Any]:
    """Every kind of stage, over the shards of `root`."""
    return {
        "name": "small",
        "input": {"shards": f"{root}/shards/*.tar", "shards_per_part": 1, "caption": "txt"},
        "workspace": f"{root}/work",
        "stages": [
            "index",
            {"filter": {"where": "width >= 40"}},
            {"embed": {"model": "packaged:efficientnet_lite0"}},
            {"cluster": {"concepts": 3, "iterations": 10}},
            {"dedup": {"epsilon": 0.001}},
            {"prune": {"keep": 0.6}},
            {"release": {"samples_per_shard": 6}},
        ],
    }


@cache
def small_run() -> SmallRun:
    """The run, in a folder that goes away with the process. Do not change it: copy what you want to break."""
    root = Path(tempfile.mkdtemp(prefix="curate-small-run-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    write_shards(root / "shards")
    spec = pipeline(root)
    return SmallRun(root, spec, curate.run(spec, workers=0))


def copy_of(run: SmallRun, to: Path) -> tuple[Workspace, Path]:
    """A copy of the workspace that a test may break: it, and the release in it."""
    shutil.copytree(run.workspace, to)
    return Workspace(str(to)), to / run.release.name
