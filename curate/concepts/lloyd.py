"""One Lloyd iteration of spherical k-means, in pieces that add up exactly whatever rows they are made of.

Dhillon and Modha, Concept decompositions for large sparse text data using clustering, Machine Learning 42 (2001): each
row goes to the centroid of the largest inner product, each centroid becomes the normalised sum of its rows. Rows hold
multiples of 2**-24, so float64 sums of fewer than 2**29 of them have no rounding and distances are integers: partial
results of any blocks, parts or workers, added in any order, give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.concepts.assign import DISTANCE_SCALE, Device, Nearest, as_float32, assign, on_grid, paired_dots, to_fixed
from curate.errors import SpecError

MOST_MEMBERS = 2**29
"""Rows of one concept up to which float64 sums of multiples of 2**-24 are exact: 537 million."""

_SORTED = 2**16  # rows sorted by concept at once while summing members
_IN_CACHE = 2**17  # entries of theirs widened at once (1 MiB of float64)
_SPLIT = 1.0 / 1024.0  # relative nudge between the two halves of a split concept, as in faiss


def unit_on_grid(rows: NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]) -> NDArray[np.float32]:
    """Rows [k, d] scaled to norm 1 with entries rounded to multiples of 2**-24; a zero row stays zero.

    The squares are added column by column, a fixed order, so the result does not depend on SIMD width.
    """
    exact = rows.astype(np.float64)
    norm2 = np.zeros(len(exact))
    for column in exact.T:
        norm2 += column * column
    norm = np.sqrt(norm2)
    norm[norm == 0.0] = 1.0
    return on_grid(exact / norm[:, None])


def member_sums(
    rows: NDArray[np.float16] | NDArray[np.float32], concept: NDArray[np.int32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum of the member rows (float64 [k, d], exact below 2**29 rows) and number of members (int64 [k]) per concept."""
    sums = np.zeros((k, rows.shape[1]), dtype=np.float64)
    for start in range(0, len(concept), _SORTED):
        _add(sums, rows[start : start + _SORTED], concept[start : start + _SORTED])
    return sums, np.bincount(concept, minlength=k).astype(np.int64)


def _add(
    sums: NDArray[np.float64],
    rows: NDArray[np.float16] | NDArray[np.float32],
    concept: NDArray[np.int32],
    sign: float = 1.0,
) -> None:
    """Add each row, times sign, to the sum of its concept, in place. Memory: 12 bytes a row, 2 MiB."""
    order = np.argsort(concept, kind="stable")
    step = max(16, _IN_CACHE // max(1, sums.shape[1]))
    for at in range(0, len(order), step):
        members = order[at : at + step]
        ids = concept[members]
        heads = np.flatnonzero(np.diff(ids, prepend=-1)).tolist()
        values = as_float32(rows[members]).astype(np.float64)
        if sign != 1.0:
            values *= sign
        for head, end in zip(heads, [*heads[1:], len(ids)], strict=True):  # five times as fast as np.add.reduceat
            sums[ids[head]] += values[head] if end == head + 1 else values[head:end].sum(axis=0)


def split_empty(centroids: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Give each empty concept (ascending) one half of the largest concept at that moment (ties: lowest concept)."""
    sizes = counts.copy()
    nudge = np.where(np.arange(centroids.shape[1]) % 2 == 0, 1.0 + _SPLIT, 1.0 - _SPLIT)
    for j in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            break
        pair = centroids[largest].astype(np.float64) * np.stack([nudge, 2.0 - nudge])
        centroids[j], centroids[largest] = unit_on_grid(pair)
        sizes[j] = sizes[largest] // 2
        sizes[largest] -= sizes[j]
    return centroids


def moved(
    centroids: NDArray[np.float32], sums: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float32], int]:
    """The centroids after an iteration, and how many concepts no row chose (each is split off the largest one).

    Members that cancel out leave no direction: the old centroid stays. Raises SpecError when a concept has more rows
    than can be summed exactly.
    """
    if int(counts.max(initial=0)) > MOST_MEMBERS:
        raise SpecError(
            f"a concept has {int(counts.max()):,} rows, more than the {MOST_MEMBERS:,} that can be summed without "
            "rounding: ask for more concepts, or train on a sample"
        )
    fresh = unit_on_grid(sums)
    gone = ~fresh.any(axis=1)
    fresh[gone] = centroids[gone]
    return split_empty(fresh, counts), int(np.count_nonzero(counts == 0))


@dataclass(frozen=True)
class Partial:
    """What some rows contribute to an iteration. Adding partials is associative and exact."""

    sums: NDArray[np.float64]
    """[k, d] sum of the rows of each concept."""
    counts: NDArray[np.int64]
    """[k] rows of each concept."""
    objective: int
    """Sum of the distances to the centroids, in units of 1 / DISTANCE_SCALE."""

    def __add__(self, other: Partial) -> Partial:
        return Partial(self.sums + other.sums, self.counts + other.counts, self.objective + other.objective)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """As arrays; the objective in two int64, whole distances and the rest, so that no sum overflows."""
        objective = np.array(divmod(self.objective, DISTANCE_SCALE), dtype=np.int64)
        return {"sums": self.sums, "counts": self.counts, "objective": objective}

    @staticmethod
    def of_arrays(arrays: Mapping[str, NDArray[Any]]) -> Partial:
        """The inverse of `arrays`."""
        whole, rest = arrays["objective"].tolist()
        return Partial(arrays["sums"], arrays["counts"], whole * DISTANCE_SCALE + rest)


def partial(
    rows: NDArray[np.float16] | NDArray[np.float32], centroids: NDArray[np.float32], *, device: Device = "cpu"
) -> Partial:
    """Assign unit rows [n, d] to centroids [k, d] and add them up. Memory: O(k d), the n answers, a block of scores."""
    concept, distance = assign(rows, centroids, device=device)
    return Partial(*member_sums(rows, concept, len(centroids)), int(distance.sum()))


def total(partials: Iterable[Partial]) -> Partial:
    """The sum of one partial or more. Memory: two of them."""
    found: Partial | None = None
    for one in partials:
        if found is None:
            found = Partial(one.sums.copy(), one.counts.copy(), one.objective)
            continue
        np.add(found.sums, one.sums, out=found.sums)
        np.add(found.counts, one.counts, out=found.counts)
        found = Partial(found.sums, found.counts, found.objective + one.objective)
    if found is None:
        raise SpecError("there is nothing to add up: k-means needs at least one part.")
    return found


def ended(objective: list[float], still: bool, iterations: int, tolerance: float) -> bool:
    """Whether the iterations end here. objective: mean distance at each iteration so far.

    They end after `iterations`, or when the last one gained less than `tolerance` (a share of the mean distance before
    it; 0: never), or when nothing moved. In the last case all others would give the same: with tolerance 0 their
    objectives are filled in.
    """
    if still and tolerance == 0.0:
        objective += objective[-1:] * (iterations - len(objective))
    gained_little = len(objective) > 1 and objective[-2] - objective[-1] < tolerance * objective[-2]
    return still or gained_little or len(objective) >= iterations


class InMemory:
    """Iterations over the same rows in one process, each equal to `partial` and `moved` to the byte, but faster.

    It remembers each row's concept, the exact inner product with its centroid, and a bound on the products with all
    other centroids: Hamerly, Making k-means even faster, SDM 2010, carried over to inner products. A centroid that
    moves by delta changes the product with a row x by at most |x| delta. Only rows that could have changed sides are
    compared with all centroids again, and only rows that did are moved between the sums, which is exact.
    Memory: 20 bytes a row beside the rows, O(k d), a block of scores.
    """

    def __init__(
        self,
        rows: NDArray[np.float16] | NDArray[np.float32],
        centroids: NDArray[np.float32],
        *,
        device: Device = "cpu",
    ) -> None:
        self.rows, self.centroids = rows, centroids
        self.empty = 0
        self._device = device
        n, k = len(rows), len(centroids)
        self._concept = np.zeros(n, dtype=np.int32)
        self._dot = np.zeros(n)
        self._ceiling = np.full(n, np.inf)  # of the products with the other centroids
        self._sums, self._counts = np.zeros((k, rows.shape[1])), np.zeros(k, dtype=np.int64)
        self._norm = 0.0
        self._moved_by: NDArray[np.float64] | None = None

    def iterate(self) -> int:
        """One iteration: assign all rows, move the centroids. Returns the objective in units of 1 / DISTANCE_SCALE."""
        nearest = Nearest(self.centroids, device=self._device)
        if self._moved_by is not None:
            self._follow(nearest, self._moved_by)
        self._look_again(nearest)
        objective = 0
        for at in range(0, len(self.rows), 2**17):
            objective += int(to_fixed(self._dot[at : at + 2**17]).sum())
        fresh, self.empty = moved(self.centroids, self._sums, self._counts)
        gap = fresh.astype(np.float64) - self.centroids
        self._moved_by = np.sqrt(np.einsum("ij,ij->i", gap, gap)) * (1.0 + 1e-9)
        self.centroids = fresh
        return objective

    @property
    def still(self) -> bool:
        """Whether the last iteration moved nothing, so that all further ones would be the same."""
        return self._moved_by is not None and not self._moved_by.any()

    def _follow(self, nearest: Nearest, moved_by: NDArray[np.float64]) -> None:
        """What the products became now that the centroids moved: exact for the own one, a bound for the others.

        The centroids that moved the most are compared with every row that they could have won, so that the bound grows
        by what the others moved; how many, is what leaves the least to do.
        """
        own = np.flatnonzero((moved_by > 0.0)[self._concept])
        for at in range(0, len(own), nearest.block):
            rows = own[at : at + nearest.block]
            self._dot[rows] = paired_dots(as_float32(self.rows[rows]), nearest.exact, None, self._concept[rows])
        steps = np.sort(moved_by)[::-1] * self._norm * (1.0 + 1e-9) + 1e-12
        gap = np.sort(self._dot - self._ceiling)
        k = len(moved_by)
        sizes = [0]  # on a GPU a full comparison costs next to nothing
        if self._device == "cpu":
            sizes += [k >> shift for shift in range(8, 0, -1) if k >> shift]
        within = np.searchsorted(gap, steps[sizes], side="right")
        fast = sizes[int(np.argmin(within[0] * np.asarray(sizes) + within * k))]
        near = np.flatnonzero(self._dot - self._ceiling <= steps[0])
        self._ceiling += steps[0]
        if not fast:
            return
        self._ceiling[near] += steps[fast] - steps[0] + 1e-12
        first = np.argsort(-moved_by, kind="stable")[:fast]
        place = np.full(k, -1)
        place[first] = np.arange(fast)
        among = Nearest(self.centroids[first], device=self._device)
        for at in range(0, len(near), among.block):
            rows = near[at : at + among.block]
            best = among.best_other(as_float32(self.rows[rows]), place[self._concept[rows]])
            self._ceiling[rows] = np.maximum(self._ceiling[rows], best)

    def _look_again(self, nearest: Nearest) -> None:
        """Compare rows that may have changed sides with all centroids."""
        first = self._moved_by is None
        unsure = np.flatnonzero(self._dot <= self._ceiling)
        for at in range(0, len(unsure), nearest.block):
            rows = unsure[at : at + nearest.block]
            x = as_float32(self.rows[rows])
            if first:
                self._norm = max(self._norm, float(np.sqrt(np.einsum("ij,ij->i", x, x).max())) * 1.001)
            best, self._ceiling[rows] = nearest(x, int(rows[0]))
            now = best.astype(np.int32)
            away = np.arange(len(rows)) if first else np.flatnonzero(now != self._concept[rows])
            self._dot[rows[away]] = paired_dots(x, nearest.exact, away, best[away])
            if not first:
                _add(self._sums, self.rows[rows[away]], self._concept[rows[away]], -1.0)
                _add(self._sums, self.rows[rows[away]], now[away])
            self._concept[rows] = now
        if first:
            self._sums, _ = member_sums(self.rows, self._concept, nearest.k)
        self._counts = np.bincount(self._concept, minlength=nearest.k).astype(np.int64)
