"""`hash`: perceptual hashes of images, which re-encoding and resizing leave (almost) as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.dedup.perceptual import hashes
from curate.errors import SpecError, StorageError
from curate.formats.members import read_members
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.columns import read_columns
from curate.store.images import DecodeError, decode_grey

DECODED_SIDE = 64
"""A JPEG may be decoded smaller as long as both sides keep this many pixels: twice the grid of the hashes."""
_KEY = ["content_hi", "content_lo"]
_HASHES = ["dhash", "phash"]


class HashConfig(StageConfig):
    """No options."""


class HashStage(Stage[HashConfig]):
    """Adds dhash and phash to every alive row; null for flat images and for those that do not decode.

    A hash depends on the bytes of the image alone, so that of the same content, in this part or in another, is taken
    over. Nothing is dropped: what does not decode is left to `embed`, which says why.
    """

    kind = "hash"
    VERSION = 1
    Config = HashConfig
    reuses_rows = True

    def columns(self) -> dict[str, pl.DataType]:
        """content: of the image's sha256; null in rows that were not looked at."""
        return {name: pl.UInt64() for name in (*_HASHES, *_KEY)}

    def reads(self) -> tuple[str, ...]:
        """The index: where the bytes are."""
        return (next(iter(self.context.schema)),)

    def check(self) -> None:
        """There must be images."""
        if self.context.input.bare:
            raise SpecError(f"stage {self.context.step} needs images, the input has none; take it out")

    def contents(self, part: Part) -> pl.DataFrame:
        """The first 128 bits of the image's sha256."""
        sha = part.columns("sha256").to_series()
        halves = [(None, None) if text is None else (int(text[:16], 16), int(text[16:32], 16)) for text in sha]
        return pl.DataFrame(halves, schema=dict.fromkeys(_KEY, pl.UInt64), orient="row")

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Hash the alive rows whose content is stored nowhere. Memory: one decoded image, the columns of the part."""
        contents = self.contents(part)
        known = _stored(part, contents.filter(pl.Series(part.alive)))
        everything = contents.with_row_index("at").join(known, on=_KEY, how="left", maintain_order="left")
        found = everything["known"].fill_null(False).to_numpy()
        dhash, phash = everything["dhash"].to_list(), everything["phash"].to_list()
        todo = np.flatnonzero(part.alive & ~found)
        frame = part.columns("shard", "members", "ext")[todo.tolist()]
        exts = frame["ext"].to_list()
        for position, members in read_members(part.source, frame, {ext.lower() for ext in exts if ext is not None}):
            row = int(todo[position])
            both = self._hashes(members[exts[position]])
            dhash[row], phash[row] = both or (None, None)
        alive = pl.Series(part.alive)
        out = pl.DataFrame({"dhash": dhash, "phash": phash}, schema=dict.fromkeys(_HASHES, pl.UInt64))
        out = pl.concat([out, contents], how="horizontal")
        hashed = out.filter(alive)["phash"].count()
        return Columns(
            out.select(pl.when(alive).then(pl.col(name)).alias(name) for name in (*_HASHES, *_KEY)),
            facts={
                "rows_computed": len(todo),
                "rows_taken_over": int(part.alive.sum()) - len(todo),
                "rows_without_hash": int(part.alive.sum()) - hashed,
            },
        )

    def _hashes(self, data: bytes) -> tuple[int, int] | None:
        try:
            return hashes(decode_grey(data, self.context.input.max_pixels, DECODED_SIDE))
        except DecodeError:
            return None


def _stored(part: Part, wanted: pl.DataFrame) -> pl.DataFrame:
    """What this step stored for some contents: the columns dhash, phash, content and `known`, once each."""
    schema = {**dict.fromkeys((*_HASHES, *_KEY), pl.UInt64()), "known": pl.Boolean()}
    tables = [pl.DataFrame(schema=schema)]
    left = wanted.drop_nulls().unique()
    for twin in part.twins:
        if not left.height:
            break
        try:
            theirs = read_columns(part.workspace, twin.folder, twin.part, twin.fingerprint, [*_HASHES, *_KEY])
        except StorageError:
            continue  # damaged, or removed meanwhile: then its rows are computed anew
        mine = theirs.drop_nulls(_KEY).unique(_KEY, keep="first").join(left, on=_KEY, how="semi")
        tables.append(mine.with_columns(known=pl.lit(True)).select(list(schema)))
        left = left.join(mine, on=_KEY, how="anti")
    return pl.concat(tables)
