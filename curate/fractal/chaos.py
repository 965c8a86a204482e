"""The chaos game: points of a system's invariant measure counted on a canvas, the same symbols on every machine.

LANES orbits run side by side so that their arithmetic overlaps; each word of 64 random bits draws PER_WORD symbols of
BITS bits, looked up in a table of 2**BITS entries, so a map is chosen without a branch or a comparison. The maps are
moved into pixel coordinates beforehand: one step of the orbit is a pixel. Word s of lane l is a hash of
(key, s * LANES + l): symbols depend on nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, uint32, uint64
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.systems import System

LANES = 4
PER_WORD = 5
BITS = 12
RESOLUTION = 1 << BITS
"""Probabilities are whole multiples of 1 / RESOLUTION, see `quantised`."""
MAX_SIDE = 1 << 14

_GOLDEN = uint64(0x9E3779B97F4A7C15)
_MUL_1, _MUL_2 = uint64(0xBF58476D1CE4E5B9), uint64(0x94D049BB133111EB)


@dataclass(frozen=True)
class View:
    """The part of the plane that a canvas shows: x grows with the row, y with the column."""

    low: tuple[float, float]
    high: tuple[float, float]


def quantised(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities [n] rounded to multiples of 1 / RESOLUTION that sum to 1 (largest remainder, ties to the first).

    A map keeps at least one share, so that none vanishes. Raises SpecError for more maps than shares.
    """
    if not 1 <= len(p) <= 256:
        raise SpecError(f"a system has 1 to 256 maps, not {len(p)}.")
    share = p / p.sum() * RESOLUTION
    whole = np.maximum(np.floor(share).astype(np.int64), 1)
    while (rest := RESOLUTION - int(whole.sum())) != 0:
        able = np.arange(len(whole)) if rest > 0 else np.flatnonzero(whole > 1)
        step = 1 if rest > 0 else -1
        order = able[np.argsort(-step * (share - whole)[able], kind="stable")]
        whole[order[: abs(rest)]] += step
    return np.asarray(whole / RESOLUTION, dtype=np.float64)


def symbols(p: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Map of each of the RESOLUTION shares, uint8 [RESOLUTION]. p: as `quantised` returns it, else SpecError."""
    share = p * RESOLUTION
    if (share != np.rint(share)).any() or int(share.sum()) != RESOLUTION:
        raise SpecError(f"probabilities must be multiples of 1 / {RESOLUTION} that sum to 1; see quantised().")
    return np.repeat(np.arange(len(p), dtype=np.uint8), share.astype(np.int64))


def points_drawn(points: int) -> int:
    """Points that are really drawn: `points` rounded up to whole words of all lanes."""
    return -(-points // (LANES * PER_WORD)) * LANES * PER_WORD


def start_of(system: System) -> NDArray[np.float64]:
    """Where every orbit starts, float64 [2]: the fixed point of the most contracting map, which is in the attractor, so
    no points are thrown away at the start.
    """
    first = int(system.singular_values[:, 0].argmin())
    linear, shift = system.maps[first, :, :2], system.maps[first, :, 2]
    return np.asarray(np.linalg.solve(np.eye(2) - linear, shift), dtype=np.float64)


def orbit(system: System, points: int, key: int) -> NDArray[np.float64]:
    """Points of the orbits in float64 [points_drawn(points), 2], in the order they are drawn (lanes interleaved).

    Memory: 16 bytes a point. Not for rendering (see `density`): for bounds, dimensions and checks.
    """
    out = np.empty((points_drawn(points), 2))
    _orbit(_table(system.maps, start_of(system)), symbols(system.p), uint64(key), len(out) // (LANES * PER_WORD), out)
    return out


def density(system: System, view: View, size: int, points: int, key: int) -> NDArray[np.uint32]:
    """Points in each pixel, uint32 [size, size]; what falls outside the view is not counted.

    `points` is rounded up by `points_drawn`. Coordinates are float32, without fused multiply-add: orbits contract, so
    rounding does not grow; it moves about one point in 20,000 to a neighbouring pixel. Raises SpecError for a canvas
    below 1 or above 16,384 pixels and for an empty view. Memory: the canvas.
    """
    if not 1 <= size <= MAX_SIDE:
        raise SpecError(f"a canvas has 1 to {MAX_SIDE} pixels a side, not {size}.")
    low, high = np.asarray(view.low), np.asarray(view.high)
    if not (high > low).all() or not np.isfinite(high - low).all():
        raise SpecError(f"a view from {view.low} to {view.high} shows nothing.")
    scale = size / (high - low)
    # x -> (x - low) * scale, so that the integer part of a point is its pixel; one pixel off, because converting to an
    # integer cuts toward zero and would put points of (-1, 0) into row 0
    maps = system.maps.copy()
    maps[:, :, :2] *= scale[:, None] / scale[None, :]
    maps[:, :, 2] = (
        scale * (system.maps[:, :, :2] @ low + system.maps[:, :, 2] - low) + 1.0 - maps[:, :, :2].sum(axis=2)
    )
    start = (start_of(system) - low) * scale + 1.0
    canvas = np.zeros((size, size), dtype=np.uint32)
    table = _table(maps, start).astype(np.float32)
    _density(table, symbols(system.p), uint64(key), points_drawn(points) // (LANES * PER_WORD), canvas)
    return canvas


def _table(maps: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, 8]: a b e, c d f of x' = a x + b y + e, y' = c x + d y + f, and where orbits start."""
    out = np.empty((len(maps), 8))
    out[:, :6] = maps.reshape(-1, 6)
    out[:, 6:] = start
    return out


@njit(cache=True, nogil=True, inline="always")
def _hash(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> uint64(30))) * _MUL_1
    z = (z ^ (z >> uint64(27))) * _MUL_2
    return z ^ (z >> uint64(31))


@njit(cache=True, nogil=True, inline="always")
def _step(table, symbol, x, y):  # type: ignore[no-untyped-def]
    k = symbol
    return table[k, 0] * x + (table[k, 1] * y + table[k, 2]), table[k, 3] * x + (table[k, 4] * y + table[k, 5])


@njit(cache=True, nogil=True, inline="always")
def _count(flat, size, x, y):  # type: ignore[no-untyped-def]
    # after the shift by one pixel a point below 1 is outside; unsigned, everything outside is too large
    row, column = uint32(np.int32(x)) - uint32(1), uint32(np.int32(y)) - uint32(1)
    if row < size and column < size:
        flat[uint64(row) * uint64(size) + uint64(column)] += uint32(1)


@njit(cache=True, nogil=True)
def _density(table, symbol, key, words, canvas):  # type: ignore[no-untyped-def]
    """Four lanes written out: they are what hides the latency of a step."""
    flat = canvas.reshape(-1)
    size = uint32(canvas.shape[0])
    mask = uint64(RESOLUTION - 1)
    x0 = x1 = x2 = x3 = table[0, 6]
    y0 = y1 = y2 = y3 = table[0, 7]
    counter = key
    for _ in range(words):
        counter += _GOLDEN
        w0 = _hash(counter)
        counter += _GOLDEN
        w1 = _hash(counter)
        counter += _GOLDEN
        w2 = _hash(counter)
        counter += _GOLDEN
        w3 = _hash(counter)
        for _ in range(PER_WORD):
            x0, y0 = _step(table, symbol[w0 & mask], x0, y0)
            x1, y1 = _step(table, symbol[w1 & mask], x1, y1)
            x2, y2 = _step(table, symbol[w2 & mask], x2, y2)
            x3, y3 = _step(table, symbol[w3 & mask], x3, y3)
            w0 >>= uint64(BITS)
            w1 >>= uint64(BITS)
            w2 >>= uint64(BITS)
            w3 >>= uint64(BITS)
            _count(flat, size, x0, y0)
            _count(flat, size, x1, y1)
            _count(flat, size, x2, y2)
            _count(flat, size, x3, y3)


@njit(cache=True, nogil=True)
def _orbit(table, symbol, key, words, out):  # type: ignore[no-untyped-def]
    """The same symbols, slowly: lane by lane, so that it says plainly what `_density` does."""
    mask = uint64(RESOLUTION - 1)
    for lane in range(LANES):
        x, y = table[0, 6], table[0, 7]
        for word in range(words):
            w = _hash(key + _GOLDEN * uint64(word * LANES + lane + 1))
            for step in range(PER_WORD):
                x, y = _step(table, symbol[w & mask], x, y)
                w >>= uint64(BITS)
                at = (word * PER_WORD + step) * LANES + lane
                out[at, 0] = x
                out[at, 1] = y
