"""Reference sets: what is recognised, every row comes once with its key, and when the content counts as changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import embedding_folder
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray
from small_run import small_run

from curate.errors import InputError
from curate.formats.references import ReferenceSet, open_references, samples_of, vectors_of


def one(place: Path | str) -> ReferenceSet:
    return open_references([str(place)])[0]


def everything(found: ReferenceSet) -> tuple[list[str], NDArray[np.float64]]:
    keys, blocks = zip(*vectors_of(found), strict=True)
    return [key for some in keys for key in some], np.concatenate(blocks)


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
@pytest.mark.parametrize("form", ["npy", "npz", "packed"])
def test_a_file_of_rows(tmp_path: Path, kind: str, form: str) -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 3)).astype(kind)
    place = tmp_path / f"set.{form if form == 'npy' else 'npz'}"
    if form == "npy":
        np.save(place, rows)
    else:
        (np.savez if form == "npz" else np.savez_compressed)(place, ids=np.arange(5), rows=rows)
    found = one(place)
    assert (found.name, found.vectors, found.dim, found.samples) == ("set", 20_000, 3, 0)
    keys, vectors = everything(found)
    assert keys == [f"{i:09d}" for i in range(20_000)]
    assert vectors.dtype == kind
    np.testing.assert_array_equal(vectors, rows)
    assert [len(block) for _, block in vectors_of(found)] == [8192, 8192, 3616]


def test_a_folder_of_embeddings(tmp_path: Path) -> None:
    rows = embedding_folder.made(tmp_path / "eval", [9000, 3, 0, 40], dim=4)
    found = one(tmp_path / "eval")
    assert (found.vectors, found.dim) == (9043, 4)
    keys, vectors = everything(found)
    np.testing.assert_array_equal(vectors, rows)
    assert keys[:2] == ["000000000", "000000001"]
    assert keys[8999:9004] == ["000008999", "000010000", "000010001", "000010002", "000030000"]


def test_a_workspace_gives_what_is_alive_at_its_end() -> None:
    run = small_run().run
    found = one(small_run().workspace)
    table = run.columns("index", "embed", "prune").collect()
    alive = table.filter("prune.alive")
    uids = [f"{hi:016x}{lo:016x}" for hi, lo in alive.select("index.uid_hi", "index.uid_lo").iter_rows()]
    assert found.samples == len(uids) == run.record.alive
    keys, vectors = everything(found)
    assert keys == uids
    rows = run.vector_rows("embed").collect()["vector_row"].filter(table["prune.alive"])
    np.testing.assert_array_equal(vectors, run.vectors("embed")[rows.to_numpy()])
    samples = pl.concat(samples_of(found))
    assert samples["sha256"].to_list() == alive["index.sha256"].to_list()
    assert dict(found.encoder or ())["model"] == "packaged:efficientnet_lite0"


def test_a_release_gives_its_samples_and_perhaps_vectors(tmp_path: Path) -> None:
    place = tmp_path / "v1"
    shutil.copytree(small_run().release, place)
    found = one(place)
    table = pl.read_parquet(f"{place}/samples.parquet/*.parquet")
    assert (found.samples, found.vectors) == (table.height, 0)
    samples = pl.concat(samples_of(found))
    assert [f"{hi:016x}{lo:016x}" for hi, lo in samples.select("uid_hi", "uid_lo").iter_rows()] == table[
        "uid"
    ].to_list()
    assert samples["sha256"].to_list() == table["sha256"].to_list()
    assert list(vectors_of(found)) == []
    rows = embedding_folder.made(place, [table.height], dim=4)
    more = one(place)
    assert (more.samples, more.vectors, more.dim) == (table.height, table.height, 4)
    assert more.content != found.content
    np.testing.assert_array_equal(everything(more)[1], rows)


def test_names_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "val.npy", np.eye(3))
    found = open_references([f"{tmp_path}/{folder}/val.npy" for folder in ("a", "b", "c")])
    assert [f.name for f in found] == ["val", "val-2", "val-3"]
    assert len({f.content for f in found}) == 1


def test_content_is_that_of_the_bytes(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "a", [5], seed=1)
    embedding_folder.made(tmp_path / "b", [5], seed=1)
    embedding_folder.made(tmp_path / "c", [5], seed=2)
    a, b, c = (one(tmp_path / folder).content for folder in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "is no reference set; one is"),
        ({"run.json": '{"status": "failed", "steps": []}'}, "the run is failed, a reference set is a finished one"),
        ({"run.json": "{}"}, "run.json: cannot be understood"),
    ],
)
def test_folders_that_are_none(tmp_path: Path, files: dict[str, str], sentence: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=sentence):
        one(tmp_path)


def test_two_lengths_in_one_folder(tmp_path: Path) -> None:
    for number, dim in enumerate((3, 4)):
        embedding_folder.write_number(tmp_path, str(number), np.eye(dim), {"key": ["x"] * dim})
    with pytest.raises(InputError, match="has vectors of 4 numbers, the files before it 3"):
        one(tmp_path)
