"""Kill -9 of the driver, of a worker, of Ray itself: the same command finishes the run, to the same bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import pytest
from conftest import Undisturbed, lasting_files
from whole_runs import Started, environment, is_server, is_worker, name_of, pipeline, release_of, start, write_pipeline

from curate.errors import ExitCode
from curate.pipeline.api import open_run

Victim = Literal["driver", "worker", "ray"]
GONE_S = 15.0
"""How long a process of a killed run may stay."""
QUICK_S = 30.0
"""How soon a run must end after Ray died; measured 1.5 to 3 s on two busy cores."""


@dataclass(frozen=True)
class Moment:
    """When to kill what: at this share of the run's time, or of the files that it leaves."""

    victim: Victim
    clock: Literal["time", "files"]
    share: float
    seed: int

    def __str__(self) -> str:
        return f"{self.victim}-at-{self.share:.2f}-of-{self.clock}"


def moments(seed: int, count: int = 20) -> list[Moment]:
    """Spread evenly over the run, each jittered within its own stretch; victims and clocks take turns."""
    rng = random.Random(seed)
    victims: tuple[Victim, ...] = ("driver", "worker", "ray")
    return [
        Moment(victims[i % 3], "time" if i % 2 else "files", (i + rng.random()) / count, rng.randrange(2**31))
        for i in range(count)
    ]


ALL = moments(20)
DEFAULT = [ALL[10]]
"""A worker half way; a driver that ends early is in test_terminated.py, the others take half a minute each."""


class Clock:
    """Says when a moment has come, in one run."""

    def __init__(self, moment: Moment, known: Undisturbed, attempt: int) -> None:
        # a run on a machine that is less busy than before ends early: then try earlier, and at last go by files only
        self.by_files = moment.clock == "files" or attempt == 2
        self.share = moment.share * (0.6 if moment.clock == "time" and attempt == 1 else 1.0)
        self.known, self.victim = known, moment.victim
        self.there: float | None = None

    def due(self, run: Started, workspace: Path, targets: list[psutil.Process]) -> bool:
        if not targets:
            return False
        if self.by_files:
            return lasting_files(workspace) >= self.share * self.known.files
        if self.there is None:
            self.there = 0.0 if self.victim == "driver" else run.seconds
        begin, end = self.known.lived[self.victim]
        return run.seconds >= self.there + self.share * (end - begin)


def pick(moment: Moment, run: Started) -> list[psutil.Process]:
    """The processes of the run that may be hit: its own only."""
    if moment.victim == "driver":
        return [psutil.Process(run.process.pid)]
    family = sorted(run.family(), key=lambda process: process.pid)
    if moment.victim == "ray":
        return [process for process in family if is_server(process)]
    workers = [process for process in family if is_worker(process)]
    return [process for process in workers if "IDLE" not in name_of(process)] or workers


def strike(
    moment: Moment, known: Undisturbed, folder: Path, ray_folder: str
) -> tuple[Started, Path, list[psutil.Process], float]:
    """Start the run and kill at the moment; the run, its file, its processes, and when it was hit."""
    rng = random.Random(moment.seed)
    for attempt in range(3):
        workspace = folder / f"attempt-{attempt}" / "work"
        file = write_pipeline(workspace.parent / "whole.yaml", pipeline(known.shards, workspace))
        run, clock = start(file, "--workers", "2", RAY_TMPDIR=ray_folder), Clock(moment, known, attempt)
        while not run.over:
            targets = pick(moment, run)
            if clock.due(run, workspace, targets):
                family = run.family()
                rng.choice(targets).kill()
                return run, file, family, time.monotonic()
            time.sleep(0.005)
        run.end()
    pytest.fail(f"three runs were over before {moment}")


def check(moment: Moment, known: Undisturbed, folder: Path, ray_folder: str) -> None:
    run, file, family, at = strike(moment, known, folder, ray_folder)
    workspace = file.parent / "work"
    code, said = run.end(timeout=90)
    seconds = time.monotonic() - at
    _, left = psutil.wait_procs(family, timeout=GONE_S)
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE], "processes stayed behind"
    if moment.victim == "worker":
        assert code == 0, f"the run did not survive the loss of a worker: {said}"
    elif moment.victim == "driver":
        assert code == -9
    elif code != 0:  # 0: every file was written already, Ray was hit while it was being stopped
        assert code == ExitCode.ENGINE, said
        assert "Ray itself died" in said
        assert "run the same command again" in said
        assert "Traceback" not in said
        assert seconds < QUICK_S
    if code != 0:
        again = start(file, "--workers", "2", RAY_TMPDIR=ray_folder)
        code, said = again.end()
        assert code == 0, said
    assert open_run(str(workspace)).record.status == "done"
    assert release_of(workspace) == known.release


@pytest.mark.parametrize("moment", DEFAULT, ids=str)
def test_a_killed_run_is_finished_by_the_same_command(
    moment: Moment, undisturbed: Undisturbed, tmp_path: Path, ray_folder: str
) -> None:
    check(moment, undisturbed, tmp_path, ray_folder)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [m for m in ALL if m not in DEFAULT], ids=str)
def test_at_the_other_seeded_moments(moment: Moment, undisturbed: Undisturbed, tmp_path: Path, ray_folder: str) -> None:
    check(moment, undisturbed, tmp_path, ray_folder)


TWICE = """
import sys
import time
import psutil
import curate
from curate.errors import EngineError
from curate.engine.ray_engine import RayEngine

whole = RayEngine.map

def dying(self, *given):
    global killed
    killed = time.monotonic()
    for server in self._servers:
        server.kill()
    psutil.wait_procs(self._servers, timeout=5)
    return whole(self, *given)

RayEngine.map = dying
try:
    curate.run(sys.argv[1], workers=1)
except EngineError as error:
    assert "Ray itself died" in str(error), error
RayEngine.map = whole
print(curate.run(sys.argv[1], workers=1).record.status, flush=True)
RayEngine.map = dying
try:
    curate.run(sys.argv[1], workers=1, overrides=["stages.prune.keep=0.5"])
except EngineError:
    print(round(time.monotonic() - killed), flush=True)
    raise
"""


@pytest.mark.slow
def test_a_program_is_told_that_its_ray_died_and_can_run_again(
    undisturbed: Undisturbed, tmp_path: Path, ray_folder: str
) -> None:
    file = write_pipeline(tmp_path / "whole.yaml", pipeline(undisturbed.shards, tmp_path / "work"))
    done = subprocess.run(
        [sys.executable, "-c", TWICE, str(file)],
        env=environment(RAY_TMPDIR=ray_folder),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    said, seconds = done.stdout.split()
    assert said == "done", done.stderr
    assert done.returncode == 1
    assert "EngineError: Ray itself died" in done.stderr
    assert int(seconds) < 45  # shown at once, not after Ray's own minute
    assert release_of(tmp_path / "work") == undisturbed.release


def test_the_moments_are_spread_over_the_run() -> None:
    shares = [moment.share for moment in ALL]
    assert len(ALL) == 20
    assert all(i / 20 <= share < (i + 1) / 20 for i, share in enumerate(shares))
    assert {(m.victim, m.clock) for m in ALL} == {
        (victim, clock) for victim in ("driver", "worker", "ray") for clock in ("time", "files")
    }
    assert {m.victim for m in DEFAULT} == {"worker"}
