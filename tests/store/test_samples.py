from __future__ import annotations

import hashlib
import io
import json
import pickle
from pathlib import Path

import corpus
import fsspec
import polars as pl
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.store.inputs import PartSource, expand_shards, list_folder, plan_parts
from curate.store.samples import INDEX_SCHEMA, STATUSES, IndexOptions, PartNotes, index_part
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


@pytest.mark.parametrize(
    ("order", "status"),
    [
        (["k.jpg", "k.txt", "k.jpg", "k.txt"], ["ok", "duplicate_key"]),
        (["k.jpg", "k.txt", "m.jpg", "m.txt", "k.jpg"], ["ok", "ok", "duplicate_key"]),
        (["k.jpg", "m.jpg", "m.txt", "k.txt"], ["scattered_members", "ok", "scattered_members"]),
        (
            ["k.jpg", "m.jpg", "m.txt", "k.txt", "n.jpg", "n.txt", "k.jpg", "k.txt"],
            ["scattered_members", "ok", "scattered_members", "ok", "duplicate_key"],
        ),
    ],
)
def test_repeated_keys(order: list[str], status: list[str]) -> None:
    contents = {"jpg": corpus.jpeg(0), "txt": b"x"}
    frame, _ = index_bytes(corpus.tar_bytes([(name, contents[name[2:]]) for name in order]))
    assert frame["status"].to_list() == status
    for row in frame.filter(pl.col("status") == "scattered_members").iter_rows(named=True):
        others = frame.filter(pl.col("key") == row["key"], pl.col("members") != row["members"])
        assert any(str(m[0]["offset"]) in row["detail"] for m in others["members"].to_list())


def test_members_of_no_sample_are_counted() -> None:
    data = corpus.tar_bytes(
        [
            ("README", b"x"),
            (".hidden.jpg", b"x"),
            ("__meta__", b"{}"),
            ("__meta__/a.jpg", b""),
            *corpus.sample("a", corpus.jpeg(0)),
        ]
    )
    frame, notes = index_bytes(data)
    assert frame["key"].to_list() == ["a"]
    assert (notes.ignored, notes.ignored_names[0]) == (4, "README")
    assert notes.as_dicts() == [{"kind": "ignored", "members": 4, "names": list(notes.ignored_names)}]


def test_a_cut_at_every_byte_loses_nothing_before_it() -> None:
    data = corpus.tar_bytes([*corpus.sample("a", corpus.jpeg(0)), *corpus.sample("b", corpus.jpeg(1))])
    whole, _ = index_bytes(data)
    ends = {k: max(m["offset"] + m["nbytes"] for m in ms) for k, ms in zip(whole["key"], whole["members"], strict=True)}
    for cut in range(0, len(data), 97):
        frame, notes = index_bytes(data[:cut])
        ok = frame.filter(pl.col("status") == "ok")
        assert ok.equals(whole.filter(pl.col("key").is_in(ok["key"].to_list()))), cut
        assert {k for k, end in ends.items() if end + 1536 <= cut} <= set(ok["key"]), cut
        complete = cut >= -(-ends["b"] // 512) * 512 + 512  # all data and the first block of the end mark
        assert bool(notes.problems) != complete, cut


def test_no_rows_has_the_same_schema(tmp_path: Path) -> None:
    (tmp_path / "z.tar").write_bytes(b"")
    (part,) = plan_parts(expand_shards(str(tmp_path)))
    frame, notes = index_part(part, OPTIONS)
    assert dict(frame.schema) == INDEX_SCHEMA
    assert (frame.height, notes.problems[0].reason) == (0, "empty")
    (tmp_path / "z.tar").unlink()
    with pytest.raises(InputError, match="no such file"):
        index_part(part, OPTIONS)


names = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "d/c", "e.f/g", "./h"]), st.sampled_from(["jpg", "TXT", "json", "cls", "a.b"])
    ),
    max_size=12,
    unique=True,
)


@settings(max_examples=60, deadline=None)
@given(names)
def test_grouping_agrees_with_webdataset(pairs: list[tuple[str, str]]) -> None:
    """Same keys, same members, same order, for any tar in which no key is repeated."""
    order = {key: i for i, (key, _) in enumerate(pairs)}
    pairs = sorted(pairs, key=lambda p: order[p[0]])
    data = corpus.tar_bytes([(f"{key}.{ext}", f"{key}{ext}".encode()) for key, ext in pairs])
    files = webdataset.tariterators.tar_file_expander([{"url": "one.tar", "stream": io.BytesIO(data)}])
    theirs = [
        (s["__key__"], {k: v for k, v in s.items() if not k.startswith("__")})
        for s in webdataset.tariterators.group_by_keys(files)
    ]
    frame, _ = index_bytes(data, IndexOptions("t"))
    ours = [
        (key, {m["ext"]: data[m["offset"] : m["offset"] + m["nbytes"]] for m in members})
        for key, members in zip(frame["key"], frame["members"].to_list(), strict=True)
    ]
    assert ours == theirs


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 4000), st.integers(0, 255))
def test_damage_anywhere_never_raises(tail: bytes, at: int, value: int) -> None:
    data = bytearray(corpus.tar_bytes([*corpus.sample("a", b"not really"), ("a" * 150 + ".jpg", b"x" * 700)]))
    data[min(at, len(data) - 1)] = value
    frame, notes = index_bytes(bytes(data) + tail, OPTIONS)
    assert dict(frame.schema) == INDEX_SCHEMA
    assert notes.rows == frame.height


def test_image_folder(tmp_path: Path) -> None:
    for name, data in {
        "cat/1.jpg": corpus.jpeg(1),
        "cat/1.txt": b"a cat",
        "dog/sub/2.PNG": corpus.png16(),
        "dog/3.v2.jpg": corpus.html(),
        "root.gif": corpus.animated_gif(3),
        "cat/.hidden.jpg": b"",
        "notes.md": b"hello",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    listing = list_folder(str(tmp_path), OPTIONS.image_exts)
    assert listing.ignored == ("notes.md",)
    (part,) = listing.parts
    part = pickle.loads(pickle.dumps(part))
    assert isinstance(part, PartSource)
    frame, _ = index_part(part, IndexOptions("t", caption_ext="txt"))
    assert frame["key"].to_list() == ["cat/1", "dog/3_v2", "dog/sub/2", "root"]
    assert frame["label"].to_list() == ["cat", "dog", "dog", None]
    assert frame["status"].to_list() == ["ok", "not_an_image", "ok", "ok"]
    assert frame["caption"].to_list() == ["a cat", None, None, None]
    first = frame["members"].to_list()[0]
    assert first == [
        {"ext": "jpg", "offset": 0, "nbytes": len(corpus.jpeg(1)), "file": "cat/1.jpg"},
        {"ext": "txt", "offset": 0, "nbytes": 5, "file": "cat/1.txt"},
    ]
    assert frame["uid_hi"][0] == make_uid(None, "t", "", "cat/1")[0]
