"""Arrays of a `.npz` file (a zip of `.npy` files), a few rows or columns at a time; nothing is ever unpickled.

What never lives here: what the arrays mean (score_tables.py).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.store import urls
from curate.store.npy import read_header
from curate.store.ranges import RangeFile

_BLOCK = 8 << 20


@dataclass(frozen=True)
class Member:
    """One array of a `.npz`: its shape and type. Compressed ones are read from their beginning every time."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    compressed: bool


def members(url: str) -> dict[str, Member]:
    """All arrays of the file by name, from their headers. Raises InputError for a file that is no `.npz`."""
    found = {}
    with _opened(url) as archive:
        for info in archive.infolist():
            name = info.filename.removesuffix(".npy")
            try:
                with archive.open(info) as handle:
                    shape, fortran, dtype = read_header(cast(BinaryIO, handle))
            except (ValueError, EOFError, zipfile.BadZipFile) as error:
                raise InputError(f"{url}: {info.filename} is no array ({error}); write it with numpy.savez") from error
            if dtype.hasobject or (fortran and len(shape) > 1):
                what = "Python objects" if dtype.hasobject else "an array in Fortran order"
                raise InputError(
                    f"{url}: {name} holds {what}; store texts as a numpy text array and numbers in C order"
                )
            found[name] = Member(name, shape, dtype.str, info.compress_type != zipfile.ZIP_STORED)
    return found


def read_rows(url: str, member: Member, start: int, stop: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Rows [start, stop) of an array, 8 MiB at a time (one row at least), with the number of the first."""
    dtype = np.dtype(member.dtype)
    width = dtype.itemsize * int(np.prod(member.shape[1:], dtype=np.int64))
    with _opened(url) as archive, _at(archive, member, start * width) as handle:
        step = max(1, _BLOCK // max(1, width))
        for first in range(start, stop, step):
            rows = min(step, stop - first)
            data = _exactly(url, member, handle, rows * width)
            yield first, np.frombuffer(data, dtype).reshape(rows, *member.shape[1:])


def read_columns(url: str, member: Member, start: int, stop: int) -> NDArray[Any]:
    """Columns [start, stop) of a two-dimensional array. Memory: what is returned, and one row."""
    rows, columns = member.shape
    dtype = np.dtype(member.dtype)
    out = np.empty((rows, stop - start), dtype=dtype)
    with _opened(url) as archive, _at(archive, member, 0) as handle:
        for row in range(rows):
            _skip(handle, start * dtype.itemsize)
            out[row] = np.frombuffer(_exactly(url, member, handle, (stop - start) * dtype.itemsize), dtype)
            _skip(handle, (columns - stop) * dtype.itemsize)
    return out


def _opened(url: str) -> zipfile.ZipFile:
    fs, path = urls.resolve(url)
    if urls.is_local(fs):
        urls.open_read(url).close()  # the sentence for a file that is gone
        source: Any = path
    else:
        source = RangeFile(lambda start, stop: urls.read_range(url, start, stop - start), urls.size(url))
    try:
        return zipfile.ZipFile(source)
    except (zipfile.BadZipFile, OSError) as error:
        raise InputError(f"{url}: is no .npz file ({error}); write it with numpy.savez") from error


def _at(archive: zipfile.ZipFile, member: Member, offset: int) -> BinaryIO:
    """The array's bytes from `offset` on. A stored array is sought, a compressed one read from its beginning."""
    info = archive.getinfo(f"{member.name}.npy")
    handle = cast(BinaryIO, archive.open(info))
    read_header(handle)
    if member.compressed:
        _skip(handle, offset)
        return handle
    begin = handle.tell()
    handle.close()
    raw = cast(BinaryIO, archive.fp)
    raw.seek(info.header_offset + 26)  # lengths of name and extra field in the local header, which may differ
    lengths = np.frombuffer(raw.read(4), "<u2").astype(np.int64)
    raw.seek(info.header_offset + 30 + int(lengths.sum()) + begin + offset)
    return cast(BinaryIO, _Borrowed(raw))


class _Borrowed(io.RawIOBase):
    """A handle that stays open: the archive closes it."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle

    def read(self, size: int = -1) -> bytes:
        return self._handle.read(size)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._handle.seek(offset, whence)


def _skip(handle: BinaryIO, nbytes: int) -> None:
    if isinstance(handle, _Borrowed):
        handle.seek(nbytes, io.SEEK_CUR)
        return
    while nbytes > 0:
        nbytes -= len(handle.read(min(nbytes, _BLOCK))) or nbytes


def _exactly(url: str, member: Member, handle: BinaryIO, nbytes: int) -> bytes:
    pieces, left = [], nbytes
    while left and (piece := handle.read(left)):
        pieces.append(piece)
        left -= len(piece)
    if left:
        raise InputError(f"{url}: the array {member.name} ends early; write the file again")
    return b"".join(pieces)
