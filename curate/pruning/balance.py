"""How evenly a dataset is spread over its classes."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def class_balance(counts: NDArray[np.int64]) -> float:
    """Mean over all pairs of classes of the smaller count over the larger: 1 is even, 0 is all in one class.

    counts int64 [k], samples of each class; give only classes that had samples before pruning. Two classes without
    samples are equally large and count as 1; a single class is balanced. Sorscher et al. 2022, arXiv 2206.14486,
    section on class balance. Time O(k log k), memory O(k): with counts sorted, class i is the larger one of i pairs
    that share its denominator.
    """
    ordered = np.sort(np.asarray(counts, dtype=np.int64))
    k = len(ordered)
    if k < 2:
        return 1.0
    empty = int(np.count_nonzero(ordered == 0))
    before = np.cumsum(ordered) - ordered
    total = math.fsum((before[empty:] / ordered[empty:]).tolist()) + empty * (empty - 1) / 2
    return total / (k * (k - 1) / 2)
