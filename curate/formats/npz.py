"""One array of an `.npz` file, read by rows: its bytes are found in the archive, the others are never touched.

    member = open_member(url, nbytes, "l14_img")
    for where, rows in read_rows(member, places): ...

Nothing is ever unpickled. What never lives here: what the arrays mean (datacomp_metadata.py).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats import clip_retrieval
from curate.formats.arrow import one_line
from curate.formats.clip_retrieval import Npy
from curate.store import urls
from curate.store.npy import read_header
from curate.store.ranges import RangeFile

_HEADER_BYTES = 4096
_BLOCK = 1 << 20
"""Compressed bytes that are fetched together."""
_BATCH_ROWS = 8192
_LOCAL = struct.Struct("<4s5H3I2H")
"""The header before a member's bytes: its last two numbers are the lengths of its name and of what is extra."""


@dataclass(frozen=True, slots=True)
class NpzMember:
    """One array: where its rows begin in the file, or, where it is `packed`, in what comes out of the compressed bytes.

    ``packed``: first compressed byte, the one after the last, and the checksum of what comes out.
    """

    array: Npy
    packed: tuple[int, int, int] | None = None


def open_member(url: str, nbytes: int, name: str) -> NpzMember:
    """Shape and place of the array `name` of a file of `nbytes` bytes; a few small reads at its end and its header.

    Raises InputError when the file is no .npz, has no such array, or it is not whole rows of floats in C order.
    """
    entries = _entries(url, nbytes)
    entry = entries.get(name)
    if entry is None:
        raise InputError(f"{url}: holds no array {name}; it has {', '.join(sorted(entries)) or 'none'}.")
    place = f"{url}: array {name}"
    packed, first = _bytes_of(url, nbytes, entry, place)
    (shape, fortran, dtype), begin = _header(url, entry, packed, first, place)
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize > 8 or fortran:
        order = ", in Fortran order" if fortran else ""
        raise InputError(
            f"{place} holds {dtype} of shape {shape}{order}; embeddings are rows of float16, float32 or float64 in C "
            "order. Convert it with numpy."
        )
    whole = begin + shape[0] * shape[1] * dtype.itemsize
    if whole != entry.file_size:
        raise InputError(f"{place} has {entry.file_size:,} bytes, its header promises {whole:,}; get it again.")
    return NpzMember(Npy(url, shape[0], shape[1], dtype, begin if packed else first + begin), packed)


def describe(url: str, nbytes: int) -> list[dict[str, Any]]:
    """`name`, `dtype`, `shape` of every array, and `bytes` that it takes in the file; in order of the file."""
    told = []
    for name, entry in _entries(url, nbytes).items():
        place = f"{url}: array {name}"
        packed, first = _bytes_of(url, nbytes, entry, place)
        (shape, _, dtype), _ = _header(url, entry, packed, first, place)
        told.append({"name": name, "dtype": str(dtype), "shape": list(shape), "bytes": entry.compress_size})
    return told


def _entries(url: str, nbytes: int) -> dict[str, zipfile.ZipInfo]:
    def fetch(start: int, stop: int) -> bytes:
        return urls.read_range(url, start, stop - start)

    try:
        with zipfile.ZipFile(RangeFile(fetch, nbytes)) as archive:
            return {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, RuntimeError, ValueError, EOFError) as err:
        raise InputError(f"{url}: not a .npz file, or cut ({one_line(err)}); get it again.") from err


def _bytes_of(url: str, nbytes: int, entry: zipfile.ZipInfo, place: str) -> tuple[tuple[int, int, int] | None, int]:
    """How the array is packed, if it is, and its first byte."""
    local = urls.read_range(url, entry.header_offset, _LOCAL.size)
    if len(local) < _LOCAL.size or local[:4] != b"PK\x03\x04":
        raise InputError(f"{place} is not where the file says it is; get it again.")
    *_, name_bytes, extra_bytes = _LOCAL.unpack(local)
    first = entry.header_offset + _LOCAL.size + name_bytes + extra_bytes
    stop = first + entry.compress_size
    if stop > nbytes or entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        why = "encrypted" if entry.flag_bits & 1 else f"packed by method {entry.compress_type}"
        raise InputError(f"{place} is {'cut' if stop > nbytes else why}; write it again with numpy.savez.")
    return ((first, stop, entry.CRC) if entry.compress_type == zipfile.ZIP_DEFLATED else None), first


def _header(
    url: str, entry: zipfile.ZipInfo, packed: tuple[int, int, int] | None, first: int, place: str
) -> tuple[tuple[tuple[int, ...], bool, np.dtype[Any]], int]:
    """Shape, order and dtype, and the bytes before the rows."""
    beginning = min(_HEADER_BYTES, entry.file_size)
    if packed:
        head = io.BytesIO(_Stream(url, _unpacked(url, *packed)).take(beginning))
    else:
        head = io.BytesIO(urls.read_range(url, first, beginning))
    try:
        return read_header(head), head.tell()
    except (ValueError, EOFError) as err:
        raise InputError(f"{place} is no numpy array ({one_line(err)}); get it again.") from err


def read_rows(member: NpzMember, places: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Rows of the array by number, ascending: ``(slice of places, [n, d] in the type of the file)``, in order.

    As `clip_retrieval.read_rows`. A compressed array is unpacked from its beginning up to the last row asked for.
    Memory: 8,192 rows, and a few MiB.
    """
    if member.packed is None:
        yield from clip_retrieval.read_rows(member.array, places)
        return
    array = member.array
    width = array.dim * array.dtype.itemsize
    stream = _Stream(array.url, _unpacked(array.url, *member.packed))
    stream.skip(array.start)
    at = 0
    for first in range(0, len(places), _BATCH_ROWS):
        some = places[first : first + _BATCH_ROWS]
        out = np.empty((len(some), array.dim), dtype=array.dtype)
        low = 0
        while low < len(some):
            # rows of one stretch of the file are unpacked together, those between stretches are passed over
            start = int(some[low])
            high = int(np.searchsorted(some, start + _BATCH_ROWS))
            stop = int(some[high - 1]) + 1
            stream.skip((start - at) * width)
            block = np.frombuffer(stream.take((stop - start) * width), array.dtype).reshape(-1, array.dim)
            out[low:high] = block[some[low:high] - start]
            at, low = stop, high
        if at == array.rows:
            stream.finish()
        yield slice(first, first + len(some)), out


class _Stream:
    """Unpacked bytes, in order. Memory: what is taken, and one piece."""

    def __init__(self, url: str, pieces: Iterator[bytes]) -> None:
        self._url, self._pieces, self._held = url, pieces, b""

    def skip(self, nbytes: int) -> None:
        while nbytes:
            gone = min(nbytes, len(self._filled()))
            self._held = self._held[gone:]
            nbytes -= gone

    def take(self, nbytes: int) -> bytearray:
        out = bytearray()
        while len(out) < nbytes:
            some = self._filled()[: nbytes - len(out)]
            out += some
            self._held = self._held[len(some) :]
        return out

    def finish(self) -> None:
        """To the end, where the checksum is looked at."""
        for _ in self._pieces:
            pass

    def _filled(self) -> bytes:
        while not self._held:
            try:
                self._held = next(self._pieces)
            except StopIteration:
                raise InputError(f"{self._url}: an array ends before its last row; get the file again.") from None
        return self._held


def _unpacked(url: str, first: int, stop: int, checksum: int) -> Iterator[bytes]:
    """What comes out of the compressed bytes, at most 1 MiB a piece; in the end it is held against its checksum."""
    unpack, crc = zlib.decompressobj(-zlib.MAX_WBITS), 0
    for at in range(first, stop, _BLOCK):
        data = urls.read_range(url, at, min(_BLOCK, stop - at))
        while data:
            try:
                piece = unpack.decompress(data, _BLOCK)
            except zlib.error as err:
                raise InputError(f"{url}: its compressed bytes are damaged ({err}); get the file again.") from err
            data = unpack.unconsumed_tail
            crc = zlib.crc32(piece, crc)
            if piece:
                yield piece
            if unpack.eof:
                break
    if crc != checksum:
        raise InputError(f"{url}: its compressed bytes are damaged (wrong checksum); get the file again.")
