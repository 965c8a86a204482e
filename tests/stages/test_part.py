from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from curate.errors import SpecError
from curate.stages.part import Part, load_artifacts
from curate.stages.vectors import alive_vectors


@pytest.fixture
def part(bench: Callable[..., Any]) -> Part:
    """Part 1 of two, of five rows: width by the index and again by `resize`; `first` and `second` drop rows."""
    made = bench(2)
    made.index([4, 5])
    made.given("size", [pl.DataFrame({"width": [10 * part + i for i in range(n)]}) for part, n in ((0, 4), (1, 5))])
    made.given("resize", [pl.DataFrame({"width": [-i for i in range(n)]}) for n in (4, 5)])
    keeps = [True, False, True, True, True]
    made.given("first", [pl.DataFrame({"keep": keeps[:n], "reason": ["a"] * n}) for n in (4, 5)])
    vectors = [np.eye(3, dtype=np.float16), np.arange(12, dtype=np.float16).reshape(4, 3)]
    rows = [[0, None, 1, 2], [2, 3, None, 0, 1]]
    made.given("embed", [pl.DataFrame({"vec_row": pl.Series(r, dtype=pl.UInt32)}) for r in rows], vectors=vectors)
    made.given("cluster", [pl.DataFrame({"concept": [0] * n}) for n in (4, 5)], artifacts={"centroids": np.eye(2)})
    keeps = [False, True, True, True, True]
    made.given("second", [pl.DataFrame({"keep": keeps[:n], "reason": ["b"] * n}) for n in (4, 5)])
    return made.plan.part(1, "end")  # type: ignore[no-any-return]


def test_a_bare_name_is_the_latest_step_that_wrote_it(part: Part) -> None:
    frame = part.columns("width", "size.width", "key", "resize.width")
    assert frame.columns == ["width", "size.width", "key", "resize.width"]
    assert frame["width"].to_list() == [0, -1, -2, -3, -4]
    assert frame["resize.width"].to_list() == frame["width"].to_list()
    assert frame["size.width"].to_list() == [10, 11, 12, 13, 14]
    assert frame["key"].to_list() == ["000004", "000005", "000006", "000007", "000008"]


def test_alive_is_cumulative(part: Part) -> None:
    assert part.alive.tolist() == [False, False, True, True, True]
    assert part.rows == 5
    assert part.columns("first.alive").to_series().to_list() == [True, False, True, True, True]


def test_a_step_sees_only_what_came_before_it(part: Part, bench: Callable[..., Any]) -> None:
    made = bench(1)
    made.index([3])
    made.given("first", [pl.DataFrame({"keep": [True, False, True], "reason": ["a"] * 3})])
    assert made.plan.part(0, "first").alive.tolist() == [True] * 3
    assert made.plan.part(0, "first").layers == made.plan.part(0, "end").layers[:1]


def test_alive_vectors_are_those_of_their_rows(part: Part) -> None:
    rows, vectors = alive_vectors(part, "embed")
    assert rows.tolist() == [3, 4]  # row 2 is alive and has no vector
    np.testing.assert_array_equal(vectors, np.arange(12, dtype=np.float16).reshape(4, 3)[[0, 1]])
    rows, vectors = alive_vectors(part, "embed", np.asarray([True, True, True, False, True]))
    assert rows.tolist() == [4]
    np.testing.assert_array_equal(vectors, [[3, 4, 5]])


def test_it_travels_without_its_data(part: Part) -> None:
    _ = part.columns("width")
    data = pickle.dumps(part)
    assert len(data) < 6000
    assert pickle.loads(data).alive.tolist() == part.alive.tolist()


def test_artifacts_of_an_earlier_step(part: Part) -> None:
    np.testing.assert_array_equal(part.artifacts("cluster")["centroids"], np.eye(2))
    with pytest.raises(SpecError, match="no earlier step named size makes artifacts"):
        load_artifacts(part.workspace, part.layers, "size")


def test_unknown_names_are_sentences(part: Part) -> None:
    with pytest.raises(SpecError, match="no step so far writes a column named height"):
        part.columns("height")
    with pytest.raises(SpecError, match=r"no step named prune; steps so far: index, size, resize, first, embed"):
        part.columns("prune.score")
