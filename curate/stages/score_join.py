"""What tables say of samples, once both stand side by side in a bucket. Helper of `score_table.py`: arrays only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.pruning.metrics import training
from curate.stages.score_sources import Reading, outputs_of, wide_score

_PAIRS = 1 << 20
"""Outputs of models held at once in float64 (8 MiB)."""


def twins(
    table: NDArray[Any], same: NDArray[np.bool_], at: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[int, int] | None:
    """The first two rows of the sorted table with one code and one `model` that a sample meets; None without any.

    same: whether each row but the first has the code of the one before it. at, counts: rows that the samples meet.
    """
    twice = np.flatnonzero(same & (table["model"][1:] == table["model"][:-1]))
    inside = np.zeros(len(table) + 1, dtype=np.int64)
    np.add.at(inside, at, 1)
    np.add.at(inside, at + counts, -1)
    twice = twice[np.cumsum(inside)[twice] > 0]
    return (int(twice[0]), int(twice[0]) + 1) if len(twice) else None


def values(
    reading: Reading,
    logits: bool,
    samples: NDArray[Any],
    table: NDArray[Any],
    at: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """The score of each sample from the rows at[i] .. at[i] + counts[i] of the table; NaN for none. float64 [samples].

    Rows of a sample stand in the order of `model`, in which their scores are added. Memory: 24 bytes a row.
    """
    who = np.repeat(np.arange(len(samples)), counts)
    what = np.arange(len(who)) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(at, counts)
    name, n = reading.metric, len(samples)
    if reading.mode == "look":
        said, label = table["said"][what], samples["label"][who].astype(np.int64)
        known = (said < 0) | (label >= 0)
        right = np.where(said < 0, said == -2, said == label)
        epoch = np.unique(table["model"][what], return_inverse=True)[1].astype(np.int64)
        return training.forgetting(who[known], epoch[known], right[known], n)
    if reading.mode == "counts":
        total = np.zeros((n, 4), dtype=np.int64)
        np.add.at(total, who, table["counts"][what])
        if name == "ddd":
            return (total[:, 1] + total[:, 3] - total[:, 0] - total[:, 2]).astype(np.float64)
        return training.memorization(total.T)
    value = table["value"][what] if reading.mode == "value" else _of_outputs(reading, logits, samples, table, who, what)
    has = ~np.isnan(value)
    # bincount adds in the order of the pairs, that is of the models
    summed = np.bincount(who[has], weights=value[has], minlength=n)
    found = np.bincount(who[has], minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(found > 0, summed if name == "ddd" else summed / found, np.nan)


def _of_outputs(
    reading: Reading,
    logits: bool,
    samples: NDArray[Any],
    table: NDArray[Any],
    who: NDArray[np.int64],
    what: NDArray[np.int64],
) -> NDArray[np.float64]:
    value = np.full(len(who), np.nan)
    label = samples["label"].astype(np.int64)
    pairs = np.flatnonzero(label[who] >= 0)
    step = max(1, _PAIRS // reading.width)
    for start in range(0, len(pairs), step):
        mine = pairs[start : start + step]
        rows = table[what[mine]]
        p = outputs_of(rows["values"], logits)
        value[mine] = wide_score(reading.metric, p, label[who[mine]], rows["norm"])
    return value
