"""What `prune` reads of a part: the group, the score and the ranking key of every row that it can rank.

What never lives here: budgets, quotas and which rows stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.concepts.assign import DISTANCE_SCALE
from curate.errors import SpecError
from curate.pruning.order import as_int64
from curate.pruning.select import Which, best_first
from curate.stages.base import Context
from curate.stages.part import Part
from curate.store.uids import hash64

LABEL, ALL = "label", "all"
"""Values of `within` that are no step: the classes of the index, and one group of all."""
BEST, NAME = "best", "best_name"
"""Columns of a label_sets step: number of the most probable kept class, and what it is called."""


@dataclass(frozen=True)
class Rows:
    """Rows of one part that have a group and a score."""

    index: NDArray[np.int64]
    """[m] their rows."""
    group: NDArray[Any]
    """[m] int32 concept, class as text, or uint32 class of a label_sets step."""
    name: NDArray[Any] | None
    """[m] what the class is called, where groups are those of a label_sets step; two may have one name."""
    score: NDArray[np.int64]
    """[m] what the metric says; high = hard."""
    key: NDArray[np.int64]
    """[m] what rows are ranked by: the score, or a draw."""
    uid_hi: NDArray[np.uint64]
    uid_lo: NDArray[np.uint64]
    distance: NDArray[np.int64] | None
    """[m] fixed-point distance to the centroid, where groups are concepts."""
    reason: pl.Series
    """Of all rows: why one that is not kept goes."""


@dataclass(frozen=True)
class Reader:
    """Which columns say what; small and picklable."""

    context: Context
    metric: str
    which: Which
    within: str
    """Name of a cluster or a label_sets step, or `label`, or `all`."""

    @property
    def by_step(self) -> bool:
        """Whether groups are those of an earlier step."""
        return self.within not in (LABEL, ALL)

    @property
    def by_best(self) -> bool:
        """Whether groups are the best labels of a label_sets step."""
        return self.by_step and "concept" not in self.context.schema.get(self.within, ())

    @property
    def by_concept(self) -> bool:
        """Whether groups are the concepts of a cluster step."""
        return self.by_step and not self.by_best

    @property
    def by_class(self) -> bool:
        """Whether groups are classes, which are known only once all parts were seen."""
        return self.by_best or self.within == LABEL

    @property
    def draws(self) -> bool:
        """Whether the seed decides."""
        return self.metric == "random" or self.which == "random"

    @property
    def column(self) -> str | None:
        """Column of the score as `step.column`; None for a draw. Raises SpecError when there is none."""
        schema = self.context.schema
        if self.metric == "random":
            return None
        if self.metric in ("dbp", "ssp"):
            if self.by_concept:
                return f"{self.within}.distance"
            near = [s for s, columns in schema.items() if "concept" in columns and "distance" in columns]
            if not near:
                raise SpecError(
                    f"stage {self.context.step}: metric {self.metric} ranks by the distance to a centroid; "
                    "add a cluster stage before it, or name a column as metric"
                )
            return f"{near[-1]}.distance"
        return self._column(self.metric, schema)

    def _column(self, name: str, schema: Mapping[str, Mapping[str, pl.DataType]]) -> str:
        step, _, column = name.rpartition(".")
        if name in schema and "score" in schema[name]:
            step, column = name, "score"  # a step of that name, such as one of the kind score
        elif not step:
            step = next((s for s, columns in reversed(list(schema.items())) if column in columns), "")
        if step not in schema or column not in schema[step]:
            raise SpecError(
                f"stage {self.context.step}: metric {name} is neither dbp, ssp nor random, no earlier step with a "
                "column score, and no column of an earlier step; curate plan names the steps"
            )
        dtype = schema[step][column]
        if not (dtype.is_integer() or dtype.is_float()) or dtype in (pl.Int128,):
            raise SpecError(f"stage {self.context.step}: metric {name} is {dtype}; samples are ranked by numbers")
        return f"{step}.{column}"

    def reads(self) -> tuple[str, ...]:
        """Steps whose columns are read."""
        first = next(iter(self.context.schema))
        steps = [first, *([self.within] if self.by_step else [])]
        if self.column is not None:
            steps.append(self.column.rpartition(".")[0])
        return tuple(dict.fromkeys(steps))

    def rows(self, part: Part) -> Rows:
        """The rows of a part. Memory: the columns used."""
        column, wanted = self.column, ["uid_hi", "uid_lo"]
        index_step = next(iter(self.context.schema))
        group = f"{self.within}.{BEST if self.by_best else 'concept'}" if self.by_step else f"{index_step}.label"
        wanted += [group] if self.within != ALL else []
        wanted += [f"{self.within}.distance"] if self.by_concept else [f"{self.within}.{NAME}"] if self.by_best else []
        wanted += [column] if column is not None else []
        frame = part.columns(*dict.fromkeys(wanted))
        grouped = frame[group].is_not_null() if self.within != ALL else pl.Series(np.ones(frame.height, dtype=bool))
        scored = pl.Series(np.ones(frame.height, dtype=bool))
        if column is not None:
            scored = frame[column].is_not_null()
            if frame[column].dtype.is_float():
                scored &= frame[column].is_not_nan().fill_null(False)
        unscored = f"null: {'distance' if self.metric in ('dbp', 'ssp') else self.metric}"
        ungrouped = "no_concept" if self.by_concept else f"null: {group.rpartition('.')[2]}"
        reason = pl.select(
            reason=pl.when(~grouped).then(pl.lit(ungrouped))
            .when(~scored).then(pl.lit(unscored)).otherwise(pl.lit("over_quota"))
        ).to_series()  # fmt: skip
        index = np.flatnonzero(part.alive & grouped.to_numpy() & scored.to_numpy())
        frame = frame[index.tolist()]
        hi, lo = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        draw = hash64(hi, lo, self.context.seed, self.context.step) if self.draws else None
        distance = _distance(frame[f"{self.within}.distance"]) if self.by_concept else None
        if column is None:
            assert draw is not None
            score = (draw >> np.uint64(1)).astype(np.int64)
        elif self.metric in ("dbp", "ssp"):
            score = _distance(frame[column])
        else:
            score = as_int64(frame[column].to_numpy())
        key = best_first(score, "random", draw) if self.which == "random" else score
        name = np.asarray(frame[f"{self.within}.{NAME}"].to_list(), dtype=np.str_) if self.by_best else None
        return Rows(index, self._groups(frame, group), name, score, key, hi, lo, distance, reason)

    def _groups(self, frame: pl.DataFrame, group: str) -> NDArray[Any]:
        if self.within == ALL:
            return np.zeros(frame.height, dtype=np.int32)
        if self.within == LABEL:
            return np.asarray(frame[group].to_list(), dtype=np.str_)
        return frame[group].to_numpy()


def grouped_by(within: str, table: pl.DataFrame, index: str) -> tuple[str | None, str, str]:
    """Step and column that say a row's group, None and "" for one of all; column of the table `concepts` with the same.

    within: as the diagnostics have it. index: name of the step that made the rows.
    """
    if within == ALL:
        return None, "", "concept"
    if within == LABEL:
        return index, LABEL, "label"
    return (within, BEST, "class") if "class" in table.columns else (within, "concept", "concept")


def _distance(values: pl.Series) -> NDArray[np.int64]:
    return np.asarray(np.rint(values.to_numpy() * DISTANCE_SCALE), dtype=np.int64)
