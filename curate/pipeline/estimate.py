"""What a plan would cost: parts stored, time, bytes and scratch, from a few measured rates. Rough on purpose."""

from __future__ import annotations

import os
from typing import Any

from curate.engine.progress import clock
from curate.pipeline.plan import Plan, Step
from curate.stages.sink import Sink
from curate.store.columns import part_file

BYTES_PER_SAMPLE = 60_000
"""Assumed before the index is there, unless the input is smaller than one sample a shard."""
RATES = {"index": 4_000.0, "embed": 25.0, "cluster": 20_000.0, "dedup": 8_000.0, "release": 4_000.0}
"""Samples a second of one worker, measured on one core of an AMD EPYC (embed: packaged EfficientNet-Lite0)."""
DEFAULT_RATE = 200_000.0
_SCRATCH = {"uids": 40, "dedup-exact": 64, "prune": 40}
_COLUMN_BYTES = {"index": 250, "embed": 8}
DIM = 1280
START_S = 8.0
"""Start of a local Ray and of its workers."""


def estimate(plan: Plan) -> dict[str, Any]:
    """A JSON-able outlook. Reads listings, no samples."""
    rows, known = _rows(plan)
    workers = os.cpu_count() or 1
    steps = [_step(plan, step, rows, workers) for step in plan.steps]
    seconds = START_S + sum(step["seconds"] for step in steps)
    return {
        "name": plan.spec.name,
        "workspace": plan.workspace.url,
        "input": {
            "shards": plan.total_shards,
            "parts": len(plan.sources),
            "bytes": plan.nbytes,
            "rows": rows,
            "rows_known": known,
        },
        "workers": workers,
        "steps": steps,
        "seconds": round(seconds, 1),
        "time": clock(seconds),
        "bytes": sum(step["bytes"] for step in steps),
        "scratch_bytes": max((step["scratch_bytes"] for step in steps), default=0),
        "warnings": warnings(plan),
    }


def _rows(plan: Plan) -> tuple[int, bool]:
    if plan.sources and plan.sources[0].kind == "folder":
        return sum(len(source.files) for source in plan.sources), True
    index = plan.steps[0]
    there = plan.workspace.listing(index.folder)
    names = [part_file(i, fp) for i, fp in enumerate(index.parts)]
    if all(name in there for name in names):
        from curate.store.columns import read_entry

        return sum(read_entry(plan.workspace, index.folder, i, fp).rows for i, fp in enumerate(index.parts)), True
    return max(len(plan.sources), plan.nbytes // BYTES_PER_SAMPLE), False


def _step(plan: Plan, step: Step, rows: int, workers: int) -> dict[str, Any]:
    listing = plan.workspace.listing(step.folder)
    parts = len(step.parts)
    if isinstance(step.stage, Sink):
        finished = f"finished.{step.whole}.json" in listing
        stored = parts if finished else 0
    else:
        stored = sum(part_file(i, fp) in listing for i, fp in enumerate(step.parts))
    left = 1 - stored / max(parts, 1)
    resources = step.stage.resources()
    shapes = [
        name for name, has in (("reduce", step.stage.has_reduce()), ("exchange", step.stage.has_exchange())) if has
    ]
    seconds = left * rows / RATES.get(step.kind, DEFAULT_RATE) / max(1, min(workers, parts))
    vectors = rows * 2 * DIM
    nbytes = {"embed": vectors + rows * 8, "release": plan.nbytes}.get(
        step.kind, rows * _COLUMN_BYTES.get(step.kind, 12)
    )
    scratch = {"dedup": vectors + rows * 60, "cluster": min(rows, 1_000_000) * 2 * DIM}.get(
        step.kind, rows * _SCRATCH.get(step.kind, 0)
    )
    return {
        "name": step.name,
        "kind": step.kind,
        "folder": step.folder,
        "shapes": " + ".join([*shapes, "write" if isinstance(step.stage, Sink) else "map"]),
        "parts": parts,
        "parts_stored": stored,
        "needs": f"{resources.cpus:g} CPU" + (f", {resources.gpus:g} GPU" if resources.gpus else ""),
        "seconds": round(seconds, 1),
        "time": clock(seconds) if left else "stored",
        "bytes": int(left * nbytes),
        "scratch_bytes": int(left * scratch),
        "facts": step.stage.facts(),
    }


def warnings(plan: Plan) -> list[str]:
    """Orders of stages that make no sense."""
    found: list[str] = []
    kinds = [(step.name, step.kind) for step in plan.steps]
    names = [kind for _, kind in kinds]
    for at, (name, kind) in enumerate(kinds):
        if kind in ("filter", "sample") and "dedup" in names[:at]:
            found.append(
                f"{name} comes after dedup: it can drop a keeper, and so a whole group of duplicates; put it before"
            )
        if kind == "dedup" and "prune" in names[:at]:
            found.append(f"{name} comes after prune: quotas went to duplicates, the total is no longer exact")
        if kind == "embed" and not {"cluster", "filter"} & set(names[at:]):
            found.append(f"no later stage uses the vectors of {name}")
        if kind == "prune" and "dedup" not in names[:at]:
            found.append(f"{name} has no dedup before it: duplicates will take up quota")
    if "release" not in names:
        found.append("no release stage: the run decides which samples stay but writes no dataset")
    return found
