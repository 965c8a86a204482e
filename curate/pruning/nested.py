"""Budgets inside one another: a smaller budget's samples are among those of every larger one, by construction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.pruning.allocate import Allocation, Rule, allocate, lower_bounds, upper_bounds


@dataclass(frozen=True)
class Budget:
    """One budget of several, and what it costs that the smaller ones lie inside it."""

    total: int
    floor: NDArray[np.int64]
    """[k] lower bounds: the balance ratio's and the quotas of the next smaller budget."""
    upper: NDArray[np.int64]
    """[k] upper bounds."""
    allocation: Allocation
    objective: float
    """1/2 |quota - target|^2."""
    free_objective: float
    """The same without smaller budgets inside; at most `objective`, unless floors of the ratio had to give way."""
    moved: int
    """Samples that the free optimum would give to other concepts."""


def nested_quotas(
    weights: NDArray[np.float64],
    counts: NDArray[np.int64],
    totals: Sequence[int],
    *,
    balance: float = 0.0,
    cap: float | None = None,
    repeats: int = 1,
    rule: Rule = "additive",
) -> list[Budget]:
    """Quotas of every budget, smallest first; each is elementwise at least the one before.

    weights float64 [k], sum 1: targets are total * weights. counts int64 [k]. totals: increasing. The smallest budget
    has its optimum; its quotas are lower bounds of the next one, which has the optimum under them, and so on. With one
    ranking a concept, larger quotas keep all that smaller ones do, so the chosen samples nest as well. Where the free
    optima nest already (the continuous ones do when bounds grow with the budget; rounding may break it by 1), nothing
    is moved. Memory O(k), time O(k log k) for each budget. Raises SpecError as `allocate`, and for totals that do not
    increase.
    """
    out: list[Budget] = []
    for total in totals:
        if out and total <= out[-1].total:
            raise SpecError(f"nested budgets must increase; {total} follows {out[-1].total}.")
        target = weights * total
        upper = upper_bounds(counts, total, cap, repeats=repeats)
        floor = lower_bounds(counts, total, balance, limit=upper)
        free = found = allocate(target, floor, upper, total, rule=rule)
        if out and (free.quota < out[-1].allocation.quota).any():
            inside = out[-1].allocation.quota
            floor = lower_bounds(counts, total, balance, at_least=inside, limit=upper)
            found = allocate(target, floor, np.maximum(upper, inside), total, rule=rule)
        costs = [math.fsum(np.square(a.quota - target).tolist()) / 2 for a in (found, free)]
        moved = int(np.maximum(free.quota - found.quota, 0).sum())
        out.append(Budget(total, floor, upper, found, costs[0], costs[1], moved))
    return out
