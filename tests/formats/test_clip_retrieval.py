from __future__ import annotations

import shutil
from pathlib import Path

import embedding_folder
import fsspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats.clip_retrieval import (
    IMAGES,
    check_rows,
    file_of,
    list_embeddings,
    open_npy,
    read_column,
    read_rows,
)
from curate.formats.index import index_part
from curate.formats.samples import INDEX_SCHEMA, IndexOptions
from curate.formats.sources import PartSource, Sidecar, plan_parts
from curate.store.uids import make_uid


def part_of(root: Path) -> PartSource:
    (part,) = plan_parts(list_embeddings(str(root)), 1000, "embeddings")
    return part


def array(path: Path) -> Sidecar:
    return Sidecar(IMAGES, str(path), path.stat().st_size, "")


@pytest.mark.parametrize("pad", [0, 4])
def test_numbers_count_whatever_their_padding(tmp_path: Path, pad: int) -> None:
    embedding_folder.made(tmp_path, [2] * 11, pad=pad)
    (tmp_path / "img_emb" / "notes.txt").write_text("not an array")
    shards = list_embeddings(str(tmp_path))
    assert [s.rel for s in shards] == [f"metadata/metadata_{n:0{pad}d}.parquet" for n in range(11)]
    for n, shard in enumerate(shards):
        files = {f.kind: f.url for f in shard.sidecars or ()}
        assert files == {
            kind: f"{tmp_path}/{kind}/{kind}_{n:0{pad}d}.{end}"
            for kind, end in (("img_emb", "npy"), ("text_emb", "npy"), ("metadata", "parquet"))
        }
        assert shard.nbytes == sum(Path(url).stat().st_size for url in files.values())


def test_an_array_that_changes_changes_the_part(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path, [3])
    before = part_of(tmp_path).identity()
    assert part_of(tmp_path).identity() == before
    rows = np.load(tmp_path / "img_emb" / "img_emb_0.npy")
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", -rows)
    assert part_of(tmp_path).identity() != before


def test_a_folder_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no img_emb/img_emb_N\.npy"):
        list_embeddings(str(tmp_path))
    embedding_folder.made(tmp_path, [2, 2])
    (tmp_path / "text_emb" / "text_emb_1.npy").unlink()
    with pytest.raises(InputError, match=r"there is no text_emb/text_emb_1\.npy, but other files of this number"):
        list_embeddings(str(tmp_path))
    shutil.rmtree(tmp_path / "text_emb")
    assert len(list_embeddings(str(tmp_path))) == 2
    (tmp_path / "metadata" / "metadata_0.parquet").unlink()
    with pytest.raises(InputError, match=r"there is no metadata/metadata_0\.parquet"):
        list_embeddings(str(tmp_path))
    shutil.copy(tmp_path / "img_emb" / "img_emb_0.npy", tmp_path / "img_emb" / "img_emb_00.npy")
    with pytest.raises(InputError, match="have the same number"):
        list_embeddings(str(tmp_path))


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["local", "memory"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@settings(max_examples=20, deadline=None)
@given(rows=st.integers(0, 60), dim=st.integers(1, 9), data=st.data())
def test_rows_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, where: str, dtype: str, rows: int, dim: int, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("npy") / "a.npy"
    true = np.random.default_rng(rows).normal(size=(rows, dim)).astype(dtype)
    np.save(path, true)
    file = array(path)
    if where == "memory":
        fsspec.filesystem("memory").pipe_file("/npy/a.npy", path.read_bytes())
        file = Sidecar(IMAGES, "memory://npy/a.npy", file.nbytes, "")
    npy = open_npy(file)
    assert (npy.rows, npy.dim, npy.dtype) == (rows, dim, np.dtype(dtype))
    chosen = st.lists(st.integers(0, max(rows - 1, 0)), max_size=40).map(sorted) if rows else st.just([])
    places = np.asarray(data.draw(chosen), dtype=np.int64)
    out = np.zeros((len(places), dim), dtype=dtype)
    for at, chunk in read_rows(npy, places):
        out[at] = chunk
    assert np.array_equal(out, true[places])


def test_long_arrays_come_in_pieces(tmp_path: Path) -> None:
    true = np.arange(20_000, dtype=np.float32).reshape(-1, 1)
    np.save(tmp_path / "a.npy", true)
    chunks = list(read_rows(open_npy(array(tmp_path / "a.npy")), np.arange(20_000)))
    assert [len(chunk) for _, chunk in chunks] == [8192, 8192, 3616]
    assert np.array_equal(np.concatenate([chunk for _, chunk in chunks]), true)


def test_arrays_that_hold_no_vectors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"

    def refused(said: str) -> None:
        with pytest.raises(InputError, match=said):
            open_npy(array(path))

    np.save(path, np.zeros((2, 3), dtype=np.int64))
    refused("holds int64 of shape")
    np.save(path, np.zeros(3))
    refused(r"of shape \(3,\)")
    np.save(path, np.asfortranarray(np.ones((3, 2))))
    refused("in Fortran order")
    np.save(path, np.asarray([{"code": "would run"}], dtype=object), allow_pickle=True)
    refused("holds object")
    np.save(path, np.zeros((4, 2), dtype=np.float16))
    path.write_bytes(path.read_bytes()[:-2])
    refused("has 142 bytes, its header promises 144")
    path.write_bytes(b"<html>")
    refused("not a .npy file")


def test_a_file_that_shrinks_after_the_listing_is_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((400, 20)))
    npy = open_npy(array(tmp_path / "a.npy"))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:300])
    with pytest.raises(InputError, match="has become shorter"):
        list(read_rows(npy, np.asarray([5])))


# --- the index --------------------------------------------------------------------------------------------------------


def test_rows_are_ok_without_an_image(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path, [3, 2])
    options = IndexOptions(
        "laion", caption_ext="caption", caption_required=True, fields=(("url", "string"), ("similarity", "float"))
    )
    frame, notes = index_part(part_of(tmp_path), options)
    assert notes.as_dicts() == []
    assert list(frame.columns) == [*INDEX_SCHEMA, "url", "similarity"]
    assert frame["status"].to_list() == ["ok"] * 5
    assert frame["shard"].to_list() == [0, 0, 0, 1, 1]
    keys = ["000000000", "000000001", "000000002", "000010000", "000010001"]
    assert frame["key"].to_list() == keys
    assert frame["caption"].to_list() == [f"caption {key}" for key in keys]
    assert frame["url"].to_list() == [f"https://example.org/{key}.jpg" for key in keys]
    assert frame["similarity"].to_list() == [0.0, 0.5, 1.0, 0.0, 1.0]
    assert frame.select("uid_hi", "uid_lo").rows() == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert all(frame[name].is_null().all() for name in ("ext", "format", "width", "height", "sha256", "detail"))
    assert frame["members"].to_list() == [[]] * 5


def test_keys_and_uids_without_columns_for_them(tmp_path: Path) -> None:
    vectors = embedding_folder.unit(np.ones((3, 2)))
    embedding_folder.write_number(tmp_path, "0", vectors, {"caption": ["a", None, ""]})
    options = IndexOptions("laion", caption_ext="caption", caption_required=True)
    frame, _ = index_part(part_of(tmp_path), options)
    assert frame["key"].to_list() == ["000000000", "000000001", "000000002"]
    assert frame["status"].to_list() == ["ok", "missing_caption", "ok"]
    expected = [make_uid(None, "laion", "metadata/metadata_0.parquet", key) for key in frame["key"]]
    assert frame.select("uid_hi", "uid_lo", "source_uid").rows() == expected
    embedding_folder.write_number(tmp_path, "0", vectors, {"key": [7, 8, 9]})
    frame, _ = index_part(part_of(tmp_path), IndexOptions("laion"))
    assert frame["key"].to_list() == ["7", "8", "9"]


def test_files_of_one_number_must_agree(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path, [4])
    np.save(tmp_path / "text_emb" / "text_emb_0.npy", np.zeros((3, 8), dtype=np.float16))
    with pytest.raises(InputError, match=r"metadata_0\.parquet 4, img_emb_0\.npy 4, text_emb_0\.npy 3"):
        index_part(part_of(tmp_path), IndexOptions("laion"))
    embedding_folder.made(tmp_path, [4])
    check_rows(list_embeddings(str(tmp_path))[0])
    pl.DataFrame({"image_path": ["a"] * 5}).write_parquet(tmp_path / "metadata" / "metadata_0.parquet")
    with pytest.raises(InputError, match=r"metadata_0\.parquet 5, img_emb_0\.npy 4"):
        index_part(part_of(tmp_path), IndexOptions("laion"))
    (tmp_path / "metadata" / "metadata_0.parquet").write_bytes(b"<html>")
    with pytest.raises(InputError, match="not a Parquet file"):
        index_part(part_of(tmp_path), IndexOptions("laion"))


def test_a_caption_column_that_is_not_there_is_told(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path, [1])
    with pytest.raises(InputError, match="there is no column TEXT; its columns are image_path"):
        index_part(part_of(tmp_path), IndexOptions("laion", caption_ext="TEXT"))


def test_one_column_of_the_metadata(tmp_path: Path) -> None:
    size = 9000
    rows = {"image_path": [str(i) for i in range(size)]}
    embedding_folder.write_number(tmp_path, "0", np.zeros((size, 1), dtype=np.float16), rows)
    (shard,) = list_embeddings(str(tmp_path))
    assert file_of(shard, "text_emb") is None
    found = list(read_column(shard, "image_path"))
    assert [first for first, _ in found] == [0, 8192]
    assert [value for _, values in found for value in values] == rows["image_path"]
    with pytest.raises(InputError, match="there is no column uid"):
        list(read_column(shard, "uid"))
