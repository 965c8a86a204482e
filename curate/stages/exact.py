"""`dedup-exact`: byte-identical images, by sha256. Comes just before every `dedup` by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.dedup.exact import first_of_group
from curate.engine.exchange import BUCKET_BYTES, Bucket, Buckets, Records, Worked
from curate.stages.base import Columns, Stage, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.uids import format_uid

PREFIXES = 1 << 16
_DTYPE = np.dtype(
    [("key", "u4"), ("part", "u4"), ("row", "u4"), ("sha", ">u8", (4,)), ("uid_hi", "u8"), ("uid_lo", "u8")]
)
_BACK = np.dtype([("part", "u4"), ("row", "u4"), ("keeper_hi", "u8"), ("keeper_lo", "u8")])


class ExactConfig(StageConfig):
    """No options."""


class ExactStage(Stage[ExactConfig]):
    """Of alive samples whose image bytes are the same, the first in input order stays."""

    kind = "dedup-exact"
    VERSION = 1
    Config = ExactConfig
    drops = True
    depends = "earlier"

    def columns(self) -> dict[str, pl.DataType]:
        """The uid of the sample that stays instead."""
        return {"keeper": pl.String()}

    def reads(self) -> tuple[str, ...]:
        """The index: sha256 and uids."""
        return (next(iter(self.context.schema)),)

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """Hashes spread evenly."""
        return Buckets.uniform(PREFIXES, -(-totals.alive * _DTYPE.itemsize // BUCKET_BYTES))

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records:
        """One record for each alive row that has an image."""
        frame = part.columns("sha256", "uid_hi", "uid_lo")
        alive = np.flatnonzero(part.alive & frame["sha256"].is_not_null().to_numpy())
        frame = frame[alive.tolist()]
        rows = np.zeros(len(alive), dtype=_DTYPE)
        digests = b"".join(bytes.fromhex(text) for text in frame["sha256"])
        rows["sha"] = np.frombuffer(digests, dtype=">u8").reshape(-1, 4)
        rows["key"] = rows["sha"][:, 0] >> np.uint64(48)
        rows["part"], rows["row"] = part.index, alive
        rows["uid_hi"], rows["uid_lo"] = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        return Records(rows)

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Rows come in input order, so the first of each hash is the keeper."""
        rows = bucket.rows
        if not len(rows):
            return Worked(np.zeros(0, dtype=_BACK))
        rows = rows[np.lexsort((rows["row"], rows["part"]))]
        keep, keeper = first_of_group(rows["sha"].astype(np.uint64))
        back = np.zeros(int((~keep).sum()), dtype=_BACK)
        back["part"], back["row"] = rows["part"][~keep], rows["row"][~keep]
        back["keeper_hi"], back["keeper_lo"] = rows["uid_hi"][keeper[~keep]], rows["uid_lo"][keeper[~keep]]
        return Worked(back)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Mark the copies."""
        assert back is not None
        keeper: list[str | None] = [None] * part.rows
        for record in back:
            keeper[record["row"]] = format_uid(int(record["keeper_hi"]), int(record["keeper_lo"]))
        frame = pl.DataFrame({"keeper": pl.Series(keeper, dtype=pl.String)})
        return Columns(frame.with_columns(keep=pl.col("keeper").is_null(), reason=pl.lit("same_bytes")))
