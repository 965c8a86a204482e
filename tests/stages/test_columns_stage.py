from __future__ import annotations

from collections.abc import Callable

import polars as pl
import pytest
from bench import Bench
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.filtering.predicate import compile_number
from curate.stages.columns import ColumnsStage
from curate.stages.filter import FilterStage

ASPECT = "greatest(width, height) / least(width, height)"


@given(st.lists(st.tuples(*[st.one_of(st.none(), st.integers(0, 2**32 - 1))] * 2), max_size=8))
def test_the_aspect_is_that_of_plain_arithmetic(sizes: list[tuple[int | None, int | None]]) -> None:
    frame = pl.DataFrame(sizes, schema={"width": pl.UInt32, "height": pl.UInt32}, orient="row")
    found = frame.select(a=compile_number(ASPECT, dict(frame.schema)).expr)["a"]
    true = [None if w is None or h is None or min(w, h) == 0 else max(w, h) / min(w, h) for w, h in sizes]
    assert found.dtype == pl.Float64
    assert found.to_list() == true


def test_columns_are_there_for_later_stages(bench: Callable[..., Bench]) -> None:
    made = bench(2)
    made.index([3, 2], width=[300, 100, None, 50, 90], height=[100, 100, 9, 200, 30])
    frame = made.stage(ColumnsStage, add={"aspect": ASPECT, "area": "width * height"})
    assert frame["aspect"].to_list() == [3.0, 1.0, None, 4.0, 3.0]
    assert frame["area"].to_list() == [30_000.0, 10_000.0, None, 10_000.0, 2_700.0]
    kept = made.stage(FilterStage, where="columns.aspect <= 3 AND area > 5000")
    assert kept["keep"].to_list() == [True, True, False, False, False]
    assert kept["reason"].to_list()[2:] == ["null: columns.aspect", "false", "false"]


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("width > 3", "must be a number for each row, but it is true or false"),
        ("status", "must be a number for each row, but it is text"),
        ("3 + 4", "names no column"),
        ("depth / 2", "unknown column or word depth"),
        ("width; height", "not allowed"),
        ("exp(width)", "the function exp is not allowed"),
    ],
)
def test_what_is_no_number_of_columns_is_refused(bench: Callable[..., Bench], sql: str, told: str) -> None:
    made = bench(1)
    made.index([1], width=[1])
    with pytest.raises(SpecError, match=told):
        made.stage(ColumnsStage, add={"new": sql})


@pytest.mark.parametrize("add", [{}, {"width": "height"}, {"alive": "height"}, {"x y": "height"}])
def test_names_are_checked(add: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="add"):
        ColumnsStage.Config.model_validate({"add": add})
