from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import corpus
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import curate
from curate.errors import SpecError
from curate.formats.fields import FIELD_TYPES, fit
from curate.formats.index import index_part
from curate.formats.samples import INDEX_SCHEMA, IndexOptions, index_schema
from curate.formats.shards import expand_shards
from curate.formats.sources import plan_parts

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers(), max_size=2)


@given(st.sampled_from(sorted(FIELD_TYPES)), VALUES)
def test_what_fits_is_kept_exactly_and_what_does_not_is_null(kind: str, value: Any) -> None:
    kept, fits = fit(kind, value)
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    types: dict[str, tuple[type, ...]] = {"string": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}
    right = isinstance(value, types[kind]) and (kind == "bool" or not isinstance(value, bool))
    if missing or not right:
        assert (kept, fits) == (None, missing)
        return
    # in JSON order of magnitude decides too: what the column cannot hold does not fit
    holds = {
        "string": True,
        "bool": True,
        "int": right and kind == "int" and -(2**63) <= value < 2**63,
        "float": right and kind == "float" and abs(value) <= 1.7976931348623157e308,
    }[kind]
    assert fits == holds
    if not holds:
        assert kept is None
    elif kind == "string":
        assert kept == value.encode("utf-8", "replace").decode()
    else:
        assert kept == (float(value) if kind == "float" else value)
    assert pl.Series([kept], dtype=FIELD_TYPES[kind], strict=True).len() == 1


def shard(folder: Path, metas: list[Any]) -> None:
    folder.mkdir(parents=True)
    members: list[tuple[str | bytes, bytes]] = []
    for i, meta in enumerate(metas):
        members.append((f"{i:04d}.jpg", corpus.jpeg(i)))
        if meta is not None:
            members.append((f"{i:04d}.json", meta if isinstance(meta, bytes) else json.dumps(meta).encode()))
    (folder / "00000.tar").write_bytes(corpus.tar_bytes(members))


METAS: list[Any] = [
    {"similarity": 0.31, "seen": 4, "nsfw": False, "url": "http://a/1"},
    {"similarity": 1, "seen": 4.0, "nsfw": 0, "url": None},
    {"similarity": "0.5", "seen": "4", "nsfw": "no", "url": 7},
    {"similarity": float("nan"), "seen": 2**70},
    None,
    b"[1, 2]",
]
FIELDS = (("similarity", "float"), ("seen", "int"), ("nsfw", "bool"), ("url", "string"))


def test_fields_of_the_json_member_become_columns_and_misfits_are_counted(tmp_path: Path) -> None:
    shard(tmp_path / "in", METAS)
    (part,) = plan_parts(expand_shards(str(tmp_path / "in")))
    options = IndexOptions("t", fields=FIELDS)
    frame, notes = index_part(part, options)
    assert dict(frame.schema) == index_schema(options)
    assert list(frame.schema) == [*INDEX_SCHEMA, "similarity", "seen", "nsfw", "url"]
    assert frame["similarity"].to_list() == [0.31, 1.0, None, None, None, None]
    assert frame["seen"].to_list() == [4, None, None, None, None, None]
    assert frame["nsfw"].to_list() == [False, None, None, None, None, None]
    assert frame["url"].to_list() == ["http://a/1", None, None, None, None, None]
    assert notes.as_dicts() == [{"kind": "fields", "values": {"nsfw": 2, "seen": 3, "similarity": 1, "url": 1}}]
    base, _ = index_part(part, IndexOptions("t"))
    assert base.equals(frame.select(list(INDEX_SCHEMA)))


def test_a_condition_reads_a_field_and_the_release_carries_it(tmp_path: Path) -> None:
    shard(tmp_path / "in", [{"similarity": s} for s in (0.1, 0.3, 0.5)])
    spec: dict[str, Any] = {
        "name": "fields",
        "input": {"shards": f"{tmp_path}/in", "fields": {"similarity": "float"}},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", {"filter": {"where": "similarity >= 0.3"}}, "release"],
    }
    run = curate.run(spec, workers=0)
    table = pl.read_parquet(f"{run.release}/samples.parquet")
    assert table.select("key", "similarity").rows() == [("0001", 0.3), ("0002", 0.5)]
    other = curate.run(spec | {"input": {"shards": f"{tmp_path}/in", "fields": {"similarity": "int"}}}, workers=0)
    assert other.record.steps[0].folder != run.record.steps[0].folder
    assert other.record.alive == 0


@pytest.mark.parametrize("name", ["width", "keep", "uid", "concept", "two words"])
def test_a_name_that_is_taken_is_refused_with_its_place(tmp_path: Path, name: str) -> None:
    text = f"name: x\ninput:\n  shards: {tmp_path}\n  fields: {{{name}: int}}\nworkspace: {tmp_path}/w\n"
    (tmp_path / "p.yaml").write_text(text + "stages: [index]\n")
    with pytest.raises(SpecError, match=rf"p.yaml:4:\d+: input.fields.*{name}"):
        curate.run(str(tmp_path / "p.yaml"), workers=0)
