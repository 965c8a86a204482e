from __future__ import annotations

import json
from pathlib import Path

import numpy
import polars
import pytest

from curate.errors import StorageError
from curate.pipeline.runfile import RunFile, StepRecord, read_run, versions
from curate.store.workspace import Workspace


def made() -> RunFile:
    return RunFile(
        name="n", plan="p1", command="curate run x.yaml", spec={"name": "n", "workspace": "${WORK}"}, source="x.yaml",
        driver="d", started=1.5, notes=[{"shard": "ä"}],
        steps=[StepRecord(name="index", kind="index", folder="index@1", group="g", whole="w", reasons={"a": 1})],
    )  # fmt: skip


def test_round_trip_and_a_copy_under_its_plan(tmp_path: Path) -> None:
    workspace, record = Workspace(str(tmp_path)), made()
    record.write(workspace)
    assert read_run(workspace) == record
    assert read_run(workspace, "runs/p1.json") == record
    second = record.model_copy(update={"plan": "p2", "status": "done"})
    second.write(workspace)
    assert read_run(workspace) == second
    assert read_run(workspace, "runs/p1.json") == record


def test_variables_stay_unexpanded(tmp_path: Path) -> None:
    made().write(Workspace(str(tmp_path)))
    assert "${WORK}" in (tmp_path / "run.json").read_text()


def test_no_run_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"holds no run\.json; is it the workspace of a run\?"):
        read_run(Workspace(str(tmp_path)))


def test_another_schema_version_says_so(tmp_path: Path) -> None:
    data = made().model_dump() | {"schema_version": 7}
    (tmp_path / "run.json").write_text(json.dumps(data))
    with pytest.raises(StorageError, match="has schema version 7, this curate reads 1; use the curate that wrote it"):
        read_run(Workspace(str(tmp_path)))


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', '{"schema_version": 1, "name": "n"}', "\ud800"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(StorageError, match=r"run\.json is damaged \(.+\); run the pipeline again") as error:
        read_run(Workspace(str(tmp_path)))
    assert "\n" not in str(error.value)


def test_a_step_by_name() -> None:
    assert made().step("index").folder == "index@1"
    with pytest.raises(StorageError, match="no step named prune; it has index"):
        made().step("prune")


def test_a_step_that_is_not_done_has_no_group(tmp_path: Path) -> None:
    record = made()
    assert record.group(Workspace(str(tmp_path)), record.steps[0]) is None


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["numpy"] == numpy.__version__
    assert found["polars"] == polars.__version__
    assert found["curate"]
