"""`embed`: vectors of images, and of captions, from an encoder; the CLIP score when there are both."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import repeat
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
from curate.stages.pixels import CPU_BATCH, CPU_DECODERS, GPU_BATCH, GPU_DECODERS, Batch, Decoding
from curate.stages.taken_over import KEY, Rows, content
from curate.store.artifacts import Artifact
from curate.store.images import decode_rgb
from curate.store.packages import fetch

if TYPE_CHECKING:
    import torch


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

    Batches never cross a part and the last one is padded, so a row's vector depends on its content alone. What is
    stored for the same content, in this part or in another, is therefore taken over.
    """

    kind = "embed"
    VERSION = 2
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
        content = {"content_hi": pl.UInt64(), "content_lo": pl.UInt64()}
        return {"vec_row": pl.UInt32(), "detail": pl.String(), **text, **content}

    def contents(self, part: Part) -> pl.DataFrame:
        """128 bits of the image's sha256 and, with text, the caption; the encoder is in the folder's name."""
        frame = part.columns("sha256", "caption") if self.config.text else part.columns("sha256")
        captions = frame["caption"].to_list() if self.config.text else repeat(None)
        hashed = [content(sha256, caption) for sha256, caption in zip(frame["sha256"], captions, strict=False)]
        return pl.DataFrame(hashed, schema=dict.fromkeys(KEY, pl.UInt64), orient="row")

    def reads(self) -> tuple[str, ...]:
        """The index: where the bytes are, and captions."""
        return (next(iter(self.context.schema)),)

    def check(self) -> None:
        """Model, tag and files exist; captions are there when they are needed."""
        if self.context.input.bare:
            raise SpecError(f"stage {self.context.step} needs images, the input has none; use read_embeddings instead")
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
        """Embed the alive rows whose content is stored nowhere. Memory: four batches of pixels, the vectors."""
        frame = part.columns("shard", "members", "ext", "caption")
        rows = _Vectors(self.contents(part), part.alive, self.config.text)
        rows.take_over(part)
        todo = rows.unknown
        if len(todo) or not rows.arrays:
            rows.space(np.float16, (self.encoder.dim,))
        if len(todo):
            for batch in self._decoding().batches(part, frame, todo, rows.undecoded):
                raw = self._encode(batch)
                rows.put("image", batch.rows, raw)
                if self.config.text:
                    self._texts(frame["caption"], batch.rows, raw, rows)
        return rows.columns({"rows_computed": len(todo), "rows_taken_over": int(part.alive.sum()) - len(todo)})

    def _encode(self, batch: Batch) -> NDArray[np.float32]:
        return self.encoder.encode_images(batch.pixels[0])[: len(batch)]

    def _decoding(self) -> Decoding:
        threads = self.config.decode_threads or (GPU_DECODERS if self.gpus else CPU_DECODERS)
        cuda = self.encoder.device == "cuda"
        return Decoding(self._pixels, self.batch_size, self.encoder.chunk is None, cuda, threads)

    def _pixels(self, data: bytes) -> tuple[torch.Tensor]:
        return (self.encoder.preprocess(decode_rgb(data, self.context.input.max_pixels)),)

    def _texts(self, captions: pl.Series, at: NDArray[np.int64], images: NDArray[np.float32], rows: _Vectors) -> None:
        has = captions[at.tolist()].is_not_null().to_numpy()
        texts = captions[at[has].tolist()].to_list()
        if texts:
            raw = self.encoder.encode_texts(texts + [""] * (self.batch_size - len(texts)))[: len(texts)]
            rows.put("text", at[has], raw)
            score, valid = embed.clip_scores(images[has], raw)
            rows.clip_score[at[has][valid]] = score[valid]


class _Vectors(Rows):
    """The vectors of one part, and the score of image and caption."""

    def __init__(self, contents: pl.DataFrame, alive: NDArray[np.bool_], text: bool) -> None:
        super().__init__(contents, alive, {"image": "vec_row"} | ({"text": "text_row"} if text else {}))
        self.clip_score = np.full(len(alive), np.nan, dtype=np.float32)

    def put(self, kind: str, at: NDArray[np.int64], raw: NDArray[np.float32]) -> None:
        """Store unit rows; rows that cannot be normalised have no vector, and for an image that is a failure."""
        stored, good = embed.to_stored(raw)
        self.arrays[kind][at[good]] = stored[good]
        self.has[kind][at[good]] = True
        if kind == "image":
            for row in at[~good].tolist():
                self.fail(row, "bad_embedding", "the encoder returned zeros, NaN or infinity")

    def taken(self, stored: pl.DataFrame) -> None:
        """The scores that were stored with the vectors."""
        if "text" in self.has:
            self.clip_score[stored["row"].to_numpy()] = stored["clip_score"].fill_null(np.nan).to_numpy()

    def scalars(self) -> dict[str, pl.Series]:
        """The score; the step's schema leaves it out where there is no text."""
        return {"clip_score": pl.Series(self.clip_score).fill_nan(None)}
