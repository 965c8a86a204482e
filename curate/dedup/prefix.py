"""An exact filter for similar pairs: a few rotated coordinates and one number for the rest bound every cosine.

Let W [d, r] have orthonormal columns, p = W^T x and rho_x = sqrt(1 - |p|^2) for a unit row x. By Cauchy and Schwarz

    x.y <= p.q + rho_x rho_y = (p, rho_x).(q, rho_y),

one product of r + 1 numbers a pair. A pair whose bound lies below the threshold is not similar: no false negatives. W
holds the leading directions of the rows' second moments (uncentred PCA, which minimises the mean rho), of a sample.

Rounding, with u = 2**-24. W is float32 and eta = |W^T W - I| in the Frobenius norm is measured in float64. p is
computed in float32, 64 terms at a time and then the partial sums, from a row that is off by at most 2.01 u: it is off
by at most e = (64 + d / 64 + 9) u sqrt(r) (1 + eta). With the projection P onto the columns, Px.Py differs from the
exact W^T x . W^T y by at most eta / (1 - eta) |p||q|, hence from p.q by at most t = 2 e (1 + e) + e^2 + 2 eta, and |x -
Px|^2 <= 1 - |p|^2 + t. rho is the root of 1 - |p|^2 + 2 t, rounded up, which covers that. The float32 product of r + 1
terms is off by at most (r + 2) u |a||b| with |a||b| at most 1 + 2 t, and rounding a threshold to float32 costs u. So
the computed bound is at least the cosine minus `slack` = 1.1 t + (r + 8) u, about 0.0002 for 1280 numbers and 128
columns. A rotation with t above 0.05 is refused.

Filtering happens twice, with `short` columns for every pair and all columns for the survivors. Whether and how to
filter is decided on expected time alone; results do not depend on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curate.dedup.cosine import UNIT_ROUNDOFF, Rows
from curate.errors import SpecError

SAMPLE = (1024, 8192)
"""A rotation is fitted on a quarter of the rows, but on no fewer (where there are) and no more than these."""

_CHUNK = 512  # rows unpacked at once
_TERMS = 64  # terms of a coordinate summed by one product; the partial sums are added up
_PAIRS = 512  # rows a side whose pairs say how many survive
_WORTH = 2.0e10  # multiply-adds of the plain search below which a fit does not pay

# nanoseconds, only used to choose: a multiply-add, a pair of a tile, a column for a survivor, an exact pair
_MADD, _TILE, _SURVIVOR, _EXACT = 0.0145, 0.6, 1.0, 2500.0


@dataclass(frozen=True)
class Prefix:
    """A rotation and how many of its columns each of the two filters uses."""

    rotation: NDArray[np.float32]
    """[d, long], orthonormal columns, the direction of most energy first."""
    short: int
    """Columns of the first filter, at most long; both are the same when one filter does."""
    loose: float = field(init=False)
    """The t of the module's text, for all columns."""

    def __post_init__(self) -> None:
        dim, long = self.rotation.shape
        wide = self.rotation.astype(np.float64)
        eta = float(np.linalg.norm(wide.T @ wide - np.eye(long))) + dim * long * 2.0**-52
        e = (min(_TERMS, dim) + dim // _TERMS + 9) * UNIT_ROUNDOFF * float(np.sqrt(long)) * (1.0 + eta)
        loose = 2.0 * e * (1.0 + e) + e * e + 2.0 * eta
        if not (0 < self.short <= long and loose <= 0.05 and self.rotation.dtype == np.float32):
            raise SpecError(
                f"a prefix of {self.short} of {long} columns over rows of {dim} numbers does not work: the columns are "
                "to be float32 and orthonormal, at least one of them in use, and few enough for their rounding."
            )
        object.__setattr__(self, "loose", loose)

    @property
    def long(self) -> int:
        """Columns of the second filter."""
        return int(self.rotation.shape[1])

    def sketch(self, rows: Rows, index: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(first [m, short + 1], second [m, long + 1]) of some rows: coordinates, then the length of the rest."""
        p = np.empty((len(index), self.long), dtype=np.float32)
        for start in range(0, len(index), _CHUNK):
            x, out = rows.unit(index[start : start + _CHUNK]), p[start : start + _CHUNK]
            np.matmul(x[:, :_TERMS], self.rotation[:_TERMS], out=out)
            for k in range(_TERMS, rows.dim, _TERMS):
                out += x[:, k : k + _TERMS] @ self.rotation[k : k + _TERMS]
        first = self.with_rest(p[:, : self.short])
        return first, first if self.short == self.long else self.with_rest(p)

    def with_rest(self, p: NDArray[np.float32]) -> NDArray[np.float32]:
        """Coordinates [m, r] with the length of what they leave out behind them."""
        out = np.empty((len(p), p.shape[1] + 1), dtype=np.float32)
        out[:, :-1] = p
        rest2 = 1.0 + 2.0 * self.loose - np.einsum("ij,ij->i", p, p, dtype=np.float64)
        out[:, -1] = np.nextafter(np.sqrt(np.maximum(rest2, 0.0)).astype(np.float32), np.float32(2.0))
        return out

    def slack(self, columns: int) -> float:
        """By how much a computed bound of so many columns (the rest included) may lie below the cosine."""
        return 1.1 * self.loose + (columns + 7) * UNIT_ROUNDOFF


def fit(rows: Rows, columns: int) -> NDArray[np.float32]:
    """Leading directions, orthonormal [d, columns], of evenly spaced rows; at most n and d columns.

    Randomised subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4) with one power step. Any orthonormal
    columns make an exact filter, so the accuracy of the fit only matters for speed.
    """
    columns = min(columns, rows.dim, rows.n)
    x = rows.unit(_spread(rows.n, min(max(rows.n // 4, SAMPLE[0]), SAMPLE[1])))
    start = np.random.default_rng(0).standard_normal((len(x), min(columns + 32, *x.shape)), dtype=np.float32)
    basis = np.linalg.qr(x.T @ (x @ (x.T @ start)))[0]
    seen = x @ basis
    turn = np.linalg.eigh((seen.T @ seen).astype(np.float64))[1][:, ::-1][:, :columns]
    rotation: NDArray[np.float32] = (basis.astype(np.float64) @ turn).astype(np.float32)
    return rotation


def choose(
    rows: Rows, other: Rows | None, pairs: float, threshold: float, prefix: int | Prefix | None
) -> Prefix | None:
    """The filter for a search among `rows`, or between them and `other`; None: compare in full.

    prefix: None decides by expected time, 0 turns the filter off, a number of columns or a Prefix turns it on. Raises
    SpecError for a negative number or a Prefix of another dimension.
    """
    if isinstance(prefix, Prefix):
        if prefix.rotation.shape[0] != rows.dim:
            raise SpecError(f"the prefix is for rows of {prefix.rotation.shape[0]} numbers, these have {rows.dim}.")
        return prefix
    if prefix is not None and prefix < 0:
        raise SpecError(f"the prefix has {prefix} columns; it must be 0 (no filter) or more, or unset to decide.")
    if prefix == 0 or rows.n == 0 or (prefix is None and pairs * rows.dim < _WORTH):
        return None
    if prefix is not None:
        rotation = fit(rows, prefix)
        return Prefix(rotation, rotation.shape[1])
    rotation = fit(rows, min(384, rows.dim // 3))
    return _best(rows, other or rows, pairs, threshold, rotation)


def _best(rows: Rows, other: Rows, pairs: float, threshold: float, rotation: NDArray[np.float32]) -> Prefix | None:
    """The cheapest pair of filters by the survivors among a sample of pairs."""
    whole = Prefix(rotation, rotation.shape[1])
    left, right = (whole.sketch(side, _spread(side.n, _PAIRS, shift))[0] for side, shift in ((rows, 0), (other, 1)))
    sizes = [r for r in (16, 32, 48, 64, 96, 128, 192, 256, 384) if r <= whole.long]
    share = {}
    for r in sizes:
        bound = whole.with_rest(left[:, :r]) @ whole.with_rest(right[:, :r]).T
        share[r] = float(np.mean(bound >= threshold - whole.slack(r + 1)))
    dim = rows.dim
    best, cheapest = None, 0.8 * (dim * _MADD + _TILE)
    for short in sizes:
        for long in sizes[sizes.index(short) :]:
            cost = short * _MADD + _TILE + share[long] * _EXACT
            if long > short:
                cost += share[short] * _SURVIVOR * (64 + long)
            cost += (rows.n if other is rows else rows.n + other.n) * dim * (long + 80.0) * _MADD / max(pairs, 1.0)
            if cost < cheapest:
                best, cheapest = Prefix(np.ascontiguousarray(rotation[:, :long]), short), cost
    return best


def _spread(n: int, wanted: int, shift: int = 0) -> NDArray[np.int64]:
    """At most `wanted` evenly spaced rows of n; another shift takes others where there are enough."""
    count = min(n, wanted)
    index = np.arange(count, dtype=np.int64) * n // max(count, 1)
    return index + shift if n >= 2 * count else index
