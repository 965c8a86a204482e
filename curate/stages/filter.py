"""`filter`: keep the samples for which an SQL predicate over all columns so far is true."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.filtering.predicate import Predicate, compile_predicate
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact


class FilterConfig(StageConfig):
    """The predicate."""

    where: str = Field(
        min_length=1, description="SQL predicate, such as width >= 200 AND embed.clip_score >= 0.28; true stays."
    )


class FilterStage(Stage[FilterConfig]):
    """True stays, false drops with the reason `false`, null drops with `null: <column>`."""

    kind = "filter"
    VERSION = 1
    Config = FilterConfig
    drops = True

    def columns(self) -> dict[str, pl.DataType]:
        """Only bookkeeping."""
        return {}

    @cached_property
    def predicate(self) -> Predicate:
        """The compiled predicate over `column` (the latest step that has it) and `step.column`."""
        known: dict[str, pl.DataType] = {}
        for step, columns in self.context.schema.items():
            for column, dtype in columns.items():
                known[f"{step}.{column}"] = dtype
                if column not in ("keep", "reason", "alive"):
                    known[column] = dtype
        return compile_predicate(self.config.where, known)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "predicate"}

    def check(self) -> None:
        """Compile it."""
        _ = self.predicate

    def reads(self) -> tuple[str, ...]:
        """The steps whose columns stand in the predicate."""
        steps = [self._step(column) for column in self.predicate.columns]
        return tuple(dict.fromkeys(steps)) or (next(iter(self.context.schema)),)

    def _step(self, column: str) -> str:
        step, _, name = column.rpartition(".")
        return step or next(s for s, columns in reversed(list(self.context.schema.items())) if name in columns)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Evaluate. Memory: the columns used."""
        frame = part.columns(*self.predicate.columns)
        why_null = pl.concat_str(pl.lit("null: "), self.predicate.null_column())
        return Columns(
            frame.select(keep=self.predicate.expr.fill_null(False), reason=pl.coalesce(why_null, pl.lit("false")))
        )
