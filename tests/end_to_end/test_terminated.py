"""SIGTERM, as schedulers send it: the run says interrupted, and the same command continues; watched from outside."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from whole_runs import SAMPLES, SHARDS, Started, environment, pipeline, release_of, start, write_pipeline

import curate
from curate.errors import ExitCode, StorageError
from curate.pipeline.status import Status, read_status
from curate.store.workspace import Workspace

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def release(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The release of a run that nobody disturbed."""
    workspace = tmp_path_factory.mktemp("calm") / "work"
    curate.run(pipeline(shards, workspace), workers=0)
    return release_of(workspace)


def until_embedding(run: Started, workspace: Path) -> None:
    """Until the first part of vectors is there."""
    while not list(workspace.glob("embed@*/part-*.parquet")):
        assert not run.over, run.end()
        assert run.seconds < PATIENCE_S
        time.sleep(0.02)


def stored(workspace: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in workspace.glob("embed@*/part-*.parquet")}


def followed(workspace: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "curate.cli.main", "status", str(workspace), "--follow"]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.slow)])
def test_terminated_and_continued(
    shards: Path, release: dict[str, str], tmp_path: Path, ray_folder: str, workers: str
) -> None:
    workspace = tmp_path / "work"
    file = write_pipeline(tmp_path / "whole.yaml", pipeline(shards, workspace))
    run = start(file, "--workers", workers, RAY_TMPDIR=ray_folder)
    until_embedding(run, workspace)
    family, follower = run.family(), followed(workspace)
    began = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGTERM)  # a second one changes nothing
    code, said = run.end()
    print(f"{time.monotonic() - began:.1f} s from SIGTERM to the end with {workers} workers")
    assert code == ExitCode.TERMINATED == 143
    assert "stopped; what is finished is kept, run the same command again to continue" in said
    assert "Traceback" not in said
    _, left = psutil.wait_procs(family, timeout=20)
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE], "processes stayed behind"
    record = json.loads((workspace / "run.json").read_text())
    assert (record["status"], record["error"], record["exit_code"]) == ("interrupted", "stopped by SIGTERM", 143)
    found = read_status(Workspace(str(workspace)))
    assert found.state == "interrupted"
    assert found.current is not None
    assert (found.current.name, found.current.status) == ("embed", "interrupted")
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == 143, err
    assert "whole: interrupted after" in out
    assert "error in step embed: stopped by SIGTERM" in out

    before = stored(workspace)
    code, said = start(file, "--workers", workers, RAY_TMPDIR=ray_folder).end()
    assert code == 0, said
    assert before.items() <= stored(workspace).items()
    found = read_status(Workspace(str(workspace)))
    assert next(step for step in found.steps if step.name == "embed").reused_parts == len(before) >= 1
    assert release_of(workspace) == release


def check_live(found: Status, workspace: Path, before: Status | None) -> None:
    """One look at a run at work, against its files and against the look before."""
    assert found.state == "running"
    assert found.error is None
    for step in found.steps:
        assert 0 <= step.parts_stored <= step.parts
        files = {path.name[:10] for path in workspace.glob(f"{step.name}@*/part-*.parquet")}
        if step.kind != "release":
            assert step.parts_stored <= len(files)  # files may have come since
        assert step.status != "done" or step.parts_stored == step.parts
        assert step.total is None or step.done is None or 0 <= step.done <= step.total
        assert step.seconds_left is None or step.seconds_left >= 0
    states = [step.status for step in found.steps]
    assert states == sorted(states, key=["done", "running", "waiting"].index)
    assert states.count("running") <= 1
    if before is not None:
        assert [step.parts_stored for step in found.steps] >= [step.parts_stored for step in before.steps]
        assert found.seconds > before.seconds


def test_a_live_run_is_seen_and_followed_from_outside(shards: Path, tmp_path: Path) -> None:
    workspace, before, rates = tmp_path / "work", None, []
    file = write_pipeline(tmp_path / "whole.yaml", pipeline(shards, workspace))
    run = start(file, "--workers", "0")
    while not (workspace / "run.json").exists():
        assert not run.over, run.end()
        time.sleep(0.02)
    asleep = psutil.Process(run.process.pid)
    asleep.suspend()  # on a busy machine it would be over before anybody looked
    follower, other, began, looks = followed(workspace), followed(workspace), time.time(), 0
    assert other.stdout is not None
    assert re.match(r"\d+:\d\d  \S+", other.stdout.readline())
    asleep.resume()
    other.send_signal(signal.SIGINT)
    seen: dict[str, list[dict[str, object]]] = {}
    while not run.over:
        found = read_status(Workspace(str(workspace)), seen=seen)
        if found.state != "running":
            break
        check_live(found, workspace, before)
        embed = next(step for step in found.steps if step.name == "embed")
        if embed.samples_per_second and embed.status == "running":
            rates.append(embed.samples_per_second)
        before, looks = found, looks + 1
        time.sleep(0.1)
    code, said = run.end()
    assert code == 0, said
    out, err = follower.communicate(timeout=60)
    assert follower.returncode == 0, err
    ended = read_status(Workspace(str(workspace)))
    assert ended.seconds == pytest.approx(time.time() - began, abs=60)
    assert looks > 3
    for rate in rates:  # while it worked, at most all of its samples in the time of one part
        assert 0 < rate < SHARDS * SAMPLES * 10
    lines = out.splitlines()
    heads = [number for number, line in enumerate(lines) if line.startswith("whole: done in ")]
    assert len(heads) == 1
    assert all(re.match(r"\d+:\d\d  \S+", line) for line in lines[: heads[0]])
    assert lines[-1].startswith("release: ")
    assert "\x1b" not in out
    _, err = other.communicate(timeout=60)
    assert other.returncode == ExitCode.INTERRUPTED
    assert "no longer following; the run goes on" in err


def test_there_must_be_a_run_to_follow(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is it the workspace of a run"):
        read_status(Workspace(str(tmp_path)))
