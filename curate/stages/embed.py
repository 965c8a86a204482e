"""`embed`: vectors of images, and of captions, from an encoder; the CLIP score when there are both."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate import embed
from curate.embed.encoder import EncoderConfig
from curate.errors import ModelError, SpecError
from curate.stages.base import Columns, Resources, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.images import DecodeError, decode_rgb
from curate.store.members import read_members
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

    def setup(self) -> None:
        """Load the encoder."""
        pin = embed.packaged_weights(self.config.encoder)
        weights = fetch(pin) / pin.member if pin is not None else None
        device = "cuda" if self.gpus else "cpu"
        self.encoder = embed.load(self.config.encoder, device, self.config.precision, self.config.threads, weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "encoder"}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Embed one part. Memory: two batches of pixels, and the part's vectors."""
        frame = part.columns("shard", "members", "ext", "caption")
        wanted = np.flatnonzero(part.alive)
        status: list[str | None] = [None] * frame.height
        detail: list[str | None] = [None] * frame.height
        image_rows: list[NDArray[np.float32]] = []
        done: list[NDArray[np.int64]] = []
        for rows, pixels in self._batches(part, frame, wanted, status, detail):
            image_rows.append(self._encode(pixels))
            done.append(rows)
        rows = np.concatenate(done) if done else np.zeros(0, dtype=np.int64)
        raw = np.concatenate(image_rows) if image_rows else np.zeros((0, self.encoder.dim), dtype=np.float32)
        stored, good = embed.to_stored(raw)
        for row in rows[~good]:
            status[row], detail[row] = "bad_embedding", "the encoder returned zeros, NaN or infinity"
        columns: dict[str, pl.Series] = {"vec_row": _packed(frame.height, rows[good])}
        vectors = {"image": stored[good]}
        if self.config.text:
            vectors["text"], columns["text_row"], columns["clip_score"] = self._texts(frame, rows[good], raw[good])
        return Columns(
            pl.DataFrame(columns).with_columns(
                detail=pl.Series(detail, dtype=pl.String),
                reason=pl.Series(status, dtype=pl.String),
                keep=pl.Series([value is None for value in status]),
            ),
            vectors,
        )

    def _encode(self, pixels: list[torch.Tensor]) -> NDArray[np.float32]:
        import torch

        batch = torch.stack(pixels)
        if len(batch) < self.batch_size and self.encoder.chunk is None:
            # every batch has the same shape: kernels, and so roundings, never depend on what is left over
            batch = torch.cat([batch, batch.new_zeros((self.batch_size - len(batch), *batch.shape[1:]))])
        return self.encoder.encode_images(batch)[: len(pixels)]

    def _batches(
        self,
        part: Part,
        frame: pl.DataFrame,
        wanted: NDArray[np.int64],
        status: list[str | None],
        detail: list[str | None],
    ) -> Iterator[tuple[NDArray[np.int64], list[torch.Tensor]]]:
        threads = self.config.decode_threads or (8 if self.gpus else 1)
        rows: list[int] = []
        pixels: list[torch.Tensor] = []
        with ThreadPoolExecutor(threads) as pool:
            queue: deque[tuple[int, Future[Any]]] = deque()

            def take() -> None:
                row, future = queue.popleft()
                try:
                    pixels.append(future.result())
                    rows.append(row)
                except DecodeError as error:
                    status[row], detail[row] = "decode_error", str(error)

            exts = frame["ext"].to_list()
            images = {ext.lower() for ext in exts if ext is not None}
            for position, members in read_members(part.source, frame[wanted.tolist()], images):
                row = int(wanted[position])
                queue.append((row, pool.submit(self._pixels, members[exts[row]])))
                if len(queue) > 2 * self.batch_size:
                    take()
                if len(rows) == self.batch_size:
                    yield np.asarray(rows), pixels
                    rows, pixels = [], []
            while queue:
                take()
                if len(rows) == self.batch_size:
                    yield np.asarray(rows), pixels
                    rows, pixels = [], []
        if rows:
            yield np.asarray(rows), pixels

    def _pixels(self, data: bytes) -> torch.Tensor:
        return self.encoder.preprocess(decode_rgb(data, self.context.input.max_pixels))

    def _texts(
        self, frame: pl.DataFrame, rows: NDArray[np.int64], images: NDArray[np.float32]
    ) -> tuple[NDArray[np.float16], pl.Series, pl.Series]:
        captions = frame["caption"].to_list()
        has = np.asarray([captions[row] is not None for row in rows], dtype=bool)
        encoded = [
            self.encoder.encode_texts(texts + [""] * (self.batch_size - len(texts)))[: len(texts)]
            for start in range(0, int(has.sum()), self.batch_size)
            if (texts := [captions[row] for row in rows[has][start : start + self.batch_size]])
        ]
        raw = np.concatenate(encoded) if encoded else np.zeros((0, self.encoder.dim), dtype=np.float32)
        stored, good = embed.to_stored(raw)
        score, valid = embed.clip_scores(images[has], raw)
        scores: list[float | None] = [None] * frame.height
        for row, value in zip(rows[has][valid].tolist(), score[valid].tolist(), strict=True):
            scores[row] = value
        return stored[good], _packed(frame.height, rows[has][good]), pl.Series(scores, dtype=pl.Float32)


def _packed(height: int, rows: NDArray[np.int64]) -> pl.Series:
    """UInt32 [height]: position in the packed vectors, null where there is none."""
    packed = np.full(height, -1, dtype=np.int64)
    packed[rows] = np.arange(len(rows))
    return pl.DataFrame({"row": packed}).select(pl.when(pl.col("row") >= 0).then("row").cast(pl.UInt32)).to_series()
