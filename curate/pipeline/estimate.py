"""What a plan would cost: parts stored, time, bytes and scratch, from a few measured rates. Rough on purpose."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from curate.concepts.number import MEMBERS, for_dedup
from curate.engine.progress import clock
from curate.errors import StorageError
from curate.formats.datacomp_metadata import rows_about
from curate.pipeline.plan import Plan, Step
from curate.pipeline.runfile import read_run
from curate.report.page import size
from curate.stages.relabel import RelabelStage
from curate.stages.sink import Outlook, Sink, Source
from curate.store.columns import part_file

BYTES_PER_SAMPLE = 60_000
"""Assumed before the index is there, unless the input is smaller than one sample a shard."""
BYTES_PER_ROW = 1_600
"""Assumed of ready embeddings: 768 numbers in float16, and their metadata."""
RATES = {"index": 12_000.0, "caption": 20_000.0, "hash": 900.0, "embed": 25.0, "relabel": 25.0, "release": 6_500.0}
"""Samples a second of one worker, measured on one core of an AMD EPYC: index and release with samples of 15 kB, embed
and relabel with the packaged EfficientNet-Lite0 on photos, hash on JPEGs of 512 to 1,024 pixels."""
DEFAULT_RATE = 100_000.0
PAIR_NS = 0.03
"""Nanoseconds of one core for one pair of vectors and one dimension, benchmarks/dedup.py."""
FLOPS = 2e10
"""Multiply-adds (counted as two) a second of one core in the matrix products of k-means."""
_SCRATCH = {"uids": 40, "dedup": 60, "dedup-exact": 64, "dedup_hash-pairs": 400}
_COLUMN_BYTES = {"index": 250, "embed": 8, "hash": 32}
AUTO_PRUNE = 500
"""Concepts that `auto` is taken for before it is known."""
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
            "shards": plan.total_shards or sum(step["parts"] for step in steps),
            "parts": len(plan.sources),
            "bytes": plan.nbytes,
            "rows": rows,
            "rows_known": known,
        },
        "makes": made.what if (made := _made(plan)) is not None else None,
        "workers": workers,
        "steps": steps,
        "seconds": round(seconds, 1),
        "time": clock(seconds),
        "bytes": sum(step["bytes"] for step in steps),
        "scratch_bytes": max((step["scratch_bytes"] for step in steps), default=0),
        "warnings": warnings(plan, measured),
    }


def _rows(plan: Plan) -> tuple[int, bool]:
    if (made := _made(plan)) is not None:
        return made.samples, True
    if plan.sources and plan.sources[0].kind == "folder":
        return sum(len(source.files) for source in plan.sources), True
    index = plan.steps[0]
    there = plan.workspace.listing(index.folder)
    names = [part_file(i, fp) for i, fp in enumerate(index.parts)]
    if all(name in there for name in names):
        from curate.store.columns import read_entry

        return sum(read_entry(plan.workspace, index.folder, i, fp).rows for i, fp in enumerate(index.parts)), True
    if plan.sources and plan.sources[0].kind == "datacomp":
        shards = [shard for source in plan.sources for shard in source.shards]
        return sum(rows_about(shard) for shard in shards), False
    bare = bool(plan.sources) and plan.sources[0].kind == "embeddings"
    return max(len(plan.sources), plan.nbytes // (BYTES_PER_ROW if bare else BYTES_PER_SAMPLE)), False


def _made(plan: Plan) -> Outlook | None:
    """What the plan makes of nothing; None where it reads an input."""
    stage = plan.steps[0].stage
    return stage.outlook() if isinstance(stage, Source) else None


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
        config, pass_over_all = step.stage.config, 2.0 * rows * _trained(step, rows) * DIM / FLOPS / workers
        if config.train == "full":
            return float(pass_over_all * (config.iterations + 1))
        sample = min(rows, config.training_sample)
        return float(2.0 * sample * _trained(step, rows) * DIM * config.iterations / FLOPS + pass_over_all)
    if step.kind == "dedup-similarity":
        concepts = _concepts(step, rows, clusters)
        # a row meets half of its own concept, and all of each that it is sent to
        compared = rows / concepts * (0.5 + _probes(step, rows, concepts))
        return float(rows * compared * DIM * PAIR_NS * 1e-9 / workers)
    return float(rows / RATES.get(step.kind, DEFAULT_RATE) / workers)


def _concepts(step: Step, rows: int, clusters: Sequence[Step]) -> int:
    within = next((c for c in clusters if c.name == step.stage.context.references.get("within")), None)
    return _trained(within, rows) if within else 1


def _trained(step: Step, rows: int) -> int:
    """Of a cluster stage; a guess where it chooses the number itself."""
    config = step.stage.config
    if isinstance(config.concepts, int):
        return config.concepts
    choice = for_dedup(max(1, rows), max(1, min(rows, config.training_sample)))
    return choice.concepts if config.purpose == "dedup" else min(AUTO_PRUNE, max(1, rows // MEMBERS))


def _notes(plan: Plan, step: Step, rows: int) -> list[str]:
    """What the table cannot say of a step."""
    notes: list[str] = []
    if step.kind != "cluster":
        return notes
    config = step.stage.config
    if config.train == "full":
        each = rows * 2 * DIM
        kept = "" if plan.workspace.is_local else "; after the first from copies on local disk, as far as there is room"
        notes.append(
            f"{step.name} reads all vectors, about {size(each)}, in each of at most {config.iterations:,} iterations: "
            f"{size(each * config.iterations)} in all{kept}"
        )
    if config.concepts == "auto":
        how = {
            "dedup": "as many as make assignment and pairs cost the same",
            "prune": "the fewest that doubling gains little on; a share of the training sample tells",
        }[config.purpose]
        notes.append(
            f"{step.name} settles the number of concepts as it runs: {how}; the plan takes {_trained(step, rows):,}"
        )
    return notes


def _probes(step: Step, rows: int, concepts: int) -> float:
    """Concepts a row is sent to, about. Without a limit a third of all, as at epsilon 0.07 on real rows (and twice that
    for those that are audited, since they ask both ways).
    """
    config = step.stage.config
    if config.probes == "all":
        return concepts / 3
    audited = config.audit if config.audit <= 1 else min(1.0, config.audit / max(rows, 1))
    return float(min(config.probes, concepts / 3) + audited * concepts * 2 / 3)


def _step(plan: Plan, step: Step, rows: int, workers: int, measured: float | None) -> dict[str, Any]:
    listing = plan.workspace.listing(step.folder)
    parts, made = len(step.parts), _made(plan)
    if isinstance(step.stage, Sink):
        finished = f"finished.{step.whole}.json" in listing
        if made is not None:
            parts = made.shards
        stored = parts if finished else 0
        if made is not None and not finished:
            stored = sum(name.startswith("shard-") and name.endswith(f".{step.whole}.json") for name in listing)
    else:
        stored = sum(part_file(i, fp) in listing for i, fp in enumerate(step.parts))
    left = 1 - stored / max(parts, 1)
    resources = step.stage.resources()
    shapes = [
        name for name, has in (("reduce", step.stage.has_reduce()), ("exchange", step.stage.has_exchange())) if has
    ]
    at_once = max(1, min(workers, parts))
    clusters = [s for s in plan.steps if s.kind == "cluster"]
    seconds = left * (rows / measured if measured else _seconds(step, rows, at_once, clusters))
    if made is not None and not measured:
        seconds = left * made.seconds / at_once
    vectors = rows * 2 * DIM
    bare = bool(plan.sources) and plan.sources[0].kind in ("embeddings", "datacomp")
    nbytes = {
        "embed": vectors + rows * 8,
        "relabel": rows * (_map_bytes(step) + 24),
        "read_embeddings": plan.nbytes if bare else vectors,
        "write_embeddings": plan.nbytes if bare else vectors,
        "release": rows * 60 if bare else plan.nbytes,
    }.get(step.kind, rows * _COLUMN_BYTES.get(step.kind, 12))
    nbytes = nbytes if made is None else made.nbytes
    scratch = {"cluster": min(rows, 1_000_000) * 2 * DIM}.get(step.kind, rows * _SCRATCH.get(step.kind, 0))
    if step.kind == "dedup-similarity":
        scratch = int((vectors + rows * 60) * (1 + _probes(step, rows, _concepts(step, rows, clusters))))
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
        "read_bytes_per_iteration": vectors if step.kind == "cluster" and step.stage.config.train == "full" else 0,
        "notes": _notes(plan, step, rows) if left else [],
        "facts": step.stage.facts(),
    }


def _map_bytes(step: Step) -> int:
    stage = step.stage
    return stage.info.dtype.itemsize if isinstance(stage, RelabelStage) else 0


def _packaged(step: Step) -> bool:
    return str(step.stage.config.model).startswith("packaged:")


def warnings(plan: Plan, measured: Mapping[str, float]) -> list[str]:
    """Orders of stages that make no sense, and guesses worth knowing."""
    if (made := _made(plan)) is not None:
        return list(made.warnings)
    found: list[str] = []
    kinds = [(step.name, step.kind) for step in plan.steps]
    names = [kind for _, kind in kinds]
    for at, (name, kind) in enumerate(kinds):
        dedups = [before for before in names[:at] if before in ("dedup", "dedup_hash")]
        if kind in ("filter", "sample") and dedups:
            found.append(
                f"{name} comes after {dedups[-1]}: it can drop a keeper, and so a whole group of duplicates; "
                "put it before"
            )
        if kind in ("dedup", "dedup_hash") and "prune" in names[:at]:
            found.append(f"{name} comes after prune: quotas went to duplicates, the total is no longer exact")
        users = {"cluster", "filter", "heads", "write_embeddings"}
        if kind in ("embed", "read_embeddings") and not users & set(names[at:]):
            found.append(f"no later stage uses the vectors of {name}")
        if kind == "prune" and not dedups:
            found.append(f"{name} has no dedup before it: duplicates may fill places among those that stay")
    guessed = [step.name for step in plan.steps if step.kind in ("embed", "relabel") and not _packaged(step)]
    for name in guessed:
        if name not in measured:
            found.append(
                f"the time of {name} is that of the packaged EfficientNet-Lite0 on a CPU; a pilot (--limit-shards 1) "
                "in this workspace gives the next plan your own rate"
            )
    if not {"release", "write_embeddings", "write_subset"} & set(names):
        found.append("no release stage: the run decides which samples stay but writes no dataset")
    return found
