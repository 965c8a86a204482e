"""`sample`: a seeded share of the samples, the same whatever the order or number of workers; for pilot runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.uids import hash64


class SampleConfig(StageConfig):
    """How much to keep."""

    fraction: float = Field(gt=0, le=1, description="Share of the samples to keep; each by a hash of (seed, uid).")


class SampleStage(Stage[SampleConfig]):
    """Keeps each sample with probability `fraction`. A larger fraction keeps all that a smaller one does."""

    kind = "sample"
    VERSION = 1
    Config = SampleConfig
    drops = True
    uses_seed = True

    def columns(self) -> dict[str, pl.DataType]:
        """Only bookkeeping."""
        return {}

    def reads(self) -> tuple[str, ...]:
        """The index: uids."""
        return (next(iter(self.context.schema)),)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Compare a hash of the uid with the fraction."""
        frame = part.columns("uid_hi", "uid_lo")
        draw = hash64(frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy(), self.context.seed, self.kind)
        keep = draw <= np.uint64(min(int(self.config.fraction * 2**64), 2**64 - 1))
        return Columns(pl.DataFrame({"keep": keep}).with_columns(reason=pl.lit("not_sampled")))
