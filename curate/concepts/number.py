"""How many concepts: a number, and the reason for it. Two rules, because two uses want different things."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.concepts.assign import Device, assign, to_float
from curate.concepts.kmeans import train
from curate.concepts.seeding import starting_rows
from curate.errors import SpecError

Purpose = Literal["prune", "dedup"]

MEMBERS = 50
"""Rows of the dataset that a concept should have, on average, at the least."""
TRAINING_MEMBERS = 40
"""Rows of the training sample that a concept should have, on average, at the least; faiss warns below 39."""
LADDER_ROWS = 100_000
"""Rows that the ladder looks at: half to train, half held out."""
LADDER_ITERATIONS = 10
GAIN = 0.02
"""Twice as many concepts are worth it when the held-out mean distance falls by this share."""


@dataclass(frozen=True)
class Choice:
    """A number of concepts and how it came about."""

    concepts: int
    why: str
    """One sentence."""
    ladder: list[dict[str, Any]] = field(default_factory=list)
    """Of `for_prune`: `concepts`, held-out mean `distance`, and `gain`, the share it fell by since half as many (null
    in the first row)."""


def for_dedup(alive: int, training_rows: int) -> Choice:
    """The number that makes assignment and pairs cost the same.

    Assigning n rows to k concepts takes n k products, the pairs inside k concepts of equal size n^2 / (2 k); the sum is
    smallest at k = sqrt(n / 2). At most what leaves MEMBERS rows a concept, and TRAINING_MEMBERS of the sample.
    Raises SpecError without rows.
    """
    if alive < 1 or training_rows < 1:
        raise SpecError("the number of concepts cannot be chosen without a row: nothing is alive.")
    balanced = max(1, isqrt(alive // 2))
    bounds = {
        f"sqrt(n / 2) for n = {alive:,} rows, where assignment (n k products) and pairs (n^2 / 2 k) cost the same": (
            balanced
        ),
        f"at least {MEMBERS} rows a concept on average, of {alive:,}": max(1, alive // MEMBERS),
        f"at least {TRAINING_MEMBERS} rows of the training sample a concept, of {training_rows:,}": max(
            1, training_rows // TRAINING_MEMBERS
        ),
    }
    why = min(bounds, key=lambda reason: bounds[reason])
    limited = "" if bounds[why] == balanced else f" ({balanced:,} would balance the cost)"
    return Choice(bounds[why], why + limited)


def for_prune(sample: NDArray[np.float16] | NDArray[np.float32], *, seed: int, device: Device = "cpu") -> Choice:
    """The smallest number from which doubling it no longer pays.

    sample: unit rows [n, d] in canonical order. Up to LADDER_ROWS of them, by hash, are cut in halves. On one half 1,
    2, 4, ... concepts are trained (k-means||, LADDER_ITERATIONS), as long as TRAINING_MEMBERS rows a concept are
    there; the mean distance of the other half to its nearest centroid is what counts, for it does not fall by mere
    fitting. The first number is taken whose double lowers it by less than GAIN. Raises SpecError without rows.
    Memory: LADDER_ROWS rows, O(concepts x d).
    """
    n = len(sample)
    if n < 1:
        raise SpecError("the number of concepts cannot be chosen without a row: nothing is alive.")
    chosen = starting_rows(n, min(n, LADDER_ROWS), seed)
    fitted, held_out = (sample[np.sort(chosen[half::2])] for half in (0, 1))
    most = len(fitted) // TRAINING_MEMBERS
    if most < 2 or not len(held_out):
        return Choice(1, f"{n:,} rows are too few to tell: two concepts need {4 * TRAINING_MEMBERS - 1:,}")
    ladder: list[dict[str, Any]] = []
    concepts = 1
    while concepts <= most:
        model = train(fitted, concepts, niter=LADDER_ITERATIONS, seed=seed, seeding="kmeans||", device=device)
        _, distance = assign(held_out, model.centroids, device=device)
        mean = float(to_float(distance.sum()[None])[0] / len(held_out))
        before = ladder[-1]["distance"] if ladder else None
        gain = None if not before else (before - mean) / before
        ladder.append({"concepts": concepts, "distance": mean, "gain": gain})
        if before is not None and (gain is None or gain < GAIN):
            told = f"{concepts:,} concepts lower the held-out distance by {max(gain or 0.0, 0.0):.1%} only"
            return Choice(concepts // 2, f"{told}, less than {GAIN:.0%}", ladder)
        concepts *= 2
    concepts //= 2
    why = f"the most that {len(fitted):,} rows can train ({TRAINING_MEMBERS} a concept); more would still gain"
    return Choice(concepts, why, ladder)
