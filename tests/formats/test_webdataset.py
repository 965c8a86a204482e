from __future__ import annotations

import io

import corpus
import fsspec
import polars as pl
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.formats.index import index_part
from curate.formats.samples import INDEX_SCHEMA, IndexOptions, PartNotes
from curate.formats.shards import expand_shards
from curate.formats.sources import plan_parts

OPTIONS = IndexOptions("test", caption_ext="txt", caption_required=True)


def index_bytes(data: bytes, options: IndexOptions = OPTIONS) -> tuple[pl.DataFrame, PartNotes]:
    fsspec.filesystem("memory").pipe_file("/samples/one.tar", data)
    (part,) = plan_parts(expand_shards("memory://samples/one.tar"))
    return index_part(part, options)


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
