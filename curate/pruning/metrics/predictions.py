"""Metrics of what a model predicts: p float64 [n, c], the probabilities of c classes, and y int [n], the own class.

Every function returns float64 [n], HIGH = hard, with the same bits on every machine. With several models the score is
the mean over them (`mean`). y must lie in 0..c-1 and p must hold probabilities: `checked` says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.pruning import portable

_TOLERANCE = 1e-2
"""How far the probabilities of a row may be from 1 in sum: float16 tables of many classes lose that much."""


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp(z) / sum exp(z) of every row, [n, c] float64; an outlier of -700 below the largest counts as that."""
    weight = portable.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weight / portable.row_sums(weight)[..., None], dtype=np.float64)


def checked(p: NDArray[np.float64], y: NDArray[np.int64] | None = None) -> None:
    """Raise InputError unless each row of p holds probabilities that sum to 1, and each y one of its classes."""
    bad = ~((p >= 0.0) & (p <= 1.0 + _TOLERANCE)).all(axis=1) | (np.abs(portable.row_sums(p) - 1.0) > _TOLERANCE)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"row {row} of the probabilities lies in {p[row].min():g}..{p[row].max():g} and sums to "
            f"{portable.row_sums(p[row]):g}, not to 1; if these are logits, name the column logits"
        )
    if y is not None and len(y) and (int(y.min()) < 0 or int(y.max()) >= p.shape[1]):
        raise InputError(f"a label is class {int(y.max()):,}, but the predictions have {p.shape[1]:,} classes")


def mean(values: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean over models, [n] each, added in the order given: that order decides the last bit."""
    total = np.zeros_like(values[0])
    for value in values:
        total = total + value
    return np.asarray(total / len(values), dtype=np.float64)


def el2n(p: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """EL2N = ||p - onehot(y)||_2, in 0..sqrt(2), of a model early in training.

    Source: Paul, Ganguli, Dziugaite 2021, arXiv 2107.07075, definition 2.2 (there the mean over some ten models).
    """
    error = np.array(p, dtype=np.float64)
    error[np.arange(len(y)), y] -= 1.0
    return np.sqrt(portable.row_sums(error * error))


def grand(p: NDArray[np.float64], y: NDArray[np.int64], h: NDArray[np.float64]) -> NDArray[np.float64]:
    """GraNd of the last layer (weights and bias) under cross-entropy: ||p - onehot(y)|| * sqrt(1 + ||h||^2).

    h: float64 [n, d], the features that enter that layer, as the model made them (not normalised). The gradient with
    respect to W is (p - onehot(y)) h', with respect to b it is p - onehot(y): no differentiation is needed.
    Source: Paul, Ganguli, Dziugaite 2021, arXiv 2107.07075, definition 2.1, for the last layer.
    """
    return grand_of_norm(p, y, portable.row_sums(h * h))


def grand_of_norm(
    p: NDArray[np.float64], y: NDArray[np.int64], norm_squared: NDArray[np.float64]
) -> NDArray[np.float64]:
    """`grand` of features known by ||h||^2 alone, float64 [n]."""
    return np.asarray(el2n(p, y) * np.sqrt(1.0 + norm_squared), dtype=np.float64)


def margin(p: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Minus the margin: max over c != y of p_c - p_y, in -1..1; a sample near the boundary, or wrong, is hard.

    Source: Sorscher et al. 2022, arXiv 2206.14486, section 2 (there y * (J.x) of a linear probe); Toneva et al. 2019.
    """
    line = np.arange(len(y))
    others = np.array(p, dtype=np.float64)
    others[line, y] = -np.inf
    return np.asarray(others.max(axis=1, initial=-1.0) - p[line, y], dtype=np.float64)


def entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-sum_c p_c ln p_c, in 0..ln c: how undecided the model is; needs no label.

    Source: Coleman et al. 2020, arXiv 1906.11829, section 3.1 (Shannon entropy of the prediction).
    """
    there = p > 0.0
    return np.asarray(-portable.row_sums(np.where(there, p * portable.log(np.where(there, p, 1.0)), 0.0)) + 0.0)


def wrong(p: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the likeliest class (of equals the lowest) is another than y, bool [n]."""
    return np.asarray(p.argmax(axis=1) != y)


def ddd(wrong_by_model: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Number of models that get the sample wrong: sum over m of 1[h_m(x) != y]. wrong_by_model: bool [models, n].

    Source: Meding et al. 2022, arXiv 2110.05922 (dichotomous data difficulty), as used by Sorscher et al. 2022.
    """
    return np.asarray(wrong_by_model.sum(axis=0), dtype=np.float64)
