"""`embed`: vectors of images, and of captions, from an encoder; the CLIP score when there are both."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate import embed
from curate.embed.encoder import EncoderConfig
from curate.errors import ModelError, SpecError, StorageError
from curate.formats.members import read_members
from curate.stages.base import Columns, Resources, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part, Twin
from curate.stages.vectors import packed
from curate.store.artifacts import Artifact
from curate.store.columns import read_columns, read_vectors
from curate.store.images import DecodeError, decode_rgb
from curate.store.packages import fetch
from curate.store.workspace import Workspace

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
        hashed = [_content(sha256, caption) for sha256, caption in zip(frame["sha256"], captions, strict=False)]
        return pl.DataFrame(hashed, schema={"content_hi": pl.UInt64, "content_lo": pl.UInt64}, orient="row")

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
        rows = _Rows(self.contents(part), part.alive, self.config.text)
        rows.take_over(part)
        todo = rows.unknown
        if len(todo) or not rows.vectors:
            rows.space(self.encoder.dim)
        for batch in _ahead(self._batches(part, frame, todo, rows)):
            raw = self._encode(batch)
            rows.put("image", batch.rows, raw)
            if self.config.text:
                self._texts(frame["caption"], batch.rows, raw, rows)
        return rows.columns({"rows_computed": len(todo), "rows_taken_over": int(part.alive.sum()) - len(todo)})

    def _encode(self, batch: _Batch) -> NDArray[np.float32]:
        return self.encoder.encode_images(batch.pixels)[: len(batch)]

    def _batches(self, part: Part, frame: pl.DataFrame, wanted: NDArray[np.int64], found: _Rows) -> Iterator[_Batch]:
        rows: list[int] = []
        pixels: list[torch.Tensor] = []
        for row, future in self._decoded(part, frame, wanted):
            try:
                pixels.append(future.result())
                rows.append(row)
            except DecodeError as error:
                found.fail(row, "decode_error", str(error))
            if len(rows) == self.batch_size:
                yield self._batch(rows, pixels)
                rows, pixels = [], []
        if rows:
            yield self._batch(rows, pixels)

    def _batch(self, rows: list[int], pixels: list[torch.Tensor]) -> _Batch:
        """One tensor on the encoder's device. Every batch has the same shape: kernels, and so roundings, never depend
        on what is left over.
        """
        import torch

        size = len(rows) if self.encoder.chunk is not None else self.batch_size
        cuda = self.encoder.device == "cuda"
        batch = torch.empty((size, *pixels[0].shape), dtype=pixels[0].dtype, pin_memory=cuda)
        torch.stack(pixels, out=batch[: len(rows)])
        batch[len(rows) :] = 0
        if cuda:  # on a stream of its own: the copy runs beside the network at work
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                batch = batch.to("cuda", non_blocking=True)
            stream.synchronize()
        return _Batch(np.asarray(rows), batch)

    def _decoded(
        self, part: Part, frame: pl.DataFrame, wanted: NDArray[np.int64]
    ) -> Iterator[tuple[int, Future[torch.Tensor]]]:
        """Decode ahead on threads, at most a batch; yields in order."""
        exts = frame["ext"].to_list()
        images = {ext.lower() for ext in exts if ext is not None}
        with ThreadPoolExecutor(self.config.decode_threads or (8 if self.gpus else 1)) as pool:
            queue: deque[tuple[int, Future[torch.Tensor]]] = deque()
            for position, members in read_members(part.source, frame[wanted.tolist()], images):
                row = int(wanted[position])
                queue.append((row, pool.submit(self._pixels, members[exts[row]])))
                if len(queue) > self.batch_size:
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


@dataclass(frozen=True)
class _Batch:
    """Rows of a part, int64 [n], and their pixels, float32 [n or more, 3, height, width]; what is beyond n is zeros."""

    rows: NDArray[np.int64]
    pixels: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)


def _ahead(batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """The same batches, each put together on a thread while the one before it is at work."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch


def _content(sha256: str | None, caption: str | None) -> tuple[int, int] | tuple[None, None]:
    """Hash of what decides a row's vectors; 128 bits, so that nobody finds two images that share one."""
    if sha256 is None:
        return None, None
    data = bytes.fromhex(sha256) + (b"" if caption is None else b"\n" + caption.encode("utf-8", "surrogatepass"))
    digest = hashlib.blake2b(data, digest_size=16, person=b"curate.content").digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


class _Rows:
    """What is known of the alive rows of one part so far: vectors by row, or why there is none."""

    def __init__(self, contents: pl.DataFrame, alive: NDArray[np.bool_], text: bool) -> None:
        height = len(alive)
        self.contents, self.alive = contents, alive
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
    def unknown(self) -> NDArray[np.int64]:
        """Alive rows that are neither embedded nor known to be impossible."""
        failed = np.asarray([status is not None for status in self.status], dtype=bool)
        return np.flatnonzero(self.alive & ~self.has["image"] & ~failed)

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

    def take_over(self, part: Part) -> None:
        """Rows of the same content that this step computed before, and failures unless they are to be tried again.

        A vector counts more than a failure: a decoder may have learnt something in between.
        """
        failures: list[tuple[int, str, str]] = []
        for twin in part.twins:
            if not len(wanted := self.unknown):
                break
            try:
                failures += self._take_over(part.workspace, twin, wanted)
            except StorageError:
                continue  # damaged, or removed meanwhile: then its rows are computed anew
        for row, status, detail in failures:
            if not self.has["image"][row] and self.status[row] is None and not part.retry:
                self.fail(row, status, detail)

    def _take_over(self, workspace: Workspace, twin: Twin, wanted: NDArray[np.int64]) -> list[tuple[int, str, str]]:
        key = ["content_hi", "content_lo"]
        mine = self.contents[wanted.tolist()].with_columns(row=pl.Series(wanted))
        theirs = read_columns(workspace, twin.folder, twin.part, twin.fingerprint)
        judged = theirs.filter(pl.col("keep").is_not_null()).unique(key, keep="first", maintain_order=True)
        found = mine.join(judged, on=key, maintain_order="left")
        good = found.filter("keep")
        packed = {
            kind: read_vectors(workspace, twin.folder, twin.part, twin.fingerprint, kind) if good.height else None
            for kind in self.has
        }
        for kind, column in (("image", "vec_row"), ("text", "text_row")):
            if (vectors := packed.get(kind)) is not None:
                stored = good.filter(pl.col(column).is_not_null())
                rows = stored["row"].to_numpy()
                self.space(vectors.shape[1])
                self.vectors[kind][rows] = vectors[stored[column].to_numpy()]
                self.has[kind][rows] = True
        if "text" in self.has:
            self.clip_score[good["row"].to_numpy()] = good["clip_score"].fill_null(np.nan).to_numpy()
        return list(found.filter(~pl.col("keep")).select("row", "reason", "detail").iter_rows())

    def columns(self, facts: Mapping[str, int]) -> Columns:
        """The step's columns."""
        frame = pl.DataFrame(
            {
                "detail": pl.Series(self.detail, dtype=pl.String),
                "reason": pl.Series(self.status, dtype=pl.String),
                "clip_score": pl.Series(self.clip_score).fill_nan(None),
            }
        ).with_columns(self.contents, keep=pl.col("reason").is_null())
        vectors = {}
        for kind, column in (("image", "vec_row"), ("text", "text_row")):
            if kind in self.vectors:
                rows = np.flatnonzero(self.has[kind])
                vectors[kind] = self.vectors[kind][rows]
                frame = frame.with_columns(packed(len(self.alive), rows).alias(column))
        return Columns(frame, vectors, facts=facts)
