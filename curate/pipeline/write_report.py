"""Collect what report.html shows from a finished run, thumbnails included, and write it into the workspace."""

from __future__ import annotations

import base64
import io
import json
import time
from collections.abc import Iterator
from typing import Any

import polars as pl

from curate.formats.tar import TarScan, split_name
from curate.fractal.specification import FORMATS
from curate.pipeline import truth
from curate.pipeline.api import Run
from curate.pipeline.samples import Sample, find_samples, sample_bytes
from curate.pipeline.write_labels import labels_section
from curate.report import page
from curate.stages.prune_rows import grouped_by
from curate.store.images import DecodeError, decode_rgb
from curate.store.workspace import Workspace

GROUPS, THUMBNAILS, EDGE, MADE = 8, 6, 112, 24
"""Duplicate groups and thumbnails a concept that are shown, the longer side of a thumbnail in pixels, and samples that
are shown of a run that made them."""


def write_report(run: Run, summary: dict[str, Any]) -> str:
    """Write report.html; returns where. Memory: the concept and keeper columns, and the images shown."""
    run.workspace.put("report.html", page.render(report_data(run, summary)).encode())
    return run.workspace.where("report.html")


def report_data(run: Run, summary: dict[str, Any]) -> page.ReportData:
    """Everything the page needs."""
    record = run.record
    return page.ReportData(
        title=record.name,
        command=record.command,
        created=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(record.finished or record.started)),
        totals=page.Totals(
            rows_in=summary["rows"],
            alive=summary["alive"],
            dropped=summary["dropped"],
            quarantined=summary["quarantined"],
        ),
        funnel=tuple(
            page.FunnelStage(
                stage=step["name"],
                kind=step["kind"],
                rows_before=step["rows_before"] or 0,
                rows_after=step["rows_after"] or 0,
                reasons=step["reasons"],
                quarantined=sum(step["quarantined"].values()),
                seconds=step["seconds"] or 0.0,
                reused=bool(step["reused_parts"]) and step["reused_parts"] >= step["parts"],
            )
            for step in summary["steps"]
        ),
        quarantine=_quarantine(run, summary),
        concepts=_concepts(run),
        allocation=_allocation(summary),
        duplicates=_duplicates(run, summary),
        labels=labels_section(run),
        release=_release(summary),
        made=tuple(_made(run)) if summary["made"] else None,
        next_steps=_next_steps(summary),
    )


def _quarantine(run: Run, summary: dict[str, Any]) -> page.Quarantine:
    by_status: dict[str, int] = {}
    for step in summary["steps"]:
        for reason, n in step["quarantined"].items():
            by_status[reason] = by_status.get(reason, 0) + n
    rows = tuple(
        page.BrokenSample(
            uid=row["uid"], key=row["key"], shard=str(row["shard"]), status=row["status"], detail=row["detail"]
        )
        for row in summary["broken"]
    )
    return page.Quarantine(total=summary["quarantined"], by_status=by_status, rows=rows)


def _thumb(run: Run, sample: Sample) -> str:
    data = sample_bytes(run, sample)
    return "" if data is None else _shrunk(data)


def _shrunk(data: bytes) -> str:
    try:
        image = decode_rgb(data, 100_000_000)
    except DecodeError:
        return ""
    image.thumbnail((EDGE, EDGE))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()


def _made(run: Run) -> Iterator[page.Made]:
    """The first samples of a release that was made."""
    if run.release is None:
        return
    release = Workspace(run.release)
    first = min(json.loads(release.read("sizes.json")))
    table = pl.read_parquet(io.BytesIO(release.read(f"samples.parquet/{first.removesuffix('.tar')}.parquet")))
    rows = {row["uid"]: row for row in table.head(MADE).iter_rows(named=True)}
    with release.open(first) as handle:
        for member in TarScan(handle):
            uid, ext = split_name(member.raw_name) or (b"", "")
            if (row := rows.get(uid.decode())) is None:
                return
            if ext in FORMATS and member.data is not None:
                labels = row.get("labels") or ()
                yield page.Made(uid=row["uid"], key=row["key"], labels=labels, thumb=_shrunk(member.data) or None)


def _concepts(run: Run) -> tuple[page.Concept, ...]:
    prunes = [step for step in run.record.steps if step.kind == "prune" and step.status == "done"]
    if not prunes:
        return ()
    artifacts = run.artifacts(prunes[-1].name)
    table, within = artifacts["concepts"], artifacts["diagnostics"]["within"]
    step, column, name = grouped_by(within, table, run.record.steps[0].name)
    if step is None:
        return ()
    groups = dict(table.select("concept", pl.col(name).alias("group")).iter_rows())
    concepts = [
        page.Concept(
            concept=row["concept"],
            size=row["size"],
            quota=row["quota"],
            kept=row["quota"],
            d_intra=row["d_intra"],
            d_inter=row["d_inter"],
            complexity=row["complexity"],
            saturated=row["saturated"],
        )
        for row in table.filter(pl.col("size") > 0).iter_rows(named=True)
    ]
    shown = {c.concept for group in page.concepts_to_show(concepts) for c in group}
    thumbs = {concept: _members(run, prunes[-1].name, step, column, groups[concept]) for concept in shown}
    return tuple(c.model_copy(update={"thumbnails": thumbs.get(c.concept, ())}) for c in concepts)


def _members(run: Run, prune: str, step: str, column: str, group: int | str) -> tuple[str, ...]:
    """Thumbnails of the kept samples of a concept or class that come first in input order."""
    index = run.record.steps[0].name
    wanted = {index: ["uid_hi"], prune: ["keep"]}
    wanted[step] = [*wanted.get(step, []), column]
    same = pl.col(f"{step}.{column}") == group
    samples = find_samples(run, wanted, same & pl.col(f"{prune}.keep"), THUMBNAILS)
    return tuple(thumb for sample in samples if (thumb := _thumb(run, sample)))


def _allocation(summary: dict[str, Any]) -> page.Allocation | None:
    if not (concepts := summary["concepts"]):
        return None
    facts = concepts["diagnostics"]
    return page.Allocation(
        n=facts["budget"],
        temperature=facts.get("temperature"),
        saturated_share=facts.get("saturated_share"),
        at_floor_share=facts["at_floor_share"],
        at_cap_share=facts["at_cap_share"],
        shift_over_mean_target=facts["shift_over_mean_target"],
        complexity_spread=facts["complexity_spread"],
        target_ratio=facts["target_ratio"] if facts["share"] == "complexity" else None,
        warnings=tuple(facts["warnings"]),
    )


def _duplicates(run: Run, summary: dict[str, Any]) -> page.Duplicates | None:
    steps = [step for step in summary["steps"] if step["kind"] in truth.KINDS]
    if not steps:
        return None
    groups: dict[str, list[tuple[Sample, str, float | int]]] = {}
    index = summary["steps"][0]["name"]
    for step in steps:
        measured = {"dedup": "similarity", "dedup_hash": "distance"}.get(step["kind"])
        wanted = ["keep", "keeper", *([measured] if measured else [])]
        found = find_samples(
            run, {index: ["uid_hi"], step["name"]: wanted}, pl.col(f"{step['name']}.keep").not_(), 4 * GROUPS
        )
        for sample in found:
            told = sample.values[f"{step['name']}.{measured}"] if measured else 1.0
            groups.setdefault(sample.values[f"{step['name']}.keeper"], []).append((sample, step["kind"], told))
    order = _order(groups)
    keepers = {s.uid: s for uid in order if (s := run_sample(run, uid)) is not None}
    return page.Duplicates(
        count=sum(sum(step["reasons"].values()) for step in steps),
        exact_count=sum(sum(step["reasons"].values()) for step in steps if step["kind"] == "dedup-exact"),
        hash_count=sum(sum(step["reasons"].values()) for step in steps if step["kind"] == "dedup_hash"),
        thresholds=tuple(_threshold(one) for one in summary["thresholds"]),
        groups=tuple(
            page.DuplicateGroup(
                keeper=page.Keeper(uid=uid, key=keepers[uid].key, thumb=_thumb(run, keepers[uid]) or None),
                dropped=tuple(
                    page.Duplicate(
                        uid=s.uid,
                        key=s.key,
                        thumb=_thumb(run, s) or None,
                        similarity=None if kind == "dedup_hash" else told,
                        bits=int(told) if kind == "dedup_hash" else None,
                        exact=kind == "dedup-exact",
                    )
                    for s, kind, told in groups[uid][:4]
                ),
            )
            for uid in order
            if uid in keepers
        ),
        planted=None
        if summary["planted"] is None
        else {k: page.Planted(found=f, planted=n) for k, (f, n) in summary["planted"]["kinds"].items()},
    )


def _order(groups: dict[str, list[tuple[Sample, str, float | int]]]) -> list[str]:
    """GROUPS keepers to show: those found by vectors, then by hash, then by bytes; the least alike of each first, for
    they are the ones that a person should judge. Where there are both, hashes get a third of the places.
    """
    cosine, bits, exact = [], [], []
    for uid, found in groups.items():
        kinds = {kind for _, kind, _ in found}
        if "dedup" in kinds:
            cosine.append((min(told for _, kind, told in found if kind == "dedup"), uid))
        elif "dedup_hash" in kinds:
            bits.append((-max(told for _, kind, told in found if kind == "dedup_hash"), uid))
        else:
            exact.append((0, uid))
    by_vector, by_hash, by_bytes = ([uid for _, uid in sorted(one)] for one in (cosine, bits, exact))
    first = max(GROUPS - GROUPS // 3, GROUPS - len(by_hash))
    return [*by_vector[:first], *by_hash, *by_vector[first:], *by_bytes][:GROUPS]


def _threshold(found: dict[str, Any]) -> page.Threshold:
    decision, recall = found["decision"], found["recall"]
    return page.Threshold(
        step=found["step"],
        epsilon=decision["epsilon"],
        kept=decision["kept"],
        of=decision["of"],
        curve=tuple(found["curve"]),
        recall=page.Recall(
            **{name: recall[name] for name in ("audited", "with_duplicate", "found")},
            low=recall["low"] or 0.0,
            high=1.0 if recall["high"] is None else recall["high"],
        )
        if recall["audited"]
        else None,
        complete=recall["probes"] == "all",
    )


def run_sample(run: Run, uid: str) -> Sample | None:
    """The sample of a uid."""
    index = run.record.steps[0].name
    wanted = (pl.col(f"{index}.uid_hi") == int(uid[:16], 16)) & (pl.col(f"{index}.uid_lo") == int(uid[16:], 16))
    return next(iter(find_samples(run, {index: ["uid_hi"]}, wanted, 1)), None)


def _release(summary: dict[str, Any]) -> page.Release | None:
    if not (facts := summary["release"]):
        return None
    return page.Release(
        path=facts["url"],
        shards=facts["shards"],
        samples=facts["samples"],
        bytes=facts["bytes"],
        sha256=facts["manifest_sha256"],
    )


def _next_steps(summary: dict[str, Any]) -> tuple[str, ...]:
    steps = []
    if summary["release"]:
        steps.append(f"curate verify {summary['release']['url']}  # recompute every checksum and count of the release")
    if summary["release"] and summary["steps"][0]["kind"] == "fractal":
        steps.append(f"curate fractal gallery {summary['release']['url']}  # classes and images on one page")
    if summary["broken"]:
        steps.append(f"curate explain {summary['broken'][0]['uid']} {summary['workspace']}  # the story of one sample")
    steps.append(f"curate inspect {summary['workspace']}  # steps, columns and where they are stored")
    return tuple(steps)
