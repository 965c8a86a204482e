"""`curate plan`: what a run would do, without doing it."""

from __future__ import annotations

from curate.cli import output
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
        output.print_json(outlook)
        return 0
    console, facts = output.stdout(), outlook["input"]
    rows = f"{'' if facts['rows_known'] else 'about '}{_many(facts['rows'], 'sample')}"
    place = f"{_many(facts['shards'], 'shard')} in {_many(facts['parts'], 'part')}"
    if outlook["makes"] is None:
        output.line(console, f"{outlook['name']}: {place}, {output.size(facts['bytes'])}, {rows}")
    else:
        shards = _many(facts["shards"], "shard")
        output.line(console, f"{outlook['name']}: makes {facts['rows']:,} {outlook['makes']}, in {shards}")
    output.columns(
        console,
        ("step", "does", ">stored", "a worker needs", ">time", ">writes", ">scratch"),
        [
            (
                step["name"],
                step["shapes"],
                f"{step['parts_stored']}/{step['parts']}",
                step["needs"],
                step["time"],
                output.size(step["bytes"]),
                output.size(step["scratch_bytes"]),
            )
            for step in outlook["steps"]
        ],
    )
    for step in outlook["steps"]:
        for note in step["notes"]:
            output.line(console, note)
    written, scratch = output.size(outlook["bytes"]), output.size(outlook["scratch_bytes"])
    workers = _many(outlook["workers"], "worker")
    output.line(
        console,
        f"in all about {outlook['time']} on {workers}, {written} written, at most {scratch} scratch "
        f"at a time; workspace {outlook['workspace']}",
    )
    for warning in outlook["warnings"]:
        output.line(console, f"note: {warning}", "yellow")
    return 0


def _many(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
