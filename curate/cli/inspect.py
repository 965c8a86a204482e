"""`curate inspect`: what is in a shard, a column group, a table, a workspace or a release."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console

from curate.cli.output import clean, columns, count, line, print_json, size, stdout
from curate.cli.status import show
from curate.pipeline.inspect import inspect as facts_of
from curate.pipeline.status import read_status
from curate.store.workspace import Workspace

_WIDTH = 40
"""Characters of a value in a table of rows."""


def inspect(
    path: Annotated[str, typer.Argument(help="Shard, part, column group, table, workspace or release.")],
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Rows or samples to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Look into anything that curate reads or writes; which it is, is recognised."""
    facts = facts_of(path, rows)
    if as_json:
        print_json(facts)
        return 0
    console = stdout()
    shown = {
        "shard": _shard,
        "archive": _archive,
        "workspace": _workspace,
        "release": _release,
        "array": _array,
        "arrays": _arrays,
        "metadata": _metadata,
        "uids": _uids,
    }
    shown.get(facts["kind"], _columns)(console, facts)
    return 0


def _shard(console: Console, facts: dict[str, Any]) -> None:
    line(console, f"tar shard, {size(facts['bytes'])}, {count(facts['samples'], 'sample')}", "bold")
    told = ", ".join(f".{e['ext']} {e['members']:,} ({size(e['nbytes'])})" for e in facts["extensions"])
    line(console, clean(f"members: {told or 'none'}"))
    line(console, f"status:  {_counts(facts['status'])}")
    for note in facts["notes"]:
        line(console, clean(f"note:    {_note(note)}"), "yellow")
    heads = ("key", "image", "label", "caption", "members", "status")
    if facts["first"]:
        line(console, "")
        columns(console, heads, [_sample(row) for row in facts["first"]])
    if facts["problems"]:
        bad = sum(n for status, n in facts["status"].items() if status != "ok")
        line(console, f"\n{count(bad, 'bad sample')}:")
        columns(console, ("key", "status", "why"), [(r["key"], r["status"], r["detail"]) for r in facts["problems"]])
        if bad > len(facts["problems"]):
            line(console, f"  ... and {bad - len(facts['problems']):,} more")


def _archive(console: Console, facts: dict[str, Any]) -> None:
    line(console, f"tar of tars, {size(facts['bytes'])}, {count(facts['shards'], 'inner tar')}", "bold")
    columns(console, ("inner tar", ">size"), [(one["shard"], size(one["bytes"])) for one in facts["first"]])
    line(console, "give it as input.archive; the name of an inner tar is the label of its samples")


def _sample(row: Mapping[str, Any]) -> tuple[object, ...]:
    image = f"{row['format']} {row['width']} x {row['height']}" if row["format"] else None
    members = ", ".join(f".{m['ext']} {size(m['nbytes'])}" for m in row["members"])
    return row["key"], image, row["label"], _short(row["caption"]), members, row["status"]


def _note(note: Mapping[str, Any]) -> str:
    if note["kind"] == "shard":
        return f"the shard did not end as it should ({note['reason']} at byte {note['offset']:,}): {note['detail']}"
    if note["kind"] == "ignored":
        return f"{count(note['members'], 'member')} of no sample: {', '.join(note['names'])}"
    return f"{count(note['members'], 'member')} that are no files: {_counts(note['types'])}"


def _columns(console: Console, facts: dict[str, Any]) -> None:
    """A column group, a part of one, or any other table."""
    kind = facts["kind"]
    if kind == "group":
        head = f"column group of step {facts['step']} ({facts['stage']}), {count(facts['parts'], 'part')}"
    elif kind == "table":
        head = "table"
    else:
        head = f"part {facts['part']} of step {facts['step']}"
        if kind == "unfinished group":
            head = f"unfinished column group, {count(facts['parts_stored'], 'part')} stored; the first is {head}"
    line(console, f"{head}, {count(facts['rows'], 'row')}, {size(facts['bytes'])}", "bold")
    if facts.get("config"):
        given = {name: value for name, value in facts["config"].items() if value is not None}
        line(console, clean(f"options:   {json.dumps(given)}"))
    if facts.get("alive") is not None:
        dropped = f", dropped here: {_counts(facts['dropped'])}" if facts["dropped"] else ""
        line(console, f"alive:     {facts['alive']:,}{dropped}")
    for name, nbytes in facts.get("artifacts", {}).items():
        line(console, f"artifact:  {name} ({size(nbytes)})")
    for state in facts.get("other_states", []):
        line(console, f"other:     state {state['fingerprint']}, {state['parts']:,} parts, {state['rows']:,} rows")
    for vectors in facts.get("vectors", []):
        line(console, f"vectors:   {_vectors(vectors)}", "red" if "problem" in vectors else "")
    line(console, "")
    columns(console, ("column", "type", ">nulls"), [(c["name"], c["type"], c["nulls"]) for c in facts["columns"]])
    _rows(console, facts)


def _vectors(vectors: Mapping[str, Any]) -> str:
    head = f"{vectors['name']}, float16 {vectors['shape'][0]:,} x {vectors['shape'][1]:,} in {vectors['file']}"
    if "problem" in vectors:
        return f"{head}: {vectors['problem']}"
    if "fields" in vectors:
        fields = ", ".join(f"{name} {kind}" for name, kind in vectors["fields"].items())
        return f"{vectors['name']}, {vectors['shape'][0]:,} records in {vectors['file']}: {fields}"
    return f"{head}, norms {vectors['norm_min']:.4f} to {vectors['norm_max']:.4f}" if "norm_min" in vectors else head


def _rows(console: Console, facts: Mapping[str, Any]) -> None:
    if not facts["first"]:
        return
    line(console, "")
    if len(facts["columns"]) <= 8:
        names = [column["name"] for column in facts["columns"]]
        columns(console, names, [[_short(row[name]) for name in names] for row in facts["first"]])
        return
    # many columns: one row below the other
    for number, row in enumerate(facts["first"]):
        line(console, f"row {number}", "bold")
        columns(console, ("", ""), [(name, _short(value, 100)) for name, value in row.items() if value is not None])


def _array(console: Console, facts: dict[str, Any]) -> None:
    shape = " x ".join(f"{n:,}" for n in facts["shape"])
    line(console, f"array, {facts['dtype']} {shape}, {size(facts['bytes'])}", "bold")
    for row in facts["first"]:
        wide = len(facts["shape"]) > 1 and facts["shape"][1] > len(row)
        line(console, "  " + "  ".join(f"{value:.5g}" for value in row) + (" ..." if wide else ""))


def _arrays(console: Console, facts: dict[str, Any]) -> None:
    line(console, f"arrays, {size(facts['bytes'])}", "bold")
    told = [
        (a["name"], a["dtype"], " x ".join(f"{n:,}" for n in a["shape"]), size(a["bytes"])) for a in facts["arrays"]
    ]
    columns(console, ("array", "type", "shape", ">size"), told)


def _metadata(console: Console, facts: dict[str, Any]) -> None:
    beside = f"{facts['with_embeddings']:,} with embeddings beside"
    what = f"{count(facts['tables'], 'table')}, {beside}, about {facts['rows_about']:,} rows, {size(facts['bytes'])}"
    line(console, f"DataComp metadata, {what}", "bold")
    line(console, clean(f"give it as input.datacomp; the first table, {facts['first_table']}, {facts['rows']:,} rows:"))
    columns(console, ("column", "type", ">nulls"), [(c["name"], c["type"], c["nulls"]) for c in facts["columns"]])
    _rows(console, facts)


def _uids(console: Console, facts: dict[str, Any]) -> None:
    line(console, f"DataComp subset, {count(facts['rows'], 'uid')}, {size(facts['bytes'])}", "bold")
    if facts["first_unsorted"] is not None:
        row = facts["first_unsorted"]
        line(console, f"not sorted: row {row:,} is smaller than the one before it; DataComp's tools misread it", "red")
    else:
        repeats = facts["rows"] - facts["distinct"]
        line(console, "sorted, " + (f"{count(repeats, 'repeat')}" if repeats else "no repeats"))
    for uid in facts["first"]:
        line(console, f"  {uid}")


def _release(console: Console, facts: dict[str, Any]) -> None:
    shards = facts["shards"]
    what = f"{count(facts['samples'], 'sample')} in {count(len(shards), 'shard')}, {size(facts['bytes'])}"
    line(console, clean(f"release {facts['name']}: {what}"), "bold")
    if facts["made"] is not None:
        line(console, clean(facts["made"]))
    else:
        kept, dropped = f"{facts['samples']:,} kept", f"{facts['dropped_samples']:,} dropped"
        line(console, f"{facts['input_samples']:,} read = {kept} + {dropped}")
    reasons_of = [(step, reason, n) for step, reasons in facts["dropped"].items() for reason, n in reasons.items()]
    if reasons_of:
        columns(console, ("step", "reason", ">dropped"), reasons_of)
    line(console, "")
    columns(
        console, ("shard", ">samples", ">size"), [(s["shard"], s["samples"], size(s["bytes"])) for s in shards[:20]]
    )
    if len(shards) > 20:
        line(console, f"  ... and {len(shards) - 20:,} more shards")
    _rows(console, facts)


def _workspace(console: Console, facts: dict[str, Any]) -> None:
    show(console, read_status(Workspace(facts["path"])))


def _counts(counts: Mapping[str, int]) -> str:
    return clean(", ".join(f"{name} {n:,}" for name, n in counts.items()))


def _short(value: Any, width: int = _WIDTH) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else str(value)
    return text if len(text) <= width else text[: width - 1] + "…"
