"""Label maps of a whole run: the number of workers, and where a run was stopped, decide nothing."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tiny_teacher

import curate


def stored(run: curate.Run) -> dict[str, str]:
    """sha256 of the records of every part, and of the table of all."""
    found = {}
    for number, records in enumerate(run.vector_parts("relabel", "maps")):
        found[f"records of part {number}"] = hashlib.sha256(records.tobytes()).hexdigest()
    table: pl.DataFrame = run.columns("relabel").collect()
    found["rows"] = hashlib.sha256(table.write_ipc(None).getvalue()).hexdigest()
    return found


def forget(workspace: Path, part: int) -> None:
    """As if the run had been stopped before this part was committed."""
    (folder,) = workspace.glob("relabel@*")
    for file in [*folder.glob(f"part-{part:05d}.*.parquet"), *folder.glob("group.*"), *folder.glob("contents.*")]:
        file.unlink()


@pytest.mark.slow
def test_two_workers_one_process_and_a_stopped_run_give_the_same_bytes(
    tiny: dict[str, Any], tmp_path: Path, ray_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", ray_folder)
    options = tiny_teacher.save(tmp_path / "w.pth")
    spec = tiny | {"stages": ["index", {"relabel": options | {"batch_size": 3, "flip": True}}]}
    alone = curate.run(spec | {"workspace": f"{tmp_path}/alone"}, workers=0)
    truth = stored(alone)
    assert len(set(truth.values())) >= 4
    both = curate.run(spec | {"workspace": f"{tmp_path}/both"}, workers=2)
    assert stored(both) == truth
    forget(tmp_path / "alone", 1)
    again = curate.run(spec | {"workspace": f"{tmp_path}/alone"}, workers=0)
    assert again.record.step("relabel").reused_parts == 2
    assert again.record.step("relabel").facts["rows_computed"] == 4
    assert stored(again) == truth
