"""Put objects on a background, and soften the whole: whole-number arithmetic, so equal inputs give equal bytes.

A canvas is uint8 [S, S, 3], or [S, S] for one channel. An object is its tone, uint8 [k s, k s], where 0 is empty, with
a table of colours; k = 2 draws it at twice its side, so that its edges are soft.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, uint8, uint16, uint32, uint64
from numpy.typing import NDArray

from curate.errors import SpecError

_ONE = 1 << 16


def canvas(field: NDArray[np.uint8], table: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A background in its colours: field uint8 [S, S], table uint8 [256, 3] -> uint8 [S, S, 3], writable."""
    out = np.empty((*field.shape, 3), dtype=np.uint8)
    _colours(np.ascontiguousarray(field), table, out)
    return out


def paint(
    tone: NDArray[np.uint8],
    table: NDArray[np.uint8],
    field: NDArray[np.uint8] | None = None,
    field_table: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """One object that fills the image: table[tone] where there is ink, the coloured field (or black) elsewhere.

    tone: uint8 [S, S]; tables uint8 [256, 3]; field uint8 [S, S]. Returns uint8 [S, S, 3]. Raises SpecError for a field
    of another shape.
    """
    tone = np.ascontiguousarray(tone)
    out = np.empty((*tone.shape, 3), dtype=np.uint8)
    if field is None or field_table is None:
        field, field_table = tone, _BLACK
    if field.shape != tone.shape:
        raise SpecError(f"an object of {tone.shape} pixels cannot lie on a field of {field.shape}.")
    _paint(tone.reshape(-1), table, np.ascontiguousarray(field).reshape(-1), field_table, out.reshape(-1))
    return out


def coverage(tone: NDArray[np.uint8], k: int) -> NDArray[np.uint8]:
    """Covered subpixels of each pixel, uint8 [s, s], 0 to k^2, of a tone [k s, k s]; k is 1 or 2, else SpecError."""
    _whole(tone, k)
    if k == 1:
        return (tone > 0).astype(np.uint8)
    out = np.empty((tone.shape[0] // 2, tone.shape[1] // 2), dtype=np.uint8)
    _coverage(np.ascontiguousarray(tone), out)
    return out


def over(
    canvas: NDArray[np.uint8], tone: NDArray[np.uint8], table: NDArray[np.uint8], top: int, left: int, k: int
) -> None:
    """Draw an object into the canvas: its pixel (i, j) lies at (top + i, left + j) and may hang over any edge.

    A pixel becomes (sum of the colours of its n inked subpixels + (k^2 - n) background) / k^2, rounded half up: ink is
    weighted by what it covers, so nothing mixes with black at the edges. canvas: writable; table: uint8 [256, 3], or
    [256] for one channel; k is 1 or 2. Raises SpecError for another k and for a table of other channels.
    """
    _whole(tone, k)
    if canvas.shape[2:] not in ((), (3,)) or table.shape != (256, *canvas.shape[2:]):
        raise SpecError(f"colours of shape {table.shape} do not fit a canvas of shape {canvas.shape}.")
    deep = canvas if canvas.ndim == 3 else canvas[:, :, None]
    colours = table if table.ndim == 2 else table[:, None]
    draw = _over_hard if k == 1 else _over_soft
    draw(deep, np.ascontiguousarray(tone), np.ascontiguousarray(colours), top, left)


def blur(image: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    """3 x 3 Gaussian of standard deviation `sigma` in pixels, a new array; edges are mirrored without their own pixel.

    image: uint8 [S, S] or [S, S, 3], S at least 2. Weights are multiples of 2^-16, so that no libm has a say in their
    last bit. Raises SpecError for an image of one row or column and for a sigma that is not above 0.
    """
    if min(image.shape[:2]) < 2 or not sigma > 0.0:
        raise SpecError(f"an image of {image.shape} pixels cannot be blurred with sigma {sigma}.")
    side = math.exp(-0.5 / sigma / sigma)
    weight = round(side / (1.0 + 2.0 * side) * _ONE)
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    flat = np.ascontiguousarray(image).reshape(height, width * channels)
    out = np.empty_like(flat)
    _blur(flat, uint32(weight), channels, out)
    return out.reshape(image.shape)


def _whole(tone: NDArray[np.uint8], k: int) -> None:
    """Compiled loops do not look where they read, so what they rely on is checked before."""
    if k not in (1, 2) or tone.shape[0] % k or tone.shape[1] % k:
        raise SpecError(f"{k} x {k} subpixels do not divide an object of {tone.shape}; k is 1 or 2.")


_BLACK = np.zeros((256, 3), dtype=np.uint8)


@njit(cache=True, nogil=True)
def _colours(field, table, out):  # type: ignore[no-untyped-def]
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            for c in range(3):
                out[i, j, c] = table[field[i, j], c]


@njit(cache=True, nogil=True)
def _paint(tone, table, field, field_table, out):  # type: ignore[no-untyped-def]
    """Both tables as one, of a word a colour: which of them a pixel needs is an index, not a branch."""
    both = np.empty(512, dtype=np.uint32)
    for i in range(256):
        behind, ink = field_table[i], table[i]
        both[i] = uint32(behind[0]) | uint32(behind[1]) << uint32(8) | uint32(behind[2]) << uint32(16)
        both[256 + i] = uint32(ink[0]) | uint32(ink[1]) << uint32(8) | uint32(ink[2]) << uint32(16)
    for i in range(len(tone)):
        word = both[np.int64(256) + tone[i] if tone[i] > 0 else np.int64(field[i])]
        out[3 * i] = uint8(word)
        out[3 * i + 1] = uint8(word >> uint32(8))
        out[3 * i + 2] = uint8(word >> uint32(16))


@njit(cache=True, nogil=True)
def _coverage(tone, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            upper = uint8(tone[2 * i, 2 * j] > 0) + uint8(tone[2 * i, 2 * j + 1] > 0)
            lower = uint8(tone[2 * i + 1, 2 * j] > 0) + uint8(tone[2 * i + 1, 2 * j + 1] > 0)
            out[i, j] = uint8(upper + lower)


@njit(cache=True, nogil=True)
def _over_hard(canvas, tone, table, top, left):  # type: ignore[no-untyped-def]
    channels = canvas.shape[2]
    for i in range(max(0, -top), min(tone.shape[0], canvas.shape[0] - top)):
        line, ink = canvas[top + i], tone[i]
        for j in range(max(0, -left), min(tone.shape[1], canvas.shape[1] - left)):
            if ink[j] > 0:
                for c in range(channels):
                    line[left + j, c] = table[ink[j], c]


@njit(cache=True, nogil=True)
def _over_soft(canvas, tone, table, top, left):  # type: ignore[no-untyped-def]
    """A colour is a word: 16 bits for each channel and, above 48, a 1 that counts ink; four add up without a carry."""
    channels = canvas.shape[2]
    words = np.zeros(256, dtype=np.uint64)
    for i in range(1, 256):
        words[i] = uint64(1 << 48)
        for c in range(channels):
            words[i] |= uint64(table[i, c]) << uint64(16 * c)
    for i in range(max(0, -top), min(tone.shape[0] // 2, canvas.shape[0] - top)):
        line, upper, lower = canvas[top + i], tone[2 * i], tone[2 * i + 1]
        for j in range(max(0, -left), min(tone.shape[1] // 2, canvas.shape[1] - left)):
            sums = words[upper[2 * j]] + words[upper[2 * j + 1]] + (words[lower[2 * j]] + words[lower[2 * j + 1]])
            if sums == 0:
                continue
            bare = uint32(4) - uint32(sums >> uint64(48))
            for c in range(channels):
                ink = uint32(sums >> uint64(16 * c) & uint64(0xFFFF))
                line[left + j, c] = uint8((bare * uint32(line[left + j, c]) + ink + uint32(2)) >> uint32(2))


@njit(cache=True, nogil=True)
def _blur(image, weight, channels, out):  # type: ignore[no-untyped-def]
    """Rows to 16 bits, then columns: 255 * 2^24 and half a unit fit 32 bits."""
    height, width = image.shape
    centre = uint32(_ONE) - uint32(2) * weight
    across = np.empty((height, width), dtype=np.uint16)
    for i in range(height):
        row, wide = image[i], across[i]
        before, here, after = row[: -2 * channels], row[channels:-channels], row[2 * channels :]
        inner = wide[channels:-channels]
        for j in range(len(inner)):
            sides = uint32(before[j]) + uint32(after[j])
            inner[j] = uint16((centre * uint32(here[j]) + weight * sides) >> uint32(8))
        for c in range(channels):
            first, last = uint32(2) * uint32(row[channels + c]), uint32(2) * uint32(row[width - 2 * channels + c])
            wide[c] = uint16((centre * uint32(row[c]) + weight * first) >> uint32(8))
            j = width - channels + c
            wide[j] = uint16((centre * uint32(row[j]) + weight * last) >> uint32(8))
    half = uint32(1 << 23)
    for i in range(height):
        above, below = across[i - 1 if i > 0 else 1], across[i + 1 if i < height - 1 else height - 2]
        middle, line = across[i], out[i]
        for j in range(width):
            sides = uint32(above[j]) + uint32(below[j])
            line[j] = uint8((centre * uint32(middle[j]) + weight * sides + half) >> uint32(24))
