"""Cleaning removes what no run names, byte for byte nothing else, and a run after it finds all its work."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_run import SmallRun, copy_of, pipeline, small_run, write_shards

import curate
from curate.errors import StorageError
from curate.pipeline.clean import carry_out, plan_cleaning
from curate.pipeline.verify import verify_release
from curate.store.workspace import Workspace


def light(root: Path, keep: float = 0.5, where: str = "width >= 40") -> dict[str, Any]:
    """A pipeline without an encoder, so that several runs take no time."""
    spec = copy.deepcopy(pipeline(root))
    spec["stages"] = [
        "index",
        {"filter": {"where": where}},
        {"sample": {"fraction": keep}},
        {"release": {"samples_per_shard": 8}},
    ]
    return spec


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards")
    return tmp_path


def files(place: Workspace) -> dict[str, bytes]:
    """Every file of a workspace, hidden ones too."""
    top = Path(place.path())
    return {str(p.relative_to(top)): p.read_bytes() for p in top.rglob("*") if p.is_file()}


def clean(place: Workspace, only_latest: bool = False) -> tuple[set[str], int]:
    """Clean; returns what went and the bytes told beforehand."""
    before = files(place)
    plan = plan_cleaning(place, only_latest=only_latest)
    assert files(place) == before, "a plan must not change anything"
    carry_out(plan)
    after = files(place)
    gone = before.keys() - after.keys()
    assert {name: data for name, data in before.items() if name in after} == after
    assert plan.nbytes == sum(len(before[name]) for name in gone)
    assert sum(item.files for item in plan.remove) == len(gone)
    return gone, plan.nbytes


def test_of_a_single_run_nothing_goes() -> None:
    plan = plan_cleaning(Workspace(str(small_run().workspace)))
    assert plan.remove == []
    assert plan.unknown == []


def test_a_run_that_is_named_keeps_everything(root: Path) -> None:
    first = curate.run(light(root), workers=0)
    curate.run(light(root, keep=0.25), workers=0)
    assert clean(first.workspace)[0] == set()


def test_only_the_latest_run_stays(root: Path) -> None:
    first = curate.run(light(root), workers=0)
    alone = files(first.workspace)
    second = curate.run(light(root, keep=0.25), workers=0)
    both = files(first.workspace)
    gone, nbytes = clean(first.workspace, only_latest=True)
    assert nbytes > 0
    shared = {s.folder for s in first.record.steps} & {s.folder for s in second.record.steps}
    assert shared == {s.folder for s in first.record.steps if s.kind in ("index", "uids", "filter")}
    assert gone == {name for name in alone if name.split("/")[0] not in shared and name != "run.json"}
    assert both.keys() - gone == files(second.workspace).keys()
    assert not Path(str(first.release)).exists()
    assert verify_release(Workspace(str(second.release))).ok
    again = curate.run(light(root, keep=0.25), workers=0)
    assert all(step.reused_parts for step in again.record.steps)


def test_events_of_a_run_that_was_run_again_go(root: Path) -> None:
    first = curate.run(light(root), workers=0)
    curate.run(light(root), workers=0)
    segments = {f"events/{name}" for name in first.workspace.listing("events") if first.record.driver in name}
    assert clean(first.workspace)[0] == segments != set()


def test_parts_of_a_shard_that_is_no_longer_in_the_input_go(root: Path) -> None:
    first = curate.run(light(root), workers=0)
    before = files(first.workspace)
    os.rename(root / "shards" / "c.tar", root / "c.tar")
    second = curate.run(light(root), workers=0)
    gone, _ = clean(first.workspace, only_latest=True)
    index = first.record.steps[0].folder
    third = next(name for name in before if name.startswith(f"{index}/part-00002."))
    kept = {name for name in before if name.startswith((f"{index}/part-00000.", f"{index}/part-00001."))}
    assert third in gone
    assert not gone & kept
    assert all(step.reused_parts for step in curate.run(light(root), workers=0).record.steps)
    assert verify_release(Workspace(str(second.release))).ok


def test_vectors_without_a_part_go(tmp_path: Path) -> None:
    place, run = _copy(tmp_path)
    folder = run.run.record.step("embed").folder
    np.save(Path(place.path(f"{folder}/part-00001.0123abcd.image.npy")), np.zeros(3))
    assert clean(place)[0] == {f"{folder}/part-00001.0123abcd.image.npy"}


def test_work_of_an_unfinished_run_stays(tmp_path: Path) -> None:
    place, _ = _copy(tmp_path)
    record = curate.open_run(place.url).record
    step = record.step("embed")
    for later in record.steps[3:]:
        later.status, later.facts = "waiting", {}
    place.remove(f"{step.folder}/group.{step.group}.json")
    for name in ("run-00000.json", "bucket-00000.npy"):
        place.put(f"scratch/{step.folder}/{step.whole}/{name}", b"{}")
        place.put(f"scratch/{record.step('filter').folder}/{record.step('filter').whole}/{name}", b"{}")
    place.put(f"{step.folder}/part-00001.0123abcd.image.npy", b"orphan")
    record.status, record.started = "running", time.time() - 3600
    record.write(place)
    place.remove("events")
    gone, _ = clean(place)
    done = record.step("filter")
    assert gone == {
        f"{step.folder}/part-00001.0123abcd.image.npy",
        f"scratch/{done.folder}/{done.whole}/run-00000.json",
        f"scratch/{done.folder}/{done.whole}/bucket-00000.npy",
    }


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    place, _ = _copy(tmp_path)
    record = curate.open_run(place.url).record
    record.status = "running"
    record.write(place)
    last = record.started + 5
    place.put(f"events/{record.driver}-00009.jsonl", b'{"event": "step", "step": "index", "t": %f}\n' % last)
    with pytest.raises(StorageError, match="the run small is at work"):
        plan_cleaning(place, now=last + 30)
    assert plan_cleaning(place, now=last + 3600).remove == []


def test_half_written_files_go_once_they_are_old(tmp_path: Path) -> None:
    place, run = _copy(tmp_path)
    release = run.release.name
    names = {".run.json.0123abcd.tmp", f"{release}/.00000.tar.0123abcd.tmp", ".probe-0123abcd"}
    for name in names:
        place.put(name, b"half")
    assert clean(place)[0] == set()
    for name in names:
        os.utime(place.path(name), (time.time() - 3600, time.time() - 3600))
    assert clean(place)[0] == names


def test_what_curate_did_not_write_stays(root: Path) -> None:
    first = curate.run(light(root), workers=0)
    curate.run(light(root, keep=0.25), workers=0)
    place = first.workspace
    sampled = first.record.step("sample").folder
    release = Path(str(first.release)).name
    mine = ["notes.txt", "release/00000.tar", "mine@xyz/a", "other/part-00000.0123456789ab.parquet", ".secret"]
    mine += [
        f"{sampled}/notes.txt",
        f"{sampled}/.hidden",
        f"{release}/pictures/a.jpg",
        "runs/mine.json",
        "events/x.txt",
    ]
    for name in mine:
        place.put(name, b"mine")
    plan = plan_cleaning(place, only_latest=True)
    assert sorted(plan.unknown) == sorted(mine[5:8])
    carry_out(plan)
    assert all(place.read(name) == b"mine" for name in mine)
    assert set(place.listing(sampled)) == {"notes.txt"}


def test_a_damaged_run_file_stops_it(root: Path) -> None:
    first = curate.run(light(root), workers=0)
    first.workspace.put("runs/0123456789ab.json", b"{")
    with pytest.raises(StorageError, match=r"runs/0123456789ab\.json is damaged"):
        plan_cleaning(first.workspace)
    with pytest.raises(StorageError, match="is it the workspace of a run"):
        plan_cleaning(Workspace(str(root / "shards")))


def test_a_release_elsewhere_is_never_touched(root: Path) -> None:
    spec = light(root)
    spec["stages"][-1]["release"]["to"] = f"{root}/work/mine@0123456789ab"
    first = curate.run(spec, workers=0)
    assert clean(first.workspace)[0] == set()
    assert verify_release(Workspace(str(first.release))).ok


def _copy(tmp_path: Path) -> tuple[Workspace, SmallRun]:
    return copy_of(small_run(), tmp_path / "work")[0], small_run()
