"""Rows that k-means starts from: random, k-means++ or k-means||. Only hashes and whole numbers decide.

A row's weight D^2 is its cosine distance to the nearest row chosen so far, in units of 2**-32 (half the squared
Euclidean distance of unit rows). Weights and their sums are exact integers and draws are hashes of (seed, round, row),
so the choice is the same on every machine.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.concepts.assign import Device, as_float32, assign, paired_dots, to_fixed
from curate.concepts.lloyd import unit_on_grid
from curate.errors import SpecError

Seeding = Literal["random", "kmeans++", "kmeans||"]

ROUNDS = 5
"""Rounds of k-means||; Bahmani et al. find that 5 are enough."""
OVERSAMPLING = 2
"""Rows drawn in a round of k-means||, as a multiple of k."""

_BLOCK = 2**22  # float32 entries looked at at once
_KEEP = 2**28  # float32 entries of a copy of the rows that k-means++ may keep (1 GiB)
_UNIT_ROUNDOFF = 2.0**-24


def seed_rows(
    sample: NDArray[np.float16] | NDArray[np.float32],
    k: int,
    *,
    seeding: Seeding,
    seed: int,
    device: Device = "cpu",
) -> NDArray[np.int64]:
    """Row numbers int64 [k], all different, of unit rows [n, d] in canonical order.

    "random": k rows by hash, see `starting_rows`. "kmeans++" and "kmeans||": see there. Raises SpecError for k < 1,
    k > n or another word. Memory: see there.
    """
    n = len(sample)
    if not 1 <= k <= n:
        raise SpecError(f"{k} starting rows cannot be chosen of {n}: ask for 1 to {n} concepts.")
    if seeding == "random":
        return starting_rows(n, k, seed)
    if seeding == "kmeans++":
        return plus_plus(sample, k, seed=seed)
    if seeding == "kmeans||":
        return parallel(sample, k, seed=seed, device=device)
    raise SpecError(f'seeding is "random", "kmeans++" or "kmeans||", not "{seeding}".')


def starting_rows(n: int, k: int, seed: int) -> NDArray[np.int64]:
    """The k row numbers (of n, ascending by hash) of the smallest splitmix64(seed, row)."""
    return np.argsort(_hashes(n, seed), kind="stable")[:k].astype(np.int64)


def _hashes(n: int, seed: int) -> NDArray[np.uint64]:
    """splitmix64(seed, row) of rows 0 to n - 1.

    Written out instead of numpy's generator, whose streams may change between versions.
    """
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z += np.uint64(seed % 2**64) * np.uint64(0xD1342543DE82EF95)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z


def _draw(seed: int, number: int, word: str) -> int:
    """128 uniform bits of (seed, number, word)."""
    material = f"{seed % 2**64}/{number}/{word}".encode()
    return int.from_bytes(hashlib.blake2b(material, digest_size=16, person=b"curate.seeding").digest(), "big")


def plus_plus(
    rows: NDArray[np.float16] | NDArray[np.float32],
    k: int,
    *,
    seed: int,
    weight: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """k-means++ (Arthur and Vassilvitskii, SODA 2007): each next row is drawn with probability D^2 / sum of D^2.

    weight: int64 [n], a row of weight w counts as w equal rows; default 1 each. When all that is left has distance 0
    the smallest row numbers not chosen yet follow. Time O(n k d), one pass over the rows for each k: for many concepts
    take `parallel`. Memory: 16 bytes a row, and a float32 copy of the rows unless that exceeds 1 GiB.
    """
    n, dim = rows.shape
    weights = np.ones(n, dtype=np.int64) if weight is None else weight
    held = as_float32(rows) if rows.size <= _KEEP else None
    chosen = [_pick(weights, _draw(seed, 0, "first"))]
    dot = np.full(n, -np.inf)
    distance = np.full(n, np.iinfo(np.int64).max)
    step = max(1, _BLOCK // max(1, dim))
    while True:
        centre = unit_on_grid(as_float32(rows[chosen[-1:]]))[0]
        exact = centre.astype(np.float64)[None]
        slack = np.float32(2.0 * (dim + 8) * _UNIT_ROUNDOFF * 1.01)  # of rows and centres of about norm 1
        for at in range(0, n, step):
            x = as_float32(rows[at : at + step]) if held is None else held[at : at + step]
            near = np.flatnonzero(x @ centre >= dot[at : at + step] - slack)
            better = paired_dots(x, exact, near, np.zeros(len(near), dtype=np.intp))
            dot[at + near] = np.maximum(dot[at + near], better)
            distance[at + near] = to_fixed(dot[at + near])
        distance[chosen[-1]] = 0
        if len(chosen) == k:
            return np.asarray(chosen, dtype=np.int64)
        pull = _products(distance, weights)
        if not pull.any():
            return _fill_up(chosen, n, k)
        chosen.append(_pick(pull, _draw(seed, len(chosen), "next")))


def _products(distance: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """distance x weight, both shifted right by as much as keeps the sum within int64."""
    room = 62 - 33 - int(weights.sum()).bit_length()  # distances are at most 2**33
    return distance * weights if room >= 0 else (distance >> -room) * weights


def _pick(weights: NDArray[np.int64], bits: int) -> int:
    """The row in which the point bits / 2**128 of the way along all weights lies."""
    sums = np.cumsum(weights)
    return int(np.searchsorted(sums, bits * int(sums[-1]) >> 128, side="right"))


def _fill_up(chosen: list[int], n: int, k: int) -> NDArray[np.int64]:
    free = np.ones(n, dtype=bool)
    free[chosen] = False
    return np.concatenate([np.asarray(chosen, dtype=np.int64), np.flatnonzero(free)[: k - len(chosen)]])


def parallel(
    rows: NDArray[np.float16] | NDArray[np.float32],
    k: int,
    *,
    seed: int,
    rounds: int = ROUNDS,
    device: Device = "cpu",
) -> NDArray[np.int64]:
    """k-means|| (Bahmani et al., Scalable k-means++, VLDB 2012, algorithm 2), with l = 2 k.

    Starts from one random row. Each round takes every row on its own with probability min(1, l D^2 / sum of D^2).
    A candidate then weighs as much as the rows nearest to it, and weighted k-means++ picks k candidates. When there are
    fewer candidates than k, random rows join them. Time: about `rounds` assignments to 2 k centroids, and k-means++ on
    about 2 k x rounds rows. Memory: 24 bytes a row, the candidates.
    """
    n = len(rows)
    candidates = np.asarray([_draw(seed, 0, "first") * n >> 128], dtype=np.int64)
    fresh = candidates
    nearest = np.zeros(n, dtype=np.int64)
    distance = np.full(n, np.iinfo(np.int64).max)
    for number in range(rounds + 1):
        concept, found = assign(rows, unit_on_grid(as_float32(rows[fresh])), device=device)
        closer = found < distance
        distance[closer] = found[closer]
        nearest[closer] = concept[closer] + (len(candidates) - len(fresh))
        distance[candidates] = 0
        if number == rounds or not distance.any():
            break
        fresh = taken(distance, OVERSAMPLING * k, _draw(seed, number, "round") % 2**64)
        candidates = np.concatenate([candidates, fresh])
        if not len(fresh):
            break
    if len(candidates) < k:
        free = np.ones(n, dtype=bool)
        free[candidates] = False
        more = starting_rows(n, n, seed)
        return np.concatenate([candidates, more[free[more]][: k - len(candidates)]])
    weight = np.bincount(nearest, minlength=len(candidates)).astype(np.int64)
    return candidates[plus_plus(rows[candidates], k, seed=seed, weight=weight)]


def taken(weights: NDArray[np.int64], share: int, seed: int) -> NDArray[np.int64]:
    """Row numbers, ascending, each taken on its own with probability min(1, share x weight / sum of weights)."""
    # single IEEE operations on whole numbers: the same on every machine
    chance = weights.astype(np.float64) * float(share) / float(int(weights.sum()))
    hashes = (_hashes(len(weights), seed) >> np.uint64(11)).astype(np.float64)
    return np.flatnonzero(hashes < chance * 2.0**53)
