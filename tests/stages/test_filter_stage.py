from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from curate.errors import SpecError
from curate.stages.filter import FilterStage


@pytest.fixture
def made(bench: Callable[..., Any]) -> Any:
    """Six rows in two parts; width, then a score that is null where there was none, then a later width."""
    made = bench(2)
    made.index([4, 2], width=[100, 300, None, 250, 10, 400], height=[1, 2, 3, None, 5, 6])
    made.given("embed", [pl.DataFrame({"clip_score": s}) for s in ([0.3, None, 0.4, 0.1], [0.5, 0.6])])
    return made


def test_true_stays_false_and_null_say_why(made: Any) -> None:
    out = made.stage(FilterStage, where="width >= 200 AND clip_score >= 0.2")
    assert out["keep"].to_list() == [False, False, False, False, False, True]
    assert out["reason"].to_list() == ["false", "null: clip_score", "null: width", "false", "false", None]
    assert made.results["filter"].group.counts == {"false": 3, "null: clip_score": 1, "null: width": 1}


def test_a_null_that_does_not_decide_is_no_reason(made: Any) -> None:
    """Three-valued logic: false AND null is false, true OR null is true."""
    out = made.stage(FilterStage, where="width > 0 OR clip_score > 0")
    assert out["keep"].to_list() == [True] * 6
    out = made.stage(FilterStage, name="again", where="width > 200 AND height > 100")  # null AND false is false
    assert out["reason"].to_list() == ["false", "false", "false", "null: height", "false", "false"]


def test_the_first_null_column_in_the_predicate_is_named(made: Any) -> None:
    out = made.stage(FilterStage, where="height > 0 AND width > 0 AND clip_score > 0")
    assert out["reason"].to_list() == [None, "null: clip_score", "null: width", "null: height", None, None]


def test_rows_already_out_are_not_judged(made: Any) -> None:
    made.stage(FilterStage, name="first", where="width >= 200")
    out = made.stage(FilterStage, name="second", where="clip_score >= 0.2 AND first.keep")
    assert out["keep"].to_list() == [None, False, None, False, None, True]
    assert out["alive"].to_list() == [False, False, False, False, False, True]
    assert made.executor.alive == {"first": 3, "second": 1}


def test_it_reads_only_the_steps_in_its_predicate(made: Any) -> None:
    made.given("size", [pl.DataFrame({"width": [1] * n}) for n in (4, 2)])
    made.stage(FilterStage, name="a", where="index.width > 1")
    made.stage(FilterStage, name="b", where="width = 1 AND embed.clip_score > 0")
    assert made.plan.step("a").stage.reads() == ("index",)
    assert made.plan.step("b").stage.reads() == ("size", "embed")


def test_a_column_that_is_not_there_is_found_before_work_starts(made: Any) -> None:
    with pytest.raises(SpecError, match=r"(?s)heigth.*height"):
        made.stage(FilterStage, where="heigth > 3")
