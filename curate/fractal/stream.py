"""Fractal images as a torch data set, drawn while the network trains: the samples of the shards, nothing stored.

    loader = DataLoader(FractalImages(specification, table), batch_size=256, num_workers=8)

`specification` and `table` are the specification.json and systems.parquet of a release, or a specification and
`families.choose.search(specification.options, specification.seed)`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from curate.errors import SpecError
from curate.fractal.encode import encode
from curate.fractal.families.base import Family
from curate.fractal.families.choose import open_family
from curate.fractal.image import Rendered, render
from curate.fractal.randomness import key, mix
from curate.fractal.specification import Specification

_ROUNDS = 4
_MASK = 2**64 - 1


class FractalImages(IterableDataset[tuple[Any, Any]]):
    """Images start..stop-1 of a specification, each once an epoch, divided among ranks and their DataLoader workers.

    Yields (image, target). Image: uint8 tensor [3, S, S], or [1, S, S] when colour is gray and the background black.
    Target: the class, an int; for scenes float32 [classes], 1 where a labelled object has that class. With `boxes` it
    is what torchvision's detectors take: boxes float32 [n, 4] (x1, y1, x2, y2 in pixels, the last two excluded),
    labels int64 [n] (class + 1, because there 0 is the background), masks uint8 [n, S, S] of what is seen, area,
    iscrowd (0) and image_id (the index); labelled objects only.

    Images are the pixels before encoding, unless `as_stored`: then they are encoded and decoded as in the shards, which
    matters for jpg alone. `transform` is applied to the image.

    Order: as the indices, or with `shuffle` an order of its own for each epoch (see `set_epoch`), known without a list.
    Of that order rank r of w takes places r, r + w, ..., and worker i of n of these places i, i + n, ...; so every
    image comes once for any number of both, but ranks may differ by one image: choose stop - start as a multiple of the
    ranks where that matters. `rank` and `world` are those of torch.distributed when it is initialised, else 0 and 1.

    Instances go to spawned workers. Raises SpecError for images that the specification does not have. Memory: the table
    of classes, and one image.
    """

    def __init__(
        self,
        specification: Specification,
        table: pl.DataFrame | Family,
        *,
        start: int = 0,
        stop: int | None = None,
        shuffle: bool = False,
        boxes: bool = False,
        as_stored: bool = False,
        transform: Callable[[torch.Tensor], Any] | None = None,
        rank: int | None = None,
        world: int | None = None,
    ) -> None:
        """table: of classes, or a family that is already open."""
        images = specification.options.images
        stop = images if stop is None else stop
        if not 0 <= start <= stop <= images:
            raise SpecError(f"images {start} to {stop} are not within those of the specification, 0 to {images}.")
        if (rank is None) != (world is None) or (rank is not None and world is not None and not 0 <= rank < world):
            raise SpecError(f"rank and world are given together, rank from 0 to world - 1, not {rank} and {world}.")
        self.specification = specification
        self.start, self.stop = start, stop
        self.shuffle, self.boxes, self.as_stored, self.transform = shuffle, boxes, as_stored, transform
        self._table = table
        self._family: Family | None = None
        self._place = None if rank is None or world is None else (rank, world)
        # in shared memory, so that workers that live on (persistent_workers) see the next epoch
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set_epoch(self, epoch: int) -> None:
        """The epoch whose order is next; call it before each epoch, as with torch's DistributedSampler."""
        self._epoch[0] = epoch

    def indices(self, worker: int = 0, workers: int = 1) -> Iterator[int]:
        """The images of this rank, or of one of its workers, in order."""
        rank, world = self._where()
        count = self.stop - self.start
        order = _order(count, key(self.specification.seed, "epoch", int(self._epoch[0]))) if self.shuffle else int
        for place in range(rank + worker * world, count, world * workers):
            yield self.start + order(place)

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        info = get_worker_info()
        for index in self.indices() if info is None else self.indices(info.id, info.num_workers):
            yield self.sample(index)

    def sample(self, index: int) -> tuple[Any, Any]:
        """Image `index` of the specification and its target."""
        made = render(self.specification, self._opened(), index, masks=False)
        pixels = self._stored(made.image) if self.as_stored else made.image
        image: Any = torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())
        return image if self.transform is None else self.transform(image), self._target(made, index)

    def _target(self, made: Rendered, index: int) -> Any:
        if self.boxes:
            return detection(made, index)
        if made.label is not None:
            return made.label
        target = torch.zeros(self.specification.options.classes)
        target[list(made.labels)] = 1.0
        return target

    def _stored(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        options = self.specification.options
        with Image.open(io.BytesIO(encode(image, options.format, options.quality))) as opened:
            return np.array(opened.convert("L" if image.ndim == 2 else "RGB"))

    def _opened(self) -> Family:
        """The family, opened once a process."""
        if self._family is None:
            table = self._table
            self._family = open_family(self.specification.options, table) if isinstance(table, pl.DataFrame) else table
        return self._family

    def _where(self) -> tuple[int, int]:
        """Rank and world."""
        if self._place is not None:
            return self._place
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def __getstate__(self) -> dict[str, Any]:
        """For a spawned worker, which has no torch.distributed: the rank goes along, the open family does not."""
        known = torch.distributed.is_available() and torch.distributed.is_initialized()
        return self.__dict__ | {"_family": None, "_place": self._where() if known else self._place}


def detection(made: Rendered, index: int) -> dict[str, torch.Tensor | int]:
    """An image's labelled objects in the convention of torchvision's detectors; see FractalImages."""
    labelled = [(n, entry) for n, entry in enumerate(made.objects, 1) if entry["labelled"] and entry["box"] is not None]
    boxes = torch.tensor([entry["box"] for _, entry in labelled], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = made.owner == np.array([n for n, _ in labelled], dtype=np.uint8)[:, None, None]
    return {
        "boxes": boxes,
        "labels": torch.tensor([entry["class"] + 1 for _, entry in labelled], dtype=torch.int64),
        "masks": torch.from_numpy(masks.view(np.uint8)),
        "area": torch.from_numpy(masks.sum(axis=(1, 2)).astype(np.float32)),
        "iscrowd": torch.zeros(len(labelled), dtype=torch.int64),
        "image_id": index,
    }


def _order(count: int, seed: int) -> Callable[[int], int]:
    """A permutation of 0..count-1 that holds no list: a Feistel network of four rounds over the least even number of
    bits that holds them all, walked on until it falls below `count` (at most 4 steps on average)."""
    half = max(1, (max(count - 1, 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    keys = [key(seed, "round", i) for i in range(_ROUNDS)]

    def at(place: int) -> int:
        while True:
            left, right = place >> half, place & low
            for each in keys:
                left, right = right, left ^ (mix((right + each) & _MASK) & low)
            place = left << half | right
            if place < count:
                return place

    return at
