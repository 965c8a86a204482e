"""Rows of a `.npy` file in a workspace by range, so that no array of the length of the dataset is ever held whole."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from curate.errors import StorageError
from curate.store.npy import header, read_header
from curate.store.workspace import Workspace

NEAR_BYTES = 16 << 10
"""Read with the header of an array, in case the wanted rows are among them."""


@dataclass(frozen=True)
class Rows:
    """A long array that is made block by block: what a reduce returns for results of the length of the dataset."""

    dtype: np.dtype[Any]
    length: int
    blocks: Iterator[NDArray[Any]]
    """Arrays [n] of that dtype, together `length` rows."""


@dataclass(frozen=True)
class StoredRows:
    """Such an array once it is stored: picklable, and nothing is read before `read`."""

    workspace: Workspace
    name: str

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows [start, stop). Memory: those rows. Raises StorageError when the file is damaged."""
        try:
            return read_rows(self.workspace, self.name, start, stop)
        except ValueError as error:
            raise StorageError(
                f"{self.workspace.where(self.name)} is damaged ({error}); delete its folder and run again"
            ) from error


def write_rows(workspace: Workspace, name: str, rows: Rows) -> None:
    """Write the blocks as one `.npy`. Memory: a block. Raises ValueError when they are not as long as promised."""
    written = 0
    with workspace.create(name) as out:
        out.write(header(rows.dtype, (rows.length,)))
        for block in rows.blocks:
            if block.dtype != rows.dtype or block.ndim != 1:
                raise ValueError(f"{name}: a block is {block.dtype} {block.shape}, promised were rows of {rows.dtype}")
            out.write(np.ascontiguousarray(block).view(np.uint8).data)
            written += len(block)
        if written != rows.length:
            raise ValueError(f"{name}: {written} rows came, {rows.length} were promised")


def read_rows(workspace: Workspace, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of a `.npy` file: one range read from remote storage, two when far from the header.

    Raises ValueError when the file is no array or ends early.
    """
    if workspace.is_local:
        with workspace.open(name) as handle:
            shape, dtype, first, last = _extent(handle, start, stop)
            handle.seek(first)
            data = handle.read(last - first)
    else:
        head = workspace.read_range(name, 0, NEAR_BYTES)
        shape, dtype, first, last = _extent(io.BytesIO(head), start, stop)
        data = head[first:last] if last <= len(head) else workspace.read_range(name, first, last)
    if len(data) != last - first:
        raise ValueError("it ends early")
    return np.frombuffer(data, dtype=dtype).reshape(stop - start, *shape)


def _extent(handle: BinaryIO, start: int, stop: int) -> tuple[tuple[int, ...], np.dtype[Any], int, int]:
    """Shape of a row, dtype, and the bytes [first, last) of rows [start, stop) of a `.npy`. Raises ValueError."""
    shape, _, dtype = read_header(handle)
    width = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return shape[1:], dtype, handle.tell() + start * width, handle.tell() + stop * width
