from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from curate.engine import reaper
from curate.engine.reaper import end, servers_of

SLEEP = [sys.executable, "-c", "import time; time.sleep(120)"]
DRIVER = """
import subprocess, sys, time
import psutil
from curate.engine.reaper import Reaper
reaper = Reaper()
helper = subprocess.Popen(sys.argv[2:], start_new_session=True)
if sys.argv[1] != "starting":
    reaper.guard([psutil.Process(helper.pid)])
if sys.argv[1] == "dismissed":
    reaper.dismiss()
time.sleep(0.6)
print(helper.pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def started() -> Iterator[list[psutil.Process]]:
    """Processes to end after the test, whatever came of them."""
    processes: list[psutil.Process] = []
    yield processes
    for process in processes:
        if process.is_running():
            process.kill()
    psutil.wait_procs(processes, timeout=5)


def spawn(started: list[psutil.Process], command: list[str], **options: object) -> psutil.Process:
    process = psutil.Popen(command, **options)
    started.append(process)
    return process


def killed_driver(started: list[psutil.Process], state: str, helper: list[str]) -> psutil.Process:
    """Kill a driver that has a helper; the helper."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, state, *helper], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    process = psutil.Process(int(driver.stdout.readline()))
    started.append(process)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    driver.stdout.close()
    return process


def gone(process: psutil.Process, within: float = 5.0) -> bool:
    return not psutil.wait_procs([process], timeout=within)[1]


def test_what_was_named_ends_with_a_killed_driver(started: list[psutil.Process]) -> None:
    assert gone(killed_driver(started, "guarded", SLEEP))


def test_a_server_ends_even_when_the_driver_was_killed_before_it_could_name_it(
    started: list[psutil.Process], tmp_path: Path
) -> None:
    raylet = shutil.copy("/bin/sleep", tmp_path / "raylet")
    assert gone(killed_driver(started, "starting", [str(raylet), "120"]))


def test_other_children_of_a_killed_driver_are_left_alone(started: list[psutil.Process]) -> None:
    assert not gone(killed_driver(started, "starting", SLEEP), within=1.5)


def test_nothing_is_ended_after_dismissal(started: list[psutil.Process]) -> None:
    assert not gone(killed_driver(started, "dismissed", SLEEP), within=1.5)


def test_workers_that_name_the_raylet_end_with_it_and_no_others(started: list[psutil.Process]) -> None:
    raylet, stranger = spawn(started, SLEEP), spawn(started, SLEEP)
    mine = spawn(started, SLEEP, env={"RAY_RAYLET_PID": str(raylet.pid)}, start_new_session=True)
    other = spawn(started, SLEEP, env={"RAY_RAYLET_PID": str(stranger.pid)})
    end([psutil.Process(raylet.pid)])
    assert gone(raylet)
    assert gone(mine)
    assert stranger.is_running()
    assert other.is_running()


def test_an_orphaned_reaper_leaves_its_new_parent_alone(started: list[psutil.Process], tmp_path: Path) -> None:
    """A reaper whose driver died at once is the child of some other process, with servers of its own."""
    raylet = spawn(started, [str(shutil.copy("/bin/sleep", tmp_path / "raylet")), "120"])
    left = subprocess.Popen([sys.executable, "-P", reaper.__file__, "1"], stdin=subprocess.PIPE)
    assert left.wait(timeout=20) == 0  # it does not even wait for the pipe, which is open still
    assert left.stdin is not None
    left.stdin.close()
    assert raylet.is_running()


def test_servers_are_known_by_name_with_all_they_started(started: list[psutil.Process], tmp_path: Path) -> None:
    shell = shutil.copy(shutil.which("sh") or "/bin/sh", tmp_path / "gcs_server")
    server = spawn(started, [str(shell), "-c", "sleep 120 & echo up; wait"], stdout=subprocess.PIPE)
    server.stdout.readline()
    spawn(started, SLEEP)
    found = servers_of(psutil.Process())
    assert {process.pid for process in found} == {server.pid, *(child.pid for child in server.children())}
    assert len(found) == 2
    end(found)
