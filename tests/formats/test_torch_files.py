from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from curate.errors import InputError
from curate.formats.torch_files import array, container_of, load, save


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def saved(value: Any, zipped: bool) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    made = tmp_path / "made"
    for data in (
        saved(Evil(made), zipped),
        saved([torch.zeros(2), Evil(made)], zipped),
        saved({"a": Evil(made)}, zipped),
        pickle.dumps(Evil(made), protocol=2),
    ):
        with pytest.raises(InputError, match=r"x\.pt: is not a file of plain tensors .* a pickle can run code"):
            load(data, "x.pt")
        assert not made.exists()
    with pytest.raises(FileNotFoundError):  # the pickle does what it says when somebody opens it
        pickle.loads(pickle.dumps(Evil(tmp_path / "none" / "made")))


def test_what_is_no_file_of_tensors_is_refused() -> None:
    whole = saved(torch.zeros(2, 5, 15, 15), True)
    for data in (
        b"",
        b"hello",
        whole[:200],
        whole[:-100],
        saved(torch.zeros(9), False)[:-8],
        b"PK\x03\x04" + b"\0" * 50,
    ):
        with pytest.raises(InputError, match=r"x\.pt: is not a file of plain tensors"):
            load(data, "x.pt")
    with pytest.raises(InputError, match="at most"):
        load(bytes((256 << 20) + 1), "x.pt")


def test_an_archive_that_would_grow_is_refused() -> None:
    grown = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(torch.zeros(100_000), True))) as old,
        zipfile.ZipFile(grown, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    with pytest.raises(InputError, match="compressed archive"):
        load(grown.getvalue(), "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_larger_than_its_storage_is_refused(zipped: bool) -> None:
    huge = load(saved(torch.zeros(1).expand(2, 5, 10**6, 10**6), zipped), "x.pt")
    with pytest.raises(InputError, match="stores less"):
        array(huge, ("float32",), "[2, K, H, W]", 4, "x.pt")


def test_other_tensors_are_named() -> None:
    for value, said in (
        (torch.zeros(3, dtype=torch.float64), r"float64 \[3\]"),
        (torch.zeros(3, 2), r"float32 \[3, 2\]"),
        ([1, 2], "a list of 2"),
        ("words", "an object of type str"),
    ):
        with pytest.raises(InputError, match=f"x.pt holds {said}.*wanted float32 .one axis."):
            array(load(saved(value, True), "x.pt"), ("float32",), "[one axis]", 1, "x.pt")
    with pytest.raises(InputError, match=r"x\.pt holds float32"):
        array(torch.zeros(3).to_sparse(), ("float32",), "[one axis]", 1, "x.pt")


def numbered(data: bytes, value: torch.Tensor) -> bytes:
    """A legacy file of one tensor with the address of its storage, which torch uses for a name, made a number."""
    name = str(value.untyped_storage()._cdata).encode()
    assert data.count(name) == 2
    return data.replace(struct.pack("<I", len(name)) + name, struct.pack("<I", 4) + b"0000")


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_what_is_saved_is_what_torch_saves(container: Any) -> None:
    value = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    data = save(value, container)
    published = saved(value, container == "zip")
    assert data == (published if container == "zip" else numbered(published, value))
    assert container_of(data) == container
    got = array(load(data, "x.pt"), ("float32",), "[3, 4]", 2, "x.pt")
    assert np.array_equal(got, value.numpy())
    assert got.flags.writeable
    assert got.flags.owndata


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_the_same_tensors_give_the_same_bytes_wherever_they_lie(container: Any) -> None:
    kept, found = [], set()
    for _ in range(20):
        values = [torch.arange(5.0), torch.tensor([True, False]), torch.ones(2, 3, dtype=torch.float16)]
        kept.append(values[:: 1 if len(kept) % 2 else -1])
        data = save(values, container)
        found.add(data)
        assert all(torch.equal(a, b) for a, b in zip(load(data, "x.pt"), values, strict=True))
    assert len(found) == 1
