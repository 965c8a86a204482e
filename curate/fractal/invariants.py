"""What is known exactly of a system's invariant measure, without rendering it.

x' = A_i x + b_i with map i drawn independently of x, and x' distributed as x. So moments solve linear systems: with
Abar = sum p_i A_i, the mean is m = (I - Abar)^-1 sum p_i b_i, and C = sum p_i (A_i C A_i^T + d_i d_i^T) with
d_i = A_i m + b_i - m. Both exist when the spectral radius of sum p_i A_i (x) A_i is below 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.systems import System


@dataclass(frozen=True)
class Moments:
    """Exact moments of the invariant measure."""

    mean: NDArray[np.float64]
    """[2]"""
    covariance: NDArray[np.float64]
    """[2, 2]"""
    of_mean: NDArray[np.float64]
    """[2, 2], n times the covariance of the mean of n successive points of an orbit, for large n."""
    radius: float
    """Spectral radius of sum p_i A_i (x) A_i: below 1, and the nearer to 1 the slower an orbit forgets its start."""


def moments(system: System) -> Moments:
    """Exact mean and covariance. Raises SpecError when they do not exist."""
    linear, shift, p = system.maps[:, :, :2], system.maps[:, :, 2], system.p
    squared = sum(weight * np.kron(a, a) for weight, a in zip(p, linear, strict=True))
    radius = float(np.abs(np.linalg.eigvals(squared)).max())
    if not radius < 1.0:
        raise SpecError(
            f"the system does not contract on average (spectral radius {radius:.4g}), so it has no moments."
        )
    average = np.einsum("n,nij->ij", p, linear)
    identity = np.eye(2)
    mean = np.linalg.solve(identity - average, p @ shift)
    move = linear @ mean + shift - mean
    source = np.einsum("n,ni,nj->ij", p, move, move)
    covariance = np.linalg.solve(np.eye(4) - squared, source.reshape(4)).reshape(2, 2)
    lagged = np.linalg.solve(identity - average, average @ covariance)
    return Moments(mean, (covariance + covariance.T) / 2.0, covariance + lagged + lagged.T, radius)


def similarity_dimension(system: System) -> float:
    """The s with sum s1_i^s = 1: the dimension when the maps are similarities with separate images, else an upper bound
    of the box dimension. Raises SpecError when a map does not contract.
    """
    ratios = system.singular_values[:, 0]
    if ratios.max() >= 1.0:
        raise SpecError("a map that does not contract has no similarity dimension.")
    if len(ratios) == 1:
        return 0.0
    low, high = 0.0, 1.0
    while float((ratios**high).sum()) > 1.0:
        high *= 2.0
    for _ in range(200):
        middle = (low + high) / 2.0
        low, high = (middle, high) if float((ratios**middle).sum()) > 1.0 else (low, middle)
    return high


def multifractal(ratios: NDArray[np.float64], p: NDArray[np.float64], q: float) -> float:
    """Generalised dimension D_q of similarities with ratios r_i and separate images: sum p_i^q r_i^(-tau) = 1,
    D_q = tau / (q - 1); q = 1 gives the information dimension. ratios, p: float64 [n], ratios below 1.
    """
    if q == 1.0:
        return float((p * np.log(p)).sum() / (p * np.log(ratios)).sum())
    low, high = -64.0, 64.0
    for _ in range(300):
        middle = (low + high) / 2.0
        value = float((p**q * ratios ** (-middle)).sum())
        low, high = (middle, high) if value < 1.0 else (low, middle)
    return (low + high) / 2.0 / (q - 1.0)


def box_dimension(points: NDArray[np.float64], levels: tuple[int, int] = (3, 9)) -> float:
    """Slope of log2(occupied boxes) against level over a grid of 2^level boxes a side. points: float64 [n, 2].

    Memory: O(n) a level. The grid covers the bounding square of the points.
    """
    low = points.min(axis=0)
    side = float((points.max(axis=0) - low).max())
    if side == 0.0:
        return 0.0
    found = []
    for level in range(levels[0], levels[1] + 1):
        cells = np.minimum(((points - low) * (2**level / side)).astype(np.int64), 2**level - 1)
        found.append(math.log2(len(np.unique(cells[:, 0] * 2**level + cells[:, 1]))))
    return float(np.polyfit(np.arange(levels[0], levels[1] + 1), found, 1)[0])
