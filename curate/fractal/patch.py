"""Points as random 3 x 3 patterns (Anderson & Farrell 2022; Kataoka et al. 2020): one pattern for each image."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.randomness import Draws


def pattern(draws: Draws) -> int:
    """A pattern of nine fair bits that is not empty: uniform in 1..511."""
    return 1 + draws.below(511)


def stamp(counts: NDArray[np.uint32], mask: int) -> NDArray[np.uint32]:
    """Each point drawn as a pattern, uint32 [s, s]: out[r + i - 1, c + j - 1] += counts[r, c] where bit 3 i + j is set.

    counts: uint32 [s, s]. mask: 1..511, lowest bit at the upper left, bit 4 in the centre. What crosses an edge is cut
    off. No pixel overflows: its sum is at most the number of points. Raises SpecError for another mask, the empty one
    among them. Memory: the canvas.
    """
    if not 1 <= mask <= 511:
        raise SpecError(f"a 3 x 3 pattern is a number from 1 to 511, not {mask}.")
    out = np.zeros_like(counts)
    if counts.size:
        _stamp(counts, mask, out)
    return out


@njit(cache=True, nogil=True)
def _stamp(counts, mask, out):  # type: ignore[no-untyped-def]
    """Row by row, so that what is added to stays in the first-level cache; each inner loop is one SIMD addition."""
    rows, columns = counts.shape
    for row in range(rows):
        for i in range(3):
            at = row + i - 1
            if at < 0 or at >= rows:
                continue
            if mask >> (3 * i) & 1:
                for column in range(1, columns):
                    out[at, column - 1] += counts[row, column]
            if mask >> (3 * i + 1) & 1:
                for column in range(columns):
                    out[at, column] += counts[row, column]
            if mask >> (3 * i + 2) & 1:
                for column in range(columns - 1):
                    out[at, column + 1] += counts[row, column]
