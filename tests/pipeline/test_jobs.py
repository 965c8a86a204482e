from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from curate.pipeline import jobs
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.filter import FilterStage
from curate.stages.part import Part
from curate.stages.sink import Unit
from curate.store.columns import read_entry


def job_of(made: Any, name: str) -> tuple[Any, ...]:
    step = made.plan.step(name)
    return made.workspace, step.name, step.stage, step.folder, step.whole


def part_of(made: Any, index: int) -> Part:
    """A part of the step `filter`, as its jobs get it."""
    return replace(made.plan.part(index, "filter"), fingerprint=made.plan.step("filter").parts[index])


@pytest.fixture
def made(bench: Callable[..., Any]) -> Any:
    made = bench(2)
    made.index([3, 2], width=[1, 2, None, 4, 5])
    made.stage(FilterStage, where="width > 1")
    return made


def test_jobs_and_items_travel_to_workers(made: Any) -> None:
    """Small: a job is sent with every item."""
    step = made.plan.step("filter")
    job = jobs.MapParts(*job_of(made, "filter"))
    item = jobs.Parts((part_of(made, 1),))
    data = pickle.dumps((job, item))
    assert len(data) < 5_000
    again, part = pickle.loads(data)
    (entry,) = again(part).entries
    assert entry.fingerprint == step.parts[1]
    assert entry.rows == 2
    assert entry.alive == 2


def test_computing_a_part_again_gives_the_same_bytes(made: Any) -> None:
    step = made.plan.step("filter")
    before = read_entry(made.workspace, step.folder, 0, step.parts[0])
    jobs.MapParts(*job_of(made, "filter"))(jobs.Parts((part_of(made, 0),)))
    assert read_entry(made.workspace, step.folder, 0, step.parts[0]) == before
    assert before.counts == {"false": 1, "null: width": 1}


def test_entries_of_stored_parts(made: Any) -> None:
    read = jobs.ReadEntries(*job_of(made, "filter"))
    entries = read(jobs.Parts((part_of(made, 0), part_of(made, 1))))
    assert entries == made.results["filter"].group.parts


def test_items_say_what_they_are(made: Any) -> None:
    first, second = (made.plan.part(i, "filter") for i in range(2))
    assert str(jobs.Parts((second,))) == "part 1 (00001.tar)"
    assert str(jobs.Parts((first, second))) == "parts 0-1 (from 00000.tar)"
    assert str(jobs.UnitItem(Unit("shard", 3, (0,)), (first,))) == "shard 3"


def test_a_drop_without_a_reason_is_counted_as_unknown(bench: Callable[..., Any]) -> None:
    class Silent(Stage[StageConfig]):
        kind = "silent"
        drops = True

        def columns(self) -> dict[str, pl.DataType]:
            return {}

        def map(self, part: Any, artifacts: Any, back: Any) -> Columns:
            reasons = pl.Series([None] * part.rows, dtype=pl.String)
            return Columns(pl.DataFrame({"keep": [False] * part.rows, "reason": reasons}))

    made = bench(1)
    made.index([3])
    made.stage(Silent)
    assert made.results["silent"].group.counts == {"unknown": 3}


def test_columns_are_cast_and_ordered_as_the_schema_says(bench: Callable[..., Any]) -> None:
    class Odd(Stage[StageConfig]):
        kind = "odd"

        def columns(self) -> dict[str, pl.DataType]:
            return {"a": pl.UInt8(), "b": pl.Float32()}

        def map(self, part: Any, artifacts: Any, back: Any) -> Columns:
            return Columns(pl.DataFrame({"extra": [0] * part.rows, "b": [1.5] * part.rows, "a": [7] * part.rows}))

    made = bench(1)
    made.index([2])
    assert made.stage(Odd).schema == {"a": pl.UInt8(), "b": pl.Float32()}
