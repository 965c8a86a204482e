"""A driver whose Ray died does not hang: it says so and ends with the engine's exit code."""

from __future__ import annotations

import subprocess
import sys

from curate.errors import ExitCode

SCRIPT = """
import subprocess, sys, time
import psutil
from curate.engine.watch import Watch
server = subprocess.Popen(["sleep", "60"])
watch = Watch(grace_s=0.5)
watch.started([psutil.Process(server.pid)])
time.sleep(0.6)
assert not watch.died
if sys.argv[1] == "stopped":
    watch.stop()
server.kill()
time.sleep(3 if sys.argv[1] == "stopped" else 30)
assert watch.died
print("went on")
"""


def run(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, timeout=120)


def test_a_hanging_driver_is_ended_with_a_sentence() -> None:
    done = run("hanging")
    assert done.returncode == ExitCode.ENGINE  # long before its 30 s of sleep are over
    assert "Ray itself died" in done.stderr
    assert "run the same command again" in done.stderr


def test_servers_may_end_once_it_is_stopped() -> None:
    done = run("stopped")
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr
