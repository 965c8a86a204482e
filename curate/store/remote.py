"""A remote filesystem whose every call is tried again, and whose files are read by ranges.

Made by `curate.store.urls.resolve`. Ranges rather than one long answer: a connection that breaks costs one range.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from curate.store import retry

FIRST = 1 << 20
BLOCK = 8 << 20
"""Bytes of one request when a file is read front to back: of the first, and of all others."""
PIECE = 16 << 20
"""Larger ranges are fetched in pieces of this size, THREADS at a time; uploads are cut likewise."""
THREADS = 4
_BUFFER = 1 << 20
_READ_TIMEOUT_S, _CONNECT_TIMEOUT_S = 30, 5
_RETRIED = {"info", "ls", "glob", "find", "isdir", "isfile"}
_RANGES: dict[tuple[str, str], bool] = {}
"""(scheme, host) -> whether that http server answers range requests."""


class NoRanges(OSError):
    """An http server that answers a range request with the whole file."""


def options(protocol: str) -> dict[str, Any]:
    """What the filesystem of a protocol is made with: no cached listings, and for S3 timeouts and few own retries.

    Whatever fsspec's own configuration says of `config_kwargs` wins, such as path-style addressing.
    """
    chosen: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("s3", "s3a"):
        given = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
        chosen["config_kwargs"] = {
            "connect_timeout": _CONNECT_TIMEOUT_S,
            "read_timeout": _READ_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},  # ours is the one that counts
            "max_pool_connections": 4 * THREADS,
            **given,
        }
        chosen["max_concurrency"] = THREADS
    return chosen


class Remote:
    """An fsspec filesystem under the retry policy; what is not listed here is the filesystem's own.

    Every call raises what the filesystem raises, or `retry.GaveUp`, an OSError, when the storage did not answer.
    """

    def __init__(self, protocol: str) -> None:
        self._name = protocol
        self._made: tuple[int, Any] | None = None
        self.is_http = protocol in ("http", "https")
        self._raw()

    def __reduce__(self) -> tuple[type[Remote], tuple[str]]:
        return Remote, (self._name,)

    def _raw(self) -> Any:
        """The filesystem, made anew in a forked process, whose connections are not its own."""
        if self._made is None or self._made[0] != os.getpid():
            fs = fsspec.filesystem(self._name, **options(self._name))
            if self._name in ("s3", "s3a"):
                fs.retries = 1
            self._made = (os.getpid(), fs)
        return self._made[1]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        plain = getattr(self._raw(), name)
        if name not in _RETRIED:
            return plain

        def patient(path: str, *args: Any, **kwargs: Any) -> Any:
            return retry.call(lambda: getattr(self._raw(), name)(path, *args, **kwargs), self._url(path))

        return patient

    def _url(self, path: str) -> str:
        return path if "://" in path else f"{self._name}://{path}"

    def exists(self, path: str) -> bool:
        """Whether the file or folder is there. An error is an error, never a no."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    # --- reading ------------------------------------------------------------------------------------------------------

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes [start, end) of a file, fewer when it ends before; a negative start counts from the end.

        One request up to 32 MiB, else pieces of 16 MiB, four at a time, each tried again by itself. A whole file up to
        16 MiB is one request. Memory: what is asked for, twice.
        """
        if start is None and end is None:
            return self._whole(path)
        if start is None or start < 0 or end is None or end - start <= 2 * PIECE or self.is_http:
            return self._range(path, start, end)
        cuts = [*range(start, end, PIECE), end]
        return b"".join(self._together([partial(self._range, path, a, b) for a, b in itertools.pairwise(cuts)]))

    def _whole(self, path: str) -> bytes:
        if self.is_http:
            return retry.call(lambda: bytes(self._raw().cat_file(path)), self._url(path))
        first = self._range(path, 0, PIECE)
        if len(first) < PIECE:
            return first
        size = int(self.info(path)["size"])
        data = first + (self.cat_file(path, PIECE, size) if size > PIECE else b"")
        if len(data) != size:
            raise OSError(f"{len(data)} bytes were read of {size}; the file changed meanwhile")
        return data

    def _range(self, path: str, start: int | None, end: int | None) -> bytes:
        if end is not None and start is not None and start >= end >= 0:
            return b""
        fs = self._raw()
        try:
            data = retry.call(lambda: bytes(fs.cat_file(path, start=start, end=end)), self._url(path))
        except OSError as error:
            if retry.code_of(error) == "InvalidRange" or any(retry.status_of(e) == 416 for e in _causes(error)):
                # the range begins behind the end; some servers also say so of a file shorter than its last n bytes
                return self._whole(path) if start is not None and start < 0 else b""
            raise
        if end is not None and end >= 0 and len(data) > end - max(start or 0, 0):
            raise NoRanges("the server answers a range request with the whole file")
        return data

    def _together(self, calls: Sequence[Callable[[], bytes]]) -> list[bytes]:
        with ThreadPoolExecutor(min(THREADS, len(calls)), thread_name_prefix="curate-ranges") as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]

    def open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        """Open for reading, with seek: front to back 1 MiB, then 8 MiB a request, the next one fetched ahead.

        From http servers that answer no range requests one streamed answer without seek; when it breaks, the file is
        read again up to where it broke. Raises OSError when the file is not there. Memory: 17 MiB.
        """
        if mode != "rb":
            raise ValueError(f"mode {mode!r}: remote files are opened for reading only")
        raw: io.RawIOBase
        if self.is_http and not self._knows_ranges(path):
            raw = _Stream(self._raw(), path)
        else:
            raw = _Ranges(lambda start, end: self._range(path, start, end), lambda: int(self.info(path)["size"]))
        return cast(BinaryIO, io.BufferedReader(raw, _BUFFER))

    def _knows_ranges(self, url: str) -> bool:
        parts = urlsplit(url)
        server = (parts.scheme, parts.netloc)
        if server not in _RANGES:
            fs = self._raw()

            async def ask() -> int:
                session = await fs.set_session()
                async with session.get(fs.encode_url(url), headers={"Range": "bytes=0-0"}) as answer:
                    if answer.status not in (206, 416):
                        fs._raise_not_found_for_status(answer, url)
                    return int(answer.status)

            status = retry.call(lambda: sync(fs.loop, ask), url)
            if status == 416:  # an empty file tells nothing of the others
                return True
            _RANGES[server] = status == 206
        return _RANGES[server]

    # --- writing ------------------------------------------------------------------------------------------------------

    def pipe_file(self, path: str, data: bytes) -> None:
        """Write one file whole. From 32 MiB S3 gets it in parts; it shows when the last has arrived."""
        retry.call(lambda: self._raw().pipe_file(path, data, **self._parts(len(data))), self._url(path))

    def put_file(self, local: str, path: str) -> None:
        """Upload a local file, as `pipe_file`; its size is looked at afterwards. Memory: 64 MiB."""
        size = Path(local).stat().st_size

        def put() -> None:
            self._raw().put_file(local, path, **self._parts(size))
            there = int(self._raw().info(path)["size"])
            if there != size:
                raise ConnectionError(f"{size} bytes were sent, {there} arrived")

        retry.call(put, self._url(path))

    def _parts(self, size: int) -> dict[str, Any]:
        if self._name not in ("s3", "s3a"):
            return {}
        return {"chunksize": max(PIECE, -(-size // 9_000))}  # S3 takes at most 10,000 parts

    def rm(self, path: str, recursive: bool = False) -> None:
        """Remove a file, or with `recursive` a folder too, with all it holds. Nothing happens when it is not there.

        Raises OSError when something stays.
        """
        files = self.find(path) if recursive else [path]
        if len(files) == 1:
            retry.call(lambda: self._raw().rm_file(files[0]), self._url(path))
        elif files:
            retry.call(lambda: self._raw().rm(files), self._url(path))
            if left := self.find(path):  # deleting many at once reports no failures
                raise OSError(f"{len(left)} files could not be removed, such as {left[0]}; check the rights")


def _causes(error: BaseException) -> list[BaseException]:
    return [error] if error.__cause__ is None else [error, error.__cause__]


class _Ranges(io.RawIOBase):
    """A file read by ranges. Memory: the current block and the next."""

    def __init__(self, fetch: Callable[[int, int], bytes], size: Callable[[], int]) -> None:
        self._fetch, self._ask_size = fetch, size
        self._size: int | None = None
        self._at = 0
        self._pool: ThreadPoolExecutor | None = None
        self._ahead: tuple[int, Future[bytes]] | None = None
        self._start, self._block = 0, b""
        self._load(0, FIRST, ahead=False)  # a file that is not there is told now

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            if self._size is None:
                self._size = self._ask_size()
            offset += self._size
        elif whence == io.SEEK_CUR:
            offset += self._at
        if offset < 0:
            raise ValueError(f"cannot seek to byte {offset}")
        self._at = offset
        return offset

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer)
        if not wanted or (self._size is not None and self._at >= self._size):
            return 0
        end = self._start + len(self._block)
        if not self._start <= self._at < end:
            sequential = self._at == end
            self._load(self._at, max(wanted, BLOCK) if sequential else wanted, ahead=sequential)
        first = self._at - self._start
        data = memoryview(self._block)[first : first + wanted]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _load(self, start: int, length: int, *, ahead: bool) -> None:
        ready, self._ahead = self._ahead, None
        if ready is not None and ready[0] == start:
            block, length = ready[1].result(), BLOCK
        else:
            block = self._fetch(start, start + length)
        follows = start == self._start + len(self._block)
        self._start, self._block = start, block
        if len(block) < length:
            if block or follows:
                self._size = start + len(block)
        elif ahead:
            self._pool = self._pool or ThreadPoolExecutor(1, thread_name_prefix="curate-ahead")
            then = start + len(block)
            self._ahead = (then, self._pool.submit(self._fetch, then, then + BLOCK))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        super().close()


class _Stream(io.RawIOBase):
    """One answer of an http server, from the start; asked for again when it breaks."""

    def __init__(self, fs: Any, url: str) -> None:
        self._fs, self._url, self._at = fs, url, 0
        self._handle: Any = retry.call(self._open, url)

    def _open(self) -> Any:
        return self._fs.open(self._url, "rb", block_size=0)

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = retry.call(lambda: self._next(len(buffer)), self._url)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _next(self, wanted: int) -> bytes:
        try:
            if self._handle is None:
                self._handle = self._open()
                left = self._at
                while left:
                    skipped = len(self._handle.read(min(left, BLOCK)))
                    if not skipped:
                        raise ConnectionError(f"the answer ends at byte {self._at - left}, before it broke")
                    left -= skipped
            return bytes(self._handle.read(wanted))
        except Exception:
            self._handle = None
            raise

    def close(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._handle.close()
        super().close()
