"""The files of a release and how they are written: tars, tables, JSON, each with its size and sha256.

What never lives here: which samples are in them.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

import polars as pl

from curate.store.workspace import Workspace

_BLOCK = tarfile.BLOCKSIZE
_END = b"\0" * (2 * _BLOCK)

Files = dict[str, list[Any]]
"""Relative path -> [bytes, sha256]."""


def tar_header(name: str, size: int) -> bytes:
    """The header of a regular member: one block, or several where the name or the size needs PAX headers."""
    if len(name) <= 100 and name.isascii() and size < 8**11:
        # what tarfile makes of a plain name, six times as fast
        block = bytearray(_PLAIN)
        block[: len(name)] = name.encode()
        block[124:135] = b"%011o" % size
        block[148:156] = b"%06o\0 " % (sum(block) + 8 * 0x20)  # the checksum counts its own place as blanks
        return bytes(block)
    return _slow_header(name, size)


def _slow_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o444, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


_PLAIN = bytearray(_slow_header("", 0))
_PLAIN[148:156] = bytes(8)


class TarOut:
    """A tar written member by member: fixed owner, mode and time, so that equal samples give equal bytes."""

    def __init__(self, out: Any) -> None:
        self._out = out
        self.digest = hashlib.sha256()
        self.nbytes = 0

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self.digest.update(data)
        self.nbytes += len(data)

    def add(self, name: str, data: bytes) -> None:
        """Append one regular member."""
        self._write(tar_header(name, len(data)))
        self._write(data)
        if rest := len(data) % _BLOCK:
            self._write(b"\0" * (_BLOCK - rest))

    def close(self) -> None:
        """End of archive."""
        self._write(_END)


def put(target: Workspace, name: str, data: bytes) -> Files:
    """Write one file."""
    target.put(name, data)
    return {name: [len(data), hashlib.sha256(data).hexdigest()]}


def put_json(target: Workspace, name: str, value: dict[str, Any]) -> Files:
    """Write a JSON object, a line for each entry."""
    return put(target, name, json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n")


def put_table(target: Workspace, name: str, table: pl.DataFrame) -> Files:
    """Write a Parquet file."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", compression_level=3)
    return put(target, name, buffer.getvalue())


def lost(target: Workspace, files: Mapping[str, list[Any]]) -> str | None:
    """The first of these files that is gone or has another size, None when all are there. One listing a folder."""
    folders: dict[str, dict[str, int]] = {}
    for name, (nbytes, _) in files.items():
        folder, _, file = name.rpartition("/")
        if folder not in folders:
            folders[folder] = target.listing(folder)
        if folders[folder].get(file) != nbytes:
            return name
    return None
