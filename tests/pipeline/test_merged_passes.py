"""Reduces whose summaries are merged by the worker, and results as long as the dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from curate.engine.base import InlineEngine, Need
from curate.errors import StorageError
from curate.stages.base import Again, Columns, Stage, State, Totals
from curate.stages.config import StageConfig
from curate.store.rows import Rows, StoredRows

N = [3, 1, 0, 2, 7, 5, 5, 4, 9, 6]
SIZES = [4, 0, 2, 1, 3]
merged: list[list[int]] = []
fail_at: set[int] = set()


class Ranked(Stage[StageConfig]):
    """Two merged passes, then every row reads its own value from an artifact as long as the dataset."""

    kind = "ranked"

    def columns(self) -> dict[str, pl.DataType]:
        return {"rank": pl.Int64()}

    def reads(self) -> tuple[str, ...]:
        return ("index",)

    def summarise(self, part: Any, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        if part.index in fail_at:
            raise StorageError("stopped")
        return {"part": np.asarray([part.index]), "n": part.columns("n").to_series().to_numpy()}

    def merge(self, summaries: Iterator[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        all_of_them = list(summaries)
        result = {name: np.concatenate([s[name] for s in all_of_them]) for name in ("part", "n")}
        merged.append(result["part"].tolist())
        return result

    def reduce(self, summaries: Any, totals: Totals, state: State) -> Any:
        values = np.concatenate([s["n"] for s in summaries])
        if not state:
            return Again({"sum": values.sum()})
        assert int(state["sum"]) == values.sum()
        ranks = np.argsort(np.argsort(values, kind="stable"), kind="stable")
        return {"ranks": Rows(np.dtype(np.int64), len(ranks), iter(np.array_split(ranks, 3)))}

    def map(self, part: Any, artifacts: Any, back: Any) -> Columns:
        ranks = artifacts["ranks"]
        assert isinstance(ranks, StoredRows)
        start = sum(SIZES[: part.index])
        return Columns(pl.DataFrame({"rank": ranks.read(start, start + part.rows)}))


class Several(InlineEngine):
    """Says that it has several workers: what shares are cut by."""

    def __init__(self, n: int) -> None:
        self.n = n

    def workers(self, need: Need) -> int:
        return self.n


@pytest.fixture
def made(bench: Callable[..., Any]) -> Any:
    merged.clear()
    fail_at.clear()
    made = bench(len(SIZES))
    made.index(SIZES, n=N)
    return made


def check(made: Any) -> None:
    assert made.frame("ranked")["rank"].to_list() == np.argsort(np.argsort(N, kind="stable")).tolist()
    assert made.workspace.folders("scratch") == []


@pytest.mark.parametrize("workers", [1, 2, 3, 40])
def test_one_summary_a_worker_and_the_same_result(made: Any, workers: int) -> None:
    made.executor.engine = Several(workers)
    made.stage(Ranked)
    check(made)
    assert len(merged) <= 2 * workers
    assert [part for share in merged for part in share] == 2 * list(range(len(SIZES)))
    if workers == 2:
        assert merged[:2] == [[0, 1], [2, 3, 4]]  # by alive rows, not by parts


def test_a_pass_goes_on_with_other_workers(made: Any) -> None:
    made.executor.engine = Several(5)
    fail_at.add(2)
    with pytest.raises(StorageError, match="stopped"):
        made.stage(Ranked)
    assert merged == [[0, 1]]
    before = [part for share in merged for part in share]
    fail_at.clear()
    merged.clear()
    made.executor.engine = Several(1)
    made.executor.run(made.plan.step("ranked"))
    assert merged == [[part for part in range(len(SIZES)) if part not in before], list(range(len(SIZES)))]
    check(made)
