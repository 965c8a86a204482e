"""Labels, classes and original labels of an evaluation, read and brought to the same images and numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.evaluate.accuracy import Reviewed
from curate.evaluate.bootstrap import Estimate
from curate.evaluate.disagreement import Confusion, Disagreement, companions, compare, confusions
from curate.evaluate.sets import Sets, from_lists
from curate.formats.class_lists import ClassList, from_wnids, read_classes, read_relations
from curate.formats.label_sets import LabelSets
from curate.formats.row_orders import RowOrder, places, some_of

_EMPTY = ClassList({})


@dataclass(frozen=True, slots=True)
class Sources:
    """Files beside the labels: list of classes, original labels, relations between classes; None = not given."""

    classes: str | None = None
    original: RowOrder | None = None
    relations: str | None = None


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of images as arrays.

    ``sets``: labels that are right, of problematic images none. ``original``: int32 [n], -1 = unknown, or None.
    ``reviewed``: what was looked at, where the file says it.
    """

    names: tuple[str, ...]
    sets: Sets
    original: NDArray[np.int32] | None
    reviewed: Reviewed | None
    classes: ClassList
    relations: dict[tuple[int, int], str]
    url: str

    def take(self, rows: NDArray[np.int64]) -> Labels:
        """The same of some images."""
        known = self.reviewed
        return replace(
            self,
            names=tuple(self.names[row] for row in rows.tolist()),
            sets=self.sets.take(rows),
            original=None if self.original is None else self.original[rows],
            reviewed=None
            if known is None
            else Reviewed(
                known.correct.take(rows), known.unclear.take(rows), known.wrong.take(rows), known.problematic[rows]
            ),
        )


def class_list(sources: Sources) -> ClassList:
    """The list of classes that was given, else the sorted WordNet ids of the original labels."""
    if sources.classes is not None:
        return read_classes(sources.classes)
    if sources.original is not None and sources.original.labels is not None:
        return from_wnids(sources.original.labels)
    return _EMPTY


def labels_of(read: LabelSets, sources: Sources, classes: ClassList) -> Labels:
    """Arrays of a file of label sets. A label counts as right before unclear before wrong where it is listed twice.

    Raises InputError when original labels contradict each other, or classes and numbers do not fit.
    """
    n = len(read.names)
    empty: list[list[int]] = [[]] * n
    unclear, wrong = read.unclear or empty, read.wrong or empty
    problematic = np.array(read.problematic or [False] * n, dtype=bool)
    right = [[] if bad else held for held, bad in zip(read.labels, problematic.tolist(), strict=True)]
    reviewed = None
    if read.unclear is not None or read.wrong is not None or read.problematic is not None:
        maybe = [[c for c in held if c not in known] for held, known in zip(unclear, read.labels, strict=True)]
        never = [
            [c for c in held if c not in a and c not in b] for held, a, b in zip(wrong, read.labels, maybe, strict=True)
        ]
        reviewed = Reviewed(from_lists(read.labels), from_lists(maybe), from_lists(never), problematic)
    labels = Labels(
        read.names,
        from_lists(right),
        original_labels(read, sources, classes),
        reviewed,
        classes,
        {} if sources.relations is None else read_relations(sources.relations, classes),
        read.url,
    )
    fits(labels.sets.classes, sources, classes, read.url)
    return labels


def original_labels(read: LabelSets, sources: Sources, classes: ClassList) -> NDArray[np.int32] | None:
    """One label an image, from the file itself and the list of originals, which must agree."""
    own = None if read.original is None else np.array(read.original, dtype=np.int32)
    given = sources.original
    if given is None or given.labels is None:
        return own
    numbers = {text: classes.number(text, given.url) for text in set(given.labels)}
    every = np.fromiter((numbers[text] for text in given.labels), np.int32, len(given.labels))
    at = places(given.names, read.names)
    if not (at >= 0).any():
        raise InputError(
            f"{given.url}: names none of the images of {read.url} ({some_of(read.names)}); are they of the same set?"
        )
    found = np.where(at >= 0, every[at], -1).astype(np.int32)
    if own is None:
        return found
    other = np.flatnonzero((found >= 0) & (found != own))
    if len(other):
        row = int(other[0])
        raise InputError(
            f"{given.url}: gives {len(other):,} images another original label than {read.url}, the first "
            f"{read.names[row]} ({found[row]}, not {own[row]}); check the list of classes, or give only one of them."
        )
    return own


def fits(numbers: NDArray[np.int32], sources: Sources, classes: ClassList, url: str) -> None:
    """Raise InputError when sorted WordNet ids cannot be all classes, because a file uses higher numbers."""
    highest = int(numbers.max(initial=-1))
    if sources.classes is None and classes.numbers and highest >= len(classes.numbers):
        raise InputError(
            f"{url}: holds the class {highest}, but {sources.original.url if sources.original else ''} names only "
            f"{len(classes.numbers):,} classes, so their numbers are not known; give a list of all classes with "
            "--classes."
        )


# --- parts of reports -------------------------------------------------------------------------------------------------


def told(estimate: Estimate) -> dict[str, Any]:
    """An estimate for a report."""
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high, "images": estimate.images}


def describe(labels: Labels) -> dict[str, Any]:
    """How many labels images have."""
    sizes = labels.sets.sizes
    filled = int((sizes > 0).sum())
    several = int((sizes > 1).sum())
    return {
        "file": labels.url,
        "images": len(sizes),
        "empty": len(sizes) - filled,
        "labels": int(sizes.sum()),
        "classes": len(np.unique(labels.sets.classes)),
        "by_number": np.bincount(sizes).tolist(),
        "mean": float(sizes.sum() / filled) if filled else None,
        "several": several / filled if filled else None,
    }


def disagreement_report(labels: Labels, limit: int) -> dict[str, Any] | None:
    """How the sets compare with the original labels; None when these are not known for all images."""
    if labels.original is None or (labels.original < 0).any():
        return None
    found: Disagreement = compare(labels.original, labels.sets)
    weak = found.weak_classes()
    return {
        "counts": found.counts,
        "agreement": found.agreement,
        "weak_classes": [
            {"class": c, "name": labels.classes.name(c), "images": n, "agreement": share}
            for c, n, share in weak[:limit]
        ],
        "weak_classes_in_all": len(weak),
        "confusions": pairs_told(confusions(labels.original, labels.sets, labels.relations, limit), labels.classes),
        "companions": pairs_told(companions(labels.original, labels.sets, labels.relations, limit), labels.classes),
    }


def pairs_told(pairs: list[Confusion], classes: ClassList) -> list[dict[str, Any]]:
    """Pairs of classes for a report."""
    return [
        {
            "first": pair.first,
            "first_name": classes.name(pair.first),
            "second": pair.second,
            "second_name": classes.name(pair.second),
            "images": pair.images,
            "relation": pair.relation or None,
        }
        for pair in pairs
    ]
