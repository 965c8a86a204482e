"""Ends what is left of a local Ray: the engine does when a Ray server died, a small process when the driver did.

Ray's servers end with the driver, but their helpers go on looking for them for a minute and hold memory meanwhile.
The small process runs this file, reads from a pipe which processes to end, and acts when the pipe breaks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterable

import psutil

SERVERS = frozenset({"raylet", "gcs_server"})
_LOOK_S = 0.1


def end(processes: Iterable[psutil.Process], timeout_s: float = 3.0) -> None:
    """Kill Ray's servers and helpers, and the workers of their raylet. A process that took over a pid is spared."""
    family = set(processes)
    raylets = {str(process.pid) for process in family}
    for process in list(family):
        with contextlib.suppress(psutil.Error):
            family.update(process.children(recursive=True))
    for process in psutil.process_iter():
        # a worker whose raylet is gone is nobody's child, but its environment still names the raylet
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RAY_RAYLET_PID") in raylets:
                family.add(process)
    for process in family:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(family, timeout=timeout_s)


class Reaper:
    """The small process. It does nothing unless this process dies before `dismiss`."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C or kill of the driver's group must not take it along
        )

    def guard(self, processes: Iterable[psutil.Process]) -> None:
        """Name the processes that may not outlive this one."""
        assert self._process.stdin is not None
        known = [[process.pid, process.create_time()] for process in processes if process.is_running()]
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(known).encode() + b"\n")
            self._process.stdin.flush()

    def dismiss(self) -> None:
        """Nothing is left to guard."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def servers_of(parent: psutil.Process) -> set[psutil.Process]:
    """Ray's servers among the descendants of a process, and what they started."""
    found: set[psutil.Process] = set()
    with contextlib.suppress(psutil.Error):
        for child in parent.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if child.name() in SERVERS:
                    found |= {child, *child.children(recursive=True)}
    return found


def _watch(driver: int) -> None:
    """Until the driver names its processes, while Ray starts, look for them; then wait for the pipe to break."""
    guarded: set[psutil.Process] = set()
    parent = psutil.Process(os.getppid())
    if parent.pid != driver:
        return  # it is gone already: whose child this is now is none of its business
    while not select.select([sys.stdin.buffer], [], [], _LOOK_S)[0]:
        guarded |= servers_of(parent)
    for line in sys.stdin.buffer:
        for pid, created in json.loads(line):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                if abs(process.create_time() - created) < 1.0:
                    guarded.add(process)
    if guarded:
        end(guarded)


if __name__ == "__main__":
    _watch(int(sys.argv[1]))
