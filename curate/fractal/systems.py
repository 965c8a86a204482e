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
_MANY = 8  # from so many maps on the plain rejection is slow, and from 13 hopeless
_HALVINGS = 50


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
    # written out: a linear algebra library rounds otherwise on another processor, and images hang on these
    area = np.abs(maps[:, 0, 0] * maps[:, 1, 1] - maps[:, 0, 1] * maps[:, 1, 0])
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
    last small value solved for. From 8 maps on the uniforms are tilted towards alpha, see `_tilted`. Raises SpecError
    when alpha is outside 0..3n or too extreme to be accepted.
    """
    if not 0.0 < alpha < 3.0 * n:
        raise SpecError(f"the sigma-factor of {n} maps lies between 0 and {3 * n}, not at {alpha:g}.")
    if n >= _MANY:
        return _tilted(alpha, n, draws)
    for _ in range(_TRIES // _BLOCK * max(1, n - 3)):
        raw = draws.uniform(_BLOCK * (2 * n - 1)).reshape(_BLOCK, 2 * n - 1)
        pairs = np.sort(raw[:, : 2 * n - 2].reshape(_BLOCK, n - 1, 2), axis=2)[:, :, ::-1]
        last = (alpha - pairs[:, :, 0].sum(axis=1) - 2.0 * pairs[:, :, 1].sum(axis=1) - raw[:, -1]) / 2.0
        good = np.flatnonzero((last >= 0.0) & (last <= raw[:, -1]))
        if len(good):
            first = good[0]
            return np.vstack([pairs[first], [[raw[first, -1], last[first]]]])
    raise SpecError(f"no singular values of {n} maps with sigma-factor {alpha:g} were found; move it to the middle.")


def _tilted(alpha: float, n: int, draws: Draws) -> NDArray[np.float64]:
    """The law of `sample_values` for many maps, whose uniform values would hardly ever have the sum alpha.

    n - 1 pairs have density exp(-tilt (s1 + 2 s2)) on the triangle 0 <= s2 <= s1 <= 1, with the tilt that gives them
    the mean alpha / n; the last s1 is uniform and the last s2 solved for. On the set of the sum alpha the density of
    the former is exp(tilt (s1 + 2 s2)) of the last pair, so that pair is kept in inverse proportion: what is kept is
    uniform, whatever the tilt.
    """
    tilt = _tilt(alpha / n)
    most = max(0.0, -3.0 * tilt)  # of -tilt (s1 + 2 s2), which is kept with exp of itself less this
    for _ in range(_TRIES):
        pairs = [_pair(tilt, draws) for _ in range(n - 1)]
        large, kept = draws.one(), draws.one()
        rest = alpha - math.fsum(s1 + 2.0 * s2 for s1, s2 in pairs)
        small = (rest - large) / 2.0
        if 0.0 <= small <= large and kept < math.exp(-tilt * rest - most):
            return np.array([*pairs, (large, small)])
    raise SpecError(f"no singular values of {n} maps with sigma-factor {alpha:g} were found; move it to the middle.")


def _tilt(mean: float) -> float:
    """The tilt under which s1 + 2 s2 has about this mean, by halving: the mean falls as the tilt grows."""
    low, high = -64.0, 64.0
    at = (np.arange(64) + 0.5) / 64
    total = np.add.outer(at, 2.0 * at)[np.tri(64, dtype=bool)]
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        weight = np.exp(-middle * total - max(0.0, -3.0 * middle))
        low, high = (middle, high) if float((weight * total).sum()) > mean * float(weight.sum()) else (low, middle)
    return round((low + high) / 2.0, 6)  # so that no library has a say in it


def _pair(tilt: float, draws: Draws) -> tuple[float, float]:
    """(s1, s2) of the density of `_tilted`: s1 - s2 and s2 are independent exponentials, or, for a tilt below 0, 1 - s1
    and s1 - s2 are; drawn until they fit the triangle."""
    while True:
        a, b = 1.0 - draws.one(), 1.0 - draws.one()
        if tilt >= 0.0:
            small = _exponential(b, 3.0 * tilt)
            large = small + _exponential(a, tilt)
            if large <= 1.0:
                return large, small
        else:
            large = 1.0 - _exponential(a, -3.0 * tilt)
            small = large - _exponential(b, -2.0 * tilt)
            if small >= 0.0:
                return large, small


def _exponential(share: float, rate: float) -> float:
    """From a share in (0, 1]: exponential of this rate, cut off at 1."""
    return -math.log(1.0 - (1.0 - share) * -math.expm1(-rate)) / rate if rate > 1e-9 else 1.0 - share


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
    """A_i = R(angles[i]) signs[i] diag(values[i]) R(angles[n + i]) signs[n + i]; signs scale columns.

    Products are written out, so that no linear algebra library has a say in their last bit.
    """
    n = len(values)
    out = np.empty((n, 2, 3))
    for i in range(n):
        (a, b), (c, d) = _turned(angles[i], signs[i])
        (e, f), (g, h) = _turned(angles[n + i], signs[n + i])
        large, small = values[i].tolist()
        a, b, c, d = a * large, b * small, c * large, d * small
        out[i, :, :2] = (a * e + b * g, a * f + b * h), (c * e + d * g, c * f + d * h)
    out[:, :, 2] = shift
    return out


def _turned(angle: float, signs: NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Rows of R(angle) diag(signs)."""
    cos, sin, (first, second) = math.cos(angle), math.sin(angle), signs.tolist()
    return (cos * first, -sin * second), (sin * first, cos * second)
