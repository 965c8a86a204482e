from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats import npz
from curate.formats.npz import open_member, read_rows


def saved(path: Path, packed: bool, **arrays: Any) -> Path:
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return path


def opened(path: Path, name: str = "a") -> npz.NpzMember:
    return open_member(str(path), path.stat().st_size, name)


@settings(max_examples=40, deadline=None)
@given(
    st.booleans(),
    st.sampled_from(["<f2", "<f4", "<f8", ">f4"]),
    st.integers(0, 40),
    st.integers(1, 9),
    st.data(),
)
def test_rows_are_those_that_numpy_reads(
    tmp_path_factory: Any, packed: bool, dtype: str, rows: int, dim: int, data: Any
) -> None:
    rng = np.random.default_rng(rows * 10 + dim)
    arrays = {name: rng.normal(size=(rows, dim)).astype(dtype) for name in ("a", "b", "c")}
    path = saved(tmp_path_factory.mktemp("npz") / "x.npz", packed, **arrays)
    places = np.asarray(sorted(data.draw(st.sets(st.integers(0, max(rows - 1, 0)), max_size=rows))), dtype=np.int64)
    with np.load(path) as told:
        member = opened(path, "b")
        assert (member.array.rows, member.array.dim) == told["b"].shape
        assert (member.packed is not None) == packed
        for where, some in read_rows(member, places[: rows and None]):
            assert np.array_equal(some, told["b"][places[where]])


@pytest.mark.parametrize("packed", [False, True])
def test_rows_far_apart_come_block_by_block(tmp_path: Path, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_BATCH_ROWS", 7)
    monkeypatch.setattr(npz, "_BLOCK", 100)
    true = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float16)
    member = opened(saved(tmp_path / "x.npz", packed, other=true, a=true))
    places = np.asarray([0, 1, 2, 30, 31, 99, 100, 101, 250, 251, 252, 253, 254, 255, 256, 498, 499])
    found = list(read_rows(member, places))
    assert np.array_equal(np.concatenate([rows for _, rows in found]), true[places])
    assert not packed or found[0][0] == slice(0, 7)


def test_only_the_array_asked_for_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = np.zeros((20_000, 50), dtype=np.float32)
    true = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    path = saved(tmp_path / "x.npz", True, big=np.random.default_rng(1).normal(size=big.shape), a=true, other=big)
    read = 0
    plain = npz.urls.read_range

    def counted(url: str, start: int, length: int) -> bytes:
        nonlocal read
        data = plain(url, start, length)
        read += len(data)
        return data

    monkeypatch.setattr(npz.urls, "read_range", counted)
    rows = np.concatenate([rows for _, rows in read_rows(opened(path), np.arange(100))])
    assert np.array_equal(rows, true)
    assert read < 100_000 < path.stat().st_size


def test_a_remote_file_is_read_by_ranges(tmp_path: Path) -> None:
    import fsspec

    true = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float16)
    memory = fsspec.filesystem("memory")
    for packed in (False, True):
        data = saved(tmp_path / "x.npz", packed, a=true).read_bytes()
        memory.pipe_file("/npz/x.npz", data)
        member = open_member("memory://npz/x.npz", len(data), "a")
        places = np.asarray([3, 4, 50, 99])
        assert np.array_equal(np.concatenate([rows for _, rows in read_rows(member, places)]), true[places])
    memory.rm("/npz", recursive=True)


@pytest.mark.parametrize("packed", [False, True])
def test_every_array_is_described(tmp_path: Path, packed: bool) -> None:
    arrays = {"a": np.zeros((300, 40)), "b": np.arange(5), "c": np.zeros((2, 3, 4), dtype=np.float16)}
    path = saved(tmp_path / "x.npz", packed, **arrays)
    told = npz.describe(str(path), path.stat().st_size)
    assert [(one["name"], one["dtype"], one["shape"]) for one in told] == [
        ("a", "float64", [300, 40]), ("b", "int64", [5]), ("c", "float16", [2, 3, 4])
    ]  # fmt: skip
    assert (told[0]["bytes"] < 10_000) == packed


def broken(path: Path, what: str) -> Path:
    """A file with one thing wrong."""
    good = np.ones((4, 2), dtype=np.float32)
    if what == "objects":
        return saved(path, False, a=np.asarray([{"x": 1}, None], dtype=object))
    if what == "whole numbers":
        return saved(path, False, a=np.ones((4, 2), dtype=np.int64))
    if what == "one dimension":
        return saved(path, True, a=np.ones(4))
    if what == "fortran":
        return saved(path, False, a=np.asfortranarray(np.ones((4, 2))))
    if what == "no such array":
        return saved(path, False, b=good)
    if what == "cut":
        whole = saved(path, False, a=good).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif what == "not a zip":
        np.save(path.with_suffix(".npy"), good)
        path.write_bytes(path.with_suffix(".npy").read_bytes())
    elif what == "no array inside":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", b"text")
    elif what == "short array":
        out = io.BytesIO()
        np.save(out, good)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", out.getvalue()[:-4])
    elif what == "another packing":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
            archive.writestr("a.npy", b"text")
    elif what == "moved":
        data = bytearray(saved(path, False, a=good).read_bytes())
        at = data.index(b"PK\x01\x02")
        struct.pack_into("<I", data, at + 42, 8)
        path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("objects", "holds object of shape"),
        ("whole numbers", "holds int64 of shape (4, 2)"),
        ("one dimension", "of shape (4,)"),
        ("fortran", "in Fortran order"),
        ("no such array", "holds no array a; it has b"),
        ("cut", "not a .npz file, or cut"),
        ("not a zip", "not a .npz file"),
        ("no array inside", "is no numpy array"),
        ("short array", "its header promises"),
        ("another packing", "packed by method 12"),
        ("moved", "is not where the file says it is"),
    ],
)
def test_what_is_no_array_of_rows_is_refused_with_a_sentence(tmp_path: Path, what: str, told: str) -> None:
    path = broken(tmp_path / "x.npz", what)
    with pytest.raises(InputError, match=told.replace("(", r"\(").replace(")", r"\)")) as error:
        opened(path)
    assert str(path) in str(error.value)


def test_damage_inside_compressed_bytes_is_told(tmp_path: Path) -> None:
    true = np.random.default_rng(0).normal(size=(2000, 30))
    path = saved(tmp_path / "x.npz", True, a=true)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"damaged|ends before"):
        list(read_rows(opened(path), np.arange(2000)))
