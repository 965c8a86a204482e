from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import embedding_folder
import numpy as np
import polars as pl
import pytest

import curate
from curate.errors import StorageError
from curate.formats.clip_retrieval import list_embeddings
from curate.pipeline.clean import plan_cleaning
from curate.store.workspace import Workspace


def run(root: Path, rows_per_file: int = 4, shards_per_part: int = 1, **more: Any) -> tuple[curate.Run, Path]:
    spec = {
        "name": "ready",
        "input": {
            "embeddings": str(root / "emb"),
            "caption": "caption",
            "fields": {"url": "string", "similarity": "float"},
            "shards_per_part": shards_per_part,
        },
        "workspace": str(root / "ws"),
        "stages": [
            "index",
            {"filter": {"where": "similarity >= 0.2"}},
            {"read_embeddings": {"text": more.pop("text", True)}},
            {"write_embeddings": {"rows_per_file": rows_per_file, **more}},
        ],
    }
    done = curate.run(spec, workers=0)
    return done, Path(done.record.steps[-1].facts["url"])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("rows_per_file", [1, 4, 1000])
def test_alive_rows_are_written_in_order(tmp_path: Path, rows_per_file: int) -> None:
    true = embedding_folder.made(tmp_path / "emb", [6, 11, 3], text=True)
    done, folder = run(tmp_path, rows_per_file)
    alive = done.columns("read_embeddings").collect()["alive"].to_numpy()
    assert 0 < alive.sum() < 20
    images = [np.load(f) for f in sorted((folder / "img_emb").iterdir())]
    assert [len(rows) for rows in images[:-1]] == [rows_per_file] * (len(images) - 1)
    assert 0 < len(images[-1]) <= rows_per_file
    assert np.array_equal(np.concatenate(images), true[alive])
    texts = np.concatenate([np.load(tmp_path / "emb" / "text_emb" / f"text_emb_{n}.npy") for n in range(3)])
    assert np.array_equal(np.concatenate([np.load(f) for f in sorted((folder / "text_emb").iterdir())]), texts[alive])
    table = pl.read_parquet(folder / "metadata" / "*.parquet")
    given = pl.read_parquet(tmp_path / "emb" / "metadata" / "*.parquet").filter(alive)
    for name in ("image_path", "caption", "uid", "url", "similarity"):
        assert table[name].to_list() == given[name].to_list()
    for shard in list_embeddings(str(folder)):
        assert len(shard.sidecars or ()) == 3


def test_the_finishing_file_names_every_file(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [9])
    _, folder = run(tmp_path)
    files = files_of(folder)
    record = json.loads(files.pop("embeddings.json"))
    assert (record["rows"], record["dim"]) == (7, 8)
    assert {name: (f["bytes"], f["sha256"]) for name, f in record["files"].items()} == {
        name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in files.items()
    }
    assert sorted(files) == [
        f"{kind}/{kind}_{n:04d}.{end}"
        for kind, end in (("img_emb", "npy"), ("metadata", "parquet"), ("text_emb", "npy"))
        for n in (0, 1)
    ]


def test_the_bytes_do_not_depend_on_how_the_input_is_cut_into_files(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [5, 6, 7])
    _, folder = run(tmp_path, 8, to=str(tmp_path / "a"))
    _, other = run(tmp_path, 8, 3, to=str(tmp_path / "b"))
    one, two = files_of(folder), files_of(other)
    assert [name for name in one if name.endswith(".npy") and one[name] != two[name]] == []
    for name in one:
        if name.endswith(".parquet"):  # row groups follow the parts, the rows are the same
            assert pl.read_parquet(folder / name).equals(pl.read_parquet(other / name))


def test_a_finished_folder_is_left_alone_and_a_lost_one_written_again(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [6])
    _, folder = run(tmp_path)
    before = files_of(folder)
    stamp = (folder / "embeddings.json").stat().st_mtime_ns
    run(tmp_path)
    assert (folder / "embeddings.json").stat().st_mtime_ns == stamp
    shutil.rmtree(folder)
    run(tmp_path)
    assert files_of(folder) == before


def test_a_folder_with_something_else_in_it_is_not_written_to(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [6])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"already holds thesis\.txt"):
        run(tmp_path, to=str(tmp_path / "mine"))


def test_captions_without_vectors_get_zeros(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [6])
    texts = np.load(tmp_path / "emb" / "text_emb" / "text_emb_0.npy")
    texts[3] = 0
    np.save(tmp_path / "emb" / "text_emb" / "text_emb_0.npy", texts)
    _, folder = run(tmp_path, 1000)
    assert np.array_equal(np.load(folder / "text_emb" / "text_emb_0000.npy"), texts[1:])


def test_nothing_left_writes_nothing_but_the_finishing_file(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [1])  # its similarity is 0
    done, folder = run(tmp_path)
    assert list(files_of(folder)) == ["embeddings.json"]
    assert done.record.steps[-1].facts["rows"] == 0


def test_clean_takes_a_forgotten_folder_whole(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [6])
    _, old = run(tmp_path, 4)
    _, new = run(tmp_path, 3)
    found = plan_cleaning(Workspace(str(tmp_path / "ws")), only_latest=True)
    assert found.unknown == []
    assert old.name in [item.path for item in found.remove]
    assert new.name not in [item.path for item in found.remove]
