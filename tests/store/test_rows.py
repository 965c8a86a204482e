from __future__ import annotations

import io
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from curate.errors import StorageError
from curate.store.artifacts import read_artifacts, write_artifacts
from curate.store.rows import NEAR_BYTES, Rows, StoredRows, read_rows, write_rows
from curate.store.workspace import Workspace


@pytest.fixture(params=["local", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    if request.param == "local":
        yield Workspace(str(tmp_path))
    else:
        workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
        yield workspace
        workspace.remove("")


def rows(*blocks: list[int], length: int | None = None) -> Rows:
    arrays = [np.asarray(block, dtype=np.int64) for block in blocks]
    return Rows(np.dtype(np.int64), sum(map(len, arrays)) if length is None else length, iter(arrays))


def test_blocks_become_one_npy_and_are_read_by_range(place: Workspace) -> None:
    write_rows(place, "a/x.npy", rows([1, 2, 3], [], [4, 5]))
    assert np.load(io.BytesIO(place.read("a/x.npy"))).tolist() == [1, 2, 3, 4, 5]
    stored = pickle.loads(pickle.dumps(StoredRows(place, "a/x.npy")))
    assert stored.read(1, 4).tolist() == [2, 3, 4]
    assert stored.read(5, 5).tolist() == []


def test_far_rows_of_many_columns(place: Workspace) -> None:
    table = np.arange(30 * NEAR_BYTES, dtype=np.int32).reshape(-1, 3)
    buffer = io.BytesIO()
    np.save(buffer, table)
    place.put("x.npy", buffer.getvalue())
    for start, stop in [(0, 1), (len(table) - 2, len(table)), (5, 5), (1, len(table))]:
        np.testing.assert_array_equal(read_rows(place, "x.npy", start, stop), table[start:stop])


def test_as_an_artifact_it_is_not_read(place: Workspace) -> None:
    write_artifacts(place, "g@1", "abc", {"keepers": rows([7, 8]), "note": {"a": 1}})
    place.put("g@1/other", b"")
    back = read_artifacts(place, "g@1", "abc")
    assert isinstance(back["keepers"], StoredRows)
    assert back["keepers"].read(0, 2).tolist() == [7, 8]
    with pytest.raises(TypeError, match="stored already"):
        write_artifacts(place, "g@1", "def", {"keepers": back["keepers"]})


@pytest.mark.parametrize("length", [2, 4])
def test_another_length_than_promised_leaves_nothing(place: Workspace, length: int) -> None:
    with pytest.raises(ValueError, match="3 rows came"):
        write_rows(place, "x.npy", rows([1, 2, 3], length=length))
    assert not place.exists("x.npy")


def test_another_type_than_promised(place: Workspace) -> None:
    with pytest.raises(ValueError, match="int32"):
        write_rows(place, "x.npy", Rows(np.dtype(np.int64), 1, iter([np.zeros(1, dtype=np.int32)])))


@pytest.mark.parametrize("damage", ["cut", "not an array"])
def test_damage_is_a_sentence(place: Workspace, damage: str) -> None:
    write_rows(place, "g/x.npy", rows([1, 2, 3]))
    data = place.read("g/x.npy")
    place.put("g/x.npy", data[:-1] if damage == "cut" else b"no array at all")
    with pytest.raises(StorageError, match="is damaged"):
        StoredRows(place, "g/x.npy").read(0, 3)
