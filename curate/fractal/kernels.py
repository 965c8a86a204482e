"""The loops of the chaos game, compiled: what curate.fractal.chaos prepares, these count.

They hold no choices of their own; the symbols, the arithmetic and its order are described in curate.fractal.chaos.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint32, uint64

LANES = 32
PER_WORD = 5
BITS = 12
RESOLUTION = 1 << BITS
WARM_UP = 16
"""Steps of the warm-up orbit between the start of one lane and that of the next."""

GOLDEN = uint64(0x9E3779B97F4A7C15)
MUL_1, MUL_2 = uint64(0xBF58476D1CE4E5B9), uint64(0x94D049BB133111EB)
WARM_KEY = uint64(0x5851F42D4C957F2D)
"""The key of the warm-up orbit is the hash of the key of the lanes, flipped by these bits."""
MASK = uint64(RESOLUTION - 1)


@njit(cache=True, nogil=True, inline="always")
def hashed(z):  # type: ignore[no-untyped-def]
    """SplitMix64's finaliser."""
    z = (z ^ (z >> uint64(30))) * MUL_1
    z = (z ^ (z >> uint64(27))) * MUL_2
    return z ^ (z >> uint64(31))


@njit(cache=True, nogil=True, inline="always")
def step(table, k, x, y):  # type: ignore[no-untyped-def]
    """The image of a point under map k."""
    return table[k, 0] * x + (table[k, 1] * y + table[k, 2]), table[k, 3] * x + (table[k, 4] * y + table[k, 5])


@njit(cache=True, nogil=True)
def fill_symbols(p, symbol):  # type: ignore[no-untyped-def]
    """Write the map of each share; False when probabilities are not whole shares that sum to 1."""
    at = 0
    for k in range(len(p)):
        share = p[k] * RESOLUTION
        if not (0.0 <= share <= RESOLUTION - at) or share != np.floor(share):
            return False
        for _ in range(int(share)):
            symbol[at] = k
            at += 1
    return at == RESOLUTION


@njit(cache=True, nogil=True)
def fixed_point(table):  # type: ignore[no-untyped-def]
    """The fixed point of the map with the smallest largest singular value (the first of equals).

    s1^2 is the larger root of z^2 - t z + d^2: t the sum of the squared entries, d the determinant. A map that has no
    single fixed point does not contract; (0, 0) then.
    """
    best, first = np.inf, 0
    for k in range(len(table)):
        a, b, c, d = table[k, 0], table[k, 1], table[k, 3], table[k, 4]
        total, det = a * a + b * b + c * c + d * d, a * d - b * c
        large = total + np.sqrt(max(total * total - 4.0 * det * det, 0.0))
        if large < best:
            best, first = large, k
    a, b, c, d = 1.0 - table[first, 0], -table[first, 1], -table[first, 3], 1.0 - table[first, 4]
    e, f = table[first, 2], table[first, 5]
    det = a * d - b * c
    if det == 0.0:
        return 0.0, 0.0
    return (d * e - b * f) / det, (a * f - c * e) / det


@njit(cache=True, nogil=True)
def fill_starts(table, symbol, key, starts):  # type: ignore[no-untyped-def]
    """Lane l starts at step WARM_UP * (l + 1) of an orbit of its own key, from the fixed point."""
    x, y = fixed_point(table)
    counter = hashed(key ^ WARM_KEY)
    word, left = uint64(0), 0
    for lane in range(LANES):
        for _ in range(WARM_UP):
            if left == 0:
                counter += GOLDEN
                word, left = hashed(counter), PER_WORD
            x, y = step(table, symbol[word & MASK], x, y)
            word >>= uint64(BITS)
            left -= 1
        starts[lane, 0] = x
        starts[lane, 1] = y


@njit(cache=True, nogil=True)
def in_plane(maps, p, key):  # type: ignore[no-untyped-def]
    """Table float64 [n, 6], symbols and starts float64 [LANES, 2] of `orbit`; whether the probabilities are right."""
    table = maps.copy().reshape(-1, 6)
    symbol = np.empty(RESOLUTION, dtype=np.uint8)
    starts = np.empty((LANES, 2))
    good = fill_symbols(p, symbol)
    if good:
        fill_starts(table, symbol, key, starts)
    return good, table, symbol, starts


@njit(cache=True, nogil=True)
def in_pixels(maps, p, key, size, low_x, low_y, high_x, high_y):  # type: ignore[no-untyped-def]
    """The same in the coordinates of a canvas, table and starts in float32.

    x -> (x - low) * scale + 1: the integer part of a point, less one, is its pixel. One pixel off, because converting
    to an integer cuts toward zero and would put points of (-1, 0) into row 0.
    """
    good, table, symbol, starts = in_plane(maps, p, key)
    u, v = size / (high_x - low_x), size / (high_y - low_y)
    small, first = np.empty((len(table), 6), dtype=np.float32), np.empty((LANES, 2), dtype=np.float32)
    for k in range(len(table)):
        a, b, e = table[k, 0], table[k, 1], table[k, 2]
        c, d, f = table[k, 3], table[k, 4], table[k, 5]
        e, f = u * (a * low_x + b * low_y + e - low_x), v * (c * low_x + d * low_y + f - low_y)
        b, c = b * (u / v), c * (v / u)
        small[k, 0], small[k, 1], small[k, 2] = a, b, e + 1.0 - (a + b)
        small[k, 3], small[k, 4], small[k, 5] = c, d, f + 1.0 - (c + d)
    for lane in range(LANES):
        first[lane, 0] = (starts[lane, 0] - low_x) * u + 1.0
        first[lane, 1] = (starts[lane, 1] - low_y) * v + 1.0
    return good, small, symbol, first


@njit(cache=True, nogil=True, inline="always")
def _count(flat, size, x, y):  # type: ignore[no-untyped-def]
    # unsigned, everything outside is too large
    row, column = uint32(np.int32(x)) - uint32(1), uint32(np.int32(y)) - uint32(1)
    if row < size and column < size:
        flat[uint64(row) * uint64(size) + uint64(column)] += uint32(1)


@njit(cache=True, nogil=True)
def count_scalar(table, symbol, starts, key, words, size, flat):  # type: ignore[no-untyped-def]
    """Count the points of all lanes in flat, uint32 [at least size**2]. Four lanes at a time hide a step's latency."""
    side = uint32(size)
    for lane in range(0, LANES, 4):
        x0, x1, x2, x3 = starts[lane, 0], starts[lane + 1, 0], starts[lane + 2, 0], starts[lane + 3, 0]
        y0, y1, y2, y3 = starts[lane, 1], starts[lane + 1, 1], starts[lane + 2, 1], starts[lane + 3, 1]
        counter = key + GOLDEN * uint64(lane + 1)
        for _ in range(words):
            w0 = hashed(counter)
            w1 = hashed(counter + GOLDEN)
            w2 = hashed(counter + GOLDEN * uint64(2))
            w3 = hashed(counter + GOLDEN * uint64(3))
            counter += GOLDEN * uint64(LANES)
            for _ in range(PER_WORD):
                x0, y0 = step(table, symbol[w0 & MASK], x0, y0)
                x1, y1 = step(table, symbol[w1 & MASK], x1, y1)
                x2, y2 = step(table, symbol[w2 & MASK], x2, y2)
                x3, y3 = step(table, symbol[w3 & MASK], x3, y3)
                w0 >>= uint64(BITS)
                w1 >>= uint64(BITS)
                w2 >>= uint64(BITS)
                w3 >>= uint64(BITS)
                _count(flat, side, x0, y0)
                _count(flat, side, x1, y1)
                _count(flat, side, x2, y2)
                _count(flat, side, x3, y3)


@njit(cache=True, nogil=True)
def trace(table, symbol, starts, key, words, out):  # type: ignore[no-untyped-def]
    """The same symbols, slowly: lane by lane, so that it says plainly what the counting loops do."""
    for lane in range(LANES):
        x, y = starts[lane, 0], starts[lane, 1]
        for s in range(words):
            word = hashed(key + GOLDEN * uint64(s * LANES + lane + 1))
            for t in range(PER_WORD):
                x, y = step(table, symbol[word & MASK], x, y)
                word >>= uint64(BITS)
                at = (s * PER_WORD + t) * LANES + lane
                out[at, 0] = x
                out[at, 1] = y


@njit(cache=True, nogil=True)
def extent(table, symbol, starts, key, words):  # type: ignore[no-untyped-def]
    """Smallest and largest coordinates of the same points, NaN when one of them is not finite. Two lanes at a time."""
    low_x = low_y = np.inf
    high_x = high_y = -np.inf
    for lane in range(0, LANES, 2):
        x0, y0, x1, y1 = starts[lane, 0], starts[lane, 1], starts[lane + 1, 0], starts[lane + 1, 1]
        for s in range(words):
            w0 = hashed(key + GOLDEN * uint64(s * LANES + lane + 1))
            w1 = hashed(key + GOLDEN * uint64(s * LANES + lane + 2))
            for _ in range(PER_WORD):
                x0, y0 = step(table, symbol[w0 & MASK], x0, y0)
                x1, y1 = step(table, symbol[w1 & MASK], x1, y1)
                w0 >>= uint64(BITS)
                w1 >>= uint64(BITS)
                low_x, high_x = min(low_x, min(x0, x1)), max(high_x, max(x0, x1))
                low_y, high_y = min(low_y, min(y0, y1)), max(high_y, max(y0, y1))
        if not (np.isfinite(x0) and np.isfinite(y0) and np.isfinite(x1) and np.isfinite(y1)):
            return np.nan, np.nan, np.nan, np.nan  # once not finite, never again finite
    return low_x, low_y, high_x, high_y
