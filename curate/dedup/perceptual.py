"""Perceptual hashes of one image: 64 bits that survive re-encoding and resizing (dHash, pHash), in integers only.

Both look at the same grid of box averages. Nothing is rounded by a library's filter and no float is summed, so the bits
of a decoded picture are the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError

SIDE = 32
"""Rows and columns of the grid of averages that pHash transforms; rows of four make the 8 rows of dHash."""
FLAT_LEVELS = 2
"""An image is flat when the median magnitude of its coefficients is smaller: grey levels, DCT-II times 2 / SIDE."""
_GRID_ONE = 256
"""Grid values are grey levels (0..255) in units of 1 / _GRID_ONE."""
_COSINE_ONE = 1 << 17
_LOW = 8


def _cosines() -> NDArray[np.int64]:
    """Rows 0..7 of the DCT-II of SIDE points in units of 1 / _COSINE_ONE, int64 [8, SIDE]."""
    angle = math.pi / (2 * SIDE)
    return np.asarray(
        [[round(math.cos(angle * k * (2 * n + 1)) * _COSINE_ONE) for n in range(SIDE)] for k in range(_LOW)],
        dtype=np.int64,
    )


_DCT = _cosines()
_FLAT = FLAT_LEVELS * _GRID_ONE * _COSINE_ONE**2 * SIDE // 2
"""FLAT_LEVELS in the units of `_coefficients`."""


def hashes(grey: NDArray[np.uint8]) -> tuple[int, int] | None:
    """dHash and pHash, 64 bits each, of grey levels uint8 [height, width]; None for an image that is flat.

    dHash (Krawetz 2013): averages over 8 x 9 boxes; a bit is set where a box is brighter than its left neighbour.
    pHash (Zauner 2010, section 3.2.1): the low 8 x 8 of the DCT-II of 32 x 32 averages; a bit is set where a
    coefficient is above the median of the 63 without the constant one. The most significant bit is the top left one,
    rows come first.

    Flat: the median of the 63 magnitudes is below FLAT_LEVELS. Half of the bits would then say which way noise, or
    nothing at all, points: blank pages, black frames, and drawings so simple or symmetric that half of the coefficients
    vanish. They would match each other. Raises InputError for another shape or type. Memory: O(SIDE * width) int64.
    """
    rows = _row_sums(grey)
    low = _coefficients(_column_sums(rows, SIDE) * _GRID_ONE // grey.size)
    rest = low.reshape(-1)[1:]
    if np.sort(np.abs(rest))[len(rest) // 2] < _FLAT:
        return None
    return _dhash(rows), _bits(low > np.sort(rest)[len(rest) // 2])


def _coefficients(grid: NDArray[np.int64]) -> NDArray[np.int64]:
    """The low 8 x 8 of the DCT-II of a grid, int64; below 2^60: 32 * 2^17 a side, grid below 2^16."""
    return _DCT @ grid @ _DCT.T


def _dhash(rows: NDArray[np.int64]) -> int:
    boxes = _column_sums(rows.reshape(8, SIDE // 8, -1).sum(axis=1), 9)
    return _bits(boxes[:, 1:] > boxes[:, :-1])


def _bits(values: NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(values).tobytes(), "big")


def _row_sums(grey: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sums over SIDE boxes of rows, int64 [SIDE, width], each of weight `height`: a row of pixels has weight SIDE."""
    if grey.ndim != 2 or grey.dtype != np.uint8 or not grey.size:
        raise InputError(f"a perceptual hash wants grey levels uint8 [height, width], it got {grey.dtype} {grey.shape}")
    if len(grey) < SIDE:  # boxes thinner than a row: the same averages of rows that are cut into SIDE slices each
        slices: NDArray[np.int64] = _row_sums(grey.repeat(SIDE, axis=0)) // SIDE
        return slices
    height = len(grey)
    whole, share = np.divmod(np.arange(SIDE + 1) * height, SIDE)
    sums = np.zeros((SIDE + 1, grey.shape[1]), dtype=np.int64)
    np.cumsum(np.add.reduceat(grey, whole[:-1], axis=0, dtype=np.int64), axis=0, out=sums[1:])
    inside = grey[np.minimum(whole, height - 1)].astype(np.int64)  # at the lower edge share is 0
    ends: NDArray[np.int64] = sums * SIDE + inside * share[:, None]
    return np.diff(ends, axis=0)


def _column_sums(rows: NDArray[np.int64], boxes: int) -> NDArray[np.int64]:
    """Sums over boxes of columns, int64 [n, boxes]; a column has weight `boxes`, a box weight `width`."""
    width = rows.shape[1]
    sums = np.zeros((len(rows), width + 1), dtype=np.int64)
    np.cumsum(rows, axis=1, out=sums[:, 1:])
    whole, share = np.divmod(np.arange(boxes + 1) * width, boxes)
    inside = np.minimum(whole, width - 1)  # at the right edge share is 0
    ends: NDArray[np.int64] = sums[:, whole] * boxes + rows[:, inside] * share
    return np.diff(ends, axis=1)
