from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import curate
from curate.engine.exchange import Bucket, Buckets, Records, Worked
from curate.errors import StorageError
from curate.stages.base import Again, Columns, Stage, State, Totals
from curate.stages.config import StageConfig
from curate.store.artifacts import Artifact

calls: list[str] = []
fail_at: set[str] = set()
RECORD = np.dtype([("key", "u4"), ("part", "u4"), ("row", "u4")])
BACK = np.dtype([("part", "u4"), ("row", "u4"), ("count", "i8")])


def step_of(call: str) -> None:
    if call in fail_at:
        raise StorageError(f"{call} failed")
    calls.append(call)


class Everything(Stage[StageConfig]):
    """All three shapes: two passes of a reduce, then an exchange that counts rows by key, then a map."""

    kind = "everything"

    def columns(self) -> dict[str, pl.DataType]:
        return {"total": pl.Int64(), "same": pl.Int64()}

    def reads(self) -> tuple[str, ...]:
        return ("index",)

    def summarise(self, part: Any, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        step_of(f"summarise-{'second' if state else 'first'}-{part.index}")
        mine = part.columns("n").to_series().sum()
        return {"sum": np.asarray(mine + int(state.get("sum", np.asarray(0))))}

    def reduce(self, summaries: Any, totals: Totals, state: State) -> dict[str, Artifact] | Again:
        step_of(f"reduce-{'second' if state else 'first'}")
        total = sum(int(s["sum"]) for s in summaries)
        return {"total": {"sum": total, "alive": totals.alive}} if state else Again({"sum": np.asarray(total)})

    def buckets(self, artifacts: Any, totals: Totals) -> Buckets:
        return Buckets.uniform(4, 2)

    def emit(self, part: Any, artifacts: Any) -> Records:
        step_of(f"emit-{part.index}")
        rows = np.zeros(part.rows, dtype=RECORD)
        rows["key"] = part.columns("n").to_series().to_numpy() % 4
        rows["part"], rows["row"] = part.index, np.arange(part.rows)
        return Records(rows)

    def work(self, bucket: Bucket, artifacts: Any) -> Worked:
        step_of(f"work-{int(bucket.rows['key'].min()) if len(bucket.rows) else 'empty'}")
        back = np.zeros(len(bucket.rows), dtype=BACK)
        back["part"], back["row"] = bucket.rows["part"], bucket.rows["row"]
        back["count"] = (bucket.rows["key"][:, None] == bucket.rows["key"][None, :]).sum(axis=1)
        return Worked(back)

    def map(self, part: Any, artifacts: Any, back: Any) -> Columns:
        step_of(f"map-{part.index}")
        return Columns(pl.DataFrame({"total": [artifacts["total"]["sum"]] * part.rows, "same": back["count"]}))


N = [3, 1, 0, 2, 7, 5, 5, 4, 9]
SIZES = [4, 2, 3]
ALL = [
    "summarise-first-0", "summarise-first-1", "summarise-first-2", "reduce-first",
    "summarise-second-0", "summarise-second-1", "summarise-second-2", "reduce-second",
    "emit-0", "emit-1", "emit-2", "work-0", "work-2", "map-0", "map-1", "map-2",
]  # fmt: skip


@pytest.fixture(autouse=True)
def _clean() -> None:
    calls.clear()
    fail_at.clear()


@pytest.fixture
def made(bench: Callable[..., Any]) -> Any:
    made = bench(3)
    made.index(SIZES, n=N)
    return made


def check(made: Any) -> None:
    frame = made.frame("everything")
    first = sum(N)
    assert frame["total"].to_list() == [first + 3 * first] * 9  # the second pass adds the first total to each part
    keys = [n % 4 for n in N]
    assert frame["same"].to_list() == [keys.count(key) for key in keys]
    assert made.workspace.folders("scratch") == []


def test_the_three_shapes_in_their_order(made: Any) -> None:
    made.stage(Everything)
    assert calls == ALL
    check(made)


@pytest.mark.parametrize("at", ALL)
def test_stopped_anywhere_it_goes_on_from_there(at: str, made: Any) -> None:
    """Nothing that was finished is done twice, and the result is the same."""
    fail_at.add(at)
    with pytest.raises(StorageError, match=f"{at} failed"):
        made.stage(Everything)
    fail_at.clear()
    done = list(calls)
    made.executor.run(made.plan.step("everything"))
    assert done + calls[len(done) :] == ALL
    check(made)


def test_a_part_that_vanished_is_made_again(made: Any) -> None:
    made.stage(Everything)
    step = made.plan.step("everything")
    before = {name: made.workspace.read(f"{step.folder}/{name}") for name in made.workspace.listing(step.folder)}
    lost = next(name for name in before if name.startswith("part-00001"))
    made.workspace.remove(f"{step.folder}/{lost}")
    calls.clear()
    result = made.executor.run(step)
    assert result.reused_parts == 2
    assert [c for c in calls if c.startswith("map")] == ["map-1"]
    assert not any(c.startswith(("summarise", "reduce")) for c in calls)  # the artifacts are there
    assert {n: made.workspace.read(f"{step.folder}/{n}") for n in made.workspace.listing(step.folder)} == before


def test_artifacts_that_vanished_are_made_again(made: Any) -> None:
    made.stage(Everything)
    step = made.plan.step("everything")
    made.workspace.remove(f"{step.folder}/artifacts.{step.whole}.json")
    calls.clear()
    made.executor.run(step)
    assert calls == ALL[:8]
    check(made)


def test_a_finished_step_is_only_looked_at(made: Any) -> None:
    made.stage(Everything)
    calls.clear()
    again = made.executor.run(made.plan.step("everything"))
    assert calls == []
    assert again.reused_parts == 3
    assert again.group == made.results["everything"].group


def test_totals_are_those_of_the_step_before(bench: Callable[..., Any]) -> None:
    made = bench(3)
    made.index(SIZES, n=N)
    ends = np.cumsum([0, *SIZES])
    keep = pl.DataFrame({"keep": [n > 2 for n in N], "reason": ["small"] * 9})
    made.given("filter", [keep[int(a) : int(b)] for a, b in itertools.pairwise(ends)])
    made.stage(Everything)
    from curate.store.artifacts import read_artifacts

    step = made.plan.step("everything")
    assert read_artifacts(made.workspace, step.folder, step.whole)["total"]["alive"] == sum(n > 2 for n in N)
    assert made.executor.alive == {"filter": sum(n > 2 for n in N)}
    assert made.results["filter"].group.counts == {"small": sum(n <= 2 for n in N)}


def test_a_group_names_its_parts_columns_and_options(made: Any) -> None:
    made.stage(Everything)
    group = made.results["everything"].group
    assert (group.kind, group.columns, group.drops) == ("everything", {"total": "Int64", "same": "Int64"}, False)
    assert [part.rows for part in group.parts] == SIZES
    assert [part.fingerprint for part in group.parts] == made.plan.step("everything").parts


def test_an_added_shard_leaves_the_index_of_the_others_alone(tiny: dict[str, Any], tmp_path: Path) -> None:
    import corpus

    curate.run(tiny, workers=0)
    (tmp_path / "shards" / "00003.tar").write_bytes(corpus.tar_bytes(corpus.sample("new", corpus.jpeg(50))))
    record = curate.run(tiny, workers=0).record
    assert record.rows == 13
    assert record.step("index").reused_parts == 3
    assert record.step("uids").reused_parts == 3
