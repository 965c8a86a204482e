from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import datacomp_folder
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats import datacomp_metadata
from curate.formats.datacomp_metadata import (
    FIELDS,
    arrays_of,
    cuts,
    index_datacomp,
    list_metadata,
    list_ranges,
    parse_uids,
    rows_about,
)
from curate.formats.samples import IndexOptions, PartNotes, index_schema
from curate.formats.sources import ShardInfo, plan_parts
from curate.store.uids import parse_uid

OPTIONS = IndexOptions("pool", caption_ext="text", fields=tuple(FIELDS.items()))


def indexed(shards: list[ShardInfo], options: IndexOptions = OPTIONS) -> tuple[pl.DataFrame, PartNotes]:
    (part,) = plan_parts(shards, len(shards), "datacomp")
    return index_datacomp(part, options)


def one(root: Path, **columns: Any) -> tuple[pl.DataFrame, PartNotes]:
    rows = len(next(iter(columns.values())))
    datacomp_folder.write(root, "a", datacomp_folder.table(rows, **columns))
    return indexed(list_metadata(str(root)))


# --- which files ------------------------------------------------------------------------------------------------------


def test_tables_of_all_folders_are_listed_with_their_arrays(tmp_path: Path) -> None:
    datacomp_folder.pool(tmp_path, [3, 2, 4])
    datacomp_folder.write(tmp_path, "zzz", datacomp_folder.table(2))
    datacomp_folder.write(tmp_path, ".hidden/x", datacomp_folder.table(2))
    shards = list_metadata(str(tmp_path))
    names = [f"part_0/{0:032x}", f"part_0/{1:032x}", f"part_1/{2:032x}", "zzz"]
    assert [shard.rel for shard in shards] == [f"{name}.parquet" for name in names]
    assert [arrays_of(shard).url for shard in shards[:3]] == [f"{tmp_path}/{name}.npz" for name in names[:3]]
    with pytest.raises(InputError, match=r"there is no zzz\.npz beside it"):
        arrays_of(shards[3])


@pytest.mark.parametrize("missing", ["folder", "tables"])
def test_a_folder_without_tables_is_refused(tmp_path: Path, missing: str) -> None:
    with pytest.raises(InputError, match="no such folder" if missing == "folder" else r"no \.parquet file"):
        list_metadata(str(tmp_path / "gone" if missing == "folder" else tmp_path))


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 30))
def test_ranges_cover_every_row_once_and_follow_the_row_groups(groups: list[int], most: int) -> None:
    bounds = cuts(groups, most)
    assert bounds[0] == 0
    assert bounds[-1] == sum(groups)
    sizes = np.diff(bounds)
    assert len(sizes) == 1 or ((sizes > 0) & (sizes <= most)).all()
    if max(groups, default=0) <= most:
        assert set(bounds) <= {0, *np.cumsum(groups).tolist()}
        # two neighbours that fit together would have stayed together
        starts = np.cumsum([0, *groups])
        for first, stop in itertools.pairwise(bounds[:-1]):
            after = min(end for end in starts.tolist() if end > stop)
            assert after - first > most


def test_a_large_table_is_read_in_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datacomp_metadata, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(datacomp_metadata, "_BATCH_ROWS", 9)
    monkeypatch.setattr(cuts, "__defaults__", (25,))
    datacomp_folder.write(tmp_path, "a", datacomp_folder.table(100), datacomp_folder.arrays(100), group=40)
    shards = list_ranges(str(tmp_path))
    bounds = [0, 25, 40, 65, 80, 100]
    assert [shard.rows for shard in shards] == list(itertools.pairwise(bounds))
    assert [rows_about(shard) for shard in shards] == np.diff(bounds).tolist()
    assert len({part.identity() for part in plan_parts(shards, 1, "datacomp")}) == 5
    whole, _ = indexed(list_metadata(str(tmp_path)))
    pieces = pl.concat([indexed([shard])[0] for shard in shards])
    assert pieces.equals(whole)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_the_index_says_what_the_tables_say(tmp_path: Path) -> None:
    true, _ = datacomp_folder.pool(tmp_path, [30, 7, 20])
    frame, notes = indexed(list_metadata(str(tmp_path)))
    assert frame.schema == pl.Schema(index_schema(OPTIONS))
    assert notes.as_dicts() == []
    told = true.to_pydict()
    assert list(zip(frame["uid_hi"], frame["uid_lo"], strict=True)) == [parse_uid(uid) for uid in told["uid"]]
    assert frame["key"].to_list() == told["uid"]
    assert frame["shard"].to_list() == [0] * 30 + [1] * 7 + [2] * 20
    pairs = {
        "caption": "text",
        "width": "original_width",
        "height": "original_height",
        "sha256": "sha256",
        "url": "url",
    }
    for ours, theirs in pairs.items():
        assert frame[ours].to_list() == told[theirs], ours
    for name in ("clip_b32_similarity_score", "clip_l14_similarity_score"):
        assert frame[name].to_list() == told[name]  # the float64 of the same float16 value
    assert [json.loads(text) for text in frame["face_bboxes"]] == told["face_bboxes"]
    assert set(frame["status"]) == {"ok"}
    assert frame["members"].list.len().sum() == 0
    assert frame.select("ext", "format", "label", "license", "source_uid", "detail").null_count().row(0) == (57,) * 6


@given(st.lists(st.one_of(st.none(), st.text(max_size=40), st.from_regex(r"[0-9a-fA-F]{31,33}", fullmatch=True))))
def test_uids_are_parsed_as_one_by_one(texts: list[str | None]) -> None:
    hi, lo, good = parse_uids(pl.Series(texts, dtype=pl.String))
    for n, text in enumerate(texts):
        fits = text is not None and len(text) == 32 and set(text) <= set("0123456789abcdefABCDEF")
        assert good[n] == fits
        assert (hi[n], lo[n]) == (parse_uid(text) if fits and text else (0, 0))


def test_a_bad_uid_is_a_row_with_a_status_and_a_name_of_its_own(tmp_path: Path) -> None:
    uids = ["ab" * 16, "xyz", None, "", "AB" * 16 + "0", "CD" * 16]
    frame, _ = one(tmp_path, uid=uids)
    assert frame["status"].to_list() == ["ok", "bad_uid", "bad_uid", "bad_uid", "bad_uid", "ok"]
    assert frame["detail"][1] == "uid of row 1 is xyz, not 32 hexadecimal digits"
    assert frame["detail"][2] == "uid of row 2 is missing, not 32 hexadecimal digits"
    assert len(set(frame.select("uid_hi", "uid_lo").rows())) == 6
    assert frame["uid_hi"][5] == 0xCDCDCDCDCDCDCDCD
    assert frame["key"].null_count() == 0


def test_captions_that_are_missing_or_torn(tmp_path: Path) -> None:
    texts = pa.array([b"one", None, b"\xff\xfe", b""], pa.binary())
    frame, _ = one(tmp_path, text=texts)
    assert frame["caption"].to_list() == ["one", None, None, ""]
    assert frame["status"].to_list() == ["ok", "ok", "bad_caption", "ok"]
    needed = IndexOptions("pool", caption_ext="text", caption_required=True)
    frame, _ = indexed(list_metadata(str(tmp_path)), needed)
    assert frame["status"].to_list() == ["ok", "missing_caption", "bad_caption", "ok"]
    assert frame["detail"].to_list()[1:3] == ["the caption of row 1 is null", "the caption of row 2 is not UTF-8"]


@given(
    st.lists(
        st.one_of(st.none(), st.lists(st.lists(st.floats(0, 1, allow_nan=False), min_size=4, max_size=4), max_size=3)),
        max_size=9,
    )
)
def test_boxes_are_json(values: list[Any]) -> None:
    told = datacomp_metadata._json_texts(pa.array(values, datacomp_folder.BOXES)).to_list()
    assert [None if text is None else json.loads(text) for text in told] == values
    structs = pa.array(
        [None if v is None else {"boxes": v} for v in values], pa.struct([("boxes", datacomp_folder.BOXES)])
    )
    told = datacomp_metadata._json_texts(structs).to_list()
    assert [None if text is None else json.loads(text)["boxes"] for text in told] == values


def test_columns_may_be_missing_or_of_other_types(tmp_path: Path) -> None:
    made = pa.table(
        {
            "uid": ["ab" * 16, "cd" * 16],
            "text": pa.array(["a", "b"], pa.large_string()),
            "original_width": pa.array([-1, 3], pa.int64()),
            "sha256": ["no hash", "AB" * 32],
            "clip_l14_similarity_score": pa.array([float("nan"), float("inf")], pa.float32()),
            "clip_b32_similarity_score": ["0.1", None],
            "extra": [[1, 2], None],
        }
    )
    pq.write_table(made, tmp_path / "a.parquet")
    options = IndexOptions("p", caption_ext="text", fields=(*FIELDS.items(), ("extra", "string"), ("gone", "int")))
    frame, notes = indexed(list_metadata(str(tmp_path)), options)
    assert frame["width"].to_list() == [None, 3]
    assert frame["height"].to_list() == [None, None]
    assert frame["sha256"].to_list() == [None, "ab" * 32]
    assert frame["clip_l14_similarity_score"].to_list() == [None, None]
    assert frame["clip_b32_similarity_score"].to_list() == [None, None]
    assert frame["extra"].to_list() == ["[1, 2]", None]
    assert frame["gone"].to_list() == [None, None]
    # NaN is a missing value, infinity and a text are not what was asked for
    assert notes.misfits == {"clip_l14_similarity_score": 1, "clip_b32_similarity_score": 1}


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (pa.table({"text": ["a"]}), "no column uid of texts"),
        (pa.table({"uid": [1], "text": ["a"]}), "no column uid of texts"),
        (pa.table({"uid": ["ab" * 16], "caption": ["a"]}), r"no column text; its columns are .* input\.caption"),
    ],
)
def test_a_table_without_what_is_needed_is_refused(tmp_path: Path, made: pa.Table, told: str) -> None:
    pq.write_table(made, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=told):
        indexed(list_metadata(str(tmp_path)))


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    datacomp_folder.write(tmp_path, "a", datacomp_folder.table(200))
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-30])
    with pytest.raises(InputError, match="get it again"):
        indexed(list_metadata(str(tmp_path)))


def test_a_remote_folder_is_read_as_a_local_one(tmp_path: Path) -> None:
    import fsspec

    datacomp_folder.pool(tmp_path, [30, 7])
    local, _ = indexed(list_metadata(str(tmp_path)))
    memory = fsspec.filesystem("memory")
    for path in tmp_path.rglob("*.*"):
        memory.pipe_file(f"/datacomp-pool/{path.relative_to(tmp_path)}", path.read_bytes())
    shards = list_ranges("memory://datacomp-pool")
    assert [shard.rel for shard in shards] == [f"part_0/{n:032x}.parquet" for n in range(2)]
    assert indexed(shards)[0].equals(local)
    arrays = arrays_of(shards[1])
    assert arrays.nbytes == memory.info(arrays.url)["size"]
    memory.rm("/datacomp-pool", recursive=True)
