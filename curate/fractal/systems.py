"""Iterated function systems and the laws they are drawn from (Anderson & Farrell 2022, arXiv 2110.03091, section 3).

A system of n maps is float64 [n, 2, 3]; map i sends a point x to A_i x + b_i with A_i = [i, :, :2], b_i = [i, :, 2].
Drawn by singular values: A = R(theta) D diag(s1, s2) R(phi) E, angles uniform, D and E signs, and the sigma-factor
sum(s1 + 2 s2) in a window that gives neither dust nor a blob.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.randomness import Draws

Sampler = Literal["uniform", "anderson2022"]
Probability = Literal["determinant", "floor", "uniform"]

_TRIES = 4096  # of the rejection, in blocks of _BLOCK; seven maps accept one try in 25
_BLOCK = 64


@dataclass(frozen=True)
class System:
    """Maps and how often each is drawn."""

    maps: NDArray[np.float64]
    """[n, 2, 3]"""
    p: NDArray[np.float64]
    """[n], sums to 1"""

    @property
    def n(self) -> int:
        """Number of maps."""
        return len(self.maps)

    @property
    def singular_values(self) -> NDArray[np.float64]:
        """[n, 2], larger first."""
        return np.asarray(np.linalg.svd(self.maps[:, :, :2], compute_uv=False), dtype=np.float64)

    @property
    def sigma_factor(self) -> float:
        """sum of s1 + 2 s2 over the maps."""
        values = self.singular_values
        return float(values[:, 0].sum() + 2.0 * values[:, 1].sum())


def window(n: int) -> tuple[float, float]:
    """The sigma-factors of good systems of n maps: (5 + n) / 2 to (6 + n) / 2."""
    return (5.0 + n) / 2.0, (6.0 + n) / 2.0


def probabilities(
    maps: NDArray[np.float64], rule: Probability = "determinant", floor: float = 0.0
) -> NDArray[np.float64]:
    """How often each map is drawn, float64 [n].

    "determinant": |det A_i| / sum, as in the paper; equal shares when all are 0. "floor": no map below `floor` of the
    whole, so that thin pieces show (they are almost never drawn otherwise). "uniform": 1 / n. Raises SpecError for a
    floor that leaves no room.
    """
    n = len(maps)
    area = np.abs(np.linalg.det(maps[:, :, :2]))
    total = float(area.sum())
    share = area / total if total > 0.0 else np.full(n, 1.0 / n)
    if rule == "uniform":
        return np.full(n, 1.0 / n)
    if rule == "determinant":
        return share
    if not 0.0 <= floor * n <= 1.0:
        raise SpecError(f"a floor of {floor} for {n} maps is more than the whole; use at most {1.0 / n:.3g}.")
    # what is lifted is taken from the others in proportion, until none of them falls below
    low = share < floor
    while True:
        rest = float(share[~low].sum())
        scaled = np.where(low, floor, share * ((1.0 - floor * int(low.sum())) / rest if rest > 0.0 else 0.0))
        below = ~low & (scaled < floor)
        if not below.any():
            return np.asarray(scaled / scaled.sum(), dtype=np.float64)
        low |= below


def sample_values(alpha: float, n: int, draws: Draws) -> NDArray[np.float64]:
    """Singular values [n, 2] (larger first) with sum(s1 + 2 s2) = alpha, uniform on that set.

    Exchangeable over the maps, unlike the paper's sequential law. Rejection: 2n - 1 uniforms, each pair put in order,
    last small value solved for. Raises SpecError when alpha is outside 0..3n or too extreme to be accepted.
    """
    if not 0.0 < alpha < 3.0 * n:
        raise SpecError(f"the sigma-factor of {n} maps lies between 0 and {3 * n}, not at {alpha:g}.")
    for _ in range(_TRIES // _BLOCK * max(1, n - 3)):
        raw = draws.uniform(_BLOCK * (2 * n - 1)).reshape(_BLOCK, 2 * n - 1)
        pairs = np.sort(raw[:, : 2 * n - 2].reshape(_BLOCK, n - 1, 2), axis=2)[:, :, ::-1]
        last = (alpha - pairs[:, :, 0].sum(axis=1) - 2.0 * pairs[:, :, 1].sum(axis=1) - raw[:, -1]) / 2.0
        good = np.flatnonzero((last >= 0.0) & (last <= raw[:, -1]))
        if len(good):
            first = good[0]
            return np.vstack([pairs[first], [[raw[first, -1], last[first]]]])
    raise SpecError(f"no singular values of {n} maps with sigma-factor {alpha:g} were found; move it to the middle.")


def sample(
    n: int, draws: Draws, *, reach: float = 1.0, alpha: tuple[float, float] | None = None
) -> NDArray[np.float64]:
    """A system of n maps, float64 [n, 2, 3]: uniform singular values, alpha uniform in `window(n)` or the given range.

    reach: translations are uniform in [-reach, reach]^2. The draws decide everything: the same address gives the same.
    """
    low, high = alpha or window(n)
    angles = draws.uniform(2 * n, -math.pi, math.pi)
    signs = np.where(draws.uniform(4 * n).reshape(2 * n, 2) < 0.5, -1.0, 1.0)
    values = sample_values(draws.one(low, high), n, draws)
    shift = draws.uniform(2 * n, -reach, reach).reshape(n, 2)
    return _compose(angles, signs, values, shift)


def sample_anderson2022(
    n: int | tuple[int, ...], rng: np.random.Generator, *, reach: float = 1.0
) -> NDArray[np.float64]:
    """A system by the paper's own sequential law and in its order of draws, bit for bit. n: one number or a choice.

    Kept for parity: the last map is systematically the largest (see `sample` for a law without that).
    """
    if not isinstance(n, int):
        n = int(n[int(rng.integers(len(n)))])
    signs = np.where(rng.random((2 * n, 2, 1)) < 0.5, -1.0, 1.0)[:, :, 0]
    angles = rng.uniform(-math.pi, math.pi, 2 * n)
    alpha = rng.uniform(*window(n))
    values = np.empty((n, 2))
    p, q = alpha, alpha - 3 * n + 3
    for i in range(n - 1):
        large = rng.uniform(max(0.0, q / 3), min(1.0, p))
        q, p = q - large, p - large
        small = rng.uniform(max(0.0, q / 2), min(large, p / 2))
        q, p = q + 3 - 2 * small, p - 2 * small
        values[i] = large, small
    small = rng.uniform(max(0.0, (p - 1) / 2), p / 3)
    values[-1] = p - 2 * small, small
    return _compose(angles, signs, values, rng.uniform(-reach, reach, (n, 2)))


def _compose(
    angles: NDArray[np.float64], signs: NDArray[np.float64], values: NDArray[np.float64], shift: NDArray[np.float64]
) -> NDArray[np.float64]:
    """A_i = R(angles[i]) signs[i] diag(values[i]) R(angles[n + i]) signs[n + i]; signs scale columns."""
    n = len(values)
    cos, sin = np.cos(angles), np.sin(angles)
    turned = np.stack([np.stack([cos, -sin], axis=1), np.stack([sin, cos], axis=1)], axis=1) * signs[:, None, :]
    out = np.empty((n, 2, 3))
    for i in range(n):
        out[i, :, :2] = turned[i] @ np.diag(values[i]) @ turned[n + i]
    out[:, :, 2] = shift
    return out
