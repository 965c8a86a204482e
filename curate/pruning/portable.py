"""exp, log and row sums with the same bits on every machine: libraries and SIMD widths disagree in the last ones.

Only additions, products, quotients and exact scalings are used, element by element, in a fixed order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_LN2 = 0.6931471805599453
_LN2_HI = 6.93147180369123816490e-01  # ln 2 split so that n * _LN2_HI is exact for |n| < 2**20
_LN2_LO = 1.90821492927058770002e-10
_TAYLOR = [1.0 / math.factorial(i) for i in range(14, -1, -1)]
_ATANH = [1.0 / (2 * i + 1) for i in range(13, -1, -1)]
_SQRT_HALF = 0.7071067811865476


def exp(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """exp of x <= 0 to about 1e-15 relative; what is below -700 counts as -700. Any shape."""
    x = np.maximum(x, -700.0)
    n = np.rint(x / _LN2)
    r = (x - n * _LN2_HI) - n * _LN2_LO
    value = np.zeros_like(r)
    for coefficient in _TAYLOR:
        value = value * r + coefficient
    return np.ldexp(value, n.astype(np.int64))


def log(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Natural logarithm of x > 0 to about 1e-15 relative: 2 atanh((m - 1) / (m + 1)) with m in [sqrt 1/2, sqrt 2).

    Any shape. The caller keeps zeros and negative values away.
    """
    m, e = np.frexp(x)
    low = m < _SQRT_HALF
    m, e = np.where(low, 2.0 * m, m), np.where(low, e - 1, e).astype(np.float64)
    s = (m - 1.0) / (m + 1.0)
    square, series = s * s, np.zeros_like(s)
    for coefficient in _ATANH:
        series = series * square + coefficient
    return np.asarray(e * _LN2_HI + (2.0 * s * series + e * _LN2_LO), dtype=np.float64)


def row_sums(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums over the last axis by halving it: pairwise like numpy's own, but in one order whatever the machine has.

    rows [..., c] float64; returns [...]. Memory: half of rows.
    """
    width = rows.shape[-1]
    if width == 0:
        return np.zeros(rows.shape[:-1], dtype=np.float64)
    while width > 1:
        half = width // 2
        folded = rows[..., :half] + rows[..., half : 2 * half]
        if width % 2:
            folded[..., 0] += rows[..., -1]
        rows, width = folded, half
    return rows[..., 0].copy()


def dots(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """<left[i], right[i]> of every row, [n] float64, summed as in `row_sums`."""
    return row_sums(left * right)
