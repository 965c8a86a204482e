"""Masks of objects as boxes, areas and COCO run lengths.

COCO's conventions (its API's mask format): a box is [x, y, width, height] in whole pixels, x the column; run lengths go
down the columns, column after column, and begin with a run of zeros, which may be empty. `counts` as text: each number
(from the fourth on, its difference from the one two before) in groups of five bits, lowest first, sixth bit set when
more follow, written as the character 48 higher; the sign is the highest bit of the last group.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numba import njit, uint8, uint64
from numpy.typing import NDArray

from curate.errors import InputError

Box = list[int]
"""[x, y, width, height] in pixels"""
Window = tuple[int, int, int, int]
"""Rows and columns of a part of a canvas: top, left, bottom, right, the last two excluded."""
Mask = NDArray[np.bool_] | NDArray[np.uint8]


class Rle(TypedDict):
    """Run lengths as COCO stores them; `pycocotools.mask.decode` reads it."""

    size: list[int]
    """[height, width]"""
    counts: str


# position of the lowest bit of a word: the word with that bit alone, times this constant, has it in its top 6 bits
_DE_BRUIJN = uint64(0x03F79D71B4CB0A89)
_LOWEST = np.zeros(64, dtype=np.int64)
_LOWEST[[(0x03F79D71B4CB0A89 << bit & 2**64 - 1) >> 58 for bit in range(64)]] = np.arange(64)
_ONES = np.array([byte.bit_count() for byte in range(256)], dtype=np.int64)


def box(mask: Mask) -> Box | None:
    """Least box around what is not 0 in [height, width]; None when nothing is."""
    return extent(_bytes(mask), 1, (0, 0, mask.shape[0], mask.shape[1]))[0]


def area(mask: Mask) -> int:
    """Number of pixels that are not 0."""
    return int(np.count_nonzero(mask))


def counts(mask: Mask) -> NDArray[np.uint32]:
    """Run lengths down the columns, zeros first, uint32 [runs]; they sum to height x width, which is below 2**32."""
    return np.asarray(_seen(_bytes(mask), 1, 0, 0, mask.shape[0], mask.shape[1], True)[5], dtype=np.uint32)


def text(runs: NDArray[np.uint32]) -> str:
    """Run lengths as the ASCII text of COCO."""
    return str(_text(runs).tobytes(), "ascii")


def runs_of(written: str) -> NDArray[np.uint32]:
    """Run lengths of such text, uint32 [runs]. Raises InputError for text that is none."""
    runs, good = _read(np.frombuffer(written.encode(errors="replace"), dtype=np.uint8))
    if not good:
        raise InputError(f"{written[:40]!r} is no run-length text of COCO: it is cut short or holds other characters.")
    return np.asarray(runs, dtype=np.uint32)


def encode(mask: Mask) -> Rle:
    """A mask [height, width], bool or uint8 (not 0 is inside), as run lengths of COCO. Memory: 11 bytes a pixel."""
    return {"size": list(mask.shape), "counts": text(counts(mask))}


def decode(rle: Rle) -> NDArray[np.bool_]:
    """The mask of such run lengths, bool [height, width]. Raises InputError when they do not fill the size."""
    height, width = rle["size"]
    runs = runs_of(rle["counts"])
    total = int(runs.sum(dtype=np.uint64))
    if total != height * width:
        raise InputError(f"the runs of a mask of {height} x {width} pixels sum to {total}, not to {height * width}.")
    inside = np.zeros(len(runs), dtype=np.bool_)
    inside[1::2] = True
    return np.ascontiguousarray(np.repeat(inside, runs).reshape(width, height).T)


def seen(owner: NDArray[np.uint8], number: int, window: Window) -> tuple[Box | None, int, Rle]:
    """Box, area and run lengths of the pixels of `owner`, uint8 [height, width], that equal `number` (1..255).

    window: part of the canvas that holds all such pixels; time grows with it and not with the canvas.
    """
    y, x, bottom, right, inside, runs = _seen(owner, number, *window, True)
    return ([x, y, right - x, bottom - y] if inside else None), inside, Rle(size=list(owner.shape), counts=text(runs))


def extent(owner: NDArray[np.uint8], number: int, window: Window) -> tuple[Box | None, int]:
    """Box and area of `seen`, at a third of its time."""
    y, x, bottom, right, inside, _ = _seen(owner, number, *window, False)
    return ([x, y, right - x, bottom - y] if inside else None), inside


def _bytes(mask: Mask) -> NDArray[np.uint8]:
    """0 and 1, row after row."""
    return np.ascontiguousarray(mask if mask.dtype == np.bool_ else mask != 0).view(np.uint8)


@njit(cache=True, nogil=True)
def _seen(owner, number, top, left, bottom, right, wanted):  # type: ignore[no-untyped-def]
    """First row and column of the pixels equal to `number`, the ones after the last, how many, and their runs if these
    are wanted."""
    bits = _pack(owner[top:bottom, left:right], uint8(number))
    first, last, inside = bottom - top, 0, 0
    low, high = right - left, 0
    for at in range(bits.shape[0]):
        line = bits[at]
        any_row = uint8(0)
        for column in range(line.size):
            any_row |= line[column]
        if any_row == 0:
            continue
        for column in range(line.size):
            inside += _ONES[line[column]]
        for bit in range(8):
            if any_row >> bit & 1:
                first, last = min(first, at * 8 + bit), at * 8 + bit + 1
        column = 0
        while line[column] == 0:
            column += 1
        low = min(low, column)
        column = line.size - 1
        while line[column] == 0:
            column -= 1
        high = max(high, column + 1)
    if inside == 0:
        first, low = 0, 0
    if wanted:
        runs = _runs(bits, top, left, bottom, right, low, high, owner.shape[0], owner.shape[1])
    else:
        runs = np.empty(0, dtype=np.uint32)
    return top + first, left + low, top + last, left + high, inside, runs


@njit(cache=True, nogil=True)
def _pack(window, number):  # type: ignore[no-untyped-def]
    """The pixels equal to `number` as bits: bit r % 8 of [r // 8, c] is row r, column c; whole words of 64 rows.

    The inner loop runs along a row and on single bytes, so that it vectorises.
    """
    height, width = window.shape
    bits = np.zeros(((height + 63) // 64 * 8, width), dtype=np.uint8)
    for row in range(height):
        line, packed = window[row], bits[row >> 3]
        bit = uint8(1 << (row & 7))
        for column in range(width):
            packed[column] |= bit if line[column] == number else uint8(0)
    return bits


@njit(cache=True, nogil=True)
def _runs(bits, top, left, bottom, right, low, high, height, width):  # type: ignore[no-untyped-def]
    """Runs of an image [height, width] from the bits of a window outside which it is 0; only columns low..high - 1 of
    the window are not empty. A column is read 64 pixels at a time, and only where its bits change is work done.
    """
    # a column of n pixels changes at most n times and once more where it leaves the window
    out = np.empty((bottom - top + 1) * (high - low) + 2, dtype=np.uint32)
    found, before = 0, 0
    state = uint64(0)
    for column in range(low, high):
        start = (left + column) * height + top
        if state != 0 and top > 0:  # the column before ended inside and this one begins outside
            out[found] = start - top - before
            before = start - top
            found += 1
            state = uint64(0)
        for word_at in range(bits.shape[0] >> 3):
            word = uint64(0)
            for part in range(8):
                word |= uint64(bits[word_at * 8 + part, column]) << uint64(8 * part)
            rows = min(64, bottom - top - word_at * 64)
            change = word ^ ((word << uint64(1)) | state)
            change &= ~uint64(0) >> uint64(64 - rows)
            state = word >> uint64(rows - 1) & uint64(1)
            while change != 0:
                lowest = change & (~change + uint64(1))
                here = start + word_at * 64 + _LOWEST[lowest * _DE_BRUIJN >> uint64(58)]
                out[found] = here - before
                before = here
                found += 1
                change ^= lowest
        if state != 0 and bottom < height:
            here = start + bottom - top
            out[found] = here - before
            before = here
            found += 1
            state = uint64(0)
    if state != 0 and left + high < width:
        out[found] = (left + high) * height - before
        before = (left + high) * height
        found += 1
    out[found] = height * width - before
    return out[: found + 1]


@njit(cache=True, nogil=True)
def _text(runs):  # type: ignore[no-untyped-def]
    out = np.empty(len(runs) * 7, dtype=np.uint8)
    at = 0
    for i in range(len(runs)):
        value = np.int64(runs[i])
        if i > 2:
            value -= np.int64(runs[i - 2])
        while True:
            group = value & 31
            value >>= 5
            if value == (-1 if group & 16 else 0):
                break
            out[at] = group + 80
            at += 1
        out[at] = group + 48
        at += 1
    return out[:at]


@njit(cache=True, nogil=True)
def _read(written):  # type: ignore[no-untyped-def]
    """Runs, and whether the text was a list of runs below 2**32."""
    out = np.empty(len(written), dtype=np.uint32)
    found = 0
    value, shift = np.int64(0), 0
    for at in range(len(written)):
        group = np.int64(written[at]) - 48
        if group < 0 or group > 63 or shift > 30:
            return out[:0], False
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= np.int64(1) << shift
        if found > 2:
            value += np.int64(out[found - 2])
        if value < 0 or value >= 1 << 32:
            return out[:0], False
        out[found] = value
        found += 1
        value, shift = np.int64(0), 0
    return out[:found], shift == 0
