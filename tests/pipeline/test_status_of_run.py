"""Status of finished, live, killed and failed runs, read from files that a run of this code wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_run import copy_of, small_run

import curate
from curate.engine.events import read_events
from curate.errors import StorageError
from curate.pipeline.runfile import RunFile
from curate.pipeline.status import read_status
from curate.store.groups import group_file
from curate.store.workspace import Workspace


def live(tmp_path: Path, at: str) -> tuple[Workspace, RunFile, float]:
    """The workspace as it was while `at` was worked on: later steps waiting, events up to then; and when that was."""
    place, _ = copy_of(small_run(), tmp_path / "work")
    record = curate.open_run(place.url).record
    events = read_events(place, record.driver)
    for name in place.listing("events"):
        place.remove(f"events/{name}")
    number = [step.name for step in record.steps].index(at)
    for step in record.steps[number:]:
        step.status, step.rows_before, step.rows_after, step.seconds, step.reasons = "waiting", None, None, None, {}
        step.facts = {}
        place.remove(f"{step.folder}/{group_file(step.group)}" if step.group else f"{step.folder}/finished")
    record.status, record.finished = "running", None
    record.write(place)
    stop = next(n for n, e in enumerate(events) if e["event"] == "step" and e["step"] == at)
    # the last part of the step is still being worked on
    kept = events[: stop - 1]
    text = "".join(json.dumps(event) + "\n" for event in kept)
    place.put(f"events/{record.driver}-00000.jsonl", text.encode())
    return place, record, kept[-1]["t"]


def test_a_finished_run() -> None:
    run = small_run().run
    found = read_status(run.workspace)
    assert (found.state, found.rows, found.alive, found.quarantined) == ("done", 33, 15, 4)
    assert found.silent_seconds is None
    assert found.current is None
    assert found.release == run.release
    assert found.seconds == pytest.approx((run.record.finished or 0) - run.record.started)
    assert {step.status for step in found.steps} == {"done"}
    # the release counts its files: three shards and three tables of what was dropped
    assert [(s.parts_stored, s.parts) for s in found.steps] == [(3, 3)] * (len(found.steps) - 1) + [(6, 6)]
    assert [step.alive for step in found.steps] == [33, 30, 29, 28, 28, 27, 27, 25, 15, 15]
    embed = found.steps[3]
    assert embed.samples_per_second == pytest.approx(29 / (embed.seconds or 0))


def test_a_live_run_of_another_process(tmp_path: Path) -> None:
    place, record, last = live(tmp_path, "embed")
    folder = record.step("embed").folder
    for name in [name for name in place.listing(folder) if name.startswith("part-00002.")]:
        place.remove(f"{folder}/{name}")
    found = read_status(place, now=last + 2)
    step = found.current
    assert found.state == "running"
    assert found.silent_seconds == pytest.approx(2)
    assert found.seconds == pytest.approx(last + 2 - record.started)
    assert step is not None
    assert (step.name, step.status, step.parts_stored, step.parts) == ("embed", "running", 2, 3)
    assert (step.unit, step.done, step.total) == ("part", 2, 3)
    events = [e for e in read_events(place, record.driver) if e.get("step") == "embed"]
    passed = events[-1]["t"] - events[0]["t"]
    assert step.seconds_left == pytest.approx(passed / 2)
    assert step.samples_per_second == pytest.approx(sum(e.get("rows", 0) for e in events) / passed)
    assert [s.status for s in found.steps] == ["done"] * 3 + ["running"] + ["waiting"] * 6


def test_a_killed_run_is_silent_and_its_step_stopped(tmp_path: Path) -> None:
    place, record, last = live(tmp_path, "embed")
    found = read_status(place, now=last + 3600)
    assert found.state == "silent"
    assert found.silent_seconds == pytest.approx(3600)
    assert found.seconds == pytest.approx(last - record.started)
    assert found.current is not None
    assert (found.current.name, found.current.status) == ("embed", "stopped")


def test_a_run_whose_parts_take_long_is_not_called_dead_too_early(tmp_path: Path) -> None:
    place, record, last = live(tmp_path, "embed")
    lines = [
        {"event": "progress", "step": "embed", "done": n, "total": 9, "rows": 5, "t": last + 100 * n} for n in (1, 2)
    ]
    place.put(f"events/{record.driver}-00001.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert read_status(place, now=last + 200 + 499).state == "running"
    assert read_status(place, now=last + 200 + 501).state == "silent"


def test_a_run_killed_before_its_first_segment(tmp_path: Path) -> None:
    place, record, _ = live(tmp_path, "index")
    for name in place.listing("events"):
        place.remove(f"events/{name}")
    assert read_status(place, now=record.started + 59).state == "running"
    assert read_status(place, now=record.started + 61).state == "silent"


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_a_failed_run_says_where_and_why(tmp_path: Path, state: str) -> None:
    place, record, last = live(tmp_path, "cluster")
    record.status, record.error, record.finished = state, "the disk is full", last + 1  # type: ignore[assignment]
    record.step("cluster").status = "failed" if state == "failed" else "running"
    record.write(place)
    found = read_status(place, now=last + 1000)
    assert (found.state, found.error) == (state, "the disk is full")
    assert found.silent_seconds is None
    assert found.current is not None
    assert (found.current.name, found.current.status) == ("cluster", state)


def test_parts_of_other_configurations_are_not_counted_twice(tmp_path: Path) -> None:
    place, record, last = live(tmp_path, "filter")
    folder = record.step("filter").folder
    name = next(name for name in place.listing(folder) if name.startswith("part-00000."))
    place.put(f"{folder}/part-00000.0123456789ab.parquet", place.read(f"{folder}/{name}"))
    found = next(step for step in read_status(place, now=last).steps if step.name == "filter")
    assert (found.parts_stored, found.parts) == (3, 3)


def test_parts_that_vanished_from_a_finished_step_are_seen(tmp_path: Path) -> None:
    place, _ = copy_of(small_run(), tmp_path / "work")
    folder = small_run().run.record.step("filter").folder
    place.remove(f"{folder}/{next(name for name in place.listing(folder) if name.startswith('part-00001.'))}")
    step = next(step for step in read_status(place).steps if step.name == "filter")
    assert (step.status, step.parts_stored, step.parts) == ("done", 2, 3)


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is it the workspace of a run"):
        read_status(Workspace(str(tmp_path)))
