"""`embed`: vectors of images, and of captions, from an encoder; the CLIP score when there are both."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate import embed
from curate.embed.encoder import EncoderConfig
from curate.errors import ModelError, SpecError
from curate.formats.members import read_members
from curate.stages.base import Columns, Resources, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Layer, Part
from curate.store.artifacts import Artifact
from curate.store.columns import read_columns, read_vectors
from curate.store.images import DecodeError, decode_rgb
from curate.store.packages import fetch

if TYPE_CHECKING:
    import torch

CPU_BATCH, GPU_BATCH = 32, 256


class EmbedConfig(StageConfig):
    """Which encoder, and how it runs."""

    model: str = Field(description="Encoder: an open_clip or timm model name, or packaged:efficientnet_lite0.")
    pretrained: str | None = Field(None, description="Weights tag of the library, such as openai.")
    library: Literal["open_clip", "timm", "packaged"] | None = Field(None, description="Where the model is from.")
    checkpoint: str | None = Field(None, description="Local file with the weights.")
    config: str | None = Field(None, description="open_clip model JSON for an architecture it does not ship.")
    text: bool = Field(False, description="Also embed captions and compute clip_score (open_clip models).")
    precision: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="Arithmetic; default fp32 on a CPU and bf16 on a GPU."
    )
    batch_size: int | None = Field(None, ge=1, description="Images in one batch; default 32 on a CPU, 256 on a GPU.")
    threads: int = Field(1, ge=1, description="CPU threads of one worker for the network.")
    decode_threads: int | None = Field(None, ge=1, description="Threads that decode; default 1, or 8 beside a GPU.")

    @property
    def encoder(self) -> EncoderConfig:
        """The part that decides what the vectors are."""
        return EncoderConfig(
            model=self.model,
            pretrained=self.pretrained,
            library=self.library,
            checkpoint=self.checkpoint,
            config=self.config,
        )


class EmbedStage(Stage[EmbedConfig]):
    """Decodes each alive image, embeds it, stores float16 unit rows. Images that do not decode are quarantined.

    Batches never cross a part and the last one is padded, so a row's vector does not depend on other parts.
    """

    kind = "embed"
    VERSION = 1
    Config = EmbedConfig
    drops = True
    quarantines = True
    not_hashed = frozenset({"batch_size", "threads", "decode_threads", "checkpoint", "config"})
    reuses_rows = True
    gpus: float = 0.0
    """GPUs of one worker, set by the run once the cluster is known."""

    def columns(self) -> dict[str, pl.DataType]:
        """vec_row: row of the image's vector in the packed file; text_row likewise for the caption."""
        text = {"text_row": pl.UInt32(), "clip_score": pl.Float32()} if self.config.text else {}
        return {"vec_row": pl.UInt32(), "detail": pl.String(), **text}

    def reads(self) -> tuple[str, ...]:
        """The index: where the bytes are, and captions."""
        return (next(iter(self.context.schema)),)

    def check(self) -> None:
        """Model, tag and files exist; captions are there when they are needed."""
        embed.check(self.config.encoder)
        if self.config.text and not embed.has_text(self.config.encoder):
            raise ModelError(f"{self.config.model} has no text tower; set text: false or use an open_clip model")
        if self.config.text and self.context.input.caption_ext is None:
            raise SpecError(f"stage {self.context.step} has text: true but input.caption is not set; add caption: txt")

    def identity(self) -> dict[str, Any]:
        """The weights, by hash."""
        return {"weights": embed.weights_id(self.config.encoder)}

    @property
    def batch_size(self) -> int:
        """Resolved once, recorded in run.json."""
        return self.config.batch_size or (GPU_BATCH if self.gpus else CPU_BATCH)

    def facts(self) -> dict[str, Any]:
        """Recorded, not hashed."""
        device = "cuda" if self.gpus else "cpu"
        return {"device": device, "batch_size": self.batch_size, "threads": self.config.threads}

    def resources(self) -> Resources:
        """One GPU if the cluster has any, else `threads` CPUs."""
        return Resources(cpus=self.config.threads, gpus=self.gpus, model=True)

    @cached_property
    def encoder(self) -> embed.Encoder:
        """Loaded once a worker, and only when a row must be computed."""
        pin = embed.packaged_weights(self.config.encoder)
        weights = fetch(pin) / pin.member if pin is not None else None
        device = "cuda" if self.gpus else "cpu"
        return embed.load(self.config.encoder, device, self.config.precision, self.config.threads, weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "encoder"}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Embed the alive rows that no other state of this part has. Memory: two batches of pixels, the vectors."""
        frame = part.columns("shard", "members", "ext", "caption")
        rows = _Rows(frame.height, self.config.text)
        for twin in part.twins:
            rows.take_over(twin, part)
        todo = np.flatnonzero(part.alive & ~rows.known)
        if len(todo) or not part.twins:
            rows.space(self.encoder.dim)
        for at, pixels in self._batches(part, frame, todo, rows):
            raw = self._encode(pixels)
            rows.put("image", at, raw)
            if self.config.text:
                self._texts(frame["caption"], at, raw, rows)
        return rows.columns(part.alive)

    def _encode(self, pixels: list[torch.Tensor]) -> NDArray[np.float32]:
        import torch

        batch = torch.stack(pixels)
        if len(batch) < self.batch_size and self.encoder.chunk is None:
            # every batch has the same shape: kernels, and so roundings, never depend on what is left over
            batch = torch.cat([batch, batch.new_zeros((self.batch_size - len(batch), *batch.shape[1:]))])
        return self.encoder.encode_images(batch)[: len(pixels)]

    def _batches(
        self, part: Part, frame: pl.DataFrame, wanted: NDArray[np.int64], found: _Rows
    ) -> Iterator[tuple[NDArray[np.int64], list[torch.Tensor]]]:
        rows: list[int] = []
        pixels: list[torch.Tensor] = []
        for row, future in self._decoded(part, frame, wanted):
            try:
                pixels.append(future.result())
                rows.append(row)
            except DecodeError as error:
                found.fail(row, "decode_error", str(error))
            if len(rows) == self.batch_size:
                yield np.asarray(rows), pixels
                rows, pixels = [], []
        if rows:
            yield np.asarray(rows), pixels

    def _decoded(
        self, part: Part, frame: pl.DataFrame, wanted: NDArray[np.int64]
    ) -> Iterator[tuple[int, Future[torch.Tensor]]]:
        """Decode ahead on threads, at most two batches; yields in order."""
        exts = frame["ext"].to_list()
        images = {ext.lower() for ext in exts if ext is not None}
        with ThreadPoolExecutor(self.config.decode_threads or (8 if self.gpus else 1)) as pool:
            queue: deque[tuple[int, Future[torch.Tensor]]] = deque()
            for position, members in read_members(part.source, frame[wanted.tolist()], images):
                row = int(wanted[position])
                queue.append((row, pool.submit(self._pixels, members[exts[row]])))
                if len(queue) > 2 * self.batch_size:
                    yield queue.popleft()
            yield from queue

    def _pixels(self, data: bytes) -> torch.Tensor:
        return self.encoder.preprocess(decode_rgb(data, self.context.input.max_pixels))

    def _texts(self, captions: pl.Series, at: NDArray[np.int64], images: NDArray[np.float32], rows: _Rows) -> None:
        has = captions[at.tolist()].is_not_null().to_numpy()
        texts = captions[at[has].tolist()].to_list()
        if texts:
            raw = self.encoder.encode_texts(texts + [""] * (self.batch_size - len(texts)))[: len(texts)]
            rows.put("text", at[has], raw)
            score, valid = embed.clip_scores(images[has], raw)
            rows.clip_score[at[has][valid]] = score[valid]


class _Rows:
    """What is known of the rows of one part so far: vectors by row, or why there is none."""

    def __init__(self, height: int, text: bool) -> None:
        self.vectors: dict[str, NDArray[np.float16]] = {}
        self.has = {kind: np.zeros(height, dtype=bool) for kind in (("image", "text") if text else ("image",))}
        self.clip_score = np.full(height, np.nan, dtype=np.float32)
        self.status: list[str | None] = [None] * height
        self.detail: list[str | None] = [None] * height

    def space(self, dim: int) -> None:
        """Make room for vectors of this length, unless there is already."""
        for kind, has in self.has.items():
            self.vectors.setdefault(kind, np.zeros((len(has), dim), dtype=np.float16))

    @property
    def known(self) -> NDArray[np.bool_]:
        """bool [rows]: embedded, or known to be impossible."""
        failed = np.asarray([status is not None for status in self.status], dtype=bool)
        return np.asarray(self.has["image"] | failed, dtype=bool)

    def fail(self, row: int, status: str, detail: str) -> None:
        """No vector for this row, and why."""
        self.status[row], self.detail[row] = status, detail

    def put(self, kind: str, at: NDArray[np.int64], raw: NDArray[np.float32]) -> None:
        """Store unit rows; rows that cannot be normalised have no vector, and for an image that is a failure."""
        stored, good = embed.to_stored(raw)
        self.vectors[kind][at[good]] = stored[good]
        self.has[kind][at[good]] = True
        if kind == "image":
            for row in at[~good].tolist():
                self.fail(row, "bad_embedding", "the encoder returned zeros, NaN or infinity")

    def take_over(self, twin: Layer, part: Part) -> None:
        """Rows that this step computed for the same samples when other rows were alive."""
        frame = read_columns(part.workspace, twin.folder, part.index, twin.fingerprint)
        for kind, column in (("image", "vec_row"), ("text", "text_row")):
            if kind in self.has:
                rows = np.flatnonzero(frame[column].is_not_null().to_numpy() & ~self.has[kind])
                packed = read_vectors(part.workspace, twin.folder, part.index, twin.fingerprint, kind)
                self.space(packed.shape[1])
                self.vectors[kind][rows] = packed[frame[column].fill_null(0).to_numpy()[rows]]
                self.has[kind][rows] = True
        if "clip_score" in frame.columns:
            score = frame["clip_score"].fill_null(np.nan).to_numpy()
            self.clip_score = np.where(np.isnan(self.clip_score), score, self.clip_score)
        for row, status, detail in (
            frame.with_row_index("row").filter(pl.col("keep").not_()).select("row", "reason", "detail").iter_rows()
        ):
            self.fail(row, status, detail)

    def columns(self, alive: NDArray[np.bool_]) -> Columns:
        """The step's columns; vectors of rows that are not alive are left out."""
        frame = pl.DataFrame(
            {
                "detail": pl.Series(self.detail, dtype=pl.String),
                "reason": pl.Series(self.status, dtype=pl.String),
                "clip_score": pl.Series(self.clip_score).fill_nan(None),
            }
        ).with_columns(keep=pl.col("reason").is_null())
        # what a twin knows of rows that are out here must not show: the part is the one that a first run writes
        judged = pl.Series(alive)
        frame = frame.with_columns(pl.when(judged).then(pl.col(name)).alias(name) for name in ("detail", "clip_score"))
        vectors = {}
        for kind, column in (("image", "vec_row"), ("text", "text_row")):
            if kind in self.vectors:
                rows = np.flatnonzero(self.has[kind] & alive)
                vectors[kind] = self.vectors[kind][rows]
                frame = frame.with_columns(_packed(len(alive), rows).alias(column))
        return Columns(frame, vectors)


def _packed(height: int, rows: NDArray[np.int64]) -> pl.Series:
    """UInt32 [height]: position in the packed vectors, null where there is none."""
    packed = np.full(height, -1, dtype=np.int64)
    packed[rows] = np.arange(len(rows))
    return pl.DataFrame({"row": packed}).select(pl.when(pl.col("row") >= 0).then("row").cast(pl.UInt32)).to_series()
