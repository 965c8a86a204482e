from __future__ import annotations

import io
import itertools
import uuid
from pathlib import Path
from typing import Any

import corpus
import fsspec
import numpy as np
import polars as pl
import pytest
from rich.console import Console
from small_run import SmallRun, small_run

import curate
from curate.engine.events import read_events
from curate.errors import InputError, SpecError, StorageError
from curate.pipeline.api import open_run
from curate.stages.filter import FilterStage


@pytest.fixture(scope="module")
def small() -> SmallRun:
    return small_run()


def test_columns_of_all_steps_are_aligned(small: SmallRun) -> None:
    """Over three parts, every row is the same sample in every step, in input order."""
    run = small.run
    frame = run.columns("index", "uids", "embed", "cluster", "prune").collect()
    index = run.columns("index").collect()
    assert frame["index.key"].to_list() == index["key"].to_list()
    assert frame["index.shard"].null_count() == 0
    assert frame["uids.alive"].to_list() == run.columns("uids").collect()["alive"].to_list()
    assert (frame["cluster.concept"].is_not_null() == frame["embed.alive"]).all()
    assert (frame.filter(pl.col("prune.alive"))["prune.keep"]).all()
    assert run.columns("index").select("width").collect_schema() == {"width": pl.UInt32()}
    assert isinstance(run.columns("index"), pl.LazyFrame)


def test_alive_only_ever_shrinks(small: SmallRun) -> None:
    run = small.run
    dropping = [step.name for step in run.record.steps if step.group and "alive" in run.group(step.name).columns]
    frame = run.columns(*dropping).collect()
    for before, after in itertools.pairwise(dropping):
        assert not (frame[f"{after}.alive"] & ~frame[f"{before}.alive"]).any()
    for name in dropping:
        step = run.record.step(name)
        assert step.rows_after == int(frame[f"{name}.alive"].sum())
        assert step.rows_before is not None
        assert step.rows_before - step.rows_after == sum(step.reasons.values())


def test_vectors_part_by_part(small: SmallRun) -> None:
    parts = list(small.run.vector_parts("embed"))
    rows = small.run.columns("embed").collect()["vec_row"].drop_nulls()
    assert len(parts) == 3
    assert sum(len(part) for part in parts) == len(rows)
    for part in parts:
        assert part.dtype == np.float16
        np.testing.assert_allclose(np.linalg.norm(part.astype(np.float64), axis=1), 1, atol=3e-3)
    np.testing.assert_array_equal(small.run.vectors("embed"), np.concatenate(parts))


def test_artifacts_by_name(small: SmallRun) -> None:
    centroids = small.run.artifacts("cluster")["centroids"]
    assert centroids.shape[0] == 3
    concepts = small.run.artifacts("prune")["concepts"]
    assert int(concepts["quota"].sum()) == small.run.record.alive
    # the concept and distance of every row are those of these centroids
    frame = small.run.columns("embed", "cluster").collect().filter(pl.col("embed.vec_row").is_not_null())
    dots = np.concatenate(list(small.run.vector_parts("embed"))).astype(np.float64) @ centroids.T.astype(np.float64)
    assert frame["cluster.concept"].to_list() == dots.argmax(axis=1).tolist()


def test_a_run_can_be_opened_again(small: SmallRun) -> None:
    again = open_run(str(small.workspace))
    assert again.record == small.run.record
    assert again.release == small.run.release
    assert repr(again).startswith("<Run small: done, ")
    assert again.quarantined == small.run.quarantined > 0


def test_what_is_not_there_is_a_sentence(small: SmallRun, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no step named filters; it has index, uids, filter"):
        small.run.columns("filters")
    with pytest.raises(InputError, match="step release of this run has no finished columns"):
        small.run.group("release")
    with pytest.raises(StorageError, match=r"holds no run\.json"):
        open_run(str(tmp_path))


def test_everything_in_memory(tmp_path: Path) -> None:
    """Input, workspace and release on memory://, the same decisions as on disk."""
    corpus.write_good_shards(tmp_path / "shards", shards=2, samples=4)
    fs, root = fsspec.filesystem("memory"), f"test-{uuid.uuid4().hex}"
    for path in (tmp_path / "shards").glob("*.tar"):
        fs.pipe_file(f"/{root}/shards/{path.name}", path.read_bytes())
    stages = ["index", {"sample": {"fraction": 0.6}}, {"release": {"samples_per_shard": 2}}]

    def spec(place: str) -> dict[str, Any]:
        given = {"shards": f"{place}/shards/*.tar", "name": "x", "caption": "txt"}
        return {"name": "mem", "input": given, "workspace": f"{place}/work", "stages": stages}

    memory = curate.run(spec(f"memory://{root}"), workers=0)
    disk = curate.run(spec(str(tmp_path)), workers=0)
    assert memory.columns("index", "sample").collect().equals(disk.columns("index", "sample").collect())
    manifests = [run.workspace.sub(str(run.release).rpartition("/")[2]).read("manifest.json") for run in (memory, disk)]
    assert manifests[0] == manifests[1]
    fs.rm(f"/{root}", recursive=True)


def test_memory_and_workers_do_not_go_together(tmp_path: Path) -> None:
    corpus.write_good_shards(tmp_path / "shards", shards=1, samples=1)
    spec = {
        "name": "mem",
        "input": {"shards": f"{tmp_path}/shards/*.tar"},
        "workspace": f"memory://test-{uuid.uuid4().hex}",
        "stages": ["index"],
    }
    with pytest.raises(SpecError, match="memory:// exists in one process only; run with workers=0"):
        curate.run(spec, workers=2)


def test_a_failed_run_says_so_and_goes_on_where_it_stopped(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = tiny | {"stages": ["index", {"filter": {"where": "width > 1"}}]}
    original = FilterStage.map

    def fail(self: FilterStage, part: Any, artifacts: Any, back: Any) -> Any:
        if part.index == 2:
            raise StorageError("the disk of part 2 is gone")
        return original(self, part, artifacts, back)

    monkeypatch.setattr(FilterStage, "map", fail)
    with pytest.raises(StorageError, match="the disk of part 2 is gone"):
        curate.run(spec, workers=0)
    failed = open_run(tiny["workspace"]).record
    assert (failed.status, failed.error) == ("failed", "the disk of part 2 is gone")
    assert [step.status for step in failed.steps] == ["done", "done", "failed"]
    assert failed.finished is not None
    monkeypatch.undo()
    done = curate.run(spec, workers=0).record
    assert (done.status, done.error, done.alive) == ("done", None, 12)
    assert done.step("filter").reused_parts == 2


def test_stopping_it_is_recorded(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(self: FilterStage, part: Any, artifacts: Any, back: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(FilterStage, "map", stop)
    with pytest.raises(KeyboardInterrupt):
        curate.run(tiny | {"stages": ["index", {"filter": {"where": "width > 1"}}]}, workers=0)
    assert open_run(tiny["workspace"]).record.status == "interrupted"


def test_the_second_run_does_nothing(small: SmallRun, tiny: dict[str, Any]) -> None:
    spec = tiny | {"stages": ["index", {"filter": {"where": "width > 1"}}, "release"]}
    first = curate.run(spec, workers=0)
    work = Path(tiny["workspace"])
    before = {
        p: p.stat().st_mtime_ns for p in work.rglob("*") if p.is_file() and p.suffix in (".parquet", ".tar", ".npy")
    }
    second = curate.run(spec, workers=0)
    after = {p: p.stat().st_mtime_ns for p in before if p.exists()}
    assert after == before
    assert all(step.reused_parts == step.parts for step in second.record.steps if step.group)
    assert second.record.plan == first.record.plan
    assert second.record.alive == first.record.alive


def test_overrides_are_recorded_and_used(tiny: dict[str, Any]) -> None:
    spec = tiny | {"stages": ["index", {"filter": {"where": "width > 1"}}]}
    run = curate.run(spec, workers=0, overrides=["stages.filter.where=width > 1000"])
    assert run.record.alive == 0
    assert run.record.spec["stages"][1]["filter"]["where"] == "width > 1000"


def test_pilots_are_recorded(tiny: dict[str, Any]) -> None:
    record = curate.run(tiny, workers=0, limit_shards=2, sample=0.5).record
    assert (record.limit_shards, record.sample, record.rows, record.parts) == (2, 0.5, 8, 2)
    assert [step.name for step in record.steps] == ["index", "uids", "sample"]
    assert record.alive == record.step("sample").rows_after


def test_events_tell_the_run(tiny: dict[str, Any]) -> None:
    run = curate.run(tiny, workers=0)
    found = read_events(run.workspace, run.record.driver)
    assert [e["event"] for e in found if e["event"] in ("run", "step", "end")] == ["run", "step", "step", "end"]
    progress = [e for e in found if e["event"] == "progress" and e["step"] == "index"]
    assert [e["done"] for e in progress] == [1, 2, 3]
    assert progress[-1]["total"] == 3


def test_what_it_says_while_it_works(tiny: dict[str, Any]) -> None:
    out = Console(file=io.StringIO(), width=120, force_terminal=False)
    curate.run(
        tiny | {"stages": ["index", {"filter": {"where": "key > '000005'"}}]}, workers=0, quiet=False, console=out
    )
    text = out.file.getvalue()  # type: ignore[attr-defined]
    lines = [line.split() for line in text.splitlines()]
    assert [line[:3] for line in lines if line[0] in ("index", "filter")] == [
        ["index", "12", "alive"], ["filter", "6", "alive"],
    ]  # fmt: skip
    assert "-6" in text
    quiet = Console(file=io.StringIO())
    curate.run(tiny, workers=0, console=quiet)
    assert quiet.file.getvalue() == ""  # type: ignore[attr-defined]
