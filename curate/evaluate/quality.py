"""How good sets of labels are against better ones: precision, recall, average precision, calibration, abstention.

Everything is counted over (image, label) pairs, drawn again by image for the intervals. The better sets may be complete
(what they do not list is wrong) or cover only what was asked (`known`), and may leave pairs open (`ignored`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.evaluate import calibration_error
from curate.evaluate.bootstrap import Estimate, Metric, Resampling, estimate, interval, weights
from curate.evaluate.quality_kernels import GROUP, TIE, average_precision, binned, by_class
from curate.evaluate.sets import Sets

BINS = 15
Counts = NDArray[np.uint16]
"""How often each image is drawn: [resamples, n]."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs that are judged: those proposed, then the right ones nobody proposed.

    ``image`` int64, ``label`` int32, ``kept`` bool (in the set that is released), ``right`` bool, ``score`` float64
    (NaN = proposed by nobody, or without a score), ``proposed`` bool: all [m]. ``images``: n.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int32]
    kept: NDArray[np.bool_]
    right: NDArray[np.bool_]
    score: NDArray[np.float64]
    proposed: NDArray[np.bool_]
    images: int


def judge(
    proposed: Sets,
    truth: Sets,
    *,
    score: NDArray[np.floating] | None = None,
    kept: NDArray[np.bool_] | None = None,
    known: Sets | None = None,
    ignored: Sets | None = None,
) -> Pairs:
    """Hold proposed labels of n images against the truth about the same images.

    score, kept: of each proposed label, [m]; kept None = all. known: pairs that were judged at all, None = all pairs.
    ignored: pairs about which nothing is said, such as unclear ones. Memory: about 100 bytes a pair.
    """
    image, label = proposed.images, proposed.classes
    held = np.ones(len(image), dtype=bool)
    if known is not None:
        held &= known.contain(image, label)
    if ignored is not None:
        held &= ~ignored.contain(image, label)
    missed = ~proposed.contain(truth.images, truth.classes)
    if ignored is not None:
        missed &= ~ignored.contain(truth.images, truth.classes)
    more = int(missed.sum())
    values = np.full(len(image), np.nan) if score is None else score.astype(np.float64)
    chosen = np.ones(len(image), dtype=bool) if kept is None else kept
    return Pairs(
        image=np.concatenate([image[held], truth.images[missed]]),
        label=np.concatenate([label[held], truth.classes[missed]]),
        kept=np.concatenate([chosen[held], np.zeros(more, dtype=bool)]),
        right=np.concatenate([truth.contain(image, label)[held], np.ones(more, dtype=bool)]),
        score=np.concatenate([values[held], np.full(more, np.nan)]),
        proposed=np.concatenate([np.ones(int(held.sum()), dtype=bool), np.zeros(more, dtype=bool)]),
        images=len(truth),
    )


def measures(pairs: Pairs, how: Resampling) -> dict[str, Estimate]:
    """All measures by name, with intervals from resampled images.

    precision, recall, f1 (micro), and macro_* (mean over classes: recall and F1 over classes with a right label,
    precision over classes with a kept one); jaccard and exact_set (mean over images; two empty sets are equal), the
    same over images where both sets have labels (*_both); coverage (share of right labels among the proposed, kept or
    not); false_adds (labels too many an image, of images with one right label); abstention (share of images left
    without labels), abstention_precision and abstention_recall (for the images whose truth is empty). With scores also
    ap, macro_ap, ece and brier (over proposed pairs; scores in [0, 1] for these two).
    """
    told = {name: estimate(metric, how) for name, metric in _of_images(pairs).items()}
    weighted = [_macro(pairs), *(_of_scores(pairs) if np.isfinite(pairs.score).any() else [])]
    value = np.concatenate([at(np.ones((1, pairs.images), dtype=np.uint16))[0] for _, at in weighted])
    drawn = [np.concatenate([at(weight) for _, at in weighted], axis=1) for weight in weights(pairs.images, how)] or [
        np.zeros((0, len(value)))
    ]
    names = [name for some, _ in weighted for name in some]
    for name, one, column in zip(names, value.tolist(), np.concatenate(drawn).T, strict=True):
        absent = np.isnan(one)
        told[name] = Estimate(None, None, None, 0) if absent else interval(one, column, how, pairs.images)
    return told


def _of_images(pairs: Pairs) -> dict[str, Metric]:
    """Measures that are ratios of sums over images."""

    def counted(which: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(pairs.image[which], minlength=pairs.images)

    both = counted(pairs.kept & pairs.right)
    kept, right = counted(pairs.kept), counted(pairs.right)
    either = kept + right - both
    jaccard = np.where(either > 0, both / np.maximum(either, 1), 1.0)
    equal = either == both
    every = np.ones(pairs.images, dtype=bool)
    filled = (kept > 0) & (right > 0)
    single = right == 1
    left, empty = kept == 0, right == 0
    return {
        "precision": Metric(both, kept),
        "recall": Metric(both, right),
        "f1": Metric(2 * both, kept + right),
        "jaccard": Metric(jaccard, every),
        "jaccard_both": Metric(np.where(filled, jaccard, 0.0), filled),
        "exact_set": Metric(equal, every),
        "exact_set_both": Metric(equal & filled, filled),
        "coverage": Metric(counted(pairs.right & pairs.proposed), right),
        "false_adds": Metric(np.where(single, kept - both, 0), single),
        "abstention": Metric(left, every),
        "abstention_precision": Metric(left & empty, left),
        "abstention_recall": Metric(left & empty, empty),
    }


Weighted = tuple[tuple[str, ...], Callable[[Counts], NDArray[np.float64]]]
"""Names of measures, and what gives them for weights of the images: [b, n] -> [b, measures]."""


def _macro(pairs: Pairs) -> Weighted:
    image, size = pairs.image.astype(np.int32), 1 + int(pairs.label.max(initial=0))

    def at(weight: Counts) -> NDArray[np.float64]:
        return by_class(image, pairs.label, pairs.kept, pairs.right, weight, size)

    return ("macro_precision", "macro_recall", "macro_f1"), at


def _of_scores(pairs: Pairs) -> list[Weighted]:
    scored = np.isfinite(pairs.score)
    told = [_ranked(pairs, "ap", np.zeros_like(pairs.label)), _ranked(pairs, "macro_ap", pairs.label)]
    value = pairs.score[scored]
    if value.min() >= 0 and value.max() <= 1:
        place = calibration_error.bins_of(value, BINS).astype(np.int32)
        image, right = pairs.image[scored].astype(np.int32), pairs.right[scored]

        def at(weight: Counts) -> NDArray[np.float64]:
            return binned(image, place, value, right, weight, BINS)

        told.append((("ece", "brier"), at))
    return told


def _ranked(pairs: Pairs, name: str, group: NDArray[np.int32]) -> Weighted:
    """Average precision within groups of pairs, those without a score last."""
    fallen = np.where(np.isfinite(pairs.score), -pairs.score, np.inf)
    order = np.lexsort((fallen, group))
    score, groups = fallen[order], group[order]
    ends = np.append(groups[1:] != groups[:-1], True)
    mark = np.where(ends, GROUP, np.where(np.append(score[1:] != score[:-1], True), TIE, 0)).astype(np.uint8)
    image, right = pairs.image[order].astype(np.int32), pairs.right[order]

    def at(weight: Counts) -> NDArray[np.float64]:
        return average_precision(image, mark, np.isfinite(score), right, weight)[:, None]

    return (name,), at
