"""What a class looks like before any image of it is drawn: bounds, fill, dimension and cells from one pilot orbit.

The pilot's key is the same for every system and every seed, so what is found belongs to the system alone; no image
shares it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal import chaos
from curate.fractal.invariants import Moments
from curate.fractal.randomness import key
from curate.fractal.systems import System

PILOT = key("pilot")
POINTS = chaos.points_drawn(100_000)
"""Points of the pilot: those of an image, so that fill is the fill of an image."""
SIDE = 256
CELLS = 16
"""Cells a side of the coarse density that distances of classes are measured on."""
REACH = 2.5
"""How far those cells reach from the mean, in standard deviations on each axis."""
_LEVELS = (3, 7)  # boxes a side 8 to 128: finer ones would need more points
_POINT = 1e-6  # a larger side below this share of the coordinates is rounding around a point, not a shape


@dataclass(frozen=True)
class Survey:
    """What the pilot orbit of a system found."""

    view: chaos.View
    """Canonical bounds: the least box around the pilot, a hair wider."""
    fill: float
    """Share of SIDE x SIDE pixels of that box that the pilot covers."""
    dimension: float
    """Box dimension: slope of log2(occupied boxes) over 8 to 128 boxes a side of the bounding square."""
    covariance: NDArray[np.float64]
    """[2, 2], the exact one where it exists, else the pilot's."""
    cells: NDArray[np.int32]
    """[CELLS, CELLS], points of the pilot in each cell of the box from mean - REACH to mean + REACH deviations. Unlike
    extremes, exact moments have no noise and move smoothly with the parameters. The few points outside are not in."""


def view_of(system: System, points: int = 4096) -> chaos.View | None:
    """Bounds of a pilot orbit of `points`, or None when it is not finite or stays on one point."""
    try:
        view = chaos.bounds(system, PILOT, points)
    except SpecError:
        return None
    (low_x, low_y), (high_x, high_y) = view.low, view.high
    reach = max(abs(low_x), abs(high_x), abs(low_y), abs(high_y))
    side = max(high_x - low_x, high_y - low_y)
    return view if side > _POINT * reach and math.isfinite(side * side) else None


def survey(system: System, exact: Moments | None) -> Survey | None:
    """The pilot of a system, or None when its bounds are not finite or are a point. exact: its moments, if any."""
    view = view_of(system, POINTS)
    if view is None:
        return None
    canvas = chaos.density(system, view, SIDE, POINTS, PILOT)
    mean, covariance = _moments(canvas, view) if exact is None else (exact.mean, exact.covariance)
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    half = REACH * np.maximum(deviation, 1e-6 * deviation.max())
    (x, y), (wide, high) = mean.tolist(), half.tolist()
    cells = chaos.density(system, chaos.View((x - wide, y - high), (x + wide, y + high)), CELLS, POINTS, PILOT)
    fill = int(np.count_nonzero(canvas)) / SIDE**2
    return Survey(view, fill, _dimension(system, view), covariance, cells.astype(np.int32))


def _moments(canvas: NDArray[np.uint32], view: chaos.View) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean [2] and covariance [2, 2] of the points of a canvas, each taken to be in the middle of its pixel."""
    share = canvas / canvas.sum()
    sides = np.subtract(view.high, view.low)
    at = (np.arange(len(canvas)) + 0.5) / len(canvas)
    rows, columns = share.sum(axis=1), share.sum(axis=0)
    mean = np.array([rows @ at, columns @ at])
    mixed = at @ share @ at
    raw = np.array([[rows @ at**2, mixed], [mixed, columns @ at**2]])
    return mean * sides + np.asarray(view.low), (raw - np.outer(mean, mean)) * np.outer(sides, sides)


def _dimension(system: System, view: chaos.View) -> float:
    """See `Survey.dimension`; the same as `invariants.box_dimension` of the pilot's points over the same levels."""
    side = max(high - low for low, high in zip(view.low, view.high, strict=True))
    square = chaos.View(view.low, (view.low[0] + side, view.low[1] + side))
    occupied = chaos.density(system, square, 1 << _LEVELS[1], POINTS, PILOT) > 0
    found = [math.log2(max(1, int(np.count_nonzero(occupied))))]
    for _ in range(_LEVELS[1] - _LEVELS[0]):
        occupied = occupied[0::2] | occupied[1::2]
        occupied = occupied[:, 0::2] | occupied[:, 1::2]
        found.append(math.log2(max(1, int(np.count_nonzero(occupied)))))
    # least squares of found against level, centred; the level falls by one from entry to entry
    middle = (len(found) - 1) / 2.0
    weights = [middle - at for at in range(len(found))]
    return sum(w * f for w, f in zip(weights, found, strict=True)) / sum(w * w for w in weights)
