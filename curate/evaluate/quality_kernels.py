"""Compiled loops over (image, label) pairs for many resamples at once; `quality.py` says what they mean."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Counts = NDArray[np.uint16]


TIE, GROUP = 1, 2
"""Marks of pairs: the last of those with the same score, the last of a group."""


@njit(cache=True, nogil=True)
def average_precision(
    image: NDArray[np.int32],
    mark: NDArray[np.uint8],
    scored: NDArray[np.bool_],
    right: NDArray[np.bool_],
    weight: Counts,
) -> NDArray[np.float64]:
    """Mean over groups of sum (R_i - R_(i-1)) P_i over the distinct scores, [b] for weights [b, n].

    Pairs come by group, in it by falling score, those without a score last: they count as right labels that are never
    found. mark: TIE or GROUP at the last pair of each, GROUP wins. Groups without a right label do not count; NaN when
    there is none.
    """
    out = np.full(len(weight), np.nan)
    for b in range(len(weight)):
        row = weight[b]
        total, groups = 0.0, 0
        found, seen, missed, gained, area = 0, 0, 0, 0, 0.0
        for i in range(len(image)):
            w = int(row[image[i]])
            if scored[i]:
                seen += w
                if right[i]:
                    gained += w
            elif right[i]:
                missed += w
            if mark[i]:
                if gained > 0:
                    found += gained
                    area += gained * found / seen
                    gained = 0
                if mark[i] == GROUP:
                    if found + missed > 0:
                        total += area / (found + missed)
                        groups += 1
                    found, seen, missed, area = 0, 0, 0, 0.0
        if groups:
            out[b] = total / groups
    return out


@njit(cache=True, nogil=True)
def by_class(
    image: NDArray[np.int32],
    label: NDArray[np.int32],
    kept: NDArray[np.bool_],
    right: NDArray[np.bool_],
    weight: Counts,
    classes: int,
) -> NDArray[np.float64]:
    """Mean over classes of precision (classes with a kept label), recall and F1 (with a right one): [b, 3]."""
    out = np.full((len(weight), 3), np.nan)
    both, said, true = np.empty(classes), np.empty(classes), np.empty(classes)
    for b in range(len(weight)):
        row = weight[b]
        both[:] = 0
        said[:] = 0
        true[:] = 0
        for i in range(len(image)):
            w = row[image[i]]
            if kept[i]:
                said[label[i]] += w
                if right[i]:
                    both[label[i]] += w
            if right[i]:
                true[label[i]] += w
        p, r, f, n_said, n_true = 0.0, 0.0, 0.0, 0, 0
        for c in range(classes):
            if said[c] > 0:
                p += both[c] / said[c]
                n_said += 1
            if true[c] > 0:
                r += both[c] / true[c]
                f += 2 * both[c] / (said[c] + true[c])
                n_true += 1
        if n_said:
            out[b, 0] = p / n_said
        if n_true:
            out[b, 1] = r / n_true
            out[b, 2] = f / n_true
    return out


@njit(cache=True, nogil=True)
def binned(
    image: NDArray[np.int32],
    place: NDArray[np.int32],
    probability: NDArray[np.float64],
    right: NDArray[np.bool_],
    weight: Counts,
    bins: int,
) -> NDArray[np.float64]:
    """Expected calibration error and Brier score of pairs in bins: [b, 2]."""
    out = np.full((len(weight), 2), np.nan)
    gap = np.empty(bins)
    for b in range(len(weight)):
        row = weight[b]
        gap[:] = 0
        total, square = 0.0, 0.0
        for i in range(len(image)):
            w = row[image[i]]
            off = probability[i] - (1.0 if right[i] else 0.0)
            gap[place[i]] += w * off
            square += w * off * off
            total += w
        if total > 0:
            out[b, 0] = np.abs(gap).sum() / total
            out[b, 1] = square / total
    return out
