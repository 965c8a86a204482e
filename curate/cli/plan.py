"""`curate plan`: what a run would do, without doing it."""

from __future__ import annotations

import json
import sys

from rich.console import Console
from rich.table import Table

from curate.cli.run import Json, LimitShards, Pipeline, Sample, Set
from curate.pipeline import api
from curate.pipeline.estimate import estimate


def plan(
    pipeline: Pipeline,
    set_: Set = None,
    limit_shards: LimitShards = None,
    sample: Sample = None,
    as_json: Json = False,
) -> int:
    """Check a pipeline and print its steps, what is stored already, resources, scratch, time and bytes to expect."""
    _, planned = api.prepare(pipeline, overrides=set_ or (), limit_shards=limit_shards, sample=sample)
    planned.workspace.check_writable()
    outlook = estimate(planned)
    if as_json:
        json.dump(outlook, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return 0
    console = Console()
    facts = outlook["input"]
    console.print(
        f"{outlook['name']}: {facts['shards']:,} shards in {facts['parts']:,} parts, {facts['bytes'] / 1e6:,.1f} MB, "
        f"{'' if facts['rows_known'] else 'about '}{facts['rows']:,} samples",
        highlight=False,
    )
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("step", "does", "stored", "a worker needs", "time", "writes", "scratch"):
        table.add_column(name, justify="left" if name in ("step", "does", "a worker needs") else "right")
    for step in outlook["steps"]:
        table.add_row(
            step["name"],
            step["shapes"],
            f"{step['parts_stored']}/{step['parts']}",
            step["needs"],
            step["time"],
            f"{step['bytes'] / 1e6:,.1f} MB",
            f"{step['scratch_bytes'] / 1e6:,.1f} MB",
        )
    console.print(table)
    console.print(
        f"in all about {outlook['time']} on {outlook['workers']} workers, {outlook['bytes'] / 1e6:,.1f} MB written, "
        f"at most {outlook['scratch_bytes'] / 1e6:,.1f} MB scratch at a time; workspace {outlook['workspace']}",
        highlight=False,
        soft_wrap=True,
    )
    for warning in outlook["warnings"]:
        console.print(f"note: {warning}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    return 0
