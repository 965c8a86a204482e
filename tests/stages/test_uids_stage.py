from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest
from bench import Bench
from hypothesis import given, settings
from hypothesis import strategies as st

import curate
from curate.engine import exchange
from curate.stages.exact import ExactStage
from curate.stages.uids import UidsStage
from curate.store.workspace import Workspace

SAME = "00000000000000aa00000000000000bb"


def member(key: str, seed: int, uid: str | None, image: bytes | None = None) -> list[tuple[str | bytes, bytes]]:
    data = json.dumps({} if uid is None else {"uid": uid}).encode()
    return [(f"{key}.jpg", corpus.jpeg(seed) if image is None else image), (f"{key}.json", data)]


def test_of_one_uid_in_two_shards_the_first_in_input_order_stays(tmp_path: Path) -> None:
    """A broken sample with the uid stands first, then a good one in the same shard, then two in the next shard."""
    first = member("a", 1, None) + member("b", 2, SAME, corpus.html()) + member("c", 3, SAME) + member("d", 4, None)
    second = member("e", 5, SAME.upper()) + member("f", 6, None) + member("g", 7, SAME)
    for name, members in (("0.tar", first), ("1.tar", second)):
        (tmp_path / name).write_bytes(corpus.tar_bytes(members))
    spec = {
        "name": "twins",
        "input": {"shards": f"{tmp_path}/*.tar", "shards_per_part": 1},
        "workspace": f"{tmp_path}/work",
        "stages": ["index"],
    }
    run = curate.run(spec, workers=0)
    frame = run.columns("index", "uids").collect()
    found = {
        row["index.key"]: (row["uids.keep"], row["uids.reason"], row["uids.first_part"], row["uids.first_row"])
        for row in frame.iter_rows(named=True)
    }
    assert found == {
        "a": (True, None, None, None),
        "b": (False, "not_an_image", None, None),
        "c": (True, None, None, None),
        "d": (True, None, None, None),
        "e": (False, "duplicate_uid", 0, 2),
        "f": (True, None, None, None),
        "g": (False, "duplicate_uid", 0, 2),
    }
    assert run.quarantined == 3
    assert run.record.step("uids").reasons == {"duplicate_uid": 2, "not_an_image": 1}


@settings(deadline=None, max_examples=15)
@given(data=st.data(), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_against_brute_force(data: st.DataObject, sizes: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = sum(sizes)
    uids = data.draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    good = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    made = Bench(str(tmp_path_factory.mktemp("uids")), len(sizes))
    made.index(
        sizes,
        uid_hi=np.asarray([u << 61 for u in uids], dtype=np.uint64),
        uid_lo=np.asarray(uids, dtype=np.uint64),
        status=["ok" if g else "bad_image" for g in good],
    )
    out = made.stage(UidsStage)
    seen: set[int] = set()
    for uid, ok, keep, reason in zip(uids, good, out["keep"], out["reason"], strict=True):
        expected = ok and uid not in seen
        assert keep == expected
        assert reason == (None if expected else "duplicate_uid" if ok else "bad_image")
        if ok:
            seen.add(uid)


@settings(deadline=None, max_examples=15)
@given(data=st.data(), sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5))
def test_appended_parts_change_nothing_of_those_before(
    data: st.DataObject, sizes: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For uids and for equal bytes: the columns of a part are the same whatever comes behind it."""
    rows = sum(sizes)
    uids = np.asarray(data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows)), dtype=np.uint64)
    columns = {
        "uid_hi": uids << 61,
        "uid_lo": np.zeros(rows, dtype=np.uint64),
        "sha256": [f"{n:064x}" for n in data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))],
        "status": data.draw(st.lists(st.sampled_from(["ok", "ok", "bad_image"]), min_size=rows, max_size=rows)),
    }
    found = []
    for parts in (data.draw(st.integers(1, len(sizes) - 1)), len(sizes)):
        end = sum(sizes[:parts])
        made = Bench(str(tmp_path_factory.mktemp("earlier")), parts)
        made.index(sizes[:parts], **{name: values[:end] for name, values in columns.items()})
        found.append((made.stage(UidsStage), made.stage(ExactStage)))
    for before, after in zip(*found, strict=True):
        assert after.head(before.height).equals(before)


def test_the_tables_hold_all_uids_sorted(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Bad samples and duplicates too, whatever the number of buckets: `explain` looks them up."""
    monkeypatch.setattr("curate.stages.uids.BUCKET_BYTES", 400)
    made = bench(3)
    index = made.index([20, 30, 5], status=["ok"] * 50 + ["bad_image"] * 5)
    made.stage(UidsStage)
    step = made.plan.step("uids")
    workspace: Workspace = made.workspace
    names = sorted(name for name in workspace.listing(step.folder) if name.startswith("table-"))
    assert len(names) > 2
    tables = [pl.read_parquet(workspace.read(f"{step.folder}/{name}")) for name in names]
    table = pl.concat(tables)
    assert table.equals(table.sort("uid_hi", "uid_lo"))
    assert table.sort("part", "row").select("uid_hi", "uid_lo").equals(index.select("uid_hi", "uid_lo"))
    assert exchange.bucket_marker(0) not in workspace.listing("scratch")
    assert workspace.folders("scratch") == []  # what lived for the exchange is gone
