"""An image folder keeps its classes in the release: numbers as torchvision's ImageFolder gives them."""

from __future__ import annotations

import json
from pathlib import Path

import corpus
import webdataset as wds
from torchvision.datasets import ImageFolder

import curate
from curate.pipeline.verify import verify_release
from curate.store.workspace import Workspace


def test_class_numbers_are_those_of_torchvision(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for c, name in enumerate(("zebra", "ant", "Bee")):
        (root / name).mkdir(parents=True)
        for i in range(3):
            (root / name / f"{i}.jpg").write_bytes(corpus.jpeg(10 * c + i, (40 + i, 30)))
    oracle = ImageFolder(str(root))
    run = curate.run(
        {
            "name": "classes",
            "input": {"folder": str(root), "files_per_part": 2},
            "workspace": str(tmp_path / "work"),
            # drops every sample of no class, and some of each
            "stages": ["index", {"filter": {"where": "width >= 41"}}, {"release": {"samples_per_shard": 4}}],
        },
        workers=0,
    )
    release = Path(str(run.release))
    assert json.loads((release / "classes.json").read_text()) == oracle.class_to_idx
    truth = {Path(path).read_bytes(): number for path, number in oracle.samples}
    shards = sorted(str(path) for path in release.glob("*.tar"))
    samples = list(wds.WebDataset(shards, shardshuffle=False))
    assert len(samples) == 6
    for sample in samples:
        assert truth[sample["jpg"]] == int(sample["cls"])
    assert verify_release(Workspace(str(release))).violations == []
