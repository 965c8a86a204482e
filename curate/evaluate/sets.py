"""Sets of labels of many images in two flat arrays, and which labels are in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sets:
    """Image i has the labels ``classes[offsets[i]:offsets[i + 1]]``, in the order of their source, each once.

    ``offsets``: int64 [n + 1], ascending from 0. ``classes``: int32 [m], >= 0.
    """

    offsets: NDArray[np.int64]
    classes: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of labels of each image, int64 [n]."""
        return np.diff(self.offsets)

    @property
    def images(self) -> NDArray[np.int64]:
        """Image of each label, int64 [m], ascending."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def take(self, rows: NDArray[np.int64]) -> Sets:
        """The sets of some images, in the order asked for."""
        sizes = self.sizes[rows]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        within = np.arange(offsets[-1]) - np.repeat(offsets[:-1], sizes)
        return Sets(offsets, self.classes[np.repeat(self.offsets[rows], sizes) + within])

    def contain(self, images: NDArray[np.int64], classes: NDArray[np.int32]) -> NDArray[np.bool_]:
        """Whether each (image, class) is a label; a class below 0 never is. Any shape, the same for both."""
        base = 2 + int(max(self.classes.max(initial=0), classes.max(initial=0)))
        known = np.sort(self.images * base + self.classes)
        asked = images * base + classes
        if not len(known):
            return np.zeros(asked.shape, dtype=bool)
        at = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        return np.asarray((known[at] == asked) & (classes >= 0))

    def lists(self) -> list[list[int]]:
        """One list an image."""
        flat, ends = self.classes.tolist(), self.offsets.tolist()
        return [flat[start:stop] for start, stop in pairwise(ends)]


def from_lists(lists: Iterable[Sequence[int]]) -> Sets:
    """Sets of one list of class numbers an image."""
    held = list(lists)
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in held], dtype=np.int64)])
    return Sets(offsets.astype(np.int64), np.fromiter((c for one in held for c in one), np.int32, int(offsets[-1])))


def from_pairs(images: NDArray[np.int64], classes: NDArray[np.int32], n: int) -> Sets:
    """Sets of n images from (image, class) pairs in any order; the labels of an image stay in the order given."""
    order = np.argsort(images, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(images, minlength=n))]).astype(np.int64)
    return Sets(offsets, classes[order].astype(np.int32))
