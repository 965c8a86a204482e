"""Columns of numbers as int64 in the same order, so that scores of any type are ranked exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError

_SIGN = np.uint64(1 << 63)
_REST = np.int64(2**63 - 1)


def as_int64(values: NDArray[Any]) -> NDArray[np.int64]:
    """An int64 for each value such that a < b, a == b and a > b hold for the numbers as for the values; int64 [n].

    Integers up to 64 bits: signed ones as they are, unsigned ones of 64 bits less 2**63. Floats up to 64 bits: the bits
    of the float64, negative ones mirrored (the order of IEEE 754), with -0.0 equal to 0.0. Infinities are fine.
    Raises SpecError for NaN, which has no place in an order, and for other types.
    """
    kind, width = values.dtype.kind, values.dtype.itemsize
    if kind == "i":
        return values.astype(np.int64)
    if kind == "u":
        return values.astype(np.int64) if width < 8 else (values ^ _SIGN).view(np.int64)
    if kind == "f" and width <= 8:
        if np.isnan(values).any():
            raise SpecError("NaN has no rank; write null where a value is missing.")
        bits = (values.astype(np.float64) + 0.0).view(np.int64)  # -0.0 + 0.0 is 0.0
        return np.where(bits < 0, bits ^ _REST, bits)
    raise SpecError(f"samples are ranked by numbers of at most 64 bits, not by {values.dtype}.")
