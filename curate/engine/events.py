"""Events of a run as JSON lines, in segments: object stores cannot append, so each segment is a file of its own."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.errors import CurateError
from curate.store.workspace import Workspace

SCHEMA_VERSION: Literal[1] = 1
FLUSH_EVERY_S = 5.0
FLUSH_EVERY_N = 1000
BEAT_S = 20.0


class Event(BaseModel):
    """One line of a segment; further fields depend on the event."""

    model_config = ConfigDict(extra="allow", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    t: float = Field(description="seconds since the epoch")
    event: Literal["run", "phase", "progress", "reused", "step", "alive", "end"]


class EventLog:
    """Writes `events/<driver>-<n>.jsonl`. A killed driver loses at most FLUSH_EVERY_S seconds of events."""

    def __init__(self, workspace: Workspace, driver: str) -> None:
        self._workspace, self._driver = workspace, driver
        self._segment = 0
        self._lines: list[str] = []
        self._flushed = time.monotonic()
        self._lock = threading.RLock()

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Emit `alive` every BEAT_S seconds, so that `curate status` can tell a long part from a dead driver."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_S):
                with contextlib.suppress(CurateError):
                    self.emit("alive")
                    self.flush()

        thread = threading.Thread(target=beat, name="curate-heartbeat", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def emit(self, event: str, **fields: Any) -> None:
        """Note an event; `t` is seconds since the epoch."""
        line = {"schema_version": SCHEMA_VERSION, "t": round(time.time(), 3), "event": event, **fields}
        with self._lock:
            self._lines.append(json.dumps(line, ensure_ascii=False))
            if len(self._lines) >= FLUSH_EVERY_N or time.monotonic() - self._flushed > FLUSH_EVERY_S:
                self.flush()

    def flush(self) -> None:
        """Write the segment, if it holds anything."""
        with self._lock:
            self._flushed = time.monotonic()
            if self._lines:
                data = ("\n".join(self._lines) + "\n").encode()
                self._workspace.put(f"events/{self._driver}-{self._segment:05d}.jsonl", data)
                self._segment += 1
                self._lines = []


def read_events(
    workspace: Workspace, driver: str, seen: dict[str, list[dict[str, Any]]] | None = None
) -> list[dict[str, Any]]:
    """All events of one driver, in order. seen: segments by name; one that is there is not read again."""
    names = sorted(name for name in workspace.listing("events") if name.startswith(f"{driver}-"))
    seen = {} if seen is None else seen
    for name in names:
        if name not in seen:
            seen[name] = [json.loads(line) for line in workspace.read(f"events/{name}").decode().splitlines()]
    return [event for name in names for event in seen[name]]
