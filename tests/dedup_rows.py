"""Rows with planted copies for the tests of duplicate search, and the definition of similarity, dense."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def unit(x: NDArray[np.floating]) -> NDArray[np.float16]:
    """Rows of norm 1, as stored."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def concept(seed: int, n: int, d: int, copies: float = 0.4, noise: float = 0.02) -> NDArray[np.float16]:
    """Rows around one direction; some are exact and some near copies of earlier rows."""
    rng = np.random.default_rng(seed)
    x = unit(0.7 * rng.standard_normal((1, d)) + rng.standard_normal((n, d)))
    for j in np.flatnonzero(rng.random(n) < copies):
        if j:
            base = x[rng.integers(0, j)].astype(np.float64)
            x[j] = base if rng.random() < 0.3 else unit((base + noise * rng.random() * rng.standard_normal(d))[None])[0]
    return x


def similarity_matrix(v: NDArray[np.float16]) -> NDArray[np.float64]:
    """The definition, dense: S[j, i] for i < j, -1 elsewhere."""
    s = similarities(v, v)
    s[np.triu_indices(len(v))] = -1.0
    return s


def similarities(a: NDArray[np.float16], b: NDArray[np.float16]) -> NDArray[np.float64]:
    """The definition, all of a with all of b."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.minimum(x @ y.T / np.sqrt((x * x).sum(axis=1)[:, None] * (y * y).sum(axis=1)[None, :]), 1.0)


def angles(*degrees: float) -> NDArray[np.float16]:
    """Unit vectors in the plane."""
    a = np.radians(degrees)
    return np.stack([np.cos(a), np.sin(a)], axis=1).astype(np.float16)
