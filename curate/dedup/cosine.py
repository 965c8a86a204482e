"""Exact cosine similarities of stored rows, and the float32 rows that propose which of them matter.

Similarity of rows x and y is dot / sqrt(|x|^2 * |y|^2) in float64, clamped to at most 1. Stored float16 entries are
multiples of 2**-24, so dot and both squared norms are exact whatever the order of summation; product, root and quotient
are single IEEE operations. So the value is the same bit pattern on every machine, and identical rows have similarity
exactly 1 although float16 rows are not exactly of norm 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, SpecError

UNIT_ROUNDOFF = 2.0**-24
"""Of float32."""

_GATHER = 2**17  # float32 entries gathered at once for pairs (512 KiB a side)

_EXPONENT = np.int16(0x7C00)  # all ones in infinities and NaN


class Rows:
    """float16 rows [n, d] (a memmap works) with their squared norms: 8 bytes a row in memory.

    Raises SpecError for another type or shape and InputError for rows that are zero or not finite.
    """

    def __init__(self, vectors: NDArray[np.float16], block: int = 2048) -> None:
        if vectors.ndim != 2 or vectors.dtype != np.float16:
            raise SpecError(f"duplicate search wants float16 rows [n, d], it got {vectors.dtype} {vectors.shape}.")
        self.vectors = vectors
        self.n, self.dim = int(vectors.shape[0]), int(vectors.shape[1])
        self.norm2 = np.empty(self.n)
        for start in range(0, self.n, block):
            stored = np.ascontiguousarray(vectors[start : start + block])
            x = to_float32(stored).astype(np.float64)
            self.norm2[start : start + block] = np.einsum("ij,ij->i", x, x)
            infinite = ((stored.view(np.int16) & _EXPONENT) == _EXPONENT).any(axis=1)
            self.norm2[start : start + block][infinite] = 0.0
        bad = np.flatnonzero(self.norm2 == 0.0)
        if bad.size:
            raise InputError(f"vector {bad[0]} of the concept is zero or not finite; quarantine it before dedup.")

    @property
    def error(self) -> float:
        """Bound on |float32 dot of two `unit` rows - cosine|: d products and sums, two roundings an entry."""
        return (self.dim + 16) * UNIT_ROUNDOFF

    def stored(self, index: NDArray[np.int64]) -> NDArray[np.float16]:
        """Rows as they are; a view for a run of neighbours."""
        if index.size and index[-1] - index[0] + 1 == index.size and (np.diff(index) == 1).all():
            return np.asarray(self.vectors[index[0] : index[-1] + 1])
        return np.asarray(self.vectors[index])

    def unit(self, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows as float32 of norm 1, each entry within two roundings."""
        x = to_float32(self.stored(index))
        x *= (1.0 / np.sqrt(self.norm2[index])).astype(np.float32)[:, None]
        return x

    def distinct(self, block: int = 2048) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(first, of): rows that equal no earlier row, ascending, and for every row the first row that equals it.

        Rows are compared in full where their squared norms are equal, with the first of that norm; a copy that is
        missed because another row has its norm by chance is left as distinct. Memory: O(n) numbers and a block of rows.
        """
        own = np.arange(self.n)
        _, first, group = np.unique(self.norm2, return_index=True, return_inverse=True)
        of = first[group].astype(np.int64)
        twin = np.flatnonzero(of != own)
        for start in range(0, len(twin), block):
            some = twin[start : start + block]
            same = (self.stored(some) == np.asarray(self.vectors[of[some]])).all(axis=1)
            of[some[~same]] = some[~same]
        return np.flatnonzero(of == own), of


def to_float32(stored: NDArray[np.float16]) -> NDArray[np.float32]:
    """Finite values as float32, five times as fast as a cast: exponent and mantissa moved, then scaled by 2**112."""
    if np.float32(2.0**-136) * np.float32(2.0**112) != np.float32(2.0**-24):
        return stored.astype(np.float32)  # this thread flushes small numbers to zero
    bits = np.ascontiguousarray(stored).view(np.int16).astype(np.int32)
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)
    return values


def similarities(a: Rows, i: NDArray[np.int64], b: Rows, j: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact similarity of row i[p] of a and row j[p] of b for every p."""
    dots = np.empty(len(i))
    step = max(1, _GATHER // a.dim)
    for p in range(0, len(i), step):
        terms = to_float32(a.vectors[i[p : p + step]])
        terms *= to_float32(b.vectors[j[p : p + step]])  # exact: two significands of 11 bits
        dots[p : p + step] = np.add.reduce(terms, axis=1, dtype=np.float64)
    return _cosine(dots, a.norm2[i] * b.norm2[j])


def product(a: Rows, i: NDArray[np.int64], b: Rows, j: NDArray[np.int64]) -> NDArray[np.float64]:
    """Exact similarity of all pairs, [len(i), len(j)]."""
    dots = to_float32(a.stored(i)).astype(np.float64) @ to_float32(b.stored(j)).astype(np.float64).T
    return _cosine(dots, a.norm2[i][:, None] * b.norm2[j][None, :])


def crowded(wanted: NDArray[np.bool_]) -> bool:
    """True when one exact float64 product of all pairs is cheaper than gathering the wanted ones."""
    return int(np.count_nonzero(wanted)) * 64 > wanted.size


def _cosine(dots: NDArray[np.float64], norms2: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.minimum(dots / np.sqrt(norms2), 1.0)
