"""`uids`: the sorted table of all uids, and the duplicates found while sorting. Follows every index by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.engine.exchange import BUCKET_BYTES, Bucket, Buckets, Records, Worked
from curate.formats.samples import UPSTREAM_STATUSES
from curate.stages.base import Columns, Stage, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact

PREFIXES = 1 << 16
"""Keys of the exchange: the first 16 bits of a uid."""
_DTYPE = np.dtype([("key", "u4"), ("part", "u4"), ("row", "u4"), ("uid_hi", "u8"), ("uid_lo", "u8"), ("ok", "?")])
_BACK = np.dtype([("part", "u4"), ("row", "u4"), ("first_part", "u4"), ("first_row", "u4")])


class UidsConfig(StageConfig):
    """No options."""

    index: Annotated[str | None, Reference({"index"})] = None


class UidsStage(Stage[UidsConfig]):
    """Takes bad samples out with their status as the reason, and all but the first of samples that share a uid."""

    kind = "uids"
    VERSION = 1
    Config = UidsConfig
    drops = True
    quarantines = True
    depends = "earlier"
    not_retried = frozenset({"duplicate_uid", *UPSTREAM_STATUSES})

    def columns(self) -> dict[str, pl.DataType]:
        """Where the first sample of the same uid is, for those that came later."""
        return {"first_part": pl.UInt32(), "first_row": pl.UInt32()}

    def retries(self) -> str:
        """What is wrong with a sample was found by the index."""
        return self._index

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """uids are hashes: equal ranges hold about equally many."""
        return Buckets.uniform(PREFIXES, -(-totals.rows * _DTYPE.itemsize // BUCKET_BYTES))

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records:
        """Every row, bad ones too: `explain` finds all."""
        frame = part.columns("uid_hi", "uid_lo", f"{self._index}.status")
        rows = np.zeros(frame.height, dtype=_DTYPE)
        rows["uid_hi"], rows["uid_lo"] = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        rows["key"] = rows["uid_hi"] >> np.uint64(48)
        rows["part"], rows["row"] = part.index, np.arange(frame.height)
        rows["ok"] = (frame[f"{self._index}.status"] == "ok").to_numpy()
        return Records(rows)

    @property
    def _index(self) -> str:
        name = self.context.references["index"]
        assert name is not None
        return name

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Sort by uid; of good samples with one uid the first in input order stays."""
        rows = bucket.rows
        if not len(rows):
            return Worked(np.zeros(0, dtype=_BACK))
        rows = rows[np.lexsort((rows["row"], rows["part"], ~rows["ok"], rows["uid_lo"], rows["uid_hi"]))]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows["uid_hi"][1:] != rows["uid_hi"][:-1]) | (rows["uid_lo"][1:] != rows["uid_lo"][:-1])
        first = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))]
        late = ~new & rows["ok"]
        back = np.zeros(int(late.sum()), dtype=_BACK)
        back["part"], back["row"] = rows["part"][late], rows["row"][late]
        back["first_part"], back["first_row"] = first["part"][late], first["row"][late]
        return Worked(back, pl.DataFrame({name: rows[name] for name in ("uid_hi", "uid_lo", "part", "row")}))

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Status becomes keep and reason."""
        assert back is not None
        status = part.columns(f"{self._index}.status").to_series()
        late = np.zeros(len(status), dtype=bool)
        late[back["row"]] = True
        where: dict[str, NDArray[Any]] = {name: np.zeros(len(status), dtype=np.uint32) for name in self.columns()}
        for name, values in where.items():
            values[back["row"]] = back[name]
        frame = pl.DataFrame({"status": status, "late": late, **where})
        return Columns(
            frame.select(
                *(pl.when("late").then(name).alias(name) for name in where),
                keep=(pl.col("status") == "ok") & ~pl.col("late"),
                reason=pl.when("late").then(pl.lit("duplicate_uid")).otherwise("status"),
            )
        )
