"""What is known of the metric scores of ImageNet published with Sorscher et al. 2022 (arXiv 2206.14486).

15 files `ImageNet-1K_<metric>.csv`, all HIGH = keep. Checks give notes, not errors: a file may be cut on purpose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import polars as pl

from curate.formats.score_tables import ScoreTable, numbers, read_table

ROWS = 1_281_167
"""Training images of ImageNet-1k."""
METRICS = (
    "DDD", "EL2N-1-model", "EL2N-20-models", "active-learning", "forgetting", "influence-max", "influence-sum-abs",
    "memorization", "random-100", "random-101", "random-102", "random-103", "random-104",
    "self-supervised-prototypes", "supervised-prototypes",
)  # fmt: skip
_FILE = re.compile(r"ImageNet-1K_([A-Za-z0-9-]+)\.csv\Z")


def published_notes(table: ScoreTable, column: str) -> Iterator[str]:
    """Sentences on what does not fit the published file of that name; nothing for a file of another name.

    Checked: the metric's name, the number of rows, memorization at most 1, active learning 0 or 1 with a mean of 0.8.
    Reads the file once. Memory: one batch.
    """
    match = _FILE.search(table.url)
    if match is None:
        return
    name, file = match[1], table.url.rpartition("/")[2]
    if name not in METRICS:
        yield f"{file}: no published metric is named {name}; known are {', '.join(METRICS)}"
    if table.rows != ROWS:
        yield f"{file}: has {table.rows:,} rows, the published file has {ROWS:,}"
    count, total, most, binary = 0, 0.0, -np.inf, True
    for first, batch in read_table(table, [column], 0, table.rows):
        values = numbers(table, column, first, pl.Series(batch[column]))
        values = values[~np.isnan(values)]
        count, total = count + len(values), total + float(values.sum())
        most = max(most, float(values.max(initial=-np.inf)))
        binary &= bool(np.isin(values, (0.0, 1.0)).all())
    if name == "memorization" and most > 1.0:
        yield f"{file}: a memorization score is {most:g}; scores are differences of probabilities and at most 1"
    if name == "active-learning" and count and not (binary and abs(total / count - 0.8) <= 0.01):
        kind = "has" if binary else "holds other values, with"
        yield f"{file}: active learning is 0 or 1 with a mean of 0.8; this file {kind} a mean of {total / count:.3f}"
