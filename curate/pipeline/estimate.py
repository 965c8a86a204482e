"""What a plan would cost: parts stored, time, bytes and scratch, from a few measured rates. Rough on purpose."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from curate.engine.progress import clock
from curate.errors import StorageError
from curate.pipeline.plan import Plan, Step
from curate.pipeline.runfile import read_run
from curate.stages.sink import Sink
from curate.store.columns import part_file

BYTES_PER_SAMPLE = 60_000
"""Assumed before the index is there, unless the input is smaller than one sample a shard."""
BYTES_PER_ROW = 1_600
"""Assumed of ready embeddings: 768 numbers in float16, and their metadata."""
RATES = {"index": 12_000.0, "embed": 25.0, "release": 6_500.0}
"""Samples a second of one worker, measured on one core of an AMD EPYC: index and release with samples of 15 kB, embed
with the packaged EfficientNet-Lite0 on photos."""
DEFAULT_RATE = 100_000.0
PAIR_NS = 0.03
"""Nanoseconds of one core for one pair of vectors and one dimension, benchmarks/dedup.py."""
FLOPS = 2e10
"""Multiply-adds (counted as two) a second of one core in the matrix products of k-means."""
_SCRATCH = {"uids": 40, "dedup-exact": 64, "prune": 40}
_COLUMN_BYTES = {"index": 250, "embed": 8}
DIM = 1280
START_S = 8.0
"""Start of a local Ray and of its workers."""


def estimate(plan: Plan) -> dict[str, Any]:
    """A JSON-able outlook. Reads listings, no samples."""
    rows, known = _rows(plan)
    workers = os.cpu_count() or 1
    measured = _measured(plan)
    steps = [_step(plan, step, rows, workers, measured.get(step.name)) for step in plan.steps]
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
        "warnings": warnings(plan, measured),
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
    bare = bool(plan.sources) and plan.sources[0].kind == "embeddings"
    return max(len(plan.sources), plan.nbytes // (BYTES_PER_ROW if bare else BYTES_PER_SAMPLE)), False


def _measured(plan: Plan) -> dict[str, float]:
    """Samples a second of all workers together, from the last run in this workspace, by step."""
    if not plan.workspace.exists("run.json"):
        return {}
    try:
        record = read_run(plan.workspace)
    except StorageError:
        return {}
    return {
        step.name: float(step.rows_before / step.seconds)
        for step in record.steps
        if step.status == "done" and step.rows_before and step.seconds and step.computed_all
    }


def _seconds(step: Step, rows: int, workers: int, clusters: Sequence[Step]) -> float:
    if step.kind == "cluster":
        config = step.stage.config
        sample = min(rows, config.training_sample)
        training = 2.0 * sample * config.concepts * DIM * config.iterations / FLOPS
        return float(training + 2.0 * rows * config.concepts * DIM / FLOPS / workers)
    if step.kind == "dedup":
        within = next((c for c in clusters if c.name == step.stage.context.references.get("within")), None)
        concepts = within.stage.config.concepts if within else 1
        return float(rows * rows / concepts / 2 * DIM * PAIR_NS * 1e-9 / workers)
    return float(rows / RATES.get(step.kind, DEFAULT_RATE) / workers)


def _step(plan: Plan, step: Step, rows: int, workers: int, measured: float | None) -> dict[str, Any]:
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
    at_once = max(1, min(workers, parts))
    seconds = left * (
        rows / measured if measured else _seconds(step, rows, at_once, [s for s in plan.steps if s.kind == "cluster"])
    )
    vectors = rows * 2 * DIM
    bare = bool(plan.sources) and plan.sources[0].kind == "embeddings"
    nbytes = {
        "embed": vectors + rows * 8,
        "read_embeddings": plan.nbytes if bare else vectors,
        "write_embeddings": plan.nbytes if bare else vectors,
        "release": rows * 60 if bare else plan.nbytes,
    }.get(step.kind, rows * _COLUMN_BYTES.get(step.kind, 12))
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


def _packaged(step: Step) -> bool:
    return str(step.stage.config.model).startswith("packaged:")


def warnings(plan: Plan, measured: Mapping[str, float]) -> list[str]:
    """Orders of stages that make no sense, and guesses worth knowing."""
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
        if kind in ("embed", "read_embeddings") and not {"cluster", "filter", "write_embeddings"} & set(names[at:]):
            found.append(f"no later stage uses the vectors of {name}")
        if kind == "prune" and "dedup" not in names[:at]:
            found.append(f"{name} has no dedup before it: duplicates will take up quota")
    if any(step.kind == "embed" and step.name not in measured and not _packaged(step) for step in plan.steps):
        found.append(
            "the time of embed is that of the packaged EfficientNet-Lite0 on a CPU; a pilot (--limit-shards 1) in this "
            "workspace gives the next plan your own rate"
        )
    if not {"release", "write_embeddings"} & set(names):
        found.append("no release stage: the run decides which samples stay but writes no dataset")
    return found
