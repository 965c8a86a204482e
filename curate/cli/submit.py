"""`curate submit`: run a pipeline as a job on a Ray cluster."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from curate.cli import output
from curate.cli.run import Allow, Deny, LimitShards, OkIfQuarantined, Pipeline, Quiet, Report, RetryFailed, Sample, Set
from curate.engine.package import write_zip
from curate.engine.submit import Jobs, choose_address, is_here, passed_on
from curate.errors import SpecError
from curate.pipeline.load import load
from curate.pipeline.spec import PipelineSpec
from curate.stages import configs
from curate.store.urls import split_protocol


def submit(
    pipeline: Pipeline,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Job server or cluster; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine's cluster.",
        ),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="Folder whose files travel with the job, which works in a copy of it.")
    ] = Path(),
    upload: Annotated[
        bool, typer.Option("--upload/--no-upload", help="Send the folder, or work in it: every machine must see it.")
    ] = True,
    env: Annotated[
        list[str] | None,
        typer.Option("--env", metavar="NAME[=VALUE]", help="Variable for the job; by default with its value here."),
    ] = None,
    submission_id: Annotated[
        str | None, typer.Option("--submission-id", help="Name of the job; by default Ray makes one up.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the job to its end, or leave it alone.")
    ] = True,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Read the pipeline here first, with the variables set here.")
    ] = True,
    set_: Set = None,
    limit_shards: LimitShards = None,
    sample: Sample = None,
    retry_failed: RetryFailed = False,
    allow: Allow = None,
    deny: Deny = None,
    ok_if_quarantined: OkIfQuarantined = False,
    report: Report = True,
    quiet: Quiet = False,
) -> int:
    """Run a pipeline as a job on a Ray cluster, show what it prints, and exit as it does; again continues it."""
    console = output.stderr()
    folder = working_dir.expanduser().resolve()
    given = passed_on(env or ())
    if check:
        spec = load(pipeline, registry=configs(), overrides=set_ or (), env={**os.environ, **given}).spec
        for warning in _check_places(spec, upload, is_here(choose_address(address))):
            output.line(console, f"warning: {output.clean(warning)}", "yellow")
    file = _as_the_job_names_it(pipeline, folder)
    lists = {"allow": allow or (), "deny": deny or ()}
    uids = [(option, _as_the_job_names_it(name, folder)) for option, names in lists.items() for name in names]
    command = ["curate", "run", file, *(f"--set={text}" for text in set_ or ())]
    command += [f"--limit-shards={limit_shards}"] if limit_shards is not None else []
    command += [f"--sample={sample}"] if sample is not None else []
    command += [f"--{option}={name}" for option, name in uids]
    command += ["--retry-failed"] if retry_failed else []
    command += ["--ok-if-quarantined"] if ok_if_quarantined else []
    command += [] if report else ["--no-report"]
    command += ["--quiet"] if quiet else []

    jobs = Jobs(address)
    with tempfile.TemporaryDirectory(prefix="curate-") as scratch:
        package = Path(scratch) / "working_dir.zip"
        if upload:
            needed = [Path(name) for name in (file, *(name for _, name in uids)) if not Path(name).is_absolute()]
            nbytes = write_zip(folder, package, [name for name in needed if (folder / name).is_file()])
        job = jobs.submit(
            command,
            package=package if upload else None,
            folder=None if upload else folder,
            env=given,
            submission_id=submission_id,
        )
    sent = f" with {output.size(nbytes)} of {folder}" if upload else f", to work in {folder}"
    _say(console, quiet, f"job {job} submitted to {jobs.address}{sent}")
    _say(console, quiet, f"follow it: {jobs.how_to_follow(job)}")
    _say(console, quiet, f"stop it:   {jobs.how_to_stop(job)}")
    if not wait:
        sys.stdout.write(f"{job}\n")
        return 0
    ended = jobs.follow(job, _show)
    if ended.sentence:
        output.line(console, f"error: {output.clean(ended.sentence)}", "red")
    return ended.code


def _as_the_job_names_it(name: str, folder: Path) -> str:
    """A file relative to the working directory, in which the job works; URLs and absolute paths elsewhere as given."""
    protocol, rest = split_protocol(name)
    if protocol != "file":
        return name
    file = Path(rest).expanduser()
    for candidate in (file.absolute(), file.resolve()):
        if candidate.is_relative_to(folder):
            return str(candidate.relative_to(folder))
    if file.is_absolute():
        return str(file)
    raise SpecError(
        f"{name} is not in the working directory {folder}, so the job could not read it; put it there, choose another "
        "--working-dir, or give an absolute path that every machine sees"
    )


def _check_places(spec: PipelineSpec, upload: bool, here: bool) -> list[str]:
    """Refuse what a job would write into Ray's copy of the folder; warn of paths that other machines may not see."""
    written = {"workspace": spec.workspace}
    for stage in spec.stages:
        to = getattr(stage.config, "to", None)
        if stage.kind in ("release", "fractal") and to:
            written[f"stages.{stage.name}.to"] = to
    local = {option: place for option, place in written.items() if split_protocol(place)[0] == "file"}
    for option, place in local.items():
        if upload and not Path(split_protocol(place)[1]).expanduser().is_absolute():
            raise SpecError(
                f"{option} is {place}, a relative path: the job works in a copy of the working directory that Ray "
                f"deletes; give an absolute path or a URL, such as --set {option}={Path(place).absolute()}, or use "
                "--no-upload where every machine sees this folder"
            )
    if here or not local:
        return []
    return [
        f"{', '.join(f'{option} {place}' for option, place in local.items())}: a path on the machines of the cluster, "
        "which all of them must share; otherwise give a URL, such as s3://bucket/run"
    ]


def _say(console: Console, quiet: bool, text: str) -> None:
    if not quiet:
        output.line(console, output.clean(text))


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
