"""Inspecting recognises every kind of thing and counts what is really in it."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import corpus
import datacomp_folder
import numpy as np
import polars as pl
import pytest
from small_run import copy_of, small_run

from curate.errors import InputError, StorageError
from curate.pipeline.inspect import inspect
from curate.store.workspace import Workspace


def folder(step: str) -> Path:
    return small_run().workspace / small_run().run.record.step(step).folder


def test_a_shard_is_what_tarfile_says_it_is() -> None:
    path = small_run().root / "shards" / "c.tar"
    with tarfile.open(path) as tar:
        sizes = [(info.name.split(".")[1], info.size) for info in tar]
    found = inspect(str(path), 3)
    assert (found["kind"], found["samples"], found["bytes"]) == ("shard", 13, path.stat().st_size)
    assert found["extensions"] == [
        {
            "ext": ext,
            "members": sum(e == ext for e, _ in sizes),
            "nbytes": sum(n for e, n in sizes if e == ext),
        }
        for ext in ("jpg", "json", "png", "txt")
    ]
    assert [sample["key"] for sample in found["first"]] == ["c0", "c1", "c2"]
    assert found["first"][0]["members"][0] == {"ext": "jpg", "nbytes": sizes[0][1]}


def test_every_fault_of_a_shard_is_named(tmp_path: Path) -> None:
    expected, broken = corpus.write_fault_corpus(tmp_path)
    for shard in sorted({e.shard for e in expected} | {b.shard for b in broken}):
        found = inspect(str(tmp_path / shard), 0)
        bad = {e.key for e in expected if e.shard == shard and e.status not in ("ok", "decode")} - {"nocaption"}
        assert {sample["key"] for sample in found["problems"]} == bad
        assert sum(found["status"].values()) == found["samples"]
        reasons = [note["reason"] for note in found["notes"] if note["kind"] == "shard"]
        assert reasons == [b.reason for b in broken if b.shard == shard]


def test_a_tar_of_tars_lists_its_tars(tmp_path: Path) -> None:
    inner = [(f"n0{c}.tar", corpus.tar_bytes([(f"n0{c}_1.JPEG", corpus.jpeg(c))])) for c in range(3)]
    (tmp_path / "train.tar").write_bytes(corpus.tar_bytes([*inner]))
    facts = inspect(str(tmp_path / "train.tar"), rows=2)
    assert (facts["kind"], facts["shards"]) == ("archive", 3)
    assert facts["first"] == [{"shard": name, "bytes": len(data)} for name, data in inner[:2]]


def test_a_group_counts_rows_nulls_and_drops() -> None:
    truth = small_run().run.columns("prune").collect()
    found = inspect(str(folder("prune")), 4)
    assert (found["kind"], found["step"], found["parts"], found["rows"]) == ("group", "prune", 3, 33)
    assert found["alive"] == truth["alive"].sum() == 15
    assert found["dropped"] == {"over_quota": 10}
    assert {c["name"]: c["nulls"] for c in found["columns"]} == {c: truth[c].null_count() for c in truth.columns}
    assert found["first"] == truth.head(4).to_dicts()
    assert {name.partition(".")[0] for name in found["artifacts"]} == {"artifacts", "concepts", "cuts", "diagnostics"}
    assert found["other_states"] == []


def test_vectors_are_shown_and_measured() -> None:
    (found,) = inspect(str(folder("embed")), 2)["vectors"]
    vectors = np.load(next(folder("embed").glob("part-00000.*.npy")))
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert found["shape"] == list(vectors.shape)
    assert (found["norm_min"], found["norm_max"]) == (norms.min(), norms.max())
    assert found["first"] == vectors[:2, :8].tolist()


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_vector_file_that_is_gone_or_cut_is_said(tmp_path: Path, damage: str) -> None:
    place, _ = copy_of(small_run(), tmp_path / "work")
    group = Path(place.path(small_run().run.record.step("embed").folder))
    file = next(group.glob("part-00000.*.npy"))
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:500])
    (found,) = inspect(str(group))["vectors"]
    assert ("is missing" if damage == "missing" else "has 500 bytes") in found["problem"]


def test_one_part_and_an_unfinished_group(tmp_path: Path) -> None:
    part = next(folder("dedup").glob("part-00001.*.parquet"))
    found = inspect(str(part), 1)
    assert (found["kind"], found["step"], found["part"], found["rows"]) == ("part", "dedup", 1, 12)
    place, _ = copy_of(small_run(), tmp_path / "work")
    group = Path(place.path(small_run().run.record.step("dedup").folder))
    next(group.glob("group.*.json")).unlink()
    found = inspect(str(group), 1)
    assert (found["kind"], found["part"], found["parts_stored"], found["rows"]) == ("unfinished group", 0, 3, 8)


def test_of_several_states_the_one_that_the_run_names_is_shown(tmp_path: Path) -> None:
    place, _ = copy_of(small_run(), tmp_path / "work")
    step = small_run().run.record.step("filter")
    text = place.read(f"{step.folder}/group.{step.group}.json").decode()
    for other in ("000000000000", "ffffffffffff"):
        place.put(f"{step.folder}/group.{other}.json", text.replace(str(step.group), other).encode())
    found = inspect(place.path(step.folder))
    assert found["fingerprint"] == step.group
    assert [state["fingerprint"] for state in found["other_states"]] == ["000000000000", "ffffffffffff"]


def test_a_release_and_a_workspace() -> None:
    found = inspect(str(small_run().release), 2)
    assert (found["kind"], found["samples"], found["dropped_samples"], len(found["shards"])) == ("release", 15, 18, 3)
    assert found["dropped"]["dedup-exact"] == {"same_bytes": 1}
    table = pl.read_parquet(small_run().release / "samples.parquet" / "00000.parquet")
    assert found["first"] == table.head(2).to_dicts()
    assert inspect(str(small_run().workspace))["status"]["alive"] == 15


def test_tables_and_arrays() -> None:
    table = inspect(str(next(folder("prune").glob("concepts.*.parquet"))), 9)
    assert (table["kind"], table["rows"]) == ("table", 3)
    array = inspect(str(next(folder("cluster").glob("centroids.*.npy"))), 1)
    assert (array["kind"], array["shape"]) == ("array", [3, 1280])
    assert len(array["first"][0]) == 8


def test_it_reads_other_filesystems() -> None:
    place = Workspace("memory://inspected")
    place.put("a.tar", corpus.tar_bytes(corpus.sample("k", corpus.jpeg(1))))
    place.put("b.npy", (folder("embed") / next(folder("embed").glob("*.npy")).name).read_bytes())
    assert inspect("memory://inspected/a.tar")["first"][0]["key"] == "k"
    assert inspect("memory://inspected/b.npy")["dtype"] == "float16"
    place.remove("")


def test_datacomp_metadata_and_its_arrays(tmp_path: Path) -> None:
    table, _ = datacomp_folder.pool(tmp_path, [30, 7, 20])
    told = inspect(str(tmp_path), rows=2)
    assert (told["kind"], told["tables"], told["with_embeddings"]) == ("metadata", 3, 3)
    assert [column["name"] for column in told["columns"]] == table.column_names
    assert told["first"] == table.slice(0, 2).to_pylist()
    assert told["bytes"] == sum(path.stat().st_size for path in tmp_path.rglob("*.*"))
    beside = inspect(f"{told['path']}/{told['first_table'].removesuffix('parquet')}npz")
    assert beside["kind"] == "arrays"
    assert {one["name"]: one["shape"] for one in beside["arrays"]} == {
        "b32_img": [30, 8], "b32_txt": [30, 8], "l14_img": [30, 16], "l14_txt": [30, 16]
    }  # fmt: skip
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "part_0" / "0.parquet")
    with pytest.raises(InputError, match="nothing that curate knows"):
        inspect(str(tmp_path / "part_0"))


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("shards", InputError, r"is a folder of 3 tar shards; inspect one, such as .*a\.tar"),
        ("", InputError, "is nothing that curate knows"),
        ("nowhere.tar", InputError, "nowhere.tar"),
        ("work/run.json", InputError, "is nothing that curate knows"),
    ],
)
def test_what_is_not_recognised_is_said(path: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        inspect(str(small_run().root / path))


def test_the_work_folder_of_a_release_has_no_columns() -> None:
    with pytest.raises(InputError, match="holds no columns"):
        inspect(str(folder("release")))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    for name in ("x.parquet", "x.npy", "part-00000.0123456789ab.parquet"):
        (tmp_path / name).write_bytes(b"not really")
        with pytest.raises(StorageError, match=name):
            inspect(str(tmp_path / name))
