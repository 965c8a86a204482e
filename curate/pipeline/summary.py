"""What a finished run amounts to, as plain data and as a page of text for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polars as pl

from curate.formats.samples import UPSTREAM_STATUSES
from curate.pipeline.api import Run
from curate.pipeline.labelled import labelled, labelled_lines
from curate.pipeline.letters import sentence
from curate.pipeline.notes import noted, noted_lines
from curate.pipeline.retries import Retried
from curate.pipeline.scored import scored, scored_lines
from curate.pipeline.truth import found_of_planted
from curate.report.page import duration, size
from curate.store.columns import read_columns
from curate.store.uids import format_uid

SHOWN = 10


def summarise(run: Run) -> dict[str, Any]:
    """Funnel, concepts, duplicates, broken samples, release. Memory: what is shown, and one part at a time."""
    record = run.record
    dropped = record.rows - record.alive - record.quarantined
    return {
        "name": record.name,
        "workspace": run.workspace.url,
        "status": record.status,
        "made": record.made,
        "rows": record.rows,
        "alive": record.alive,
        "dropped": dropped,
        "quarantined": record.quarantined,
        "seconds": round((record.finished or record.started) - record.started, 1),
        "steps": [
            {
                "name": step.name,
                "kind": step.kind,
                "rows_before": step.rows_before,
                "rows_after": step.rows_after,
                "reasons": step.reasons,
                "quarantines": step.quarantines,
                "quarantined": step.set_aside,
                "seconds": step.seconds,
                "reused_parts": step.reused_parts,
                "parts": step.parts,
                **({"facts": step.facts} if step.facts else {}),
            }
            for step in record.steps
        ],
        "noted": noted(record.notes),
        "broken_shards": [note for note in record.notes if note.get("kind") == "shard"],
        "broken": list(_broken(run)),
        "concepts": _concepts(run),
        "chosen": list(_chosen(run)),
        "labels": list(labelled(run)),
        "lists": list(_lists(run)),
        "scores": list(scored(run)),
        "thresholds": list(_thresholds(run)),
        "planted": found_of_planted(run),
        "retried": None if record.retried is None else record.retried.model_dump(),
        "release": next((step.facts for step in record.steps if "manifest_sha256" in step.facts), None),
        "embeddings": [step.facts for step in record.steps if step.kind == "write_embeddings" and "url" in step.facts],
        "subsets": [step.facts for step in record.steps if step.kind == "write_subset" and "url" in step.facts],
        "report": None,
    }


def _broken(run: Run) -> Iterator[dict[str, Any]]:
    """The first SHOWN quarantined samples of each step, in input order."""
    index = run.record.steps[0]
    for step in run.record.steps:
        if not step.set_aside:
            continue
        shown, group, base = 0, run.group(step.name), run.group(index.name)
        for part, origin in zip(group.parts, base.parts, strict=True):
            if shown >= SHOWN or not part.counts:
                continue
            wanted = [name for name in ("keep", "reason", "detail") if name in group.columns]
            columns = ["uid_hi", "uid_lo", "key", "shard", "detail"]
            frame = pl.concat(
                [
                    read_columns(run.workspace, base.folder, part.part, origin.fingerprint, columns),
                    read_columns(run.workspace, group.folder, part.part, part.fingerprint, wanted).rename(
                        {"detail": "why"}, strict=False
                    ),
                ],
                how="horizontal",
            ).filter(~pl.col("keep"), ~pl.col("reason").is_in(UPSTREAM_STATUSES))
            for row in frame.head(SHOWN - shown).iter_rows(named=True):
                shown += 1
                yield {
                    "step": step.name,
                    "uid": format_uid(row["uid_hi"], row["uid_lo"]),
                    "key": row["key"],
                    "part": part.part,
                    "shard": _shard(run, part.part, row["shard"]),
                    "status": row["reason"],
                    "detail": row.get("why") or row["detail"] or "",
                }


def _shard(run: Run, part: int, shard: int | None) -> str:
    names = run.sources[part].names if part < len(run.sources) else ()
    return names[shard] if shard is not None and shard < len(names) else f"part {part}"


def _lists(run: Run) -> Iterator[dict[str, Any]]:
    """Every allow and deny list, with how many of its entries are those of no sample, whatever became of it."""
    for step in run.record.steps:
        if step.kind == "lists" and step.status == "done":
            matches = run.artifacts(step.name)["matches"]
            yield from ({"step": step.name, "column": matches["column"]} | one for one in matches["lists"])


def _thresholds(run: Run) -> Iterator[dict[str, Any]]:
    """Where each dedup drew the line, what other lines would have kept, and how much was found."""
    for step in run.record.steps:
        if step.kind == "dedup" and step.status == "done":
            found = run.artifacts(step.name)
            told = {name: found[name] for name in ("decision", "recall")}
            yield {"step": step.name, **told, "curve": list(found["curve"].iter_rows())}


def _threshold_lines(one: dict[str, Any]) -> Iterator[str]:
    decision, recall = one["decision"], one["recall"]
    yield f"{one['step']}: {decision['kept']:,} of {decision['of']:,} stay at epsilon {decision['epsilon']:.6g}"
    if recall["probes"] == "all":
        yield "  every pair that can be so similar was compared"
    elif recall["with_duplicate"]:
        yield (
            f"  recall {recall['recall']:.3f} ({recall['low']:.3f} to {recall['high']:.3f}): {recall['found']:,} of "
            f"{recall['with_duplicate']:,} audited samples with a duplicate were found"
        )


def _chosen(run: Run) -> Iterator[dict[str, Any]]:
    """Numbers of concepts that `concepts: auto` came to, and why."""
    for step in run.record.steps:
        if step.kind == "cluster" and step.status == "done":
            auto = run.artifacts(step.name)["training"].get("auto")
            yield from [{"step": step.name, **auto}] if auto else []


def _concepts(run: Run) -> dict[str, Any] | None:
    """Quotas of the last prune stage: the largest and the smallest, and how hard the bounds pressed."""
    prunes = [step for step in run.record.steps if step.kind == "prune" and step.status == "done"]
    if not prunes:
        return None
    artifacts = run.artifacts(prunes[-1].name)
    table = artifacts["concepts"].filter(pl.col("size") > 0).sort(["quota", "concept"], descending=[True, False])
    columns = ["concept", "label", "size", "quota", "complexity", "saturated"]
    return {
        "step": prunes[-1].name,
        "diagnostics": artifacts["diagnostics"],
        "largest": table.head(3).select(columns).to_dicts(),
        "smallest": table.tail(3).select(columns).to_dicts(),
    }


def _balance(summary: dict[str, Any]) -> str:
    return (
        f"{summary['name']}: {summary['rows']:,} samples in = {summary['alive']:,} kept "
        f"+ {summary['dropped']:,} dropped + {summary['quarantined']:,} quarantined, in {duration(summary['seconds'])}"
    )


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The summary as text, a line at a time."""
    yield ""
    if summary["made"]:
        yield f"{summary['name']}: {summary['rows']:,} samples made in {duration(summary['seconds'])}"
    else:
        yield _balance(summary)
    yield ""
    width = max(len(step["name"]) for step in summary["steps"])
    for step in summary["steps"]:
        gone = (step["rows_before"] or 0) - (step["rows_after"] or 0)
        reasons = ", ".join(f"{reason} {n:,}" for reason, n in step["reasons"].items())
        reused = "   (stored before)" if step["reused_parts"] and step["reused_parts"] >= step["parts"] else ""
        told = f"   -{gone:,}  {reasons}" if gone else ""
        yield f"  {step['name']:<{width}}{step['rows_after'] or 0:>10,}{told}{reused}"
    if lines := list(noted_lines(summary["noted"])):
        yield ""
        yield from lines
    if summary["lists"]:
        yield ""
    for one in summary["lists"]:
        told = f"{one['entries']:,} listed, {one['unmatched']:,} not among the samples"
        if one["unmatched"]:
            more = ", ..." if one["unmatched"] > len(one["first_unmatched"]) else ""
            told += f" ({', '.join(one['first_unmatched'])}{more})"
        yield f"{one['list']} list {one['file']}: {told}"
    if summary["scores"]:
        yield ""
        yield from scored_lines(summary["scores"])
    for number, one in enumerate(summary["thresholds"]):
        if not number:
            yield ""
        yield from _threshold_lines(one)
    if summary["planted"]:
        told = ", ".join(f"{kind} {found} of {n}" for kind, (found, n) in summary["planted"]["kinds"].items())
        yield ""
        yield f"planted duplicates found: {summary['planted']['found']} of {summary['planted']['planted']} ({told})"
    if summary["retried"]:
        yield ""
        yield sentence(Retried(**summary["retried"]))
    for auto in summary["chosen"]:
        yield ""
        yield f"{auto['step']}: {auto['concepts']:,} concepts (auto, to {auto['purpose']}): {auto['why']}"
    if summary["labels"]:
        yield ""
        yield from labelled_lines(summary["labels"])
    if concepts := summary["concepts"]:
        yield ""
        for which in ("largest", "smallest"):
            told = ", ".join(
                f"{c['label'] or '#' + str(c['concept'])}: {c['quota']:,} of {c['size']:,}" for c in concepts[which]
            )
            yield f"{which} quotas:  {told}"
        for warning in concepts["diagnostics"]["warnings"]:
            yield f"warning: {concepts['step']}: {warning}"
    if summary["broken"] or summary["broken_shards"]:
        yield ""
        yield "set aside, with the reason:"
        for note in summary["broken_shards"]:
            yield f"  shard {note['shard']}: {note['detail']} ({note['rows']:,} samples read)"
        for row in summary["broken"]:
            yield f"  {row['shard']} {row['key']}: {row['status']}{', ' + row['detail'] if row['detail'] else ''}"
    yield ""
    if release := summary["release"]:
        shards = "1 shard" if release["shards"] == 1 else f"{release['shards']:,} shards"
        facts = f"{release['samples']:,} samples, {shards}, {size(release['bytes'])}"
        yield f"release:  {release['url']}  ({facts})"
    for folder in summary["embeddings"]:
        facts = f"{folder['rows']:,} rows of {folder['dim']:,} numbers, {size(folder['bytes'])}"
        yield f"embeddings: {folder['url']}  ({facts})"
    for subset in summary["subsets"]:
        again = f", {subset['records']:,} with repeats" if subset["records"] != subset["uids"] else ""
        yield f"subset:   {subset['url']}/subset.npy  ({subset['uids']:,} uids{again}, {size(subset['bytes'])})"
    if summary["report"]:
        yield f"report:   {summary['report']}"
    steps = [f"curate verify {release['url']}"] if release else []
    if summary["broken"]:
        steps.append(f"curate explain {summary['broken'][0]['uid']} {summary['workspace']}")
    for number, step in enumerate(steps):
        yield f"{'' if number else 'next:':<10}{step}"
