"""A small release with label maps and label sets, made once a session by a tiny teacher: 12 samples in three shards.

The shards cover every kind of json member: none, an empty object, odd spaces, one with `labels` of its own.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import corpus
import tiny_teacher

import curate

NAMES = [f"class {number}" for number in range(tiny_teacher.CLASSES)]
JSONS = (None, b"{}", '{ "a" :1,\n  "é": [ 2 ] }\n'.encode(), b'{"labels": ["mine"], "b": 1.50}')
"""What the json member of sample i is, i modulo 4."""


@dataclass(frozen=True)
class LabelledRun:
    """Where it is, the pipeline it came from, and the run."""

    root: Path
    spec: dict[str, Any]
    run: curate.Run

    @property
    def release(self) -> Path:
        return Path(str(self.run.release))


def write(root: Path) -> dict[str, Any]:
    """Shards, teacher and class names below `root`; the pipeline without a release."""
    (root / "shards").mkdir(parents=True)
    for shard in range(3):
        members: list[tuple[str | bytes, bytes]] = []
        for i in range(4 * shard, 4 * shard + 4):
            members.append((f"s{i:02d}.jpg", corpus.jpeg(i)))
            given = JSONS[i % 4]
            members += [] if given is None else [(f"s{i:02d}.json", given)]
        (root / "shards" / f"{shard:05d}.tar").write_bytes(corpus.tar_bytes(members))
    listed = [{"cid": number, "wnid": f"w{number}", "synset": [name]} for number, name in enumerate(NAMES)]
    (root / "classes.json").write_text(json.dumps(listed))
    teacher = tiny_teacher.save(root / "teacher.pth") | {"batch_size": 4, "k": 3}
    decided = {"class_names": f"{root}/classes.json", "keep": 0.3, "drop": 0.1}
    return {
        "name": "labelled",
        "input": {"shards": f"{root}/shards/*.tar", "shards_per_part": 1},
        "workspace": f"{root}/work",
        "stages": ["index", {"relabel": teacher}, {"label_sets": decided}],
    }


def released(spec: dict[str, Any], **options: Any) -> LabelledRun:
    """A run of the pipeline with a release of these options."""
    options = {"samples_per_shard": 5} | options
    spec = spec | {"stages": [*spec["stages"], {"release": options}]}
    return LabelledRun(Path(spec["workspace"]).parent, spec, curate.run(spec, workers=0))


@cache
def labelled_run() -> LabelledRun:
    """The run, in a folder that goes away with the process. Do not change it: copy what you want to break."""
    root = Path(tempfile.mkdtemp(prefix="curate-labelled-run-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return released(write(root))
