from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench, cut, index_frame
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import StorageError
from curate.formats.datacomp import SUBSET, count_distinct, first_unsorted, read_subset, uid_at
from curate.stages import write_subset
from curate.stages.sink import Lost
from curate.stages.write_subset import WriteSubsetStage
from curate.store.workspace import Workspace

SIZES = [30, 0, 41, 7, 22]


def written(bench: Bench, **options: Any) -> tuple[dict[str, Any], Path]:
    bench._add("write_subset", WriteSubsetStage, WriteSubsetStage.Config.model_validate(options))
    report = bench.results["write_subset"].sink
    return report, Path(str(report["url"]))


def pool(bench: Bench, seed: int = 0, copies: np.ndarray | None = None) -> list[str]:
    """Rows of which about half are alive; the uids that must be in the file, sorted as texts."""
    frame = bench.index(SIZES)
    alive = np.random.default_rng(seed).random(frame.height) < 0.5
    rows = {"keep": alive, "reason": ["x"] * frame.height, "alive": alive}
    if copies is not None:
        rows["repeats"] = pl.Series(
            [int(n) if a else None for n, a in zip(copies, alive, strict=True)], dtype=pl.UInt16
        )
    bench.given("chosen", cut(pl.DataFrame(rows).drop("alive"), SIZES))
    times = alive.astype(int) if copies is None else np.where(alive, copies, 0)
    uids = [f"{hi:016x}{lo:016x}" for hi, lo in frame.select("uid_hi", "uid_lo").iter_rows()]
    return sorted(uid for uid, n in zip(uids, times, strict=True) for _ in range(n))


@pytest.mark.parametrize("run_records", [1, 10, 1 << 20])
@pytest.mark.parametrize("repeated", [False, True])
def test_alive_uids_are_written_sorted(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch, run_records: int, repeated: bool
) -> None:
    monkeypatch.setattr(write_subset, "RUN_RECORDS", run_records)
    copies = np.random.default_rng(1).integers(1, 4, sum(SIZES)) if repeated else None
    true = pool(made := bench(len(SIZES)), copies=copies)
    report, folder = written(made)
    subset = read_subset(str(folder / "subset.npy"))
    assert [uid_at(subset, row) for row in range(len(subset))] == true
    record = json.loads((folder / "subset.json").read_text())
    assert record["records"] == report["records"] == len(true)
    assert record["uids"] == report["uids"] == len(set(true))
    assert (record["input"], record["alive"]) == (sum(SIZES), len(set(true)))
    assert record["bytes"] == (folder / "subset.npy").stat().st_size
    assert sorted(path.name for path in folder.iterdir()) == ["subset.json", "subset.npy"]


def test_the_same_bytes_however_runs_and_parts_are_cut(
    bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = set()
    for run_records in (1, 9, 1 << 20):
        monkeypatch.setattr(write_subset, "RUN_RECORDS", run_records)
        pool(made := bench(len(SIZES)))
        found.add((written(made)[1] / "subset.npy").read_bytes())
    assert len(found) == 1


def test_the_record_of_the_example_of_datacomp(bench: Callable[..., Bench]) -> None:
    """specs: the two uids of DataComp's own README as two little-endian halves each."""
    uids = ["6e356964a967af455c8016b75d691203", "139e4a9b22a614771f06c700a8ebe150"]
    made = bench(1)
    halves = [np.asarray([int(uid[at : at + 16], 16) for uid in uids], dtype=np.uint64) for at in (0, 16)]
    made.index([2], uid_hi=halves[0], uid_lo=halves[1])
    _, folder = written(made)
    data = (folder / "subset.npy").read_bytes()
    assert data[128:144] == bytes.fromhex("7714a6229b4a9e13 50e1eba800c7061f")
    assert np.array_equal(np.load(folder / "subset.npy"), np.array(
        sorted((int(uid[:16], 16), int(uid[16:], 16)) for uid in uids), "u8,u8"))  # fmt: skip


def test_nothing_alive_gives_an_empty_file(bench: Callable[..., Bench]) -> None:
    made = bench(2)
    made.index([3, 4])
    made.given("none", cut(pl.DataFrame({"keep": [False] * 7, "reason": ["x"] * 7}), [3, 4]))
    report, folder = written(made)
    assert report["records"] == 0
    assert len(read_subset(str(folder / "subset.npy"))) == 0


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1), max_size=30), max_size=6), st.integers(1, 40))
def test_runs_are_merged_in_order(runs: list[list[int]], most: int) -> None:
    """Against one sort of all, with many equal uids and any borders of ranges."""
    place = Workspace(f"memory://merge-{most}")
    reports = []
    for number, values in enumerate(runs):
        hi = np.asarray(values, dtype=np.uint64)
        run = write_subset.make_subset(hi, hi >> np.uint64(1))
        nbytes, _ = write_subset.write_subset(place, write_subset._run(number), [run], len(run))
        reports.append({"run": number, "bytes": nbytes, "cuts": write_subset.cuts_of(run)})
    plain, write_subset.RUN_RECORDS = write_subset.RUN_RECORDS, most
    try:
        chunks = list(write_subset._merged(reports, place))
    finally:
        write_subset.RUN_RECORDS = plain
        place.remove("runs")
    whole = np.concatenate([np.empty(0, SUBSET), *chunks])
    assert whole["f0"].tolist() == sorted(value for values in runs for value in values)
    assert first_unsorted(whole) is None
    assert sum(count_distinct(chunk) for chunk in chunks) == count_distinct(whole)


def test_a_lost_run_is_told_and_a_finished_file_is_taken_as_it_is(tmp_path: Path) -> None:
    made = Bench(str(tmp_path / "ws"), len(SIZES))
    true = pool(made)
    report, folder = written(made)
    stage = made.plan.step("write_subset").stage
    assert stage.intact(report, Workspace(str(folder)))
    totals = {"totals": {"input": sum(SIZES), "alive": len(true), "records": len(true)}}
    units = [{"run": 0, "bytes": 128, "cuts": [0] * (write_subset.PREFIXES + 1)}]
    again = stage.finish(units, totals, Workspace(str(folder)))  # killed after the last file was written
    assert again["records"] == len(true)
    (folder / "subset.json").unlink()
    assert not stage.intact(report, Workspace(str(folder)))
    with pytest.raises(Lost, match=r"00000\.npy got lost"):
        stage.finish(units, totals, Workspace(str(folder)))


def test_what_the_storage_changed_is_noticed(tmp_path: Path) -> None:
    place = Workspace(str(tmp_path))
    frame = index_frame(20)
    subset = write_subset.make_subset(frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy())
    nbytes, sha256 = write_subset.write_subset(place, "subset.npy", [subset], 20)
    write_subset._check(place, nbytes, sha256)
    data = bytearray((tmp_path / "subset.npy").read_bytes())
    data[-1] ^= 1
    (tmp_path / "subset.npy").write_bytes(bytes(data))
    with pytest.raises(StorageError, match="the storage changed them"):
        write_subset._check(place, nbytes, sha256)


def test_a_folder_that_holds_something_else_is_not_written_into(bench: Callable[..., Bench], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    pool(made := bench(len(SIZES)))
    with pytest.raises(StorageError, match=r"already holds mine\.txt"):
        written(made, to=str(tmp_path / "out"))
