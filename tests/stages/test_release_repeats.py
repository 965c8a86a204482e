"""A release of samples that are to be seen more than once: copies in DataComp's layout, a column in ours."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest

import curate
from curate.formats.datacomp import count_distinct, read_subset
from curate.pipeline.verify import verify_release
from curate.store.workspace import Workspace

BUDGET = 30


def pipeline(root: Path, layout: str) -> dict[str, Any]:
    return {
        "name": "repeats",
        "input": {"shards": f"{root}/shards/*.tar", "caption": "txt"},
        "workspace": f"{root}/work",
        "stages": [
            "index",
            {"read_embeddings": {"folder": f"{root}/vectors"}},
            {"cluster": {"concepts": 2, "iterations": 5}},
            {"prune": {"keep": BUDGET, "repeats": 3, "temperature": 100.0}},
            {"release": {"samples_per_shard": 8, "layout": layout}},
        ],
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen samples round one direction, two round another: half of the budget each would be 15 of the two."""
    root = tmp_path_factory.mktemp("repeats")
    (root / "shards").mkdir()
    keys = [f"{i:03d}" for i in range(20)]
    members: list[tuple[str | bytes, bytes]] = []
    for i, key in enumerate(keys):
        members += corpus.sample(key, corpus.jpeg(i, (40, 40)), f"picture {i}".encode())
    (root / "shards" / "a.tar").write_bytes(corpus.tar_bytes(members))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, 8)) * 0.1
    vectors[:18, 0] += 1
    vectors[18:, 1] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for folder in ("img_emb", "metadata"):
        (root / "vectors" / folder).mkdir(parents=True)
    np.save(root / "vectors" / "img_emb" / "img_emb_0.npy", vectors.astype(np.float16))
    pl.DataFrame({"image_path": keys}).write_parquet(root / "vectors" / "metadata" / "metadata_0.parquet")
    return root


def keys_of(release: Path) -> list[str]:
    names = []
    for shard in sorted(release.glob("*.tar")):
        with tarfile.open(fileobj=io.BytesIO(shard.read_bytes())) as tar:
            names += [name.partition(".")[0] for name in tar.getnames() if name.endswith(".jpg")]
    return names


def test_copies_follow_one_another_in_datacomps_layout(root: Path) -> None:
    run = curate.run(pipeline(root, "datacomp"), workers=0)
    release = Path(str(run.release))
    kept = run.columns("index", "prune").collect().filter(pl.col("prune.alive"))
    repeats = kept["prune.repeats"].to_list()
    uids = [f"{hi:016x}{lo:016x}" for hi, lo in kept.select("index.uid_hi", "index.uid_lo").iter_rows()]
    assert sum(repeats) == BUDGET
    assert max(repeats) == 3
    expected = [f"{uid}-{copy}" for uid, times in zip(uids, repeats, strict=True) for copy in range(times)]
    assert keys_of(release) == expected
    table = pl.concat(pl.read_parquet(path) for path in sorted((release / "samples.parquet").iterdir()))
    assert table["uid"].to_list() == [key[:32] for key in expected]
    subset = read_subset(str(release / "sample_ids.npy"))
    assert (len(subset), count_distinct(subset)) == (BUDGET, len(uids))
    manifest = json.loads((release / "manifest.json").read_text())
    assert (manifest["samples"], manifest["copies"]) == (len(uids), BUDGET - len(uids))
    assert manifest["input_samples"] == manifest["samples"] + manifest["dropped_samples"] == 20
    assert sum(json.loads((release / "sizes.json").read_text()).values()) == BUDGET
    found = verify_release(Workspace(str(release)))
    assert found.violations == []
    assert found.samples == len(uids)


def test_verify_counts_copies(root: Path) -> None:
    release = Path(str(curate.run(pipeline(root, "datacomp"), workers=0).release))
    manifest = json.loads((release / "manifest.json").read_text())
    good = json.dumps(manifest)
    try:
        (release / "manifest.json").write_text(json.dumps(manifest | {"copies": manifest["copies"] - 1}))
        told = [str(one) for one in verify_release(Workspace(str(release))).violations]
        assert any("samples share a uid with another one" in one for one in told)
    finally:
        (release / "manifest.json").write_text(good)


def test_our_layout_writes_each_sample_once_and_says_how_often(root: Path) -> None:
    run = curate.run(pipeline(root, "webdataset"), workers=0)
    release = Path(str(run.release))
    table = pl.concat(pl.read_parquet(path) for path in sorted((release / "samples.parquet").iterdir()))
    assert table["uid"].n_unique() == table.height == len(keys_of(release))
    assert table["repeats"].sum() == BUDGET
    assert (table["weight"] >= 1).all()
    assert "copies" not in json.loads((release / "manifest.json").read_text())
    assert verify_release(Workspace(str(release))).violations == []
