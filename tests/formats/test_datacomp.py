from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats import datacomp
from curate.formats.datacomp import (
    Subset,
    contains,
    first_unsorted,
    make_subset,
    open_subset,
    positions,
    read_subset,
    sorted_chunks,
    uid_at,
    write_subset,
)
from curate.store.workspace import Workspace

# the example of DataComp's readme, and what its first records look like on disk
EXAMPLE = ["139e4a9b22a614771f06c700a8ebe150", "6e356964a967af455c8016b75d691203"]
EXAMPLE_BYTES = "7714a6229b4a9e1350e1eba800c7061f"

# few values, so that halves and whole uids repeat, with the largest and the smallest among them
halves = st.sampled_from([0, 1, 2, 2**63, 2**64 - 2, 2**64 - 1])
pairs = st.lists(st.tuples(halves, halves), max_size=40)


def plain(values: list[tuple[int, int]]) -> Subset:
    return np.array(values, dtype="u8,u8")


def columns(values: list[tuple[int, int]]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    table = np.array(values, dtype=np.uint64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


@given(pairs, pairs)
def test_membership_equals_a_set(listed: list[tuple[int, int]], asked: list[tuple[int, int]]) -> None:
    subset = make_subset(*columns(listed))
    assert subset.tolist() == sorted(listed)
    assert contains(subset, *columns(asked)).tolist() == [pair in set(listed) for pair in asked]
    where = positions(subset, *columns(asked)).tolist()
    assert where == [sorted(listed).index(pair) if pair in listed else -1 for pair in asked]


def test_membership_among_many_hashes() -> None:
    rng = np.random.default_rng(3)
    table = rng.integers(0, 2**64, (50_000, 2), dtype=np.uint64)
    table[:20_000, 0] = 7  # a third of all uids share their first half
    subset = make_subset(table[:30_000, 0], table[:30_000, 1])
    there = set(map(tuple, table[:30_000].tolist()))
    assert contains(subset, table[:, 0], table[:, 1]).tolist() == [tuple(row) in there for row in table.tolist()]


@given(pairs)
def test_the_first_unsorted_row_is_found(values: list[tuple[int, int]]) -> None:
    bad = [i for i in range(1, len(values)) if values[i] < values[i - 1]]
    assert first_unsorted(plain(values)) == (bad[0] if bad else None)


def test_unsorted_rows_are_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datacomp, "_CHUNK", 4)
    for at in range(1, 12):
        values = [(i, 0) for i in range(12)]
        values[at] = (at - 2, 5) if at > 1 else (0, 0)
        values[0] = (0, 1)
        expected = next(i for i in range(1, 12) if values[i] < values[i - 1])
        assert first_unsorted(plain(values)) == expected


def test_the_order_is_that_of_the_hex_texts() -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(0, 2**64, (1000, 2), dtype=np.uint64)
    subset = make_subset(table[:, 0], table[:, 1])
    texts = [uid_at(subset, row) for row in range(1000)]
    assert texts == sorted(f"{hi:016x}{lo:016x}" for hi, lo in table.tolist())


def test_numpy_reads_what_is_written_and_the_bytes_are_datacomps(tmp_path: Path) -> None:
    subset = plain([divmod(int(uid, 16), 2**64) for uid in EXAMPLE])
    nbytes, sha256 = write_subset(Workspace(str(tmp_path)), "ids.npy", [subset[:1], subset[1:]], 2)
    data = (tmp_path / "ids.npy").read_bytes()
    assert (len(data), hashlib.sha256(data).hexdigest()) == (nbytes, sha256)
    np.save(tmp_path / "numpy.npy", subset)
    assert data == (tmp_path / "numpy.npy").read_bytes()
    assert data[128:144].hex() == EXAMPLE_BYTES
    again = np.load(tmp_path / "ids.npy", mmap_mode="r")
    assert again.dtype == np.dtype("u8,u8")
    assert [f"{hi:016x}{lo:016x}" for hi, lo in again.tolist()] == EXAMPLE
    assert read_subset(str(tmp_path / "ids.npy")).tolist() == again.tolist()


def test_bare_records_and_npy_files_hold_the_same_and_are_mapped(tmp_path: Path) -> None:
    subset = make_subset(*columns([(5, 6), (1, 2), (1, 2), (1, 1)]))
    np.save(tmp_path / "a.npy", subset)
    subset.tofile(tmp_path / "b.npy")
    for name in ("a.npy", "b.npy"):
        read = read_subset(str(tmp_path / name))
        assert isinstance(read, np.memmap)
        assert not read.flags.writeable
        assert read.tolist() == [(1, 1), (1, 2), (1, 2), (5, 6)]


def test_an_empty_subset(tmp_path: Path) -> None:
    write_subset(Workspace(str(tmp_path)), "none.npy", [], 0)
    read = read_subset(str(tmp_path / "none.npy"))
    assert len(read) == 0
    assert contains(read, *columns([(1, 2)])).tolist() == [False]


def test_elsewhere_than_on_disk() -> None:
    subset = make_subset(*columns([(3, 3), (2, 2)]))
    write_subset(Workspace("memory://datacomp-subset"), "ids.npy", [subset], 2)
    assert read_subset("memory://datacomp-subset/ids.npy").tolist() == [(2, 2), (3, 3)]
    Workspace("memory://datacomp-subset").put("bare.npy", subset.tobytes())
    assert read_subset("memory://datacomp-subset/bare.npy").tolist() == [(2, 2), (3, 3)]


def test_an_unsorted_file_is_refused_with_the_row(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", plain([(1, 1), (3, 0), (2, 9), (4, 4)]))
    with pytest.raises(InputError, match=r"row 2 is 00000000000000020000000000000009, smaller than row 1, 0+30+; a"):
        read_subset(str(tmp_path / "ids.npy"))
    assert len(open_subset(str(tmp_path / "ids.npy"))) == 4


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 2), dtype=np.uint64), r"uint64 of shape \(3, 2\)"),
        (np.zeros(3, dtype=">u8,>u8"), "dtype u8,u8"),
        (np.zeros((2, 2), dtype="u8,u8"), r"of shape \(2, 2\)"),
        (np.array([(1, 2.0)], dtype="u8,f8"), "dtype u8,u8"),
    ],
)
def test_other_arrays_are_refused(array: NDArray[Any], said: str, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", array)
    with pytest.raises(InputError, match=said):
        read_subset(str(tmp_path / "ids.npy"))


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    np.save(tmp_path / "ids.npy", np.array([Trap(str(sprung))], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read as a numpy array"):
        read_subset(str(tmp_path / "ids.npy"))
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap(str(sprung))).ljust(161, b"."))
    with pytest.raises(InputError, match="no subset file"):
        read_subset(str(tmp_path / "bare.npy"))
    assert not sprung.exists()


def test_cut_and_missing_files(tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", make_subset(*columns([(1, 1)] * 100)))
    data = (tmp_path / "ids.npy").read_bytes()
    (tmp_path / "ids.npy").write_bytes(data[:-5])
    with pytest.raises(InputError, match="cannot be read"):
        read_subset(str(tmp_path / "ids.npy"))
    (tmp_path / "empty.npy").write_bytes(b"")
    with pytest.raises(InputError, match="has 0 bytes"):
        read_subset(str(tmp_path / "empty.npy"))
    with pytest.raises(InputError, match="no such file"):
        read_subset(str(tmp_path / "none.npy"))


def test_a_file_that_would_be_unsorted_or_short_never_appears(tmp_path: Path) -> None:
    workspace = Workspace(str(tmp_path))
    high, low = plain([(2, 2)]), plain([(1, 1)])
    with pytest.raises(ValueError, match="not sorted"):
        write_subset(workspace, "ids.npy", [high, low], 2)
    with pytest.raises(ValueError, match="1 records, not 2"):
        write_subset(workspace, "ids.npy", [low], 2)
    assert list(tmp_path.iterdir()) == []


def test_sorting_on_disk_gives_what_sorting_in_memory_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    table = rng.integers(0, 2**64, (5000, 2), dtype=np.uint64)
    table[:100] = table[100:200]
    chunks = [make_subset(table[i::7, 0], table[i::7, 1]) for i in range(7)]
    whole = make_subset(table[:, 0], table[:, 1])
    (one,) = sorted_chunks(chunks, 5000)
    assert one.tolist() == whole.tolist()
    monkeypatch.setattr(datacomp, "_BUCKET_ROWS", 600)
    many = list(sorted_chunks(iter(chunks), 5000))
    assert len(many) == 16
    assert np.concatenate(many).tolist() == whole.tolist()
    assert [len(part) for part in sorted_chunks([], 0)] == [0]
