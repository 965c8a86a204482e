"""Accuracy of predictions when an image may have several right labels.

Every function gives a :class:`~curate.evaluate.bootstrap.Metric` or plain numbers; `bootstrap.estimate` makes the
value and its interval. ReaL: Beyer et al. 2020, section 4. Multi-label accuracy: Shankar et al. 2020 and Vasudevan et
al. 2022. Variable top-k: Anzaku et al. 2024; their weighting of subgroups is not certain, so both readings have a name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.evaluate.bootstrap import Metric
from curate.evaluate.sets import Sets


def hits(classes: NDArray[np.int32], sets: Sets) -> NDArray[np.bool_]:
    """Whether each prediction is among the labels of its image: bool [n, k] for classes [n, k], best first.

    -1 stands for no prediction and is never right.
    """
    images = np.broadcast_to(np.arange(len(classes))[:, None], classes.shape)
    return sets.contain(images, classes)


def top(classes: NDArray[np.int32], original: NDArray[np.int32], k: int) -> Metric:
    """Top-k accuracy against one label an image (int32 [n], below 0 = unknown, does not count)."""
    return Metric(_first(classes, k, classes == original[:, None]), original >= 0)


def real(hit: NDArray[np.bool_], sets: Sets, k: int = 1) -> Metric:
    """ReaL@k: share of images with a label of theirs among the first k; images without labels do not count."""
    return Metric(_first(hit, k, hit) & (sets.sizes > 0), sets.sizes > 0)


def _first(given: NDArray[np.generic], k: int, right: NDArray[np.bool_]) -> NDArray[np.bool_]:
    if not 1 <= k <= given.shape[1]:
        raise SpecError(f"top-{k} accuracy needs {k} predictions an image, the file has {given.shape[1]}")
    return np.asarray(right[:, :k].any(axis=1))


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What reviewers said: labels that are right, that may be right, that are wrong, and images that cannot be used."""

    correct: Sets
    unclear: Sets
    wrong: Sets
    problematic: NDArray[np.bool_]


def multi_label(
    best: NDArray[np.int32], reviewed: Reviewed, original: NDArray[np.int32], *, strict: bool, by_class: bool
) -> Metric:
    """Share of usable images whose best prediction (int32 [n]) is right.

    strict: unclear labels are wrong. by_class: mean over the original classes, as published; else over images.
    """
    images = np.arange(len(best))
    right = reviewed.correct.contain(images, best)
    if not strict:
        right |= reviewed.unclear.contain(images, best)
    usable = ~reviewed.problematic
    return Metric(right & usable, usable, original if by_class else None)


def unreviewed(best: NDArray[np.int32], reviewed: Reviewed) -> Metric:
    """Share of usable images whose best prediction nobody has judged: it counts as wrong, and may not be."""
    images = np.arange(len(best))
    known = np.zeros(len(best), dtype=bool)
    for sets in (reviewed.correct, reviewed.unclear, reviewed.wrong):
        known |= sets.contain(images, best)
    usable = ~reviewed.problematic
    return Metric(~known & usable, usable)


@dataclass(frozen=True, slots=True)
class VariableTop:
    """Variable top-k: an image with k labels is judged by its first k predictions.

    ``uniform``: mean over k of the accuracy of images with k labels (k with at least ``least`` images). ``pooled``:
    mean over images. ``exact``: share of images whose first k are exactly their labels. ``beyond``: images with more
    labels than there are predictions, which none of these counts. ``by_size``: k -> (accuracy, exact share).
    """

    uniform: Metric
    pooled: Metric
    exact: Metric
    by_size: dict[int, tuple[Metric, Metric]]
    beyond: int


def variable_top(hit: NDArray[np.bool_], sets: Sets, least: int = 1) -> VariableTop:
    """Variable top-k of predictions whose hits are [n, width]; images without labels do not count."""
    sizes = sets.sizes
    found = np.concatenate([np.zeros((len(hit), 1), dtype=np.int64), np.cumsum(hit, axis=1)], axis=1)
    counted = (sizes > 0) & (sizes <= hit.shape[1])
    k = np.where(counted, sizes, 0)
    right = found[np.arange(len(hit)), k]
    share = right / np.maximum(k, 1)
    exact = counted & (right == k)
    many = counted & (np.bincount(k, minlength=1)[k] >= least)
    by_size = {}
    for size in np.unique(k[counted]).tolist():
        some = counted & (k == size)
        by_size[size] = (Metric(np.where(some, right, 0), np.where(some, size, 0)), Metric(exact & some, some))
    return VariableTop(
        uniform=Metric(np.where(many, share, 0.0), many, k),
        pooled=Metric(np.where(counted, share, 0.0), counted),
        exact=Metric(exact, counted),
        by_size=by_size,
        beyond=int((sizes > hit.shape[1]).sum()),
    )


def by_labels(
    classes: NDArray[np.int32], hit: NDArray[np.bool_], sets: Sets, original: NDArray[np.int32] | None
) -> dict[int, tuple[Metric | None, Metric]]:
    """Number of labels -> (top-1 against the original label, ReaL@1) of the images that have so many."""
    told: dict[int, tuple[Metric | None, Metric]] = {}
    for size in np.unique(sets.sizes[sets.sizes > 0]).tolist():
        some = sets.sizes == size
        one = None
        if original is not None:
            known = some & (original >= 0)
            one = Metric((classes[:, 0] == original) & known, known)
        told[size] = (one, Metric(hit[:, 0] & some, some))
    return told
