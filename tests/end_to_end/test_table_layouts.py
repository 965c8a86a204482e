"""Whole runs over tables: Parquet with image bytes to shards, ready embeddings to embeddings and tables."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import corpus
import datasets
import embedding_folder
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds

import curate
from curate.errors import SpecError
from curate.formats.datacomp import open_subset
from curate.pipeline.explain import explain
from curate.pipeline.summary import summarise, summary_lines
from curate.pipeline.verify import verify_release
from curate.pipeline.write_report import write_report
from curate.store.workspace import Workspace


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def samples_of(release: Path) -> list[dict[str, Any]]:
    """What webdataset itself reads from a release."""
    urls = [str(path) for path in sorted(release.glob("*.tar"))]
    return list(wds.WebDataset(urls, shardshuffle=False, empty_check=False))


# --- Parquet with image bytes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """Two files written by `datasets`: 24 samples, of which one has no bytes and two are the same image."""
    root = tmp_path_factory.mktemp("hf")
    images = [corpus.jpeg(i, (48, 40)) for i in range(22)] + [
        corpus.encode(corpus.photo(50), "PNG"),
        corpus.jpeg(3, (48, 40)),
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "text": datasets.Value("string"),
            "id": datasets.Value("int64"),
        }
    )
    for n in range(2):
        mine = range(12 * n, 12 * n + 12)
        data = {
            "image": [None if i == 7 else {"bytes": images[i], "path": f"{i}.img"} for i in mine],
            "label": [i % 2 for i in mine],
            "text": [f"picture {i}" for i in mine],
            "id": list(mine),
        }
        datasets.Dataset.from_dict(data, features=features).to_parquet(str(root / f"train-{n:05d}-of-00002.parquet"))
    return root, images


def parquet_pipeline(source: Path, workspace: Path, **given: Any) -> dict[str, Any]:
    return {
        "name": "tables",
        "input": {
            "parquet": f"{source}/*.parquet",
            "caption": "text",
            "label": "label",
            "fields": {"id": "int"},
            **given,
        },
        "workspace": str(workspace),
        "stages": [
            "index",
            {"embed": {"model": "packaged:efficientnet_lite0"}},
            {"cluster": {"concepts": 2}},
            {"dedup": {"epsilon": 0.0001}},
            {"release": {"samples_per_shard": 10}},
        ],
    }


def test_a_hugging_face_dataset_becomes_shards(tmp_path: Path, hugging_face: tuple[Path, list[bytes]]) -> None:
    source, images = hugging_face
    done = curate.run(parquet_pipeline(source, tmp_path / "ws", shards_per_part=1), workers=0)
    release = Path(str(done.release))
    assert verify_release(Workspace(str(release))).ok
    table = pl.read_parquet(release / "samples.parquet" / "*.parquet")
    dropped = pl.read_parquet(release / "dropped.parquet" / "*.parquet")
    assert dropped["reason"].to_list() == ["missing_image", "same_bytes"]
    found = samples_of(release)
    assert [sample["__key__"] for sample in found] == table["uid"].to_list()
    assert [row["id"] for row in table.iter_rows(named=True)] == [i for i in range(23) if i != 7]
    for sample, row in zip(found, table.iter_rows(named=True), strict=True):
        number = row["id"]
        image = sample["png"] if number == 22 else sample["jpg"]
        assert image == images[number]
        assert sample["txt"] == f"picture {number}".encode()
        assert sample["cls"] == str(number % 2).encode()
        assert (row["caption"], row["label"]) == (f"picture {number}", ["cat", "dog"][number % 2])
        assert json.loads(sample["json"]) == {
            "image": {"path": f"{number}.img"},
            "label": number % 2,
            "text": f"picture {number}",
            "id": number,
        }


def test_the_release_does_not_depend_on_parts_or_groups(tmp_path: Path, hugging_face: tuple[Path, list[bytes]]) -> None:
    """One part or two, row groups of any size: the same shards, byte for byte."""
    source, _ = hugging_face
    again = tmp_path / source.name
    again.mkdir()
    for path in source.iterdir():
        pq.write_table(pq.read_table(path), again / path.name, row_group_size=5)
    found = []
    for name, place, cut in (("a", source, 1), ("b", source, 2), ("c", again, 2)):
        spec = parquet_pipeline(place, tmp_path / name, shards_per_part=cut)
        spec["stages"] = ["index", {"filter": {"where": "id != 11"}}, {"release": {"samples_per_shard": 10}}]
        release = Path(str(curate.run(spec, workers=0).release))
        found.append({k: v for k, v in files_of(release).items() if not k.startswith("dropped")})
        del found[-1]["manifest.json"]  # names the tables of what was dropped, which follow the parts
    assert found[0] == found[1] == found[2]
    assert len(samples_of(release)) == 22


@pytest.mark.slow
def test_two_workers_write_the_same_release(tmp_path: Path, hugging_face: tuple[Path, list[bytes]]) -> None:
    source, _ = hugging_face
    releases = []
    for workers in (0, 2):
        spec = parquet_pipeline(source, tmp_path / str(workers), shards_per_part=1)
        spec["stages"] = ["index", {"release": {"samples_per_shard": 10}}]
        releases.append(files_of(Path(str(curate.run(spec, workers=workers).release))))
    assert releases[0] == releases[1]


def test_rows_that_were_not_downloaded_are_told_but_not_quarantined(tmp_path: Path) -> None:
    """img2dataset's Parquet output, to shards in DataComp's layout."""
    n = 6
    images = [None if i == 2 else corpus.jpeg(i) for i in range(n)]
    columns = {
        "uid": [f"{i:032x}" for i in range(n)],
        "url": [f"http://x/{i}" for i in range(n)],
        "caption": [f"caption {i}" for i in range(n)],
        "key": [f"{i:09d}" for i in range(n)],
        "status": ["success" if data else "failed_to_download" for data in images],
        "error_message": [None if data else "HTTP Error 404: Not Found" for data in images],
        "jpg": pa.array(images, pa.binary()),
    }
    pq.write_table(pa.table(columns), tmp_path / "00000.parquet", row_group_size=100)
    spec = {
        "name": "img2dataset",
        "input": {"parquet": str(tmp_path / "00000.parquet"), "caption": "caption"},
        "workspace": str(tmp_path / "ws"),
        "stages": ["index", {"release": {"layout": "datacomp"}}],
    }
    done = curate.run(spec, workers=0)
    assert done.quarantined == 0
    release = Path(str(done.release))
    assert verify_release(Workspace(str(release))).ok
    dropped = pl.read_parquet(release / "dropped.parquet" / "*.parquet")
    assert dropped.select("key", "reason", "detail").rows() == [
        ("000000002", "not_downloaded", "HTTP Error 404: Not Found")
    ]
    found = samples_of(release)
    assert [(s["jpg"], s["txt"]) for s in found] == [(images[i], f"caption {i}".encode()) for i in (0, 1, 3, 4, 5)]
    assert [json.loads(s["json"])["url"] for s in found] == [f"http://x/{i}" for i in (0, 1, 3, 4, 5)]


# --- ready embeddings -------------------------------------------------------------------------------------------------


def embeddings_pipeline(source: Path, root: Path, cut: int = 1, **release: Any) -> dict[str, Any]:
    return {
        "name": "embeddings",
        "input": {"embeddings": str(source), "caption": "caption", "fields": {"url": "string"}, "shards_per_part": cut},
        "workspace": str(root / "ws"),
        "stages": [
            "index",
            {"read_embeddings": {"text": True}},
            {"cluster": {"concepts": 3}},
            {"dedup": {"epsilon": 0.05}},
            {"prune": {"keep": 0.5, "of": "deduplicated"}},
            {"write_embeddings": {"rows_per_file": 50, "to": str(root / "kept")}},
            {"release": {"samples_per_shard": 40, "to": str(root / "release"), **release}},
        ],
    }


@pytest.fixture(scope="module")
def clip_retrieval(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three numbers, 300 rows around three directions; every tenth row lies next to the one before."""
    root = tmp_path_factory.mktemp("laion") / "laion"
    embedding_folder.made(root, [100, 150, 50], dim=32)
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 32))
    for path in sorted((root / "img_emb").iterdir()):
        rows = centres[rng.integers(0, 3, len(np.load(path)))] + 0.8 * rng.normal(size=(len(np.load(path)), 32))
        rows[10::10] = rows[9:-1:10] + 0.01
        np.save(path, embedding_folder.unit(rows))
    return root


def test_embeddings_in_embeddings_out(tmp_path: Path, clip_retrieval: Path) -> None:
    done = curate.run(embeddings_pipeline(clip_retrieval, tmp_path), workers=0)
    reasons = {name: step.reasons for name, step in ((s.name, s) for s in done.record.steps) if step.reasons}
    assert reasons["dedup"]["semantic_duplicate"] >= 26
    images = np.concatenate([np.load(f) for f in sorted((tmp_path / "kept" / "img_emb").iterdir())])
    texts = np.concatenate([np.load(f) for f in sorted((tmp_path / "kept" / "text_emb").iterdir())])
    table = pl.read_parquet(tmp_path / "kept" / "metadata" / "*.parquet")
    given = pl.concat([pl.read_parquet(clip_retrieval / "metadata" / f"metadata_{n}.parquet") for n in range(3)])
    row_of = {key: row for row, key in enumerate(given["image_path"])}
    rows = [row_of[key] for key in table["image_path"]]
    assert rows == sorted(rows)
    assert 100 < len(rows) < 140
    for kind, kept in (("img_emb", images), ("text_emb", texts)):
        everything = np.concatenate([np.load(clip_retrieval / kind / f"{kind}_{n}.npy") for n in range(3)])
        assert kept.dtype == np.float16
        assert np.array_equal(kept.view(np.uint16), everything[rows].view(np.uint16))
    for name in ("uid", "caption", "url"):
        assert table[name].to_list() == given[name][rows].to_list()
    # report, summary and the story of a sample need no images
    summary = summarise(done)
    summary["report"] = write_report(done, summary)
    assert "semantic" in Path(summary["report"]).read_text(encoding="utf-8")
    said = list(summary_lines(summary))
    assert f"embeddings: {tmp_path}/kept  ({len(rows):,} rows of 32 numbers, " in "\n".join(said)
    (story,) = explain(done, uid=table["uid"][0])
    assert (story.key, story.shard) == (table["image_path"][0], "metadata/metadata_0.parquet")
    # what was written is an input again, and gives the same vectors
    spec = embeddings_pipeline(tmp_path / "kept", tmp_path / "again", cut=2)
    spec["stages"] = [
        "index",
        {"read_embeddings": {"text": True}},
        {"write_embeddings": {"to": str(tmp_path / "twice")}},
    ]
    curate.run(spec, workers=0)
    assert np.array_equal(
        np.load(tmp_path / "twice" / "img_emb" / "img_emb_0000.npy").view(np.uint16), images.view(np.uint16)
    )
    assert np.array_equal(
        np.load(tmp_path / "twice" / "text_emb" / "text_emb_0000.npy").view(np.uint16), texts.view(np.uint16)
    )
    assert pl.read_parquet(tmp_path / "twice" / "metadata" / "*.parquet").equals(table)


@pytest.mark.parametrize("layout", ["webdataset", "datacomp"])
def test_without_images_the_release_is_tables(tmp_path: Path, clip_retrieval: Path, layout: str) -> None:
    done = curate.run(embeddings_pipeline(clip_retrieval, tmp_path, layout=layout), workers=0)
    release = tmp_path / "release"
    assert done.release == str(release)
    checked = verify_release(Workspace(str(release)))
    assert checked.violations == []
    assert not list(release.glob("*.tar"))
    table = pl.read_parquet(release / "samples.parquet" / "*.parquet")
    kept = pl.read_parquet(tmp_path / "kept" / "metadata" / "*.parquet")
    for name, column in (("uid", "uid"), ("image_path", "key"), ("caption", "caption"), ("url", "url")):
        assert kept[name].to_list() == table[column].to_list()
    assert table["shard"].null_count() == table.height == checked.samples
    manifest = json.loads((release / "manifest.json").read_bytes())
    assert (manifest["shards"], manifest["samples"], manifest["input_samples"]) == (0, table.height, 300)
    if layout == "datacomp":  # the subset file that DataComp's resharder takes
        subset = open_subset(str(release / "sample_ids.npy"))
        assert sorted(f"{hi:016x}{lo:016x}" for hi, lo in subset.tolist()) == sorted(table["uid"].to_list())
    (table_file,) = [path for path in (release / "samples.parquet").iterdir() if path.name.endswith("0.parquet")]
    pl.read_parquet(table_file)[1:].write_parquet(table_file)
    assert not verify_release(Workspace(str(release))).ok


def test_vectors_written_by_one_run_serve_shards_of_another(
    tmp_path: Path, hugging_face: tuple[Path, list[bytes]]
) -> None:
    """embed -> write_embeddings -> read_embeddings with folder, by uid: the same vectors without the encoder."""
    source, _ = hugging_face
    spec = parquet_pipeline(source, tmp_path / "ws")
    spec["stages"] = [
        "index",
        {"embed": {"model": "packaged:efficientnet_lite0"}},
        {"write_embeddings": {"rows_per_file": 9, "to": str(tmp_path / "emb")}},
    ]
    first = curate.run(spec, workers=0)
    spec = parquet_pipeline(source, tmp_path / "other", shards_per_part=1)
    spec["stages"] = ["index", {"read_embeddings": {"folder": str(tmp_path / "emb"), "match": "uid"}}]
    second = curate.run(spec, workers=0)
    assert np.array_equal(
        np.concatenate(list(second.vector_parts("read_embeddings"))), np.concatenate(list(first.vector_parts("embed")))
    )


def test_embed_is_refused_where_there_are_no_images(tmp_path: Path, clip_retrieval: Path) -> None:
    spec = embeddings_pipeline(clip_retrieval, tmp_path)
    spec["stages"] = ["index", {"embed": {"model": "packaged:efficientnet_lite0"}}]
    with pytest.raises(SpecError, match="use read_embeddings"):
        curate.run(spec, workers=0)
