"""Tones: how much lies on a pixel, as one byte.

Bytes hang on no library: shares are whole-number arithmetic, and the logarithm is computed here from the basic
operations that IEEE 754 rounds exactly, so that no libm has a say in its last bit.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray

from curate.errors import SpecError

Mode = Literal["density", "log", "binary"]

_TABLE = 1 << 16  # counts below are looked up, rarer ones computed each time


def tone(counts: NDArray[np.uint32], mode: Mode) -> NDArray[np.uint8]:
    """Tones of a drawing, uint8 of the same shape: 0 exactly where `counts` (uint32 [s, s]) is 0, else 1 to 255.

    density: 255 count / most, rounded half up, at least 1. log: the same of log(1 + count) / log(1 + most).
    binary: 255. Raises SpecError for another mode. Memory: the result and 128 KB.
    """
    counts = np.ascontiguousarray(counts, dtype=np.uint32)
    out = np.empty(counts.shape, dtype=np.uint8)
    if mode == "binary":
        _binary(counts.reshape(-1), out.reshape(-1))
    elif mode in ("density", "log"):
        _graded(counts.reshape(-1), mode == "log", out.reshape(-1))
    else:
        raise SpecError(f'the tone is density, log or binary, not "{mode}".')
    return out


@njit(cache=True, nogil=True)
def _binary(counts, out):  # type: ignore[no-untyped-def]
    for i in range(len(counts)):
        out[i] = np.uint8(255) if counts[i] > 0 else np.uint8(0)


@njit(cache=True, nogil=True)
def _log2(value):  # type: ignore[no-untyped-def]
    """Base-2 logarithm of a whole number from 1 to 2**32, within 1e-15 of its size; powers of two are exact.

    value = 2**e m with m in [1/sqrt(2), sqrt(2)); ln m = 2 artanh t = 2 (t + t**3 / 3 + ...), t = (m - 1) / (m + 1).
    |t| < 0.1716, so the first term left out is below 1e-18.
    """
    exponent, m = 0, float(value)
    while m >= 1.4142135623730951:
        m *= 0.5
        exponent += 1
    t = (m - 1.0) / (m + 1.0)
    square = t * t
    series = 0.0
    for k in range(10, -1, -1):
        series = series * square + 1.0 / (2 * k + 1)
    return exponent + series * t * 2.8853900817779268  # 2 / ln 2


@njit(cache=True, nogil=True)
def _one(count, most, scale, log):  # type: ignore[no-untyped-def]
    """Tone of one count that is not 0. Counts are below 2**32, so 510 count + most fits in 64 bits."""
    if log:
        level = uint64(np.floor(_log2(uint64(count) + uint64(1)) * scale + 0.5))
    else:
        level = (uint64(510) * uint64(count) + uint64(most)) // (uint64(2) * uint64(most))
    return max(min(level, uint64(255)), uint64(1))


@njit(cache=True, nogil=True)
def _graded(counts, log, out):  # type: ignore[no-untyped-def]
    """Two passes: the most, then a look-up that computes an entry when a count is first met: few counts differ."""
    most = np.uint32(0)
    for i in range(len(counts)):
        most = max(most, counts[i])
    scale = 255.0 / _log2(uint64(most) + uint64(1)) if most > 0 else 0.0
    size = np.uint32(min(uint64(most) + uint64(1), uint64(_TABLE)))
    table = np.zeros(size, dtype=np.uint16)
    table[0] = 256  # 0 means not yet known; as a byte, 256 is the tone 0
    for i in range(len(counts)):
        count = counts[i]
        if count < size:
            level = table[count]
            if level == 0:
                level = np.uint16(_one(count, most, scale, log))
                table[count] = level
            out[i] = np.uint8(level)
        else:
            out[i] = np.uint8(_one(count, most, scale, log))
