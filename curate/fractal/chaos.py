"""The chaos game: points of a system's invariant measure counted on a canvas, the same symbols on every machine.

LANES orbits run side by side. Word s of lane l is the SplitMix64 hash of key + (s * LANES + l + 1) * golden, of 64
bits; symbol t of its PER_WORD symbols is (word >> (BITS * t)) % RESOLUTION, and a table says which map it means, so
that a map is chosen without a branch. The maps are moved into pixel coordinates beforehand: one step of the orbit is a
pixel. Symbols depend on the key alone: the plain loop (`orbit`), the scalar and SIMD kernels and a GPU draw the same.

Lanes start on a warm-up orbit: from the fixed point of the most contracting map, with a key of its own, lane l starts
at step 16 (l + 1). So all start in the attractor, nearly in its invariant measure, and no points are thrown away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import uint64
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal import simd
from curate.fractal.kernels import (
    BITS,
    LANES,
    PER_WORD,
    RESOLUTION,
    count_scalar,
    extent,
    fill_symbols,
    in_pixels,
    in_plane,
    trace,
)
from curate.fractal.systems import System

__all__ = [
    "BITS", "LANES", "MAX_SIDE", "PER_WORD", "RESOLUTION", "PixelGame", "View", "bounds", "density", "kernel_name",
    "lane_starts", "orbit", "pixel_game", "points_drawn", "quantised", "symbols", "words_drawn",
]  # fmt: skip

MAX_SIDE = 1 << 14
_STRAY = 1e6


@dataclass(frozen=True)
class View:
    """The part of the plane that a canvas shows: x grows with the row, y with the column."""

    low: tuple[float, float]
    high: tuple[float, float]


def quantised(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [n] rounded to multiples of 1 / RESOLUTION that sum to 1 (largest remainder, ties to the first).

    A map keeps at least one share, so that none vanishes. Raises SpecError for more maps than shares and for
    probabilities that are negative, not finite or all 0.
    """
    if not 1 <= len(p) <= 256:
        raise SpecError(f"a system has 1 to 256 maps, not {len(p)}.")
    total = float(p.sum())
    if not 0.0 < total < math.inf:
        raise SpecError(f"the probabilities of a system must have a finite sum above 0, not {total:g}.")
    share: list[float] = (p / total * RESOLUTION).tolist()  # lists: arrays of three numbers are slower
    if min(share) < 0.0:
        raise SpecError("a probability of a system is negative.")
    whole = [max(int(one), 1) for one in share]
    while (rest := RESOLUTION - sum(whole)) != 0:
        able = [k for k in range(len(whole)) if rest > 0 or whole[k] > 1]
        step = 1 if rest > 0 else -1
        for k in sorted(able, key=lambda k: step * (whole[k] - share[k]))[: abs(rest)]:
            whole[k] += step
    return np.array(whole) / RESOLUTION


def symbols(p: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Map of each of the RESOLUTION shares, uint8 [RESOLUTION]. p: as `quantised` returns it, else SpecError."""
    out = np.empty(RESOLUTION, dtype=np.uint8)
    _check_shares(fill_symbols(np.ascontiguousarray(p, dtype=np.float64), out))
    return out


def words_drawn(points: int) -> int:
    """Words that each lane takes for `points` points."""
    return -(-points // (LANES * PER_WORD))


def points_drawn(points: int) -> int:
    """Points that are really drawn: `points` rounded up to whole words of all lanes."""
    return words_drawn(points) * LANES * PER_WORD


def lane_starts(system: System, key: int) -> NDArray[np.float64]:
    """Where the lanes start, float64 [LANES, 2]; the starts themselves are not counted."""
    return np.asarray(_plane(system, key)[2])


def orbit(system: System, points: int, key: int) -> NDArray[np.float64]:
    """Points of the orbits in float64 [points_drawn(points), 2], in the order they are drawn (lanes interleaved).

    Memory: 16 bytes a point. Not for rendering (see `density`): for dimensions and checks.
    """
    out = np.empty((points_drawn(points), 2))
    trace(*_plane(system, key), uint64(key), words_drawn(points), out)
    return out


def bounds(system: System, key: int, points: int = 4096) -> View:
    """The view that a pilot orbit of this key fills: its extent, a hair wider, so that all its points lie inside.

    A hair: 1e-5 of the extent on that axis and 1e-6 of the larger one, so that a line has a width too. Another key
    finds slightly other bounds; a longer pilot wider ones. Raises SpecError when the orbit strays beyond a million
    times the largest translation: then maps expand, and there is no attractor to show.
    """
    low_x, low_y, high_x, high_y = extent(*_plane(system, key), uint64(key), words_drawn(points))
    reach = max(abs(low_x), abs(high_x), abs(low_y), abs(high_y))
    if not reach <= _STRAY * max(abs(system.maps[:, :, 2].min()), abs(system.maps[:, :, 2].max())):
        raise SpecError("the orbit of this system leaves every bound, since its maps expand; use maps that contract.")
    wide, tall = high_x - low_x, high_y - low_y
    least = 1e-6 * max(wide, tall) + 1e-9 * reach + 1e-12
    a, b = 1e-5 * wide + least, 1e-5 * tall + least
    return View((low_x - a, low_y - b), (high_x + a, high_y + b))


@dataclass(frozen=True)
class PixelGame:
    """All that a renderer needs, in the coordinates of a canvas: see the top of this file for words and symbols.

    A step is x' = (a x) + ((b y) + e), y' = (c x) + ((d y) + f) in float32, each operation rounded. A point at x with
    1 <= x < size + 1 lies in row int(x) - 1; y gives the column likewise; all other points are not counted.
    """

    table: NDArray[np.float32]
    """[n, 6]: a b e c d f of each map"""
    symbols: NDArray[np.uint8]
    """[RESOLUTION], the map of each symbol"""
    starts: NDArray[np.float32]
    """[LANES, 2]; not counted themselves"""
    key: int
    """Word s of lane l is the hash of key + (s * LANES + l + 1) * golden: word s * LANES + l of randomness.words."""


def pixel_game(system: System, view: View, size: int, key: int) -> PixelGame:
    """The game that `density` plays, for another renderer: it takes words_drawn(points) words of each lane.

    Raises SpecError as `density` does.
    """
    return PixelGame(*_pixels(system, view, size, key), key)


def density(system: System, view: View, size: int, points: int, key: int) -> NDArray[np.uint32]:
    """Points in each pixel, uint32 [size, size]; what falls outside the view is not counted.

    `points` is rounded up by `points_drawn`. Coordinates are float32, without fused multiply-add: orbits contract, so
    rounding does not grow; it moves about one point in 20,000 to a neighbouring pixel. Raises SpecError for a canvas
    below 1 or above 16,384 pixels and for an empty view. Memory: the canvas.
    """
    table, symbol, starts = _pixels(system, view, size, key)
    flat = np.zeros(size * size + simd.SPARE, dtype=np.uint32)
    count = count_scalar if len(table) > simd.MOST_MAPS or simd.trouble() else simd.count_avx2
    count(table, symbol, starts, uint64(key), words_drawn(points), size, flat)
    return flat[: size * size].reshape(size, size)


def kernel_name() -> str:
    """Which loop `density` uses for systems of up to eight maps: "avx2", or "scalar: " and why. Both draw the same."""
    why = simd.trouble()
    return f"scalar: {why}" if why else "avx2"


def _plane(system: System, key: int) -> tuple[NDArray[np.float64], NDArray[np.uint8], NDArray[np.float64]]:
    """Table, symbols and starts in the plane."""
    good, table, symbol, starts = in_plane(*_arrays(system), uint64(key))
    _check_shares(good)
    return table, symbol, starts


def _pixels(
    system: System, view: View, size: int, key: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float32]]:
    """Table, symbols and starts on a canvas."""
    if not 1 <= size <= MAX_SIDE:
        raise SpecError(f"a canvas has 1 to {MAX_SIDE} pixels a side, not {size}.")
    (low_x, low_y), (high_x, high_y) = view.low, view.high
    if not (0.0 < high_x - low_x < math.inf and 0.0 < high_y - low_y < math.inf):
        raise SpecError(f"a view from {view.low} to {view.high} shows nothing.")
    good, table, symbol, starts = in_pixels(*_arrays(system), uint64(key), size, low_x, low_y, high_x, high_y)
    _check_shares(good)
    return table, symbol, starts


def _arrays(system: System) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Maps and probabilities in the one layout that the kernels are compiled for."""
    return np.ascontiguousarray(system.maps, dtype=np.float64), np.ascontiguousarray(system.p, dtype=np.float64)


def _check_shares(good: bool) -> None:
    if not good:
        raise SpecError(f"probabilities must be multiples of 1 / {RESOLUTION} that sum to 1; see quantised().")
