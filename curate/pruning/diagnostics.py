"""What quotas amount to, in a few numbers, and when the complexity behind them barely acts."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.pruning.balance import class_balance
from curate.pruning.portable import exp

SATURATED, SHIFT, RATIO = 0.5, 0.5, 1.1
"""Above the first two, or below the third, `warnings` speaks."""


def diagnose(
    sizes: NDArray[np.int64],
    quota: NDArray[np.int64],
    floor: NDArray[np.int64],
    upper: NDArray[np.int64],
    *,
    complexity: NDArray[np.float64] | None = None,
    temperature: float | None = None,
    shift: float | None = None,
) -> dict[str, Any]:
    """Facts of quotas, all arrays [k]; JSON-able. Shares are of the concepts (or classes) with members.

    saturated_share: keep every member (quota >= size); at_floor_share, at_cap_share: stopped by their lower or their
    upper bound before that; complexity_min, _max, _spread (max - min) of concepts with members; target_ratio: largest
    over smallest target, exp(spread / temperature), at most exp(700); shift_over_mean_target as in `Allocation`;
    balance_before, balance_after: `class_balance` of sizes and quotas. Null where there is no such number.
    """
    members = sizes > 0
    n = max(1, int(members.sum()))
    full = members & (quota >= sizes)
    facts: dict[str, Any] = {
        "concepts": int(members.sum()),
        "saturated_share": int(full.sum()) / n,
        "at_floor_share": int((members & ~full & (quota <= floor)).sum()) / n,
        "at_cap_share": int((members & ~full & (quota > floor) & (quota >= upper)).sum()) / n,
        "shift_over_mean_target": shift,
        "complexity_min": None,
        "complexity_max": None,
        "complexity_spread": None,
        "target_ratio": None,
        "balance_before": class_balance(sizes[members]),
        "balance_after": class_balance(quota[members]),
    }
    if complexity is not None and members.any():
        low, high = float(complexity[members].min()), float(complexity[members].max())
        facts |= {"complexity_min": low, "complexity_max": high, "complexity_spread": high - low}
        if temperature is not None:
            facts["target_ratio"] = float(1.0 / exp(np.asarray([(low - high) / temperature]))[0])
    return facts


def warnings(facts: dict[str, Any]) -> list[str]:
    """Sentences on quotas by complexity that hardly follow it, given what `diagnose` found; each says what to change.

    Complexity barely acts when more than half of the concepts keep all they have, when the others are shifted by more
    than half of the mean target (the bounds decide then, not the targets), or when the largest target is less than 1.1
    times the smallest.
    """
    why, cure = [], []
    shift, ratio = facts["shift_over_mean_target"], facts["target_ratio"]
    if facts["saturated_share"] > SATURATED:
        why.append(f"{facts['saturated_share']:.0%} of the concepts keep all they have")
        cure.append("lower keep or use fewer concepts")
    if shift is not None and abs(shift) > SHIFT:
        why.append(f"bounds shift the other quotas by {shift:+.0%} of the mean target")
        cure.append("lower keep or use fewer concepts" if shift > 0 else "lower balance")
    if ratio is not None and ratio < RATIO:
        why.append(f"the largest target is only {ratio:.3g} times the smallest")
        cure.append("lower temperature")
    if not why:
        return []
    return [f"complexity barely acts: {'; '.join(why)}. To change that, {', and '.join(dict.fromkeys(cure))}."]
