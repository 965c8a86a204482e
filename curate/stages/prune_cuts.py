"""The cuts that `prune` found, as a table: which key is the last one kept, in each concept or in all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import polars as pl

from curate.pruning.search import Search, ranking
from curate.pruning.select import Which
from curate.pruning.thresholds import cut_keys, settled

_SCHEMA = {
    "budget": pl.Float64(), "cut": pl.String(), "concept": pl.Int32(), "score": pl.Int64(), "uid_hi": pl.UInt64(),
    "uid_lo": pl.UInt64(), "none": pl.Boolean(),
}  # fmt: skip


def cuts_table(searches: Iterable[tuple[float, Search]]) -> pl.DataFrame:
    """One row for each cut of each finished search; concept is null for a cut through all rows. Memory: O(k)."""
    frames = []
    for budget, search in searches:
        for name, window in search.windows.items():
            score, uid_hi, uid_lo = cut_keys(window)
            groups = len(score)
            concepts = np.arange(groups) if name.partition(".")[0] != "others" else [None]
            columns = {"concept": concepts, "score": score, "uid_hi": uid_hi, "uid_lo": uid_lo, "none": window.nothing}
            frame = pl.DataFrame({n: pl.Series(n, v, dtype=_SCHEMA[n]) for n, v in columns.items()})
            frames.append(frame.with_columns(budget=pl.lit(budget, pl.Float64), cut=pl.lit(name)).select(*_SCHEMA))
    return pl.concat(frames) if frames else pl.DataFrame(schema=_SCHEMA)


def searches_of(
    table: pl.DataFrame, budgets: Sequence[float], which: Which, concepts: int
) -> list[tuple[float, Search]]:
    """The finished searches of a table, in the order of `budgets`; `keep` is all they are good for."""
    found = []
    for budget in budgets:
        mine = table.filter(pl.col("budget") == budget)
        windows = {}
        for name in mine["cut"].unique(maintain_order=True):
            one = mine.filter(pl.col("cut") == name)
            keys = one["score"].to_numpy(), one["uid_hi"].to_numpy(), one["uid_lo"].to_numpy()
            windows[name] = settled(*keys, one["none"].to_numpy(), ranking(which), concepts)
        none = np.zeros(concepts, dtype=np.int64)
        found.append((budget, Search(which, 0, 0, none, none, none, 0, windows)))
    return found
