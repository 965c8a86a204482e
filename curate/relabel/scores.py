"""One score a class for a whole image, from what its cells say: the best cell, the mean, the mean of the best share.

    image_scores(probabilities, "top", share=0.1)      # float32 [C] of dense [C, H, W]
    sparse = sparse_scores(label_map, "max")           # of the stored classes only, with what they could be at most

Probabilities compare between images; logits only within one. What never lives here: thresholds (calibration.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.relabel.maps import LabelMap

Rule = Literal["max", "mean", "top"]

_HALF = 2.0**-11
"""Rounding to float16 moves a normal score by at most this share of it."""
_LEAST_HALF = 2.0**-25  # and a subnormal one by at most this


@dataclass(frozen=True, slots=True, eq=False)
class SparseScores:
    """Scores of the classes that a label map stores in at least one cell.

    ``classes``: [n], rising. ``scores``: float32 [n], with 0 in cells that do not store the class. ``upper``: float32
    [n], what the score is at most when all classes are known; None for maps without lse. ``unseen``: the same for a
    class that no cell stores (its score here is 0); None without lse.
    """

    classes: NDArray[np.unsignedinteger[Any]]
    scores: NDArray[np.float32]
    upper: NDArray[np.float32] | None
    unseen: float | None


def image_scores(values: NDArray[np.floating[Any]], rule: Rule, share: float = 0.1) -> NDArray[np.float32]:
    """float32 [C] of values [C, H, W] (logits or probabilities of every cell).

    "max": the best cell. "mean": of all cells; of logits it is the classifier's own output. "top": the mean of the
    best ceil(share * H * W) cells, each class its own. Memory: a copy of `values`. Raises InputError for another rule,
    a share outside (0, 1], or values of another shape.
    """
    if values.ndim != 3 or not values.size:
        raise InputError(f"Values have the shape {list(values.shape)}; wanted classes x rows x columns.")
    return _scored(values.reshape(len(values), -1), rule, share)


def sparse_scores(one: LabelMap, rule: Rule, share: float = 0.1) -> SparseScores:
    """Scores from the stored classes: of probabilities when the map has lse, else of its scores.

    A class that a cell does not store is unknown there and counts 0 (ReLabel's dense map has that 0, too, where scores
    are logits). With lse it is at most as probable as the last stored class, and as what all stored ones leave of 1;
    `upper` counts that instead of 0, and allows for the rounding of scores to float16. So a score is never too high by
    more than rounding, and never too low by more than `upper` says. Memory: two arrays of stored classes x cells.
    Raises InputError as `image_scores`.
    """
    k = one.shape[0]
    numbers = one.classes.reshape(k, -1)
    scores = one.scores.reshape(k, -1).astype(np.float64)
    classes, rows = np.unique(numbers, return_inverse=True)
    rows, columns = rows.reshape(numbers.shape), np.broadcast_to(np.arange(numbers.shape[1]), numbers.shape)
    filled = np.zeros((len(classes), numbers.shape[1]), dtype=np.float64)
    if one.lse is None:
        filled[rows, columns] = scores
        return SparseScores(classes, _scored(filled, rule, share), None, None)
    lse = one.lse.reshape(-1).astype(np.float64)
    filled[rows, columns] = np.minimum(np.exp(scores - lse), 1.0)  # float16 may round a score up past the lse
    slack = np.zeros_like(scores)
    if one.scores.dtype == np.float16:
        slack = np.maximum(np.abs(scores) * _HALF, _LEAST_HALF)
    slack = slack + 1e-6 * (1 + np.abs(lse))  # float32 sums
    most = np.minimum(np.exp(scores - lse + slack), 1.0)
    left = np.clip(1 - np.exp(scores - lse - slack).sum(axis=0), 0, 1)
    bound = np.minimum(most.min(axis=0), left)  # of a class that the cell does not store
    ceiling = np.tile(bound, (len(classes) + 1, 1))
    ceiling[rows, columns] = most
    upper = _scored(ceiling, rule, share)
    return SparseScores(classes, _scored(filled, rule, share), upper[:-1], float(upper[-1]))


def _scored(values: NDArray[np.floating[Any]], rule: Rule, share: float) -> NDArray[np.float32]:
    cells = values.shape[1]
    scored: NDArray[Any]
    if rule == "max":
        scored = values.max(axis=1)
    elif rule == "mean":
        scored = values.mean(axis=1, dtype=np.float64)
    elif rule == "top":
        if not 0 < share <= 1:
            raise InputError(f"The share of cells is {share:g}; it must be above 0 and at most 1.")
        best = max(1, math.ceil(share * cells - 1e-9))  # 0.1 * 30 is 3.0000000000000004
        kept = np.partition(values, cells - best, axis=1)[:, cells - best :]
        scored = kept.mean(axis=1, dtype=np.float64)
    else:
        raise InputError(f'The rule is {rule!r}; choose "max", "mean" or "top".')
    return scored.astype(np.float32)
