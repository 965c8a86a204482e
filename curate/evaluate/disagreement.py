"""Where one label an image and sets of labels say different things, and between which classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.evaluate.sets import Sets

KINDS = ("same", "other", "multi_with", "multi_without", "none")
Relations = Mapping[tuple[int, int], str]
"""(class, class) -> how they are related, such as "synonym"; a pair is looked up in both orders."""


@dataclass(frozen=True, slots=True)
class Disagreement:
    """How the sets compare with the original labels.

    ``kind``: uint8 [n], place in KINDS: the one label is the original one, is another, several labels with the
    original one among them, several without it, no label. ``by_class``: class -> (images with labels, of them with the
    original label among theirs).
    """

    kind: NDArray[np.uint8]
    by_class: dict[int, tuple[int, int]]

    @property
    def counts(self) -> dict[str, int]:
        """Images of each kind."""
        return dict(zip(KINDS, np.bincount(self.kind, minlength=len(KINDS)).tolist(), strict=True))

    @property
    def agreement(self) -> float | None:
        """Share of the images with labels that have the original one among them."""
        total = sum(n for n, _ in self.by_class.values())
        return sum(k for _, k in self.by_class.values()) / total if total else None

    def weak_classes(self, below: float = 0.7, least: int = 10) -> list[tuple[int, int, float]]:
        """(class, images, agreement) of classes that agree less than `below`, the weakest first."""
        told = [(c, n, k / n) for c, (n, k) in self.by_class.items() if n >= least and k / n < below]
        return sorted(told, key=lambda row: (row[2], row[0]))


def compare(original: NDArray[np.int32], sets: Sets) -> Disagreement:
    """Compare original labels (int32 [n], >= 0) with sets."""
    inside = sets.contain(np.arange(len(sets)), original)
    sizes = sets.sizes
    kind = np.select([sizes == 0, sizes == 1], [4, np.where(inside, 0, 1)], np.where(inside, 2, 3)).astype(np.uint8)
    filled = sizes > 0
    n = np.bincount(original[filled])
    k = np.bincount(original[inside], minlength=len(n))
    return Disagreement(kind, {c: (int(n[c]), int(k[c])) for c in np.flatnonzero(n).tolist()})


@dataclass(frozen=True, slots=True)
class Confusion:
    """Two classes, how many images say one and the other, and how the classes are related ("" = not known)."""

    first: int
    second: int
    images: int
    relation: str


def confusions(
    given: NDArray[np.int32], sets: Sets, relations: Relations | None = None, limit: int = 20
) -> list[Confusion]:
    """The commonest (given class, label of the image) among images whose labels lack the given class.

    given: int32 [n], an original label or a prediction, below 0 = none. An image with several labels counts for each.
    """
    without = ~sets.contain(np.arange(len(sets)), given) & (given >= 0)
    return _commonest(given, sets, without, relations, limit)


def companions(
    given: NDArray[np.int32], sets: Sets, relations: Relations | None = None, limit: int = 20
) -> list[Confusion]:
    """The commonest (given class, further label) among images that have the given class among several labels."""
    inside = sets.contain(np.arange(len(sets)), given)
    return _commonest(given, sets, inside, relations, limit)


def _commonest(
    given: NDArray[np.int32], sets: Sets, some: NDArray[np.bool_], relations: Relations | None, limit: int
) -> list[Confusion]:
    images = sets.images
    first, second = given[images].astype(np.int64), sets.classes.astype(np.int64)
    counted = some[images] & (first != second)
    base = 1 + int(sets.classes.max(initial=0))
    keys, counts = np.unique(first[counted] * base + second[counted], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:limit]
    related = relations or {}
    told = []
    for key, count in zip(keys[order].tolist(), counts[order].tolist(), strict=True):
        a, b = divmod(key, base)
        told.append(Confusion(a, b, count, related.get((a, b)) or related.get((b, a)) or ""))
    return told
