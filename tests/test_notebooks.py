"""The example notebook, run from its first cell to its last by nbclient in a kernel of its own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
import realdata

from infra.quickstart.pack import NATURAL_BIRDS, pack

pytestmark = pytest.mark.slow  # half a minute, and more when the photos must be fetched

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))

# what the notebook found, written by a cell added at its end
REPORT = """
import json
Path({answer!r}).write_text(json.dumps({{
    "rows": [run.record.rows, run.record.alive, run.record.quarantined],
    "steps": funnel.to_dicts(),
    "kept": concepts.collect()["kept"].to_list(),
    "found": duplicates.rows(),
    "planted": [[entry["kind"], entry["key"], entry["of"]] for entry in truth.planted],
    "keys": index["key"].to_list(),
    "vectors": list(vectors.shape),
    "mirrored": mirrored,
    "neighbours": neighbours.rows(),
    "reuse": reuse.to_dicts(),
    "alive again": again.record.alive,
    "release": sorted(samples),
    "table": kept["uid"].to_list(),
}}))
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_is_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.id for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """The notebook with its outputs, and what it found."""
    realdata.lite0()
    realdata.photos()
    folder = tmp_path_factory.mktemp("notebook")
    pack(folder / "shards")
    (path,) = [path for path in NOTEBOOKS if path.name == "first_run.ipynb"]
    notebook = nbformat.read(path, as_version=4)
    (places,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    places.source = f"shards, workspace = {str(folder / 'shards')!r}, {str(folder / 'work')!r}"
    notebook.cells.append(nbformat.v4.new_code_cell(REPORT.format(answer=str(folder / "answer.json"))))
    client = nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(path.parent)}})
    client.execute()
    return notebook, json.loads((folder / "answer.json").read_text())


@pytest.fixture(scope="module")
def notebook(executed: tuple[Any, dict[str, Any]]) -> Any:
    return executed[0]


@pytest.fixture(scope="module")
def found(executed: tuple[Any, dict[str, Any]]) -> dict[str, Any]:
    return executed[1]


def test_the_funnel_adds_up(found: dict[str, Any]) -> None:
    rows, alive, quarantined = found["rows"]
    steps = [step for step in found["steps"] if step["step"] != "release"]
    assert steps[0]["in"] == rows == len(found["keys"])
    assert all(before["out"] == after["in"] for before, after in itertools.pairwise(steps))
    deduplicated = next(step["out"] for step in steps if step["step"] == "dedup")
    assert steps[-1]["out"] == alive == sum(found["kept"]) == round(0.6 * deduplicated)
    assert 0 < quarantined < 8


def test_the_duplicates_found_are_those_that_are_there(found: dict[str, Any]) -> None:
    """Every planted copy whose original is in these shards; of edits and natural pairs most, and little else."""
    keys = set(found["keys"])
    planted = {(key, of): kind for kind, key, of in found["planted"] if key in keys and of in keys}
    exact = {frozenset(row[1:3]) for row in found["found"] if row[0] == "dedup-exact"}
    assert exact == {frozenset(pair) for pair, kind in planted.items() if kind == "copy"}
    near = {frozenset(row[1:3]) for row in found["found"] if row[0] == "dedup"}
    edits = {frozenset(pair) for pair, kind in planted.items() if kind != "copy"}
    overlays = {frozenset((key, key.removesuffix("_segmented"))) for key in keys if key.endswith("_segmented")}
    natural = {frozenset(pair) for pair in NATURAL_BIRDS} | overlays
    assert len(near & edits) > 0.6 * len(edits)
    assert len(near - edits - natural) < 0.1 * len(near)
    for _, dropped, keeper, kind in found["found"]:
        assert kind == planted.get((dropped, keeper), planted.get((keeper, dropped)))


def test_pictures_are_shown(notebook: Any) -> None:
    shown = {
        cell.id: [mime for output in cell.outputs for mime in output.get("data", ())]
        for cell in notebook.cells
        if cell.cell_type == "code"
    }
    assert [name for name, mimes in shown.items() if "image/png" in mimes] == ["pairs", "nearest", "release"]
    assert [name for name, mimes in shown.items() if "text/html" in mimes] == [
        "funnel", "duplicates", "nearest", "again",
    ]  # fmt: skip


def test_a_mirrored_photo_is_nearest_to_its_original(found: dict[str, Any]) -> None:
    (first, one), (second, similarity), *rest = found["neighbours"]
    assert first == found["mirrored"]["dropped"]
    assert one == pytest.approx(1, abs=2e-3)
    assert second == found["mirrored"]["keeper"]
    assert all(similarity >= other > -1 for _, other in rest)
    embedded = next(step["out"] for step in found["steps"] if step["step"] == "embed")
    assert found["vectors"] == [embedded, 1280]


def test_only_what_changed_ran_again(found: dict[str, Any]) -> None:
    assert [step["step"] for step in found["reuse"] if step["stored before"] < step["parts"]] == ["prune", "release"]
    assert found["alive again"] == found["rows"][1] // 2


def test_the_release_holds_what_its_table_says(found: dict[str, Any]) -> None:
    assert found["release"] == sorted(found["table"])
    assert len(found["release"]) == found["alive again"]
