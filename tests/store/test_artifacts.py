from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from curate.errors import StorageError
from curate.store.artifacts import marker, read_artifacts, write_artifacts
from curate.store.workspace import Workspace

MADE: dict[str, Any] = {
    "centroids": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
    "concepts": pl.DataFrame({"concept": [0, 1], "d_intra": [0.5, None]}),
    "training": {"rows": 7, "objective": [0.1, 0.2], "text": "ä"},
}


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    if request.param == "local":
        yield Workspace(str(tmp_path))
    else:
        workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
        yield workspace
        workspace.remove("")


def test_round_trip_of_all_three_kinds(place: Workspace) -> None:
    write_artifacts(place, "c@1", "abc", MADE)
    again = read_artifacts(place, "c@1", "abc")
    assert list(again) == list(MADE)
    np.testing.assert_array_equal(again["centroids"], MADE["centroids"])
    assert again["centroids"].dtype == np.float32
    assert again["concepts"].equals(MADE["concepts"])
    assert again["training"] == MADE["training"]
    assert set(place.listing("c@1")) == {
        "centroids.abc.npy", "concepts.abc.parquet", "training.abc.json", marker("abc"),
    }  # fmt: skip


def test_the_same_artifacts_are_the_same_bytes(place: Workspace) -> None:
    write_artifacts(place, "a", "abc", MADE)
    write_artifacts(place, "b", "abc", MADE)
    for name in place.listing("a"):
        assert place.read(f"a/{name}") == place.read(f"b/{name}")


def test_nan_is_refused_and_leaves_no_marker(place: Workspace) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_artifacts(place, "c", "abc", {"x": {"loss": float("nan")}})
    assert not place.exists(f"c/{marker('abc')}")


@pytest.mark.parametrize("name", ["centroids.abc.npy", "concepts.abc.parquet", "training.abc.json", marker("abc")])
@pytest.mark.parametrize("keep", [0, 5, -1])
def test_a_damaged_artifact_is_a_sentence_that_names_it(place: Workspace, name: str, keep: int) -> None:
    write_artifacts(place, "c", "abc", MADE)
    place.put(f"c/{name}", place.read(f"c/{name}")[:keep])
    with pytest.raises(StorageError, match=rf"{name} is damaged .*; delete .* and run again"):
        read_artifacts(place, "c", "abc")


def test_a_missing_artifact_is_a_sentence(place: Workspace) -> None:
    write_artifacts(place, "c", "abc", MADE)
    place.remove("c/concepts.abc.parquet")
    with pytest.raises(StorageError, match=r"concepts\.abc\.parquet: no such file"):
        read_artifacts(place, "c", "abc")
