"""Batches of decoded images of a part, made ahead of the network that works on them: for `embed` and `relabel`.

What never lives here: networks, and what becomes of their results (taken_over.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.formats.members import read_members
from curate.stages.part import Part
from curate.store.images import DecodeError

if TYPE_CHECKING:
    import torch

CPU_BATCH, GPU_BATCH = 32, 256
CPU_DECODERS, GPU_DECODERS = 1, 8


@dataclass(frozen=True)
class Batch:
    """Rows of a part, int64 [n], and their pixels: a tensor a network, float32 [n or more, 3, height, width].

    What is beyond n is zeros.
    """

    rows: NDArray[np.int64]
    pixels: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Decoding:
    """How the images of a part become batches.

    prepare: the bytes of an image -> float32 [3, height, width] for each network; raises DecodeError. size: images in
    one batch; padded: whether the last one is filled up to it, so that every batch has the same shape and kernels, and
    so roundings, never depend on what is left over. gpu: batches are to lie on the GPU. threads: that decode.
    """

    prepare: Callable[[bytes], tuple[torch.Tensor, ...]]
    size: int
    padded: bool
    gpu: bool
    threads: int

    def batches(
        self, part: Part, frame: pl.DataFrame, wanted: NDArray[np.int64], failed: Callable[[int, str], None]
    ) -> Iterator[Batch]:
        """The `wanted` rows (int64, ascending) in order; `failed` is told the rows that do not decode, and why.

        frame: shard, members and ext of all rows of the part. One more batch is put together on a thread while one is
        at work. Memory: four batches.
        """
        return ahead(self._batches(part, frame, wanted, failed))

    def _batches(
        self, part: Part, frame: pl.DataFrame, wanted: NDArray[np.int64], failed: Callable[[int, str], None]
    ) -> Iterator[Batch]:
        rows: list[int] = []
        pixels: list[tuple[torch.Tensor, ...]] = []
        for row, future in self._decoded(part, frame, wanted):
            try:
                pixels.append(future.result())
                rows.append(row)
            except DecodeError as error:
                failed(row, str(error))
            if len(rows) == self.size:
                yield self._batch(rows, pixels)
                rows, pixels = [], []
        if rows:
            yield self._batch(rows, pixels)

    def _batch(self, rows: list[int], pixels: list[tuple[torch.Tensor, ...]]) -> Batch:
        return Batch(np.asarray(rows), tuple(self._stack(one) for one in zip(*pixels, strict=True)))

    def _stack(self, pixels: tuple[torch.Tensor, ...]) -> torch.Tensor:
        import torch

        size = self.size if self.padded else len(pixels)
        batch = torch.empty((size, *pixels[0].shape), dtype=pixels[0].dtype, pin_memory=self.gpu)
        torch.stack(pixels, out=batch[: len(pixels)])
        batch[len(pixels) :] = 0
        if self.gpu:  # on a stream of its own: the copy runs beside the network at work
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                batch = batch.to("cuda", non_blocking=True)
            stream.synchronize()
        return batch

    def _decoded(
        self, part: Part, frame: pl.DataFrame, wanted: NDArray[np.int64]
    ) -> Iterator[tuple[int, Future[tuple[torch.Tensor, ...]]]]:
        """Decode ahead on threads, at most a batch; yields in order."""
        exts = frame["ext"].to_list()
        images = {ext.lower() for ext in exts if ext is not None}
        with ThreadPoolExecutor(self.threads) as pool:
            queue: deque[tuple[int, Future[tuple[torch.Tensor, ...]]]] = deque()
            for position, members in read_members(part.source, frame[wanted.tolist()], images):
                row = int(wanted[position])
                queue.append((row, pool.submit(self.prepare, members[exts[row]])))
                if len(queue) > self.size:
                    yield queue.popleft()
            yield from queue


def ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each put together on a thread while the one before it is at work."""
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(next, batches, None)
        while (batch := following.result()) is not None:
            following = pool.submit(next, batches, None)
            yield batch
