"""`curate run`: run a pipeline to its end."""

from __future__ import annotations

from typing import Annotated

import typer

from curate.cli import output
from curate.errors import ExitCode
from curate.pipeline import api
from curate.pipeline.summary import summarise, summary_lines
from curate.pipeline.write_report import write_report

Pipeline = Annotated[str, typer.Argument(help="Pipeline file: a path or URL.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Change an option: stages.prune.keep=0.3")
]
LimitShards = Annotated[int | None, typer.Option("--limit-shards", min=1, help="Pilot run: only the first N shards.")]
Sample = Annotated[
    float | None, typer.Option("--sample", min=0, max=1, help="Pilot run: only this share of the samples.")
]
Address = Annotated[
    str | None, typer.Option("--address", envvar="RAY_ADDRESS", help="Ray cluster; default: a local Ray of its own.")
]
Workers = Annotated[
    int | None, typer.Option("--workers", min=0, help="CPUs of the local Ray; 0 runs everything in this process.")
]
Allow = Annotated[
    list[str] | None, typer.Option("--allow", metavar="FILE", help="Release only samples whose uid is in this list.")
]
Deny = Annotated[
    list[str] | None, typer.Option("--deny", metavar="FILE", help="Release no sample whose uid is in this list.")
]
RetryFailed = Annotated[bool, typer.Option("--retry-failed", help="Try the samples again that were set aside before.")]
OkIfQuarantined = Annotated[
    bool, typer.Option("--ok-if-quarantined", help="Exit with 0 even if some samples had to be set aside.")
]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report.html into the workspace.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable summary on stdout.")]


def run(
    pipeline: Pipeline,
    set_: Set = None,
    limit_shards: LimitShards = None,
    sample: Sample = None,
    retry_failed: RetryFailed = False,
    allow: Allow = None,
    deny: Deny = None,
    address: Address = None,
    workers: Workers = None,
    ok_if_quarantined: OkIfQuarantined = False,
    report: Report = True,
    quiet: Quiet = False,
    as_json: Json = False,
) -> int:
    """Run a pipeline, reusing whatever of it is stored already; the same command continues a run that was stopped."""
    console = output.stderr()
    done = api.run(
        pipeline,
        overrides=set_ or (),
        limit_shards=limit_shards,
        sample=sample,
        retry_failed=retry_failed,
        allow=allow or (),
        deny=deny or (),
        address=address,
        workers=workers,
        quiet=quiet or as_json,
        console=console,
    )
    summary = summarise(done)
    if report:
        summary["report"] = write_report(done, summary)
    if as_json:
        output.print_json(summary)
    elif not quiet:
        for line in summary_lines(summary):
            output.line(console, output.clean(line))
    problems = done.quarantined or any(note.get("kind") == "shard" for note in done.record.notes)
    return int(ExitCode.QUARANTINED) if problems and not ok_if_quarantined else 0
