"""A file of known size as a seekable stream in which every read is one request for just the bytes asked for."""

from __future__ import annotations

import io
from collections.abc import Callable


class RangeFile(io.RawIOBase):
    """What pyarrow needs of a remote file. `fetch(start, stop)` gives the bytes in between; errors of it pass."""

    def __init__(self, fetch: Callable[[int, int], bytes], nbytes: int) -> None:
        super().__init__()
        self._fetch, self._nbytes, self._at = fetch, nbytes, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The byte that is read next."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte; before the first one means the first one."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, all that are left when it is negative. Memory: these bytes."""
        stop = self._nbytes if size < 0 else min(self._at + size, self._nbytes)
        if stop <= self._at:
            return b""
        data = self._fetch(self._at, stop)
        self._at += len(data)
        return data
