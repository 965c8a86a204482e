"""A file that is hashed while it is read."""

from __future__ import annotations

import hashlib
from typing import BinaryIO

_CHUNK = 4 << 20


class Hashing:
    """A file that is hashed while it is read, in large chunks: threads then seldom wait for one another."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._chunk = b""
        self._at = 0
        self.digest = hashlib.sha256()
        self.nbytes = 0

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; fewer at the end of a chunk, none at the end of the file."""
        if self._at == len(self._chunk):
            self._chunk, self._at = self._handle.read(_CHUNK), 0
            self.digest.update(self._chunk)
            self.nbytes += len(self._chunk)
        stop = len(self._chunk) if size < 0 else self._at + size
        data = self._chunk[self._at : stop]
        self._at += len(data)
        return data

    def drain(self) -> None:
        """Read to the end."""
        while self.read():
            pass
