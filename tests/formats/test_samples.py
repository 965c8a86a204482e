from __future__ import annotations

import hashlib
import json
from pathlib import Path

import corpus
import fsspec
import polars as pl
import pytest

from curate.errors import InputError
from curate.formats.index import index_part
from curate.formats.samples import INDEX_SCHEMA, STATUSES, IndexOptions, PartNotes
from curate.formats.shards import expand_shards
from curate.formats.sources import plan_parts
from curate.store.uids import make_uid

OPTIONS = IndexOptions("test", caption_ext="txt", caption_required=True)


def index_bytes(data: bytes, options: IndexOptions = OPTIONS) -> tuple[pl.DataFrame, PartNotes]:
    fsspec.filesystem("memory").pipe_file("/samples/one.tar", data)
    (part,) = plan_parts(expand_shards("memory://samples/one.tar"))
    return index_part(part, options)


def test_fault_corpus_every_sample_is_named(tmp_path: Path) -> None:
    expected, shard_problems = corpus.write_fault_corpus(tmp_path)
    (part,) = plan_parts(expand_shards(str(tmp_path / "*.tar")))
    frame, notes = index_part(part, OPTIONS)
    assert dict(frame.schema) == INDEX_SCHEMA
    assert {(p.shard, p.reason) for p in notes.problems} == {(e.shard, e.reason) for e in shard_problems}
    rels = [s.rel for s in part.shards]
    for e in expected:
        status = "ok" if e.status == "decode" else e.status
        found = frame.filter(pl.col("shard") == rels.index(e.shard), pl.col("key") == e.key, pl.col("status") == status)
        assert found.height == e.rows, e
        assert found["detail"].null_count() == (e.rows if status == "ok" else 0), e
    # counts reconcile: every row is expected, and every expected row is there
    assert frame.height == notes.rows == sum(e.rows for e in expected)
    assert set(frame["status"]) <= set(STATUSES)
    by_shard = dict(frame.group_by("shard").len().iter_rows())
    for problem in notes.problems:
        assert problem.rows == by_shard.get(rels.index(problem.shard), 0)
        assert problem.lossy
    assert json.loads(json.dumps(notes.as_dicts())) == notes.as_dicts()
    assert {(n["shard"], n["reason"]) for n in notes.as_dicts()} == {(e.shard, e.reason) for e in shard_problems}


def test_all_control_characters_leave_the_key(tmp_path: Path) -> None:
    corpus.write_fault_corpus(tmp_path)
    (part,) = plan_parts(expand_shards(str(tmp_path / "structure.tar")))
    frame, _ = index_part(part, OPTIONS)
    assert not frame["key"].str.contains(r"[\x00-\x1f]").any()
    assert not frame["detail"].fill_null("").str.contains(r"[\x00-\x1f]").any()


def test_fields_and_member_extents(tmp_path: Path) -> None:
    image = corpus.jpeg(7)
    meta = json.dumps({"uid": "AB" * 16, "label": "cat", "license": "MIT"}).encode()
    data = corpus.tar_bytes(
        [
            ("d/x.y/k.JPG", image),
            ("d/x.y/k.txt", "Grüße\n".encode()),
            ("d/x.y/k.json", meta),
            ("d/x.y/k.seg.jpg", b"mask"),
        ]
    )
    frame, notes = index_bytes(data)
    row = frame.row(0, named=True)
    assert (frame.height, notes) == (1, PartNotes(1))
    assert (row["uid_hi"], row["uid_lo"], row["source_uid"]) == (0xABABABABABABABAB, 0xABABABABABABABAB, None)
    assert (row["key"], row["ext"], row["format"], row["width"], row["height"]) == ("d/x.y/k", "jpg", "jpeg", 64, 48)
    assert row["sha256"] == hashlib.sha256(image).hexdigest()
    assert (row["caption"], row["label"], row["license"], row["status"]) == ("Grüße\n", "cat", "MIT", "ok")
    assert [m["ext"] for m in row["members"]] == ["jpg", "txt", "json", "seg.jpg"]
    contents = [data[m["offset"] : m["offset"] + m["nbytes"]] for m in row["members"]]
    assert contents == [image, "Grüße\n".encode(), meta, b"mask"]


def test_uid_and_label_rules() -> None:
    uids = ["plain id", 17, None, "", "\ud800", "0" * 31]
    members: list[tuple[str | bytes, bytes]] = []
    for i, uid in enumerate(uids):
        members += [(f"{i}.jpg", corpus.jpeg(i)), (f"{i}.json", json.dumps({"uid": uid, "label": i}).encode())]
    members += [("6.jpg", corpus.jpeg(6)), ("6.cls", b" 42\n"), ("6.json", b'{"label": 3, "uid": NaN}')]
    frame, _ = index_bytes(corpus.tar_bytes(members), IndexOptions("in"))
    assert frame["source_uid"].to_list() == ["plain id", "17", None, None, "?", "0" * 31, "NaN"]
    assert frame["label"].to_list() == ["0", "1", "2", "3", "4", "5", "42"]
    wanted = [
        make_uid(source, "in", "one.tar", str(i))[:2]
        for i, source in enumerate(["plain id", "17", None, None, "\ud800", "0" * 31, "NaN"])
    ]
    assert list(zip(frame["uid_hi"], frame["uid_lo"], strict=True)) == wanted
    assert frame["status"].unique().to_list() == ["ok"]


def test_image_extensions_in_order_of_preference() -> None:
    data = corpus.tar_bytes([("a.jpg", corpus.jpeg(0)), ("a.png", corpus.png16())])
    assert index_bytes(data, IndexOptions("t", image_exts=("png", "jpg")))[0]["ext"].to_list() == ["png"]
    assert index_bytes(data, IndexOptions("t", image_exts=("jpg", "png")))[0]["ext"].to_list() == ["jpg"]
    masked = corpus.tar_bytes([("a.seg.jpg", corpus.jpeg(0))])
    assert index_bytes(masked, IndexOptions("t"))[0]["status"].to_list() == ["missing_image"]
    assert index_bytes(masked, IndexOptions("t", image_exts=("seg.jpg",)))[0]["status"].to_list() == ["ok"]


def test_limits_are_rows_not_failures() -> None:
    members = [
        *corpus.sample("a", corpus.jpeg(0)),
        ("b.jpg", bytes(5000)),
        ("b.txt", b"x"),
        *corpus.sample("c", corpus.jpeg(1)),
        ("c.npy", bytes(9000)),
        ("d.jpg", corpus.jpeg(2)),
        ("d.txt", b"y" * 3000),
    ]
    options = IndexOptions("t", caption_ext="txt", max_member_bytes=4000, max_text_bytes=2000, max_pixels=64 * 48)
    frame, _ = index_bytes(corpus.tar_bytes(members), options)
    assert frame["status"].to_list() == ["ok", "too_many_bytes", "too_many_bytes", "too_many_bytes"]
    assert frame["members"].list.len().to_list() == [3, 2, 4, 2]
    options = IndexOptions("t", max_pixels=64 * 48 - 1)
    frame, _ = index_bytes(corpus.tar_bytes(members[:3]), options)
    assert frame["status"].to_list() == ["too_many_pixels"]


def test_no_rows_has_the_same_schema(tmp_path: Path) -> None:
    (tmp_path / "z.tar").write_bytes(b"")
    (part,) = plan_parts(expand_shards(str(tmp_path)))
    frame, notes = index_part(part, OPTIONS)
    assert dict(frame.schema) == INDEX_SCHEMA
    assert (frame.height, notes.problems[0].reason) == (0, "empty")
    (tmp_path / "z.tar").unlink()
    with pytest.raises(InputError, match="no such file"):
        index_part(part, OPTIONS)
