"""`curate status`: of a finished run, one that was stopped, one that failed."""

from __future__ import annotations

from pathlib import Path

from commands import Cli
from small_run import SmallRun, copy_of

import curate
from curate.errors import ExitCode


def test_a_finished_run(cli: Cli, small: SmallRun) -> None:
    answer = cli("status", small.workspace)
    head, titles, *steps, last = answer.out.splitlines()
    assert answer.code == 0
    assert head.startswith("small: done in 0:")
    assert head.endswith("15 of 33 samples kept, 4 quarantined")
    assert titles.split() == ["step", "state", "parts", "alive", "dropped", "samples/s", "time", "what"]
    assert [line.split()[:3] for line in steps] == [
        [s.name, "done", "6/6" if s.kind == "release" else "3/3"] for s in small.run.record.steps
    ]
    assert "over_quota 10" in steps[-2]
    assert last == f"release: {small.release}"


def test_a_killed_run_says_how_to_go_on(cli: Cli, small: SmallRun, tmp_path: Path) -> None:
    place, _ = copy_of(small, tmp_path / "work")
    record = curate.open_run(place.url).record
    record.status, record.command, record.started = "running", "curate run a.yaml", record.started - 3600
    for step in record.steps[3:]:
        step.status, step.facts = "waiting", {}
    record.write(place)
    place.remove("events")
    answer = cli("status", place.path())
    assert answer.code == 0
    assert answer.out.startswith("small: stopped after ")
    assert "3 of 10 steps done" in answer.out
    assert "no sign of life for 1:0" in answer.out
    assert "run the same command again to continue: curate run a.yaml" in answer.out


def test_a_failed_run_says_why(cli: Cli, small: SmallRun, tmp_path: Path) -> None:
    place, _ = copy_of(small, tmp_path / "work")
    record = curate.open_run(place.url).record
    record.status, record.error, record.steps[3].status = "failed", "the weights are gone", "failed"
    record.write(place)
    out = cli("status", place.path()).out
    assert out.startswith("small: failed after")
    assert "error in step embed: the weights are gone" in out


def test_json(cli: Cli, small: SmallRun) -> None:
    found = cli("status", small.workspace, "--json").json
    assert (found["state"], found["alive"], len(found["steps"])) == ("done", 15, 10)
    assert found["steps"][0]["parts_stored"] == 3


def test_no_run(cli: Cli, tmp_path: Path) -> None:
    answer = cli("status", tmp_path)
    assert (answer.code, answer.out) == (ExitCode.STORAGE, "")
    assert "is it the workspace of a run?" in answer.err
