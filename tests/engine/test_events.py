from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest

from curate.engine import events
from curate.engine.events import EventLog, read_events
from curate.store.workspace import Workspace


def test_events_come_back_in_order_with_time_and_version(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    log = EventLog(workspace, "d1")
    before = time.time()
    log.emit("phase", step="embed", total=3)
    log.emit("progress", note="ä\nb")
    log.flush()
    log.emit("end")
    log.flush()
    log.flush()
    found = read_events(workspace, "d1")
    assert [e["event"] for e in found] == ["phase", "progress", "end"]
    assert found[0] == {"schema_version": 1, "t": found[0]["t"], "event": "phase", "step": "embed", "total": 3}
    assert found[1]["note"] == "ä\nb"
    assert all(before - 0.001 <= e["t"] <= time.time() + 0.001 for e in found)
    assert sorted(workspace.listing("events")) == ["d1-00000.jsonl", "d1-00001.jsonl"]
    assert all(json.loads(line) for line in workspace.read("events/d1-00000.jsonl").decode().splitlines())


def test_drivers_do_not_mix() -> None:
    workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
    for driver in ("a", "b", "ab"):
        log = EventLog(workspace, driver)
        log.emit(driver)
        log.flush()
    assert [e["event"] for e in read_events(workspace, "a")] == ["a"]
    assert read_events(workspace, "none") == []
    workspace.remove("")


def test_a_segment_is_written_by_number_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(str(tmp_path))
    monkeypatch.setattr(events, "FLUSH_EVERY_N", 10)
    log = EventLog(workspace, "n")
    for number in range(25):
        log.emit("x", number=number)
    assert [e["number"] for e in read_events(workspace, "n")] == list(range(20))
    monkeypatch.setattr(events, "FLUSH_EVERY_S", 0.0)
    log.emit("x", number=25)
    assert [e["number"] for e in read_events(workspace, "n")] == list(range(26))


def test_many_segments_come_in_order(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    log = EventLog(workspace, "d")
    for number in range(12):
        log.emit("x", number=number)
        log.flush()
    assert [e["number"] for e in read_events(workspace, "d")] == list(range(12))


def test_a_heartbeat_tells_that_the_driver_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curate.engine.events.BEAT_S", 0.02)
    workspace = Workspace(str(tmp_path))
    log = EventLog(workspace, "d")
    with log.heartbeat():
        deadline = time.monotonic() + 5
        while len(read_events(workspace, "d")) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
    beats = read_events(workspace, "d")
    assert len(beats) >= 3
    assert {line["event"] for line in beats} == {"alive"}
    assert [line["t"] for line in beats] == sorted(line["t"] for line in beats)
