"""The renderer of Anderson & Farrell 2022 (arXiv 2110.03091) as it was published, to compare with: not for production.

The chaos game on uniforms that the caller gives, so that its points are equal bit for bit, on the box of the points of
this very draw. With its faults: a box that differs from draw to draw, a last row and column that hold only the largest
point, and an index cut toward zero, so that a view inside the attractor counts points of (-1, 0) in row or column 0.
`chaos.py` has none of them.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.chaos import View
from curate.fractal.systems import System


def orbit(system: System, uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """One point for each uniform, float64 [n, 2]: map k is the first whose cumulative probability is above the uniform.

    The orbit starts at the fixed point of map 0, which is not among the points. When an orbit leaves the range of
    float64 the points before that are returned. Probabilities that are NaN pick the last map, as published. uniforms:
    float64 [n] in [0, 1). Raises SpecError when map 0 has no single fixed point. Memory: 16 bytes a point.
    """
    linear, shift = system.maps[0, :, :2], system.maps[0, :, 2]
    try:
        start = np.linalg.solve(np.eye(2) - linear, shift)
    except np.linalg.LinAlgError:
        raise SpecError("map 0 has no single fixed point to start at; put another map first.") from None
    out = np.empty((len(uniforms), 2))
    count = _orbit(
        np.ascontiguousarray(system.maps, dtype=np.float64),
        np.cumsum(system.p),
        np.ascontiguousarray(uniforms, dtype=np.float64),
        float(start[0]),
        float(start[1]),
        out,
    )
    return out[:count]


def region(points: NDArray[np.float64]) -> View:
    """The box of the points [n, 2]. Raises SpecError when there are none."""
    if len(points) == 0:
        raise SpecError("there are no points to show: the orbit left the range of numbers at once.")
    low, high = points.min(axis=0), points.max(axis=0)
    return View((float(low[0]), float(low[1])), (float(high[0]), float(high[1])))


def counts(points: NDArray[np.float64], size: int, view: View | None = None) -> NDArray[np.uint32]:
    """Points of [n, 2] in each pixel, uint32 [size, size]: row int((x - low) * (size - 1) / span), column so of y.

    A span of 0 counts as 1; points outside the canvas are left out. view: default `region(points)`.
    """
    view = view or region(points)
    canvas = np.zeros((size, size), dtype=np.uint32)
    _count(np.ascontiguousarray(points, dtype=np.float64), *view.low, *view.high, canvas)
    return canvas


def binary(counts: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """1 where there is a point, uint8 [size, size]."""
    return (counts > 0).astype(np.uint8)


def graded(counts: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Counts as a share of the largest, float64 [size, size] in 0..1; all 0 when there are no points."""
    return np.asarray(counts / max(int(counts.max()), 1), dtype=np.float64)


@njit(cache=True, nogil=True)
def _orbit(maps, cumulative, uniforms, x, y, out):  # type: ignore[no-untyped-def]
    """Fills out and returns how many points are finite."""
    last = len(maps) - 1
    for i in range(len(uniforms)):
        r = uniforms[i]
        k = 0
        while k < last and not r < cumulative[k]:
            k += 1
        x, y = (
            maps[k, 0, 0] * x + maps[k, 0, 1] * y + maps[k, 0, 2],
            maps[k, 1, 0] * x + maps[k, 1, 1] * y + maps[k, 1, 2],
        )
        if not (np.isfinite(x) and np.isfinite(y)):
            return i
        out[i, 0] = x
        out[i, 1] = y
    return len(uniforms)


@njit(cache=True, nogil=True)
def _count(points, low_x, low_y, high_x, high_y, canvas):  # type: ignore[no-untyped-def]
    size = len(canvas)
    span_x = high_x - low_x
    span_y = high_y - low_y
    if span_x == 0.0:
        span_x = 1.0
    if span_y == 0.0:
        span_y = 1.0
    for i in range(len(points)):
        across = (points[i, 0] - low_x) * (size - 1) / span_x
        down = (points[i, 1] - low_y) * (size - 1) / span_y
        # compared before they are cut: a number too large for an integer has no defined one
        if -1.0 < across < size and -1.0 < down < size:
            canvas[int(across), int(down)] += np.uint32(1)
