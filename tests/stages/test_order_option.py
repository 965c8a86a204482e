from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.stages.order import LAST, Order, sortable

FLOATS = st.one_of(st.none(), st.floats(allow_nan=False), st.just(-0.0))
WHOLE = {
    pl.Int64(): st.integers(-(2**63) + 2, 2**63 - 3),
    pl.UInt64(): st.integers(2, 2**64 - 3),
    pl.Int8(): st.integers(-128, 127),
}


def assert_same_order(values: list[float | int | None], series: pl.Series) -> None:
    for descending in (False, True):
        keys = sortable(series, descending)
        for a, x in zip(values, keys, strict=True):
            assert (a is None) == (x == LAST)
            for b, y in zip(values, keys, strict=True):
                if a is not None and b is not None:
                    assert (a < b, a == b) == ((x > y) if descending else (x < y), x == y)


@given(st.lists(FLOATS, max_size=12))
def test_floats_keep_their_order(values: list[float | None]) -> None:
    assert_same_order(list(values), pl.Series(values, dtype=pl.Float64))


@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_whole_numbers_keep_their_order(dtype: pl.DataType) -> None:
    @given(st.lists(st.one_of(st.none(), WHOLE[dtype]), max_size=12))
    def holds(values: list[int | None]) -> None:
        assert_same_order(list(values), pl.Series(values, dtype=dtype))

    holds()


def test_float32_and_nan() -> None:
    assert_same_order([0.5, -1.0, None], pl.Series([0.5, -1.0, None], dtype=pl.Float32))
    assert sortable(pl.Series([math.nan, 1.0])).tolist()[0] == LAST


SCHEMA = {
    "index": {"width": pl.UInt32(), "caption": pl.String()},
    "embed": {"clip_score": pl.Float32()},
    "cluster": {"distance": pl.Float64()},
    "later": {"width": pl.Int64(), "keep": pl.Boolean()},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hard", Order("cluster", "distance", True)),
        ("easy", Order("cluster", "distance", False)),
        ("clip_score desc", Order("embed", "clip_score", True)),
        ("width asc", Order("later", "width", False)),
        ("index.width asc", Order("index", "width", False)),
    ],
)
def test_what_an_order_means(text: str, expected: Order) -> None:
    assert Order.of(text, "cluster", SCHEMA, "stage dedup") == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("score desc", "no earlier step writes; columns of numbers so far are clip_score, distance, width"),
        ("embed.width desc", "order is by embed.width, which no earlier step writes"),
        ("caption asc", "order is by caption, which holds String"),
        ("width", 'order is "width"; give hard, easy, or a column and asc or desc'),
    ],
)
def test_orders_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Order.of(text, "cluster", SCHEMA, "stage dedup")


def test_missing_values_come_last_either_way() -> None:
    series = pl.Series([None, 1, 5])
    assert np.argsort(sortable(series)).tolist() == [1, 2, 0]
    assert np.argsort(sortable(series, True)).tolist() == [2, 1, 0]
