from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import corpus
import downloads
import polars as pl
import pyarrow.parquet as pq
import pytest

from curate.formats.img2dataset import with_sidecars
from curate.formats.index import index_part
from curate.formats.samples import IndexOptions, PartNotes
from curate.formats.shards import expand_shards, records_of
from curate.formats.sources import PartSource, plan_parts
from curate.store.uids import format_uid, make_uid

OPTIONS = IndexOptions("laion", caption_ext="txt", caption_required=True)


def parts(folder: Path, mode: Any = "auto", per_part: int = 10) -> list[PartSource]:
    return plan_parts(with_sidecars(expand_shards(str(folder)), mode, records_of), per_part)


def index(folder: Path, mode: Any = "auto", options: IndexOptions = OPTIONS) -> tuple[pl.DataFrame, PartNotes]:
    (part,) = parts(folder, mode)
    return index_part(part, options)


def note_of(notes: PartNotes) -> dict[str, Any]:
    (note,) = [note for note in notes.as_dicts() if note["kind"] == "upstream"]
    assert json.loads(json.dumps(note)) == note
    return note


@pytest.mark.parametrize(("digits", "uid"), [(5, False), (8, True)])
def test_every_url_that_was_tried_is_a_row(tmp_path: Path, digits: int, uid: bool) -> None:
    tried = downloads.write_downloads(tmp_path, digits=digits, uid=uid)
    frame, notes = index(tmp_path)
    assert frame.height == len(tried) == 28
    rows = {row["key"]: row for row in frame.iter_rows(named=True)}
    for one in tried:
        row = rows[one.meta["key"]]
        assert (row["caption"], row["shard"]) == (one.meta["caption"], int(one.shard.removesuffix(".tar")))
        expected = make_uid(one.meta.get("uid"), "laion", one.shard, one.meta["key"])
        assert (row["uid_hi"], row["uid_lo"], row["source_uid"]) == expected
        if uid:
            assert format_uid(row["uid_hi"], row["uid_lo"]) == one.meta["uid"]
        if one.image is None:
            assert (row["status"], row["detail"]) == ("not_downloaded", one.meta["error_message"])
            assert row["members"] == []
            assert row["ext"] is row["format"] is row["width"] is row["sha256"] is None
        else:
            assert row["status"] == "ok"
            assert row["sha256"] == one.meta["sha256"] == hashlib.sha256(one.image).hexdigest()
            assert (row["width"], row["height"]) == (one.meta["width"], one.meta["height"])
    # failed rows follow the samples of their shard, in the order of the table
    order = [row["status"] == "ok" for row in frame.filter(pl.col("shard") == 0).iter_rows(named=True)]
    assert order == sorted(order, reverse=True)
    failed = [one.meta["key"] for one in tried if one.image is None]
    assert frame.filter(pl.col("status") != "ok")["key"].to_list() == failed
    reasons = Counter(one.meta["error_message"] for one in tried if one.image is None)
    assert note_of(notes) == {
        "kind": "upstream", "shards": 2, "without_table": 0, "attempted": 28, "successes": 16, "failed": 12,
        "reasons": dict(reasons), "problems": 0, "details": [],
    }  # fmt: skip


def test_without_stats_the_table_gives_the_totals(tmp_path: Path) -> None:
    downloads.write_downloads(tmp_path / "a")
    downloads.write_downloads(tmp_path / "b", stats=False)
    assert note_of(index(tmp_path / "a")[1]) == note_of(index(tmp_path / "b")[1])


def test_modes(tmp_path: Path) -> None:
    downloads.write_downloads(tmp_path, uid=True)
    plain, notes = index(tmp_path, "none")
    assert (plain.height, notes) == (16, PartNotes(16))
    (tmp_path / "00001.parquet").unlink()
    frame, notes = index(tmp_path)
    assert frame.height == 16 + 6
    assert note_of(notes)["details"] == [
        "00001.tar: there is no table beside it, so nothing is known of failed downloads"
    ]
    assert (note_of(notes)["without_table"], note_of(notes)["attempted"], note_of(notes)["failed"]) == (1, 28, 12)
    (tmp_path / "00000.parquet").unlink()
    assert index(tmp_path)[1] == PartNotes(16)
    frame, notes = index(tmp_path, "img2dataset")
    assert (frame.height, note_of(notes)["problems"]) == (16, 2)


def test_shards_of_others_are_left_alone(tmp_path: Path) -> None:
    corpus.write_good_shards(tmp_path)
    shards = expand_shards(str(tmp_path))
    assert with_sidecars(shards, "auto", records_of) == shards


def test_fields_come_from_json_and_from_the_table(tmp_path: Path) -> None:
    tried = downloads.write_downloads(tmp_path)
    options = IndexOptions("laion", fields=(("similarity", "float"), ("url", "string"), ("original_width", "int")))
    frame, notes = index(tmp_path, options=options)
    found = {row[0]: row[1:] for row in frame.select("key", "similarity", "url", "original_width").iter_rows()}
    for one in tried:
        assert found[one.meta["key"]] == (one.meta["similarity"], one.meta["url"], one.meta["original_width"])
    assert notes.misfits == {}
    assert frame["caption"].null_count() == frame.height  # no captions were asked for


def test_what_does_not_add_up_is_told_of(tmp_path: Path) -> None:
    tried = downloads.write_downloads(tmp_path, shards=4)
    data = (tmp_path / "00000.tar").read_bytes()
    (tmp_path / "00000.tar").write_bytes(data[: data.index(b"000000008.jpg")] + bytes(1024))
    stats = json.loads((tmp_path / "00001_stats.json").read_text())
    (tmp_path / "00001_stats.json").write_text(json.dumps(stats | {"count": 15, "successes": 9}))
    (tmp_path / "00002_stats.json").write_text("[]")
    table = pl.read_parquet(tmp_path / "00003.parquet")
    table.with_columns(status=pl.lit("failed_to_download")).write_parquet(tmp_path / "00003.parquet")
    frame, notes = index(tmp_path)
    note = note_of(notes)
    lost = sum(one.image is not None and one.meta["key"] >= "000000008" for one in tried[:14])
    assert note["details"] == [
        f"00000.tar: {lost} samples that its table calls downloaded are not in the tar",
        f"00000.tar: its stats count 8 downloaded samples, the tar holds {8 - lost}",
        "00001.tar: its stats count 9 downloaded samples, the tar holds 8",
        f"{tmp_path}/00002_stats.json: does not hold a downloader's totals (count, successes, status_dict)",
        "00003.tar: 8 samples that its table calls failed are in the tar",
        "00003.tar: its stats count 6 failures, its table 14",
    ]
    assert note["problems"] == len(note["details"])
    # samples in the tar stay what they are, whatever the table says
    assert frame.filter(pl.col("shard") == 3)["status"].to_list() == ["ok"] * 8 + ["not_downloaded"] * 6
    assert frame["key"].n_unique() == frame.height


@pytest.mark.parametrize("damage", ["other", "cut", "text", "empty", "inside"])
def test_a_damaged_table_is_a_note_not_an_end(tmp_path: Path, damage: str) -> None:
    downloads.write_downloads(tmp_path, shards=1, urls=140)
    path = tmp_path / "00000.parquet"
    data = path.read_bytes()
    if damage == "other":
        pl.DataFrame({"uid": ["a"], "text": ["b"]}).write_parquet(path)
    elif damage == "inside":
        at = pq.ParquetFile(path).metadata.row_group(1).column(3).data_page_offset  # of the keys from row 100 on
        path.write_bytes(data[:at] + b"\xff" * 16 + data[at + 16 :])
    else:
        path.write_bytes({"cut": data[:-100], "text": b"<html>", "empty": b""}[damage])
    frame, notes = index(tmp_path)
    assert frame.filter(pl.col("status") == "ok").height == 80
    note = note_of(notes)
    assert (note["attempted"], note["successes"], note["failed"]) == (140, 80, 60)
    assert note["problems"] >= 1
    assert str(path) in note["details"][0]
    said = {
        "other": "is no downloader's table, it has no column key or status",
        "cut": "stops after",
        "text": "not a Parquet file",
        "empty": "0 bytes",
        "inside": "is damaged",
    }
    assert said[damage] in note["details"][0]


def test_reasons_are_capped_and_still_add_up(tmp_path: Path) -> None:
    downloads.write_downloads(tmp_path, shards=1)
    status = {"success": 8} | {f"error {i:02d}": i for i in range(1, 31)}
    failed = sum(status.values()) - 8
    stats = {"count": 8 + failed, "successes": 8, "status_dict": status}
    (tmp_path / "00000_stats.json").write_text(json.dumps(stats))
    note = note_of(index(tmp_path)[1])
    assert len(note["reasons"]) == 21
    assert note["reasons"]["other"] == sum(range(1, 11))
    assert sum(note["reasons"].values()) == note["failed"] == failed


def test_a_changed_table_makes_the_part_another_one(tmp_path: Path) -> None:
    downloads.write_downloads(tmp_path, shards=2)
    before = [part.identity() for part in parts(tmp_path, per_part=1)]
    (tmp_path / "00001_stats.json").write_text("{}")
    after = [part.identity() for part in parts(tmp_path, per_part=1)]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    assert parts(tmp_path, "none", 1)[0].identity() != before[0]
