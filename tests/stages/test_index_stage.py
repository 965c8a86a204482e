from __future__ import annotations

from pathlib import Path
from typing import Any

import corpus
import polars as pl

import curate
from curate.formats.index import index_part
from curate.formats.samples import INDEX_SCHEMA, IndexOptions
from curate.formats.shards import expand_shards
from curate.formats.sources import plan_parts
from curate.pipeline.api import prepare
from curate.stages.index import IndexConfig, IndexStage
from curate.stages.uids import UidsStage


def test_the_rows_are_those_of_the_reader_in_input_order(tiny: dict[str, Any], tmp_path: Path) -> None:
    run = curate.run(tiny, workers=0)
    frame = run.columns("index").collect()
    assert dict(frame.schema) == INDEX_SCHEMA
    assert frame["key"].to_list() == [f"{i:06d}" for i in range(12)]
    sources = plan_parts(expand_shards(f"{tmp_path}/shards/*.tar"), 1)
    options = IndexOptions("shards", caption_ext="txt", caption_required=True)
    for source, part in zip(sources, run.columns("index").collect().iter_slices(4), strict=True):
        assert index_part(source, options)[0].equals(part)


def test_every_broken_sample_is_a_row_with_a_reason(tmp_path: Path) -> None:
    expected, shards = corpus.write_fault_corpus(tmp_path / "shards")
    spec = {
        "name": "faults",
        "input": {"shards": f"{tmp_path}/shards/*.tar", "shards_per_part": 2, "caption": "txt"},
        "workspace": f"{tmp_path}/work",
        "stages": ["index"],
    }
    run = curate.run(spec, workers=0)
    frame = run.columns("index", "uids").collect()
    reasons = run.record.step("uids").reasons
    bad = frame.filter(pl.col("index.status") != "ok")
    assert sum(reasons.values()) == bad.height == run.quarantined
    assert bad["uids.reason"].to_list() == bad["index.status"].to_list()
    assert frame.filter(pl.col("index.status") == "ok")["uids.keep"].all()
    assert reasons == dict(bad["index.status"].value_counts().iter_rows())
    assert {e.status for e in expected if e.status not in ("ok", "decode")} == set(reasons)
    notes = [(note["shard"], note["reason"]) for note in run.record.notes if "reason" in note]
    assert {(s.shard, s.reason) for s in shards} <= set(notes)


def test_the_uid_table_always_follows() -> None:
    assert IndexStage.companions_after("index", IndexConfig(name=None))[0][0] is UidsStage


def test_how_the_input_is_read_decides_the_fingerprint(tiny: dict[str, Any]) -> None:
    first = prepare(tiny)[1].step("index")
    for option, value in (
        ("caption", None), ("max_pixels", 5), ("max_bytes", 500), ("image", "jpg"), ("label", "json"),
        ("name", "other"), ("caption_required", False),
    ):  # fmt: skip
        given = {**tiny["input"], option: value}
        other = prepare(tiny | {"input": {k: v for k, v in given.items() if v is not None}})[1].step("index")
        assert not set(first.parts) & set(other.parts), option
