"""`read_embeddings-match`: where in a folder of embeddings each sample's vector is. Precedes `read_embeddings`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.engine.exchange import BUCKET_BYTES, Bucket, Buckets, Records, Worked
from curate.errors import InputError
from curate.formats.clip_retrieval import check_rows, columns_of, key_column, key_of, list_embeddings, read_column
from curate.formats.sources import ShardInfo
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.uids import make_uid

PREFIXES = 1 << 16
FILTER_BITS = 26
_SAMPLE = np.uint32(0xFFFFFFFF)
"""In place of a file number: the record is a sample that looks for its vector."""
_DTYPE = np.dtype(
    [("key", "u4"), ("part", "u4"), ("row", "u4"), ("hi", "u8"), ("lo", "u8"), ("file", "u4"), ("place", "u4")]
)
_BACK = np.dtype([("part", "u4"), ("row", "u4"), ("file", "u4"), ("place", "u4"), ("others", "u4")])


class MatchConfig(StageConfig):
    """The options of `read_embeddings` that decide which vector is whose."""

    folder: str
    match: Literal["key", "uid"] = Field("key")


class MatchStage(Stage[MatchConfig]):
    """Joins samples and rows of the folder by a 128-bit hash of their key, or by uid. Only places travel, no vectors.

    The folder's keys are read by the tasks of the parts, an even share each; a bitmap of the samples' hashes (at most
    8 MiB) keeps out most keys that no sample has. Of rows with one key the first in the folder is taken.
    """

    kind = "read_embeddings-match"
    VERSION = 1
    Config = MatchConfig
    drops = True
    depends = "part"
    not_hashed = frozenset({"folder"})

    def columns(self) -> dict[str, pl.DataType]:
        """The file (in numeric order, from 0) and the row in it that hold the vector."""
        return {"emb_file": pl.UInt32(), "emb_row": pl.UInt32()}

    def reads(self) -> tuple[str, ...]:
        """The index: keys and uids."""
        return (next(iter(self.context.schema)),)

    @cached_property
    def shards(self) -> list[ShardInfo]:
        """The files of the folder, listed once, before work starts."""
        return list_embeddings(self.config.folder)

    def check(self) -> None:
        """The folder is there, and has the column that is matched."""
        self._column(self.shards[0])

    def identity(self) -> dict[str, Any]:
        """What lies in the folder, not where it is."""
        files = ([f.kind, f.url.rpartition("/")[2], f.nbytes, f.etag] for s in self.shards for f in s.sidecars or ())
        digest = hashlib.blake2b(repr(list(files)).encode(), digest_size=16)
        return {"folder": digest.hexdigest()}

    # --- which keys the samples have ----------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Bits of the filter that the part's alive rows set."""
        bits = _filter_bits(totals.rows)
        return {"set": np.unique(self._samples(part)["hi"] >> np.uint64(64 - bits)), "bits": np.asarray(bits)}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """The filter of all parts, one bit a hash prefix. Memory: 64 MiB at most."""
        wanted = np.zeros(1 << _filter_bits(totals.rows), dtype=bool)
        parts = 0
        for summary in summaries:
            wanted[summary["set"]] = True
            parts += 1
        return {"wanted": np.packbits(wanted), "parts": {"parts": parts}}

    # --- the exchange -------------------------------------------------------------------------------------------------

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """Hashes spread evenly; a sample and its row of the folder make two records."""
        return Buckets.uniform(PREFIXES, -(-2 * totals.rows * _DTYPE.itemsize // BUCKET_BYTES))

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records:
        """The alive rows, and this part's share of the folder. Memory: 40 bytes a record, some thousand keys."""
        wanted, parts = artifacts["wanted"], artifacts["parts"]
        assert isinstance(wanted, np.ndarray)
        assert isinstance(parts, dict)
        flags = np.unpackbits(wanted).astype(bool)
        first, stop = (len(self.shards) * n // parts["parts"] for n in (part.index, part.index + 1))
        pieces = [self._samples(part)]
        for number in range(first, stop):
            pieces += self._rows_of_file(part.index, number, flags)
        return Records(np.concatenate(pieces))

    def _samples(self, part: Part) -> NDArray[Any]:
        frame = part.columns("key", "uid_hi", "uid_lo")
        alive = np.flatnonzero(part.alive)
        frame = frame[alive.tolist()]
        hi, lo = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        if self.config.match == "key":
            hi, lo = _hashes(frame["key"])
        return _records(hi, lo, part.index, alive, _SAMPLE, 0)

    def _rows_of_file(self, part: int, number: int, flags: NDArray[np.bool_]) -> Iterator[NDArray[Any]]:
        shard = self.shards[number]
        check_rows(shard)
        shift = np.uint64(64 - (len(flags).bit_length() - 1))
        for first, values in read_column(shard, self._column(shard)):
            if self.config.match == "key":
                hi, lo = _hashes(key_of(value, first + i) for i, value in enumerate(values))
                there = np.ones(len(values), dtype=bool)
            else:
                there = np.asarray([value is not None and value != "" for value in values], dtype=bool)
                pairs = [make_uid(str(v) if ok else "-", "", "", "")[:2] for v, ok in zip(values, there, strict=True)]
                hi, lo = (np.asarray(side, dtype=np.uint64) for side in zip(*pairs, strict=True))
            at = np.flatnonzero(there & flags[(hi >> shift).astype(np.int64)])
            yield _records(hi[at], lo[at], part, np.zeros(len(at), dtype=np.int64), np.uint32(number), first + at)

    def _column(self, shard: ShardInfo) -> str:
        names = columns_of(shard)
        column = key_column(names) if self.config.match == "key" else "uid" if "uid" in names else None
        if column is None:
            wanted = "image_path or key" if self.config.match == "key" else "uid"
            raise InputError(
                f"{shard.url}: there is no column {wanted} to match samples by; it has {', '.join(names)}. Set match: "
                f"{'uid' if self.config.match == 'key' else 'key'}, or add the column."
            )
        return column

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Each sample gets the first row of the folder that has its hash."""
        rows = bucket.rows
        if not len(rows):
            return Worked(np.zeros(0, dtype=_BACK))
        rows = rows[np.lexsort((rows["place"], rows["file"], rows["lo"], rows["hi"]))]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (rows["hi"][1:] != rows["hi"][:-1]) | (rows["lo"][1:] != rows["lo"][:-1])
        group = np.cumsum(new) - 1
        first = rows[np.flatnonzero(new)[group]]
        found = np.bincount(group, weights=rows["file"] != _SAMPLE).astype(np.int64)[group]
        mine = (rows["file"] == _SAMPLE) & (found > 0)
        back = np.zeros(int(mine.sum()), dtype=_BACK)
        back["part"], back["row"] = rows["part"][mine], rows["row"][mine]
        back["file"], back["place"] = first["file"][mine], first["place"][mine]
        back["others"] = found[mine] - 1
        return Worked(back)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Places of the vectors; samples without one are dropped."""
        assert back is not None
        has = np.zeros(part.rows, dtype=bool)
        has[back["row"]] = True
        columns = {"has": has}
        for name, of in (("emb_file", "file"), ("emb_row", "place")):
            columns[name] = np.zeros(part.rows, dtype=np.uint32)
            columns[name][back["row"]] = back[of]
        frame = pl.DataFrame(columns).select(
            pl.when("has").then("emb_file").alias("emb_file"),
            pl.when("has").then("emb_row").alias("emb_row"),
            keep=pl.col("has"),
            reason=pl.lit("no_embedding"),
        )
        repeated = int((back["others"] > 0).sum())
        notes = [{"kind": "repeated_keys", "samples": repeated, "rows": int(back["others"].sum())}] if repeated else []
        return Columns(frame, notes=notes)


def _filter_bits(rows: int) -> int:
    """About 64 bits a sample, between 2^16 and 2^26."""
    return min(FILTER_BITS, max(16, (64 * max(rows, 1)).bit_length()))


def _hashes(keys: Iterable[str]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    digests = [hashlib.blake2b(key.encode(), digest_size=16, person=b"curate.match").digest() for key in keys]
    words = np.frombuffer(b"".join(digests), dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return words[:, 0], words[:, 1]


def _records(
    hi: NDArray[np.uint64],
    lo: NDArray[np.uint64],
    part: int,
    rows: NDArray[np.int64],
    file: np.uint32,
    place: NDArray[np.int64] | int,
) -> NDArray[Any]:
    out = np.zeros(len(hi), dtype=_DTYPE)
    out["hi"], out["lo"], out["key"] = hi, lo, hi >> np.uint64(48)
    out["part"], out["row"], out["file"], out["place"] = part, rows, file, place
    return out
