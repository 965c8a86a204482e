"""Which labels an image gets: each candidate label is kept, dropped or unsure, and "no valid label" is an outcome.

    decided = decide(images, classes, probability, n, keep=0.9, drop=0.05, relations=table)
    offsets, labels = decided.chosen()          # image i: labels[offsets[i] : offsets[i + 1]]

Several unrelated labels of one image are no contradiction (several things may be seen); relations join names of one
thing, and tell a wrong original label from a near-synonym. What never lives here: where probabilities and thresholds
come from (calibration.py), and files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.relabel.relations import Relations

DROP, UNSURE, KEEP = 0, 1, 2
"""Decisions about a label."""
NOTHING, UNDECIDED, LABELLED = 0, 1, 2
"""Outcomes of an image: no valid label, a human should look, at least one label is kept."""

Limit = float | NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class LabelDecisions:
    """Labels in flat arrays, by image, within an image the most probable first (of equal ones the lower class).

    ``images`` int64, ``classes`` int32, ``probability`` float64 and ``decision`` uint8, all [m]; ``source`` int64 [m]:
    place of the label in what was given. ``outcome`` uint8 [n] of each image. ``nothing`` float64 [n]: 1 - the highest
    probability, the most that the probability of "no listed label is valid" can be. ``suspect`` bool [n]: the original
    label contradicts every kept one; False where no original label was given.
    """

    images: NDArray[np.int64]
    classes: NDArray[np.int32]
    probability: NDArray[np.float64]
    decision: NDArray[np.uint8]
    source: NDArray[np.int64]
    outcome: NDArray[np.uint8]
    nothing: NDArray[np.float64]
    suspect: NDArray[np.bool_]

    def chosen(self, decision: int = KEEP) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Labels with a decision: offsets int64 [n + 1] and classes int32; those of image i lie between its offsets."""
        rows = self.decision == decision
        sizes = np.bincount(self.images[rows], minlength=len(self.outcome))
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), self.classes[rows]


def decide(
    images: NDArray[np.integer],
    classes: NDArray[np.integer],
    probability: NDArray[np.floating],
    n: int,
    *,
    keep: Limit,
    drop: Limit,
    relations: Relations | None = None,
    original: NDArray[np.integer] | None = None,
    own: NDArray[np.floating] | None = None,
) -> LabelDecisions:
    """Decide about candidate labels (image, class) with calibrated probabilities, given in any order, each once.

    keep, drop: one number, or float [classes]: keep at or above, drop below, unsure between; inf as keep never keeps.
    An image is LABELLED when a label is kept, else UNDECIDED when one is unsure, else NOTHING: all candidates were
    dropped, or it has none.
    With relations, probability and decision of a label are at least those of every label of the same image that
    implies it: its synonyms and subclasses (probabilities of a truth cannot be below those of what implies it). Parts
    and co-occurring classes imply nothing.
    original: int [n], the label an image came with, below 0 = none; see ``suspect``.
    own: float [m], a probability from which this very label is kept, even below the limit of its class; inf = none.
    Memory: 120 bytes a label, with relations also 60 a pair of labels of one image, 100,000 images at a time.
    Raises InputError for shapes that differ, images or classes out of range, pairs given twice, probabilities outside
    [0, 1], and drop above keep.
    """
    _checked(images, classes, probability, n, keep, drop)
    if own is not None and own.shape != images.shape:
        raise InputError(f"label sets: own limits are {own.shape}; wanted one for each of {len(images):,} labels.")
    order = np.lexsort((classes, images))
    image, label = images[order].astype(np.int64), classes[order].astype(np.int32)
    twice = np.flatnonzero((np.diff(image) == 0) & (np.diff(label) == 0))
    if len(twice):
        raise InputError(f"label sets: image {image[twice[0]]} has class {label[twice[0]]} twice.")
    p = probability[order].astype(np.float64)
    limit = _of(keep, label) if own is None else np.minimum(_of(keep, label), own[order])
    decision = np.where(p >= limit, KEEP, np.where(p < _of(drop, label), DROP, UNSURE)).astype(np.uint8)
    if relations is not None:
        p, decision = _implied(image, label, p, decision, relations)
    by_rank = np.lexsort((label, -p, image))
    image, label, p, decision = image[by_rank], label[by_rank], p[by_rank], decision[by_rank]
    outcome = np.zeros(n, dtype=np.uint8)
    np.maximum.at(outcome, image, decision)
    most = np.zeros(n)
    np.maximum.at(most, image, p)
    suspect = np.zeros(n, dtype=bool)
    if original is not None:
        if original.shape != (n,):
            raise InputError(f"label sets: original labels are {original.shape}; wanted one for each of {n:,} images.")
        suspect = _suspect(image, label, decision, original, outcome, relations)
    return LabelDecisions(image, label, p, decision, order[by_rank].astype(np.int64), outcome, 1 - most, suspect)


def _implied(
    image: NDArray[np.int64],
    label: NDArray[np.int32],
    p: NDArray[np.float64],
    decision: NDArray[np.uint8],
    relations: Relations,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Raise every label to the most of those of its image that are one of it; rows are sorted by image."""
    p_new, decision_new = p.copy(), decision.copy()
    starts = np.concatenate([np.flatnonzero(np.diff(image, prepend=-1)), [len(image)]])
    for first in range(0, len(starts) - 1, 100_000):
        begin = starts[first : first + 100_001]
        sizes = np.repeat(np.diff(begin), np.diff(begin))
        rows = np.arange(begin[0], begin[-1])
        a = np.repeat(rows, sizes)
        within = np.arange(len(a)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        b = np.repeat(np.repeat(begin[:-1], np.diff(begin)), sizes) + within
        holds = relations.is_a(label[a], label[b]) & (a != b)
        np.maximum.at(p_new, b[holds], p[a[holds]])
        np.maximum.at(decision_new, b[holds], decision[a[holds]])
    return p_new, decision_new


def _suspect(
    image: NDArray[np.int64],
    label: NDArray[np.int32],
    decision: NDArray[np.uint8],
    original: NDArray[np.integer],
    outcome: NDArray[np.uint8],
    relations: Relations | None,
) -> NDArray[np.bool_]:
    kept = decision == KEEP
    images, classes = image[kept], label[kept]
    given = original[images]
    contradicts = given != classes if relations is None else relations.conflicts(given, classes)
    agreeing = np.bincount(images[~contradicts], minlength=len(outcome))
    return np.asarray((outcome == LABELLED) & (agreeing == 0) & (original >= 0))


def _of(limit: Limit, classes: NDArray[np.integer]) -> NDArray[np.floating] | float:
    return limit[classes] if isinstance(limit, np.ndarray) else limit


def _checked(
    images: NDArray[np.integer],
    classes: NDArray[np.integer],
    probability: NDArray[np.floating],
    n: int,
    keep: Limit,
    drop: Limit,
) -> None:
    if images.ndim != 1 or not images.shape == classes.shape == probability.shape:
        raise InputError(
            f"label sets: {images.shape} images, {classes.shape} classes and {probability.shape} probabilities; "
            "wanted one of each a label."
        )
    if (np.asarray(drop) > np.asarray(keep)).any():
        raise InputError("label sets: drops labels at probabilities at which it keeps them; wanted drop <= keep.")
    if not len(images):
        return
    if images.min() < 0 or images.max() >= n:
        raise InputError(f"label sets: images {images.min()} to {images.max()}; wanted 0 to {n - 1}.")
    for name, limit in (("keep", keep), ("drop", drop)):
        if isinstance(limit, np.ndarray) and classes.max() >= len(limit):
            raise InputError(f"label sets: class {classes.max()} has no {name} limit, of which there are {len(limit)}.")
    if classes.min() < 0:
        raise InputError(f"label sets: class {classes.min()}; a class is a number from 0.")
    wrong = np.flatnonzero(~((probability >= 0) & (probability <= 1)))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"label sets: class {classes[row]} of image {images[row]} has probability {probability[row]}; "
            "wanted 0 to 1."
        )
