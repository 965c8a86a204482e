"""Known duplicates of a test collection: a `truth.json` beside its shards says which samples are edits of which.

Format: docs/formats/truth.md. Only read when it is there; nothing of a run depends on it.
"""

from __future__ import annotations

import json
from typing import Any

import polars as pl

from curate.errors import CurateError
from curate.pipeline.api import Run
from curate.store import urls

KINDS = ("dedup-exact", "dedup", "dedup_hash")
"""Steps that drop duplicates."""


def found_of_planted(run: Run) -> dict[str, Any] | None:
    """Share of the planted pairs of which at least one was dropped as a duplicate; None without a truth.json.

    Counts all pairs that reached the dedup stages. Memory: keys and drop reasons of all samples; for small collections.
    """
    if run.record.truth is None or set(KINDS).isdisjoint(step.kind for step in run.record.steps):
        return None
    try:
        handle = urls.open_read(run.record.truth)
    except CurateError:
        return None
    with handle:
        truth = json.loads(handle.read())
    index = run.record.steps[0].name
    dropping = [step.name for step in run.record.steps if step.kind in KINDS]
    dropped = pl.any_horizontal(pl.col(f"{step}.keep").not_() for step in dropping)
    frame = run.columns(index, *dropping).select(
        key=f"{index}.key", reached=pl.col(f"{dropping[0]}.keep").is_not_null(), gone=dropped.fill_null(False)
    )
    gone = dict(frame.filter("reached").select("key", "gone").collect().iter_rows())
    kinds: dict[str, list[int]] = {}
    for pair in truth.get("planted", []):
        if pair["key"] in gone and pair["of"] in gone:
            tally = kinds.setdefault(pair["kind"], [0, 0])
            tally[0] += gone[pair["key"]] or gone[pair["of"]]
            tally[1] += 1
    found, planted = (sum(t[i] for t in kinds.values()) for i in (0, 1))
    return {"found": found, "planted": planted, "kinds": dict(sorted(kinds.items()))}
