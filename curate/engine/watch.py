"""Ends a driver that hangs because its Ray died: Ray's client would block for a minute and then exit without a word."""

from __future__ import annotations

import os
import threading
import time

import psutil

from curate.engine.reaper import SERVERS, servers_of
from curate.errors import ExitCode

DIED = (
    "Ray itself died under this run (its server process was killed or ran out of memory); "
    "finished parts are kept, run the same command again"
)
GRACE_S = 4.0
"""How long the engine has to notice by itself and raise an error, which is the better way out."""
_LOOK_S = 0.25


def runs(process: psutil.Process) -> bool:
    """Whether a process is alive, and not a zombie."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


class Watch:
    """A thread that looks after the Ray servers of this process, from before they start until `stop`."""

    def __init__(self, grace_s: float = GRACE_S) -> None:
        self._grace_s = grace_s
        self._stopped = threading.Event()
        self._servers: set[psutil.Process] = set()
        self._started = False
        # what an earlier Ray of this process left, zombies too, is not ours
        self._earlier = set(psutil.Process().children(recursive=True))
        threading.Thread(target=self._look, name="curate-watch", daemon=True).start()

    def started(self, servers: list[psutil.Process]) -> None:
        """All servers are known from here on."""
        self._servers, self._started = set(servers), True

    @property
    def died(self) -> bool:
        """Whether a server that was seen is gone."""
        return any(not runs(server) for server in list(self._servers))

    def stop(self) -> None:
        """The servers may end now."""
        self._stopped.set()

    def _look(self) -> None:
        me, since = psutil.Process(), 0.0
        while not self._stopped.wait(_LOOK_S):
            if not self._started:
                self._servers |= {p for p in servers_of(me) - self._earlier if name_of(p) in SERVERS}
            if not self.died:
                continue
            since = since or time.monotonic()
            if time.monotonic() - since > self._grace_s and not self._stopped.is_set():
                os.write(2, f"error: {DIED}\n".encode())
                os._exit(int(ExitCode.ENGINE))


def name_of(process: psutil.Process) -> str:
    """Name of a process; empty when it is gone."""
    try:
        return str(process.name())
    except psutil.Error:
        return ""
