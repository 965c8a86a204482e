"""`dedup_hash`: re-encoded and resized copies, by the distance of their perceptual hashes, over the whole input."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.dedup.hamming import MAX_DISTANCE, Bands, bands, nearest_earlier
from curate.engine.exchange import BUCKET_BYTES, Bucket, Buckets, Records, Worked
from curate.errors import SpecError
from curate.stages import keepers
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.exact import ExactConfig, ExactStage
from curate.stages.order import Order
from curate.stages.part import Part
from curate.store.artifacts import Artifact

By = Literal["phash", "dhash", "both"]
PATTERN = r"^(large|\S+ (asc|desc))$"
KEY_BITS = 24
_PLACE = [("part", "u4"), ("row", "u4")]
_OF = [("of_part", "u4"), ("of_row", "u4"), ("of_hi", "u8"), ("of_lo", "u8")]
_BACK = np.dtype([*_PLACE, ("distance", "u1"), ("of_first", "i8"), *_OF])


class HashPairsConfig(StageConfig):
    """What is compared."""

    hashes: Annotated[str | None, Reference({"hash"})] = Field(
        None, description="Hash stage whose hashes are compared; default: the nearest before."
    )
    distance: int = Field(
        4, ge=0, le=MAX_DISTANCE, description="Two images are duplicates when at most this many of 64 bits differ."
    )
    by: By = Field("phash", description="Which hash; both: in each of the two at most `distance` bits differ.")
    order: str = Field(
        "large",
        pattern=PATTERN,
        description="Which stays: large = most pixels, or the first by a column, such as clip_score desc.",
    )


class DedupHashConfig(HashPairsConfig):
    """What counts as a duplicate, and which of a pair stays."""


class HashPairsStage(Stage[HashPairsConfig]):
    """The nearest earlier image of each, over all parts, in the order in which the earlier of two stays.

    Rows meet in buckets of equal bands (`curate.dedup.hamming`), one for each band. Of rows with equal hashes in a part
    only the first travels, so a bucket holds at most one record a part, hash and band, however many copies there are.
    """

    kind = "dedup_hash-pairs"
    VERSION = 1
    Config = HashPairsConfig

    def columns(self) -> dict[str, pl.DataType]:
        """The nearest earlier image: its uid, its part and row, and how many bits differ; null where none is near."""
        return {
            "duplicate_of": pl.String(),
            "of_part": pl.UInt32(),
            "of_row": pl.UInt32(),
            "distance": pl.UInt8(),
        }

    def reads(self) -> tuple[str, ...]:
        """Hashes, uids, sizes or the column of the order."""
        index = next(iter(self.context.schema))
        return tuple(dict.fromkeys((index, self._hashes, *([self._order.step] if self._order else []))))

    def check(self) -> None:
        """The column of the order must be there."""
        _ = self._order

    @property
    def _hashes(self) -> str:
        return str(self.context.references["hashes"])

    @property
    def _words(self) -> list[str]:
        names = {"phash": ["phash"], "dhash": ["dhash"], "both": ["dhash", "phash"]}[self.config.by]
        return [f"{self._hashes}.{name}" for name in names]

    @property
    def _order(self) -> Order | None:
        """None: the larger picture first."""
        if self.config.order == "large":
            return None
        step = self.context.step.removesuffix("-pairs")
        return Order.of(self.config.order, "", self.context.schema, f"stage {step}")

    @property
    def _dtype(self) -> np.dtype[Any]:
        words = (np.uint64, (len(self._words),))
        return np.dtype(
            [("key", "u4"), *_PLACE, ("band", "u1"), ("hash", *words), ("first", "i8"), ("hi", "u8"), ("lo", "u8")]
        )

    # --- how many rows there are, and so how they are brought together ------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Rows that travel."""
        return {"rows": np.asarray(len(self._rows(part)[0]))}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """How many rows are compared, and how often each travels."""
        rows = sum(int(summary["rows"]) for summary in summaries)
        return {"search": {"rows": rows, "bands": bands(self.config.distance, rows).n}}

    def _bands(self, artifacts: Mapping[str, Artifact]) -> Bands:
        search = artifacts["search"]
        assert isinstance(search, dict)
        return bands(self.config.distance, search["rows"])

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """Keys are hashes of a band: equal ranges hold about equally many."""
        search = artifacts["search"]
        assert isinstance(search, dict)
        nbytes = search["rows"] * search["bands"] * self._dtype.itemsize
        return Buckets.uniform(1 << KEY_BITS, -(-nbytes // BUCKET_BYTES))

    def _rows(self, part: Part) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
        """Records of the first row of each hash of the part; all alive rows with a hash, and the record of each."""
        frame = part.columns("uid_hi", "uid_lo", "width", "height", *self._words)
        index = np.flatnonzero(part.alive & frame[self._words[0]].is_not_null().to_numpy())
        frame = frame[index.tolist()]
        rows = np.zeros(len(index), dtype=self._dtype)
        rows["part"], rows["row"] = part.index, index
        rows["hi"], rows["lo"] = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        for word, name in enumerate(self._words):
            rows["hash"][:, word] = frame[name].to_numpy()
        if self._order is None:
            area = frame["width"].cast(pl.Int64) * frame["height"].cast(pl.Int64)
            rows["first"] = ~area.fill_null(0).to_numpy()  # ~ reverses the order
        else:
            rows["first"] = self._order.keys(part, index)
        order = np.lexsort((rows["lo"], rows["hi"], rows["first"], *rows["hash"].T))
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows["hash"][order[1:]] != rows["hash"][order[:-1]]).any(axis=1)
        record = np.empty(len(rows), dtype=np.int64)
        record[order] = np.cumsum(new) - 1
        return rows[order[new]], index, record

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Iterator[Records]:
        """One record for each hash of the part, band by band."""
        rows, _, _ = self._rows(part)
        for band, mask in enumerate(self._bands(artifacts).masks):
            agree = rows["hash"][:, -1] & mask
            # multiplying by odd constants spreads what differs in few bits over the high ones
            mixed = (agree ^ (agree >> np.uint64(29))) * np.uint64(0x9E3779B97F4A7C15)
            mixed = (mixed ^ (mixed >> np.uint64(32)) ^ np.uint64(band)) * np.uint64(0xD6E8FEB86659FD93)
            sent = rows.copy()
            sent["band"], sent["key"] = band, mixed >> np.uint64(64 - KEY_BITS)
            yield Records(sent)

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Each band of the bucket in turn. Memory: a few times the records of the bucket."""
        rows = bucket.rows
        if not len(rows):
            return Worked(np.zeros(0, dtype=_BACK))
        masks = self._bands(artifacts).masks
        rows = rows[np.lexsort((rows["lo"], rows["hi"], rows["first"], rows["band"]))]
        ends = [*np.flatnonzero(np.diff(rows["band"].astype(np.int64), prepend=-1)).tolist(), len(rows)]
        back = []
        for start, stop in pairwise(ends):
            mine, band = rows[start:stop], int(rows["band"][start])
            found = nearest_earlier(mine["hash"], self.config.distance, Bands(masks[band : band + 1]))
            # equal hashes meet in every band; one of them says so
            near = np.flatnonzero((found.of >= 0) & ((found.distance > 0) | (band == 0)))
            of = mine[found.of[near]]
            gone = np.zeros(len(near), dtype=_BACK)
            gone["part"], gone["row"], gone["distance"] = mine["part"][near], mine["row"][near], found.distance[near]
            gone["of_part"], gone["of_row"], gone["of_first"] = of["part"], of["row"], of["first"]
            gone["of_hi"], gone["of_lo"] = of["hi"], of["lo"]
            back.append(gone)
        return Worked(np.concatenate(back))

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """The nearest of what was found; rows of a hash that did not travel follow the one that did."""
        assert back is not None
        order = np.lexsort((back["of_lo"], back["of_hi"], back["of_first"], back["distance"], back["row"]))
        found = back[order]
        found = found[np.diff(found["row"].astype(np.int64), prepend=-1) != 0]
        rows, index, record = self._rows(part)
        slot = np.full(part.rows, -1, dtype=np.int64)
        slot[found["row"]] = np.arange(len(found))
        lead = rows[record]
        at = slot[lead["row"]]
        out = np.zeros(len(index), dtype=_BACK)
        out[at >= 0] = found[at[at >= 0]]
        near = at >= 0
        # a copy in the same part goes for the first of its hash: that which its own went for at distance 0, or its own
        copy = index != lead["row"]
        own = copy & (~near | (out["distance"] > 0))
        for to, name in (("of_part", "part"), ("of_row", "row"), ("of_hi", "hi"), ("of_lo", "lo")):
            out[to][own] = lead[name][own]
        out["distance"][own] = 0
        near |= own
        out = out[near]
        frame = pl.DataFrame(
            {
                "at": index[near],
                "duplicate_of": keepers.uid_texts(out["of_hi"], out["of_lo"]),
                "of_part": out["of_part"],
                "of_row": out["of_row"],
                "distance": out["distance"],
            },
            schema={"at": pl.Int64(), **self.columns()},
        )
        everything = pl.DataFrame({"at": np.arange(part.rows, dtype=np.int64)})
        return Columns(everything.join(frame, on="at", how="left", maintain_order="left").drop("at"))


class DedupHashStage(Stage[DedupHashConfig]):
    """Drops every image that is near an earlier one, and names the one that stays."""

    kind = "dedup_hash"
    VERSION = 1
    Config = DedupHashConfig
    drops = True

    @classmethod
    def companions_before(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """Byte-identical copies go first; then pairs are searched."""
        assert isinstance(config, DedupHashConfig)
        pairs = HashPairsConfig.model_validate(config.model_dump() | {"name": f"{name}-pairs"})
        return [(ExactStage, ExactConfig(name=f"{name}-exact")), (HashPairsStage, pairs)]

    def columns(self) -> dict[str, pl.DataType]:
        """uids and the number of bits that differ from duplicate_of; null for rows that stay."""
        return {"duplicate_of": pl.String(), "keeper": pl.String(), "distance": pl.UInt8()}

    def reads(self) -> tuple[str, ...]:
        """The pairs."""
        return (self._pairs,)

    @property
    def _pairs(self) -> str:
        return f"{self.context.step}-pairs"

    def _found(self, part: Part) -> pl.DataFrame:
        names = ("duplicate_of", "of_part", "of_row", "distance")
        frame = part.columns(*(f"{self._pairs}.{name}" for name in names)).rename(lambda name: name.split(".")[-1])
        return frame.with_row_index("at").filter(pl.col("duplicate_of").is_not_null())

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """The links of the part."""
        found = self._found(part)
        uids = np.frombuffer(bytes.fromhex("".join(found["duplicate_of"])), dtype=">u8").reshape(-1, 2)
        return keepers.links(
            part.rows,
            found["at"].to_numpy(),
            found["of_part"].to_numpy(),
            found["of_row"].to_numpy(),
            uids[:, 0].astype(np.uint64),
            uids[:, 1].astype(np.uint64),
        )

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Who stays in the end, for each dropped row."""
        return keepers.Links(summaries).keepers()

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Mark the duplicates."""
        found = self._found(part)
        stays = keepers.of_part(artifacts, part.index)
        if len(stays) != found.height:
            raise SpecError(f"part {part.index} has {found.height} duplicates, {len(stays)} keepers are stored")
        found = found.with_columns(keeper=pl.Series(keepers.uid_texts(stays["hi"], stays["lo"]), dtype=pl.String))
        everything = pl.DataFrame({"at": np.arange(part.rows, dtype=np.uint32)})
        frame = everything.join(found, on="at", how="left", maintain_order="left")
        return Columns(frame.select(*self.columns(), keep=pl.col("keeper").is_null(), reason=pl.lit("same_hash")))
