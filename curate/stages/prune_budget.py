"""How `prune` shares its budgets out: quotas or floors of every concept or class, and the tables that say so.

What never lives here: rows. Everything is arrays of one number a concept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.pruning.allocate import lower_bounds, targets, upper_bounds
from curate.pruning.complexity import Mode, complexity, d_inter, d_intra
from curate.pruning.diagnostics import diagnose, warnings
from curate.pruning.hierarchical import hierarchical_quotas, split
from curate.pruning.nested import nested_quotas
from curate.stages.base import State, Totals

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Sharing:
    """The options that decide quotas, with defaults filled in."""

    step: str
    by_complexity: bool
    """Quotas first; otherwise one ranking with floors."""
    allocation: str
    mode: Mode
    temperature: float
    neighbours: int
    balance: float
    cap: float | None
    repeats: int
    seed: int


def number(value: float, base: int) -> int:
    """Samples that a share of `base` (at most 1) or a number (above 1) means.

    A share is the decimal it is written as, rounded down: 0.3 of 10 is 3, not 2.999...
    """
    return int(value) if value > 1 else int(Fraction(repr(float(value))) * base)


def check_budgets(
    step: str, values: Sequence[float], base: int, name: str, there: int, repeats: int, alive: int
) -> list[int]:
    """Samples of each budget, smallest first. Raises SpecError for one that keeps nothing or more than there is.

    there: samples that can be ranked, of `alive`; the others have no group or no score.
    """
    out: list[int] = []
    ranked = "" if there == alive else " with a group and a score"
    for value in sorted(values, key=lambda v: number(v, base)):
        budget = number(value, base)
        of = f"{base} {name}" if value <= 1 else f"{alive} alive"
        if not 0 < budget <= there * repeats:
            more = f", {repeats} times at most" if repeats > 1 else ""
            raise SpecError(
                f"stage {step} is to keep {budget} samples (keep {value:g} of {of}) but {there} are alive "
                f"there{ranked}{more}; lower keep, or choose another base with `of`"
            )
        if out and budget <= out[-1]:
            raise SpecError(
                f"stage {step}: two budgets keep {budget} samples (one is {value:g} of {of}); leave one of nested out"
            )
        out.append(budget)
    return out


def shared(
    sharing: Sharing,
    totals: Totals,
    base: State,
    budgets: Sequence[int],
    cluster: str | None,
    tree: str | None,
) -> Arrays:
    """What is known of the quotas before any row is ranked, as arrays for the state of a reduce.

    base: counts int64 [k] and, with a cluster step, sums of distances. Returns complexity and target where there are
    concepts; `quota.i` for each budget that is shared out by complexity or a tree; `facts`, JSON of the costs.
    Memory: O(k), and the centroids.
    """
    counts = base["counts"]
    out: Arrays = {}
    facts: dict[str, Any] = {"shift": None, "nested": []}
    if cluster is not None:
        centroids = totals.artifacts(cluster)["centroids"]
        assert isinstance(centroids, np.ndarray)
        intra, inter = d_intra(base["sums"], counts), d_inter(centroids, sharing.neighbours)
        value = complexity(intra, inter, sharing.mode)
        weights = targets(value, sharing.temperature, 1, counts)
        out |= {"intra": intra, "inter": inter, "complexity": value, "weights": weights}
    if sharing.allocation == "hierarchical":
        assert tree is not None
        parents = _parents(totals, tree)
        room = upper_bounds(counts, budgets[-1], sharing.cap, repeats=sharing.repeats)
        for i, budget in reversed(list(enumerate(budgets))):
            # largest first: a smaller budget has no more of any concept than the larger one around it
            capacity = np.minimum(room, upper_bounds(counts, budget, sharing.cap, repeats=sharing.repeats))
            room = hierarchical_quotas(capacity, parents, budget, seed=sharing.seed)
            if int(room.sum()) != budget:
                raise SpecError(
                    f"stage {sharing.step} is to keep {budget} samples inside a larger budget, but under cap there are "
                    f"{int(room.sum())}; raise cap, or leave this one out of nested"
                )
            out[f"quota.{i}"] = room
    elif sharing.by_complexity:
        found = nested_quotas(
            out["weights"],
            counts,
            budgets,
            balance=sharing.balance,
            cap=sharing.cap,
            repeats=sharing.repeats,
            rule="proportional" if sharing.allocation == "proportional" else "additive",
        )
        for i, one in enumerate(found):
            out |= {f"quota.{i}": one.allocation.quota, f"floor.{i}": one.floor}
            facts["nested"].append(
                {"moved": one.moved, "objective": one.objective, "free_objective": one.free_objective}
            )
        facts["shift"] = found[-1].allocation.shift_over_mean_target
    return out | {"facts": np.asarray(json.dumps(facts))}


def bounds(
    sharing: Sharing, state: State, number: int, budget: int, inside: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Floor and limit of every concept for the search of one budget; int64 [k] each.

    A quota is both. Under one ranking they are the balance ratio's floor and the cap; inside: quotas of the next
    smaller budget, which the floors then contain.
    """
    counts = state["counts"]
    if f"quota.{number}" in state:
        quota = state[f"quota.{number}"]
        if sharing.repeats > 1:  # whole copies need no cut
            quota = split(quota, counts)[1]
        return quota, quota
    limit = upper_bounds(counts, budget, sharing.cap)
    if sharing.balance == 0.0 and sharing.cap is None:
        # one ranking alone: the runs of all budgets nest as they are, and floors would bend those around the median
        return np.zeros_like(counts), limit
    return lower_bounds(counts, budget, sharing.balance, at_least=inside, limit=limit), limit


def tables(
    sharing: Sharing,
    state: State,
    budgets: Sequence[int],
    names: Sequence[float],
    quotas: Sequence[NDArray[np.int64]],
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """The table of concepts (or classes) for the largest budget, and the diagnostics."""
    counts, quota, budget = state["counts"], quotas[-1], budgets[-1]
    facts = json.loads(str(state["facts"]))
    last = len(budgets) - 1
    upper = upper_bounds(counts, budget, sharing.cap, repeats=sharing.repeats)
    floor = state.get(f"floor.{last}")
    if floor is None:
        ratio = 0.0 if sharing.allocation == "hierarchical" else sharing.balance
        floor = lower_bounds(counts, budget, ratio, limit=upper)
    value = state.get("complexity")
    found = diagnose(
        counts, quota, floor, upper, complexity=value, shift=facts["shift"],
        temperature=sharing.temperature if value is not None else None,
    )  # fmt: skip
    found = {"budget": budget, "share": "complexity" if sharing.by_complexity else "global"} | found
    if sharing.by_complexity:
        found |= {"allocation": sharing.allocation, "temperature": sharing.temperature}
    if len(budgets) > 1:
        costs = facts["nested"] or [{} for _ in budgets]
        pairs = zip(names, budgets, costs, strict=True)
        found["nested"] = [{"budget": name, "samples": samples} | cost for name, samples, cost in pairs]
    weighs = sharing.by_complexity and sharing.allocation != "hierarchical"
    found["warnings"] = warnings(found) if weighs else []
    return _table(state, counts, quota, floor, budget), found


def _table(
    state: State, counts: NDArray[np.int64], quota: NDArray[np.int64], floor: NDArray[np.int64], budget: int
) -> pl.DataFrame:
    k = len(counts)
    table = pl.DataFrame({"concept": np.arange(k, dtype=np.int32), "size": counts})
    numbered = "called" in state  # classes of a label_sets step; two may have one name
    labels: list[str | None] = state["called" if numbered else "labels"].tolist() if "labels" in state else [None] * k
    table = table.with_columns(pl.Series("label", labels, dtype=pl.String))
    if numbered:
        table = table.with_columns(pl.Series("class", state["labels"], dtype=pl.UInt32))
    for name, source in (("d_intra", "intra"), ("d_inter", "inter"), ("complexity", "complexity")):
        table = table.with_columns(pl.Series(name, state.get(source, [None] * k), dtype=pl.Float64))
    target = state["weights"] * budget if "weights" in state else [None] * k
    return table.with_columns(
        pl.Series("target", target, dtype=pl.Float64),
        pl.Series("floor", floor, dtype=pl.Int64),
        pl.Series("quota", quota, dtype=pl.Int64),
        saturated=pl.Series((quota >= counts) & (counts > 0)),
    ).with_columns(pl.when(pl.col("size") > 0).then(name).alias(name) for name in ("d_intra", "complexity"))


def _parents(totals: Totals, tree: str) -> list[NDArray[np.int32]]:
    """Parents from level 2 up, of a hierarchy step."""
    found: Mapping[int, Any] = {
        int(name.removeprefix("parents_")): value
        for name, value in totals.artifacts(tree).items()
        if name.startswith("parents_")
    }
    return [np.asarray(found[level], dtype=np.int32) for level in sorted(found)]
