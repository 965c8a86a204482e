"""`read_embeddings`: ready vectors from clip-retrieval's arrays or DataComp's metadata, in place of an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate import embed
from curate.errors import InputError, SpecError
from curate.formats import clip_retrieval, npz
from curate.formats.clip_retrieval import IMAGES, TEXTS, Npy, file_of, list_embeddings, open_npy
from curate.formats.datacomp_metadata import arrays_of, list_metadata, opened
from curate.formats.npz import NpzMember, open_member
from curate.formats.sources import ShardInfo
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.match_embeddings import MatchConfig, MatchStage
from curate.stages.part import Part
from curate.stages.vectors import packed
from curate.store.artifacts import Artifact

UNIT = 2.0**-10
"""float16 rows whose length differs from 1 by no more than this are kept bit for bit: see `embed.to_stored`."""


class ReadEmbeddingsConfig(StageConfig):
    """Where the vectors are, and how they find their samples."""

    folder: str | None = Field(None, description="Folder of embeddings; default: the input itself (input.embeddings).")
    match: Literal["key", "uid"] = Field("key", description="What names a sample in the folder; only with folder.")
    text: bool = Field(False, description="Also read the vectors of captions and compute clip_score.")
    vectors: Literal["l14_img", "b32_img", "l14_txt", "b32_txt"] | None = Field(
        None, description="Which array of DataComp's .npz files; default l14_img. Only with an input of datacomp."
    )


class ReadEmbeddingsStage(Stage[ReadEmbeddingsConfig]):
    """Takes over vectors, as float16 unit rows. With an input of embeddings they lie beside the rows of the index;
    with `folder` the step `<name>-match` has found them. Of DataComp metadata they are rows of the .npz beside.
    """

    kind = "read_embeddings"
    VERSION = 1
    Config = ReadEmbeddingsConfig
    drops = True
    quarantines = True
    not_hashed = frozenset({"folder", "match", "vectors"})

    def identity(self) -> dict[str, Any]:
        """Which array is read, where there is a choice."""
        return {"vectors": self._arrays["image"]} if self._datacomp else {}

    @classmethod
    def companions_before(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """With a folder, samples and vectors are matched first."""
        assert isinstance(config, ReadEmbeddingsConfig)
        if config.folder is None:
            return []
        return [(MatchStage, MatchConfig(name=f"{name}-match", folder=config.folder, match=config.match))]

    def columns(self) -> dict[str, pl.DataType]:
        """As of `embed`: vec_row is the row of the vector in the packed file; text_row likewise for the caption."""
        text = {"text_row": pl.UInt32(), "clip_score": pl.Float32()} if self.config.text else {}
        return {"vec_row": pl.UInt32(), "detail": pl.String(), **text}

    def reads(self) -> tuple[str, ...]:
        """The index, and where the vectors are."""
        index = next(iter(self.context.schema))
        return (index, self._match) if self.config.folder is not None else (index,)

    @property
    def _match(self) -> str:
        return f"{self.context.step}-match"

    @property
    def _datacomp(self) -> bool:
        return self.config.folder is None and self.context.input.datacomp is not None

    @property
    def _arrays(self) -> dict[str, str]:
        """Which array holds the vectors of images, and of captions if they are asked for."""
        if not self._datacomp:
            return {"image": IMAGES} | ({"text": TEXTS} if self.config.text else {})
        images = self.config.vectors or "l14_img"
        return {"image": images} | ({"text": images.replace("_img", "_txt")} if self.config.text else {})

    @cached_property
    def shards(self) -> list[ShardInfo]:
        """The files of the folder, listed once, before work starts."""
        if self._datacomp:
            assert self.context.input.datacomp is not None
            return list_metadata(self.context.input.datacomp)
        folder = self.config.folder or self.context.input.embeddings
        if folder is None:
            raise SpecError(
                f"stage {self.context.step} needs the option folder, or an input of embeddings; add folder: PATH"
            )
        return list_embeddings(folder)

    def __getstate__(self) -> dict[str, Any]:
        # parts of DataComp metadata bring their files themselves; of all files only the first is asked for its shape
        return self.__dict__ | ({"shards": self.shards[:1]} if self._datacomp else {})

    @cached_property
    def dim(self) -> int:
        """Length of the first file's vectors, which all others must have."""
        return _array(self._open(self.shards[0], self._arrays["image"])).dim

    def check(self) -> None:
        """The folder is there, with text vectors if they are asked for."""
        if self._datacomp:
            self._check_datacomp()
        elif self.config.vectors is not None:
            raise SpecError(f"stage {self.context.step} has vectors, which an input of datacomp has; leave it out")
        if self.config.folder is None and self.config.match != "key":
            raise SpecError(f"stage {self.context.step} has match without folder; add folder, or leave match out")
        if self.dim and self.config.text:
            self._open(self.shards[0], self._arrays["text"])

    def _check_datacomp(self) -> None:
        """Every table has its arrays."""
        if self.config.text and "_txt" in self._arrays["image"]:
            raise SpecError(
                f"stage {self.context.step} has text: true and vectors: {self.config.vectors}, which are those of "
                "captions already; give vectors: l14_img or b32_img, or leave text out"
            )
        for shard in self.shards:
            arrays_of(shard)

    def _open(self, shard: ShardInfo, kind: str) -> Npy | NpzMember:
        if self._datacomp:
            beside = arrays_of(shard)
            return open_member(beside.url, beside.nbytes, kind)
        file = file_of(shard, kind)
        if file is None:
            raise InputError(f"{shard.url}: there is no {kind} beside it; leave text: true out, or add {kind}/.")
        return open_npy(file)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Copy the vectors of alive rows. Memory: the part's vectors, and 8,192 rows in double precision."""
        shards, files, places = self._places(part)
        rows = np.flatnonzero(part.alive & (files >= 0))
        kinds = self._arrays
        vectors = {kind: np.zeros((len(rows), self.dim), dtype=np.float16) for kind in kinds}
        good = {kind: np.zeros(len(rows), dtype=bool) for kind in kinds}
        score = np.full(part.rows, np.nan, dtype=np.float32)
        for number in np.unique(files[rows]).tolist():
            mine = np.flatnonzero(files[rows] == number)
            mine = mine[np.argsort(places[rows[mine]], kind="stable")]
            found = [self._fitting(shards[number], name) for name in kinds.values()]
            readers = [_read_rows(one, places[rows[mine]]) for one in found]
            for chunks in zip(*readers, strict=True):
                to = mine[chunks[0][0]]
                raw = [chunk for _, chunk in chunks]
                for kind, chunk in zip(kinds, raw, strict=True):
                    vectors[kind][to], good[kind][to] = stored(chunk)
                if self.config.text:
                    cosine, valid = embed.clip_scores(raw[0].astype(np.float32), raw[1].astype(np.float32))
                    score[rows[to[valid]]] = cosine[valid]
        return self._columns(part, rows, vectors, good, score)

    def _places(self, part: Part) -> tuple[list[ShardInfo], NDArray[np.int64], NDArray[np.int64]]:
        """Files, and for each row the number of its file (-1: none) and its row in it, both int64 [rows]."""
        if self.config.folder is not None:
            found = part.columns(f"{self._match}.emb_file", f"{self._match}.emb_row")
            files, places = (column.cast(pl.Int64).fill_null(-1).to_numpy() for column in found)
            return self.shards, files, places
        if part.source.kind not in ("embeddings", "datacomp"):
            raise SpecError(f"stage {self.context.step} needs the option folder: the input holds no embeddings")
        files = part.columns(f"{next(iter(self.context.schema))}.shard").to_series().cast(pl.Int64).to_numpy()
        # rows of the index stand in the order of the files, every row of every file
        starts = np.searchsorted(files, np.arange(len(part.source.shards)))
        # of a range the first row stands further down in the arrays
        starts = starts - np.asarray([shard.rows[0] if shard.rows else 0 for shard in part.source.shards])
        return list(part.source.shards), files, np.arange(len(files)) - starts[files]

    def _fitting(self, shard: ShardInfo, kind: str) -> Npy | NpzMember:
        found = self._open(shard, kind)
        npy = _array(found)
        if self._datacomp:
            with opened(shard) as table:
                if table.rows != npy.rows:
                    raise InputError(
                        f"{npy.url}: {kind} has {npy.rows:,} rows, the table beside it {table.rows:,}; get both again."
                    )
        if npy.dim != self.dim:
            first = self.shards[0].url
            raise InputError(
                f"{npy.url}: has vectors of {npy.dim} numbers, those beside {first} have {self.dim}; they are of "
                "different models."
            )
        return found

    def _columns(
        self,
        part: Part,
        rows: NDArray[np.int64],
        vectors: dict[str, NDArray[np.float16]],
        good: dict[str, NDArray[np.bool_]],
        score: NDArray[np.float32],
    ) -> Columns:
        bad = np.zeros(part.rows, dtype=bool)
        bad[rows[~good["image"]]] = True
        frame = pl.DataFrame({"bad": bad, "clip_score": pl.Series(score).fill_nan(None)})
        frame = frame.with_columns(
            detail=pl.when("bad").then(pl.lit("the vector that was given is zero, or holds NaN or infinity")),
            keep=~pl.col("bad"),
            reason=pl.when("bad").then(pl.lit("bad_embedding")),
        )
        out = {}
        for kind, column in (("image", "vec_row"), ("text", "text_row")):
            if kind in vectors:
                # a caption of a row that is dropped here is of no use
                has = good[kind] & good["image"]
                out[kind] = vectors[kind] if has.all() else vectors[kind][has]
                frame = frame.with_columns(packed(part.rows, rows[has]).alias(column))
        return Columns(frame, out)


def _array(found: Npy | NpzMember) -> Npy:
    return found.array if isinstance(found, NpzMember) else found


def _read_rows(found: Npy | NpzMember, places: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[Any]]]:
    return npz.read_rows(found, places) if isinstance(found, NpzMember) else clip_retrieval.read_rows(found, places)


def stored(rows: NDArray[Any]) -> tuple[NDArray[np.float16], NDArray[np.bool_]]:
    """Rows of floats [n, d] as unit float16 rows, and which of them are good; see `embed.to_stored`.

    float16 rows that are unit rows already, to within what rounding does, stay as they are: reading and writing such
    rows again and again changes no bit.
    """
    kept = np.zeros(len(rows), dtype=bool)
    if rows.dtype == np.float16:
        wide = rows.astype(np.float64)
        kept = np.abs(np.sqrt(np.einsum("nd,nd->n", wide, wide)) - 1.0) <= UNIT  # False where there is a NaN
    unit, good = rows.astype(np.float16), kept.copy()
    unit[~kept], good[~kept] = embed.to_stored(rows[~kept].astype(np.float32))
    return unit, good
