"""Closed outlines around a centre: the noise on them, their fit to a canvas, and their ink.

An outline is a closed polygon, drawn with smaller copies of itself nested in it. Its ink on a pixel is the length of
line that crosses the pixel's square, in UNIT-ths of a pixel: a thin line drawn exactly, which is soft at its edges, and
where lines are denser than pixels their ink says how dense.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.chaos import MAX_SIDE

UNIT = 256
"""Ink of a line as long as a pixel's side."""
GRID = 1024
"""Vertices lie on a grid of this many steps a pixel, measured from the centre. Sines and cosines differ in their last
bits between machines; rounded to the grid they do not, but for a vertex in some 10**10."""
MARGIN = 1.0 / 32.0
"""Share of the canvas that stays empty at each side."""
LONGEST = 1 << 22
"""Pixels of the longest line that is drawn: its ink must be a number of 31 bits."""
LONGEST_PIECE = 0.999
"""Pixels along an axis: below 1 by more than rounding, so that a piece never meets two borders of the same kind."""


def around(vertices: int) -> NDArray[np.float64]:
    """Angles of as many vertices, equally far from one to the next, in turns: float64 [vertices] in [0, 1)."""
    return np.arange(vertices, dtype=np.float64) / vertices


def noise(gradients: NDArray[np.float64], turns: NDArray[np.float64], phase: float = 0.0) -> NDArray[np.float64]:
    """Gradient noise of period 1 in one dimension (Perlin 1985, with the fifth-degree blend of Perlin 2002).

    gradients: float64 [cells] in [-1, 1], one at each of `cells` equal steps around the circle, where the noise is 0.
    turns: float64 [n]; phase: in steps, added to the position. Returns float64 [n] in [-1, 1].
    """
    cells = len(gradients)
    at = turns * cells + phase
    whole = np.floor(at)
    t = at - whole
    left = whole.astype(np.int64) % cells
    slope_left, slope_right = gradients[left], gradients[(left + 1) % cells]
    blend = t * t * t * (t * (t * 6.0 - 15.0) + 10.0)
    rise = slope_left * t
    # between two steps it is at most half the largest slope, hence 2
    return np.asarray(2.0 * (rise + blend * (slope_right * (t - 1.0) - rise)), dtype=np.float64)


def star(
    radius: NDArray[np.float64], turns: NDArray[np.float64], oval: float, turn: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows and columns of the vertices at these radii and angles (in turns) around (0, 0), two float64 [n].

    The figure is stretched `oval` times along its first axis, then turned by `turn` turns.
    """
    angle = turns * (2.0 * np.pi)
    x, y = np.cos(angle) * radius * oval, np.sin(angle) * radius
    cos, sin = np.cos(turn * (2.0 * np.pi)), np.sin(turn * (2.0 * np.pi))
    return x * cos - y * sin, x * sin + y * cos


def nested(x: NDArray[np.float64], y: NDArray[np.float64], lines: int, size: int) -> NDArray[np.uint32]:
    """Ink of a polygon and its copies at shares 1 / lines, 2 / lines .. 1 of its size, uint32 [size, size].

    x, y: float64 [n], rows and columns of its vertices around (0, 0), which must lie within it; n at least 2. It is
    moved and scaled, the same on both axes, so that it spans the canvas on its longer side but for MARGIN, and its
    box stands in the middle. Each line leaves floor(UNIT x its length in pixels), and on each pixel what is there, to
    a unit for each time it comes by. Raises SpecError for a canvas below 1 or above 16,384 pixels, no lines, a polygon
    without extent and one of more than LONGEST pixels. Memory: the canvas, and 64 bytes for each vertex and pixel of
    the longest line. Time: some 2 to 3 ns for each vertex and for each pixel's length of each line.
    """
    if not 1 <= size <= MAX_SIDE:
        raise SpecError(f"a canvas has 1 to {MAX_SIDE} pixels a side, not {size}.")
    if lines < 1:
        raise SpecError(f"an outline has at least one line, not {lines}.")
    low_x, high_x, low_y, high_y = float(x.min()), float(x.max()), float(y.min()), float(y.max())
    extent = max(high_x - low_x, high_y - low_y)
    if not (0.0 < extent < np.inf and low_x <= 0.0 <= high_x and low_y <= 0.0 <= high_y):
        raise SpecError("an outline must have an extent that is finite, and (0, 0) within it.")
    scale = size * (1.0 - 2.0 * MARGIN) / extent * GRID
    ends_x, ends_y = np.rint(x * scale) / GRID, np.rint(y * scale) / GRID
    centre_x = 0.5 * (size - float(ends_x.min() + ends_x.max()))
    centre_y = 0.5 * (size - float(ends_y.min() + ends_y.max()))
    counts = np.zeros(size * size, dtype=np.uint32)
    longest = _ink(ends_x, ends_y, centre_x, centre_y, lines, size, counts)
    if longest > LONGEST:
        raise SpecError(
            f"an outline of {longest:,.0f} pixels is more than {LONGEST:,}: take a smaller canvas or fewer vertices."
        )
    return counts.reshape(size, size)


@njit(cache=True, nogil=True)
def _pieces(ends_x, ends_y, most):  # type: ignore[no-untyped-def]
    """The closed polygon cut into pieces that reach at most `most` along either axis; its vertices stay.

    Returns where they start (and the last one ends), the inverses of their reach along x and along y (0 for none), and
    the ink up to their start (and the last one's end).
    """
    n, total = len(ends_x), 0
    for j in range(n):
        after = j + 1 if j + 1 < n else 0
        reach = max(abs(ends_x[after] - ends_x[j]), abs(ends_y[after] - ends_y[j]))
        total += max(1, int(np.ceil(reach / most)))
    x, y, ink = np.empty(total + 1), np.empty(total + 1), np.empty(total + 1)
    inverse_x, inverse_y = np.empty(total), np.empty(total)
    at, length = 0, 0.0
    for j in range(n):
        after = j + 1 if j + 1 < n else 0
        dx, dy = ends_x[after] - ends_x[j], ends_y[after] - ends_y[j]
        cuts = max(1, int(np.ceil(max(abs(dx), abs(dy)) / most)))
        whole = np.sqrt(dx * dx + dy * dy) * UNIT
        for i in range(cuts):
            part = i / cuts
            x[at], y[at], ink[at] = ends_x[j] + part * dx, ends_y[j] + part * dy, length + part * whole
            inverse_x[at] = cuts / abs(dx) if dx != 0.0 else 0.0
            inverse_y[at] = cuts / abs(dy) if dy != 0.0 else 0.0
            at += 1
        length += whole
    x[total], y[total], ink[total] = ends_x[0], ends_y[0], length
    return x, y, inverse_x, inverse_y, ink


@njit(cache=True, nogil=True)
def _line(pieces, centre_x, centre_y, share, size, scratch, counts):  # type: ignore[no-untyped-def]
    """Add the ink of one line. A piece meets at most one border between rows and one between columns, so it is in one
    pixel, then perhaps in another, then where the next one starts. The first loop finds these, without a branch, which
    lets it run on several pieces at once; the second adds. Ink up to a point, rounded down, minus that up to the point
    before: no part of a unit gets lost on the way."""
    x, y, inverse_x, inverse_y, ink = pieces
    first, then, leaves, enters = scratch
    n, inverse = len(inverse_x), 1.0 / share
    for j in range(n):
        here_x, here_y = centre_x + share * x[j], centre_y + share * y[j]
        row, column = np.int32(here_x), np.int32(here_y)
        next_row, next_column = np.int32(centre_x + share * x[j + 1]), np.int32(centre_y + share * y[j + 1])
        # parts of the piece up to the border between rows and between columns, 1 where there is none
        to_row = abs(max(row, next_row) - here_x) * (inverse_x[j] * inverse) if next_row != row else 1.0
        to_column = abs(max(column, next_column) - here_y) * (inverse_y[j] * inverse) if next_column != column else 1.0
        start, end = share * ink[j], share * ink[j + 1]
        most = np.int32(end)
        leaves[j] = min(np.int32(start + (end - start) * min(to_row, to_column)), most)
        enters[j] = min(np.int32(start + (end - start) * min(max(to_row, to_column), 1.0)), most)
        first[j] = row * size + column
        then[j] = next_row * size + column if to_row <= to_column else row * size + next_column
    before = 0
    for j in range(n):
        counts[first[j]] += np.uint32(leaves[j] - before)
        counts[then[j]] += np.uint32(enters[j] - leaves[j])
        before = enters[j]
    counts[first[0]] += np.uint32(np.int32(share * ink[n]) - before)


@njit(cache=True, nogil=True)
def _ink(ends_x, ends_y, centre_x, centre_y, lines, size, counts):  # type: ignore[no-untyped-def]
    """Add the ink of all lines; returns the length of the longest, and does nothing if that is above LONGEST. Lines
    below half, a quarter and so on of the size are cut into pieces twice, four times as long, if any were cut."""
    level = 1.0
    pieces = _pieces(ends_x, ends_y, LONGEST_PIECE)
    n = len(pieces[2])
    longest = pieces[4][n] / UNIT
    if longest > LONGEST:
        return longest
    # four arrays, not one: the compiler must see that they cannot overlap, or it does not run pieces side by side
    scratch = (np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32))
    for line in range(lines, 0, -1):
        share = line / lines
        if share <= 0.5 * level and len(pieces[2]) > len(ends_x):
            while share <= 0.5 * level:
                level *= 0.5
            pieces = _pieces(ends_x, ends_y, LONGEST_PIECE / level)
        _line(pieces, centre_x, centre_y, share, size, scratch, counts)
    return longest
