"""The vectors of a whole run as one read-only array that stays on disk: `run.vectors("embed")`."""

from __future__ import annotations

import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from curate.errors import InputError, StorageError
from curate.store.columns import VectorFile, load_vectors, part_file
from curate.store.groups import Group
from curate.store.workspace import Workspace, explained

MAPS = 64
"""Parts that are mapped at the same time: every map holds a file open."""

CACHE_BYTES = 2 << 30
"""Scratch disk for the parts of a remote workspace, unless a single part is larger."""

_COPY = 8 << 20


class Vectors:
    """float16 [n, d], read-only: the packed vectors of all parts one after the other, memory-mapped part by part.

    Opening reads no file. `v[i]` is a row, float16 [d]; `v[a:b]`, `v[mask]` (bool [n]) and `v[rows]` (integers [k], in
    any order) are float16 [k, d] and read only these rows; `parts()` goes part by part; `np.asarray(v)` copies all of
    it. A slice inside one part is the map itself, everything else a copy.

    Memory: the rows asked for; `MAPS` parts are mapped at a time. In a remote workspace a part is fetched whole on
    first touch into a temporary folder, which keeps the latest `CACHE_BYTES` and goes away with this object; a part
    that was dropped from it is fetched again. Raises StorageError when a file is gone or damaged, IndexError for rows
    that are not there.
    """

    def __init__(self, workspace: Workspace, group: Group, which: str = "image") -> None:
        self._workspace, self._folder = workspace, group.folder
        self._files: list[VectorFile] = []
        self._markers: list[str] = []
        for part in group.parts:
            marker = f"{group.folder}/{part_file(part.part, part.fingerprint)}"
            if which not in part.vectors:
                raise StorageError(
                    f"{workspace.where(marker)} has no vectors named {which}; it has {sorted(part.vectors)}"
                )
            self._files.append(part.vectors[which])
            self._markers.append(marker)
        self.ends: NDArray[np.int64] = np.cumsum([0, *(file.rows for file in self._files)], dtype=np.int64)
        """int64 [parts + 1]: part i holds the rows from ends[i] up to ends[i + 1]."""
        self.dtype = np.dtype(np.float16)
        self.ndim = 2
        self.shape = (int(self.ends[-1]), max((file.dim for file in self._files), default=0))
        self._maps: OrderedDict[int, NDArray[np.float16]] = OrderedDict()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @property
    def size(self) -> int:
        """Numbers in it: n x d."""
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows, on disk and as an array alike."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getstate__(self) -> dict[str, Any]:
        # another process maps the files itself
        return self.__dict__ | {"_maps": OrderedDict(), "_scratch": None}

    def __repr__(self) -> str:
        return (
            f"<Vectors float16 {self.shape} in {len(self._files)} parts of {self._workspace.where(self._folder)}, "
            f"{self.nbytes / 1e6:,.1f} MB>"
        )

    # --- parts --------------------------------------------------------------------------------------------------------

    def parts(self) -> Iterator[NDArray[np.float16]]:
        """The vectors of each part in order, float16 [rows, d], each a read-only memory map."""
        for number in range(len(self._files)):
            yield self.part(number)

    def part(self, number: int) -> NDArray[np.float16]:
        """The vectors of one part, float16 [rows, d], a read-only memory map."""
        if number in self._maps:
            self._maps.move_to_end(number)
            return self._maps[number]
        file = self._files[number]
        where = self._workspace.where(f"{self._folder}/{file.file}")
        rows = load_vectors(self._path(number), file, where, self._workspace.where(self._markers[number]))
        self._maps[number] = rows
        self._forget()
        return rows

    def _path(self, number: int) -> Path:
        """The vector file on local disk, fetched if need be."""
        file = self._files[number]
        name = f"{self._folder}/{file.file}"
        if self._workspace.is_local:
            return Path(self._workspace.path(name))
        if self._scratch is None or not Path(self._scratch.name).is_dir():  # a forked process may have removed it
            self._scratch = tempfile.TemporaryDirectory(prefix="curate-vectors-", ignore_cleanup_errors=True)
        path = Path(self._scratch.name) / f"{number}.npy"
        where = self._workspace.where(name)
        with self._workspace.open(name) as source, explained("fetching", where), path.open("wb") as out:
            shutil.copyfileobj(source, out, _COPY)
        return path

    def _forget(self) -> None:
        """Drop the maps used longest ago; an array that the caller still holds stays valid."""
        while len(self._maps) > 1 and (len(self._maps) > MAPS or self._cached() > CACHE_BYTES):
            number, _ = self._maps.popitem(last=False)
            if self._scratch is not None:
                (Path(self._scratch.name) / f"{number}.npy").unlink(missing_ok=True)

    def _cached(self) -> int:
        return sum(self._files[number].nbytes for number in self._maps) if self._scratch is not None else 0

    # --- rows ---------------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[NDArray[np.float16]]:
        for part in self.parts():
            yield from part

    @overload
    def __getitem__(self, rows: int | np.integer[Any]) -> NDArray[np.float16]: ...
    @overload
    def __getitem__(self, rows: slice | ArrayLike) -> NDArray[np.float16]: ...
    def __getitem__(self, rows: Any) -> NDArray[np.float16]:
        """A row by its number, or several by a slice, a mask or their numbers; negative numbers count from the end."""
        if isinstance(rows, tuple):
            raise IndexError("vectors are indexed by row only; take the rows first, then columns: vectors[rows][:, :8]")
        if isinstance(rows, slice):
            return self._slice(*rows.indices(len(self)))
        given = np.asarray(rows)
        if given.ndim == 0 and given.dtype.kind in "iu":
            part, row = self.locate(given[None])
            return np.asarray(self.part(int(part[0]))[int(row[0])])
        if given.ndim != 1:
            raise IndexError(f"rows are a number, a slice or a list, not an array of shape {given.shape}")
        if given.dtype.kind == "b":
            if len(given) != len(self):
                raise IndexError(f"the mask has {len(given)} rows, the vectors have {len(self)}")
            given = np.flatnonzero(given)
        elif given.size == 0:
            given = given.astype(np.int64)
        elif given.dtype.kind not in "iu":
            raise IndexError(f"rows are whole numbers or bools, not {given.dtype}; drop the nulls of a column first")
        return self._gather(given)

    def locate(self, rows: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(part, row in that part), both int64 [k], of rows given as integers [k]; raises IndexError beyond the end."""
        given = np.asarray(rows).astype(np.int64)
        wrong = given[(given < -len(self)) | (given >= len(self))]
        if wrong.size:
            raise IndexError(f"there is no row {wrong[0]}; the vectors have {len(self)} rows")
        given = np.where(given < 0, given + len(self), given)
        part = np.searchsorted(self.ends, given, side="right") - 1
        return part, given - self.ends[part]

    def _plain(self, number: int) -> NDArray[np.float16]:
        rows = self.part(number)
        if rows.dtype.names is not None:
            raise InputError(
                f"{self._workspace.where(self._folder)} holds records ({', '.join(rows.dtype.names)}), not vectors of "
                "numbers; read them part by part with vector_parts."
            )
        return rows

    def _slice(self, start: int, stop: int, step: int) -> NDArray[np.float16]:
        if step == 1 and start < stop:
            (first, last), (at, to) = self.locate([start, stop - 1])
            if first == last:
                return self.part(int(first))[int(at) : int(to) + 1]
        return self._gather(np.arange(start, stop, step))

    def _gather(self, rows: NDArray[Any]) -> NDArray[np.float16]:
        """Copies of rows in the order given; each part is touched once."""
        parts, places = self.locate(rows)
        out = np.empty((len(places), self.shape[1]), dtype=np.float16)
        order = np.argsort(parts, kind="stable")
        cuts = np.flatnonzero(np.diff(parts[order])) + 1
        for chosen in np.split(order, cuts) if len(order) else ():
            out[chosen] = self._plain(int(parts[chosen[0]]))[places[chosen]]
        return out

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """All rows as an array in memory; what `np.asarray` calls. Memory: all of them."""
        if copy is False:
            raise ValueError("vectors lie in files and can only be copied into an array; leave copy=False out")
        out = np.empty(self.shape, dtype=dtype or self.dtype)
        for number in range(len(self._files)):
            out[self.ends[number] : self.ends[number + 1]] = self._plain(number)
        return out
