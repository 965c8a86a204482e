from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.formats.samples import IndexOptions
from curate.stages import STAGES
from curate.stages.base import Columns, Context, Stage, with_alive
from curate.stages.config import StageConfig
from curate.stages.exact import ExactStage
from curate.stages.filter import FilterConfig, FilterStage
from curate.stages.uids import UidsStage

ALL = [*STAGES.values(), UidsStage, ExactStage]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30))
def test_alive_is_alive_before_and_kept_here(rows: list[tuple[bool, bool]]) -> None:
    before = np.asarray([b for b, _ in rows], dtype=bool)
    frame = pl.DataFrame(
        {"keep": [k for _, k in rows], "reason": ["why"] * len(rows)}, schema_overrides={"keep": pl.Boolean}
    )
    done = with_alive(frame, before)
    assert done["alive"].to_list() == [b and k for b, k in rows]
    # a row that was out already was not judged here; a kept row has no reason
    assert done["keep"].to_list() == [k if b else None for b, k in rows]
    assert done["reason"].to_list() == ["why" if b and not k else None for b, k in rows]


def test_a_null_keep_is_a_drop() -> None:
    frame = pl.DataFrame({"keep": [None, True], "reason": ["r", "r"]}, schema_overrides={"keep": pl.Boolean})
    assert with_alive(frame, np.asarray([True, True]))["alive"].to_list() == [False, True]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.kind)
def test_every_stage_says_what_it_is(kind: type[Stage[Any]]) -> None:
    assert kind.kind
    assert kind.VERSION >= 1
    assert kind.__doc__
    assert issubclass(kind.Config, StageConfig)
    assert kind.not_hashed <= set(kind.Config.model_fields)
    has_reduce = kind.summarise is not Stage.summarise
    assert (kind.reduce is not Stage.reduce) == has_reduce == kind.has_reduce()
    assert (kind.emit is not Stage.emit) == (kind.work is not Stage.work) == kind.has_exchange()


def test_bookkeeping_columns_come_with_dropping() -> None:
    context = Context("f", 0, IndexOptions("x"), schema={"index": {"width": pl.UInt32()}})
    stage = FilterStage(FilterConfig(name=None, where="width > 3"), context)
    assert list(stage.schema()) == ["keep", "reason", "alive"]


def test_stages_travel_to_workers_without_what_they_compiled() -> None:
    context = Context("f", 0, IndexOptions("x"), schema={"index": {"width": pl.UInt32()}})
    stage = FilterStage(FilterConfig(name=None, where="width > 3"), context)
    stage.check()
    again = pickle.loads(pickle.dumps(stage))
    assert "predicate" not in again.__dict__
    assert again.predicate.columns == stage.predicate.columns


def test_a_stage_that_returns_too_few_rows_is_named(bench: Callable[..., Any]) -> None:
    class Short(Stage[StageConfig]):
        kind = "short"

        def columns(self) -> dict[str, pl.DataType]:
            return {"x": pl.Int64()}

        def map(self, part: Any, artifacts: Any, back: Any) -> Columns:
            return Columns(pl.DataFrame({"x": [1]}))

    made = bench(1)
    made.index([3])
    with pytest.raises(ValueError, match="stage short returned 1 rows for part 0, which has 3"):
        made.stage(Short)


@pytest.mark.parametrize("method", ["columns", "map", "summarise", "reduce", "buckets", "emit", "work"])
def test_what_a_stage_does_not_define_is_named(method: str) -> None:
    class Empty(Stage[StageConfig]):
        kind = "empty"

    stage = Empty(StageConfig(name=None), Context("e", 0, IndexOptions("x")))
    arguments = {"columns": 0, "map": 3, "summarise": 3, "reduce": 3, "buckets": 2, "emit": 2, "work": 2}[method]
    with pytest.raises(TypeError, match="stage empty"):
        getattr(stage, method)(*[None] * arguments)
