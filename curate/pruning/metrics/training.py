"""Metrics of how training went: forgetting, and what changes when a sample is left out. float64 [n], HIGH = hard."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.pruning import portable

NEVER_LEARNED = float(2**30)
"""Score of a sample that was never right: above any count of events. Infinity would be no number in JSON."""


def forgetting(
    sample: NDArray[np.int64], epoch: NDArray[np.int64], correct: NDArray[np.bool_], n: int
) -> NDArray[np.float64]:
    """Times that a sample which was right became wrong at the next look; NEVER_LEARNED for one that never was right.

    sample int64 [m] in 0..n-1, epoch int64 [m] (any numbers that grow with time), correct bool [m]: one entry a look,
    in any order. Returns float64 [n]; a sample without an entry gets NaN. Memory: 33 bytes an entry.
    Source: Toneva et al. 2019, arXiv 1812.05159, section 3 (forgetting events; unlearned samples rank highest).
    """
    order = np.lexsort((epoch, sample))
    who, right = sample[order], correct[order].astype(bool)
    lost = (who[1:] == who[:-1]) & right[:-1] & ~right[1:]
    events = np.bincount(who[1:][lost], minlength=n).astype(np.float64)
    events[np.bincount(who[right], minlength=n) == 0] = NEVER_LEARNED
    events[np.bincount(who, minlength=n) == 0] = np.nan
    return events


def subset_counts(in_subset: NDArray[np.bool_], correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """What `memorization` needs of models trained on subsets: int64 [4, n], trained with the sample: right and all;
    trained without it: right and all. in_subset, correct: bool [models, n].
    """
    inside, right = in_subset.astype(bool), correct.astype(bool)
    return np.stack([(inside & right).sum(0), inside.sum(0), (~inside & right).sum(0), (~inside).sum(0)])


def memorization(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """P[right | in the training subset] - P[right | not in it], in -1..1; counts int64 [4, n] as `subset_counts` gives.

    NaN where no model was trained with the sample, or none without it.
    Source: Feldman and Zhang 2020, arXiv 2008.03703, section 2, equation 1, estimated over given subsets.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(counts[0] / counts[1] - counts[2] / counts[3], dtype=np.float64)


def influence(
    in_subset: NDArray[np.bool_], test_correct: NDArray[np.bool_], rule: Literal["max", "sum_abs"]
) -> NDArray[np.float64]:
    """How much a training sample changes what becomes of test samples: max over j, or sum over j of |.|, of
    infl(i, j) = P[j right | i in the subset] - P[j right | i not in it].

    in_subset: bool [models, n], which samples each model was trained on; test_correct: bool [models, t]. Returns
    float64 [n]; NaN where all models, or none, were trained with the sample. Counts of models are whole numbers below
    2^24, so the matrix product is exact. Memory: 4 bytes x models x (n + 2,048) and 24 bytes x n x 2,048.
    Source: Feldman and Zhang 2020, arXiv 2008.03703, section 2, equation 2; reduced as in Sorscher et al. 2022.
    """
    models = len(in_subset)
    inside = in_subset.astype(np.float32)
    with_ = in_subset.sum(axis=0).astype(np.float64)[:, None]
    out = np.zeros(in_subset.shape[1], dtype=np.float64) if rule == "sum_abs" else np.full(in_subset.shape[1], -np.inf)
    for start in range(0, test_correct.shape[1], 2048):
        right = test_correct[:, start : start + 2048].astype(np.float32)
        both = (inside.T @ right).astype(np.float64)
        alone = right.sum(axis=0, dtype=np.float64) - both
        with np.errstate(invalid="ignore", divide="ignore"):
            infl = both / with_ - alone / (models - with_)
        out = out + portable.row_sums(np.abs(infl)) if rule == "sum_abs" else np.maximum(out, infl.max(axis=1))
    return np.asarray(out, dtype=np.float64)
