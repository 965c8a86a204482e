"""`columns`: numbers computed from earlier columns, such as the aspect of an image, as columns of their own."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any

import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.filtering.predicate import Number, compile_number
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.new_columns import NewColumn
from curate.stages.part import Part
from curate.store.artifacts import Artifact


class ColumnsConfig(StageConfig):
    """Names and expressions."""

    add: Annotated[dict[NewColumn, Annotated[str, Field(min_length=1)]], Field(min_length=1)] = Field(
        description="New columns: name and SQL expression, such as {aspect: greatest(width, height) / least(width, height)}."  # noqa: E501
    )


class ColumnsStage(Stage[ColumnsConfig]):
    """The words and the meaning are those of `filter`; a value that is missing, or no finite number, is null."""

    kind = "columns"
    VERSION = 1
    Config = ColumnsConfig
    sees_alive = False

    def columns(self) -> dict[str, pl.DataType]:
        """The new columns, Float64."""
        return {name: pl.Float64() for name in self.config.add}

    @cached_property
    def numbers(self) -> dict[str, Number]:
        """The compiled expressions over `column` (the latest step that has it) and `step.column`."""
        known: dict[str, pl.DataType] = {}
        for step, columns in self.context.schema.items():
            for column, dtype in columns.items():
                known[f"{step}.{column}"] = dtype
                if column not in ("keep", "reason", "alive"):
                    known[column] = dtype
        return {name: compile_number(sql, known) for name, sql in self.config.add.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "numbers"}

    def check(self) -> None:
        """Compile them."""
        _ = self.numbers

    def _read(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for number in self.numbers.values() for column in number.columns))

    def reads(self) -> tuple[str, ...]:
        """The steps whose columns are used."""
        return tuple(dict.fromkeys(self._step(column) for column in self._read()))

    def _step(self, column: str) -> str:
        step, _, name = column.rpartition(".")
        return step or next(s for s, columns in reversed(list(self.context.schema.items())) if name in columns)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Evaluate, for dropped rows too. Memory: the columns used."""
        frame = part.columns(*self._read())
        return Columns(frame.select(number.expr.alias(name) for name, number in self.numbers.items()))
