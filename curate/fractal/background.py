"""What lies behind the objects: plasma by diamond-square (Fournier, Fussell & Carpenter 1982), coloured by a ramp.

Field and colours are two things: the field is one byte a pixel, and a table of 256 colours makes it an image.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import float32, njit, uint8, uint16, uint64
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.colour import ramp
from curate.fractal.kernels import GOLDEN, hashed
from curate.fractal.randomness import Draws


def field(size: int, draws: Draws) -> NDArray[np.uint8]:
    """Plasma, uint8 [size, size], 0 to 255; the key of `draws` decides it.

    The grid has 2^n + 1 points a side, n = ceil(log2 size), of which the top left is shown. Corners are uniform in
    [0, 1); level k adds noise uniform in [-m, m), m = exp(decay (1 - k)) / 2, decay uniform in [0.4, 0.8) (Anderson &
    Farrell 2022). exp(-decay) is rounded to 2^-16, so that no libm has a say in its last bit. Neighbours beyond a
    border are those at the other side. Values are held in [0, 1]. Raises SpecError for a size below 1. Memory: 11
    bytes a point of the grid.
    """
    if size < 1:
        raise SpecError(f"a field has 1 pixel a side or more, not {size}.")
    levels = max(1, (size - 1).bit_length())
    corners, decay = np.asarray(draws.uniform(4), dtype=np.float32), draws.one(0.4, 0.8)
    fall = np.float32(round(math.exp(-decay) * 65536.0) / 65536.0)
    out = np.empty((size, size), dtype=np.uint8)
    _plasma(uint64(Draws.of(draws.key, "noise").key), levels, corners, fall, out)
    return out


def palette(draws: Draws) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Colours of a field, uint8 [256, 3], and the facts they are made from, see `palette_of`.

    As x goes from 0 to 1, hue moves by U(.25, 1) of a turn from anywhere, saturation by U(.1, .3) and value by
    U(.3, .6), both from U(.4, .6).
    """
    facts = {
        "hue": [draws.one(), draws.one(0.25, 1.0)],
        "saturation": [draws.one(0.4, 0.6), draws.one(0.1, 0.3)],
        "value": [draws.one(0.4, 0.6), draws.one(0.3, 0.6)],
    }
    return palette_of(facts), facts


def palette_of(facts: dict[str, Any]) -> NDArray[np.uint8]:
    """The table of `palette` again: each fact is where it starts and how far it goes from byte 0 to byte 255."""
    hue, saturation, value = ((start, reach / 255.0) for start, reach in (facts[name] for name in _PARTS))
    return ramp(hue, saturation, value)


_PARTS = ("hue", "saturation", "value")


@njit(cache=True, nogil=True)
def _plasma(key, levels, corners, fall, out):  # type: ignore[no-untyped-def]
    """Level by level, each from its own grid to one of twice the side: rows lie close, so loops are vectorised."""
    side = 1 << levels
    grid, finer = np.empty((side + 1, side + 1), dtype=np.float32), np.empty((side + 1, side + 1), dtype=np.float32)
    centres = np.empty((side // 2, side // 2), dtype=np.float32)
    raw = np.empty(3 * side * side // 4 + side + 4, dtype=np.uint16)
    grid[0, 0], grid[0, 1], grid[1, 0], grid[1, 1] = corners[0], corners[1], corners[2], corners[3]
    reach, cells = float32(0.5), 1
    for _ in range(levels):
        blocks = (cells * cells + 2 * cells * (cells + 1) + 3) // 4
        _draw(key, blocks, raw)
        key += GOLDEN * uint64(blocks)
        _refine(grid, cells, raw, reach, centres, finer)
        grid, finer = finer, grid
        cells *= 2
        reach *= fall
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            value = min(max(grid[i, j], float32(0.0)), float32(1.0))
            out[i, j] = uint8(value * float32(255.0) + float32(0.5))


@njit(cache=True, nogil=True)
def _draw(key, blocks, raw):  # type: ignore[no-untyped-def]
    """Four draws of 16 bits from each of the next words of a key, lowest bits first."""
    for i in range(blocks):
        word = hashed(key + GOLDEN * (uint64(i) + uint64(1)))
        raw[4 * i] = uint16(word)
        raw[4 * i + 1] = uint16(word >> uint64(16))
        raw[4 * i + 2] = uint16(word >> uint64(32))
        raw[4 * i + 3] = uint16(word >> uint64(48))


@njit(cache=True, nogil=True)
def _refine(grid, cells, raw, reach, centres, finer):  # type: ignore[no-untyped-def]
    """Cells are halved: draws go to their centres, then to the middles of level edges, then of upright ones, by rows.

    A draw d of 16 bits is the noise (d + 1/2) reach / 2^15 - reach.
    """
    quarter, scale = float32(0.25), reach * float32(2.0**-15)
    shift = reach * float32(2.0**-16) - reach
    for i in range(cells):
        for j in range(cells):
            around = (grid[i, j] + grid[i, j + 1]) + (grid[i + 1, j] + grid[i + 1, j + 1])
            centres[i, j] = around * quarter + (float32(raw[i * cells + j]) * scale + shift)
    at = cells * cells
    for i in range(cells + 1):
        above, below = i - 1 if i > 0 else cells - 1, i if i < cells else 0
        for j in range(cells):
            around = (grid[i, j] + grid[i, j + 1]) + (centres[above, j] + centres[below, j])
            finer[2 * i, 2 * j] = grid[i, j]
            finer[2 * i, 2 * j + 1] = around * quarter + (float32(raw[at + j]) * scale + shift)
        finer[2 * i, 2 * cells] = grid[i, cells]
        at += cells
    for i in range(cells):
        wrapped = centres[i, cells - 1] + centres[i, 0]
        for j in range(1, cells):
            around = (grid[i, j] + grid[i + 1, j]) + (centres[i, j - 1] + centres[i, j])
            finer[2 * i + 1, 2 * j] = around * quarter + (float32(raw[at + j]) * scale + shift)
        for j in (0, cells):
            around = (grid[i, j] + grid[i + 1, j]) + wrapped
            finer[2 * i + 1, 2 * j] = around * quarter + (float32(raw[at + j]) * scale + shift)
        for j in range(cells):
            finer[2 * i + 1, 2 * j + 1] = centres[i, j]
        at += cells + 1
