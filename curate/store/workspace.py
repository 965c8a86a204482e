"""A folder on any fsspec URL, written with whole-file puts only (object stores can neither append nor rename)."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, cast

from curate.errors import StorageError
from curate.store.retry import VARIABLE, GaveUp, code_of, said
from curate.store.urls import resolve

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of files on their way; see `_local_commit`."""
_SPACE = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def explained(action: str, where: str) -> Iterator[None]:
    """Turn operating-system errors into a StorageError that says what failed, where and what to do."""
    try:
        yield
    except GaveUp as error:
        raise StorageError(
            f"{action} {where}: {error}; check that the storage is up and its address right, then run the same command "
            f"again: finished parts are kept ({VARIABLE} sets for how many seconds to try)"
        ) from error
    except FileNotFoundError as error:
        if code_of(error) == "NoSuchBucket":
            raise StorageError(
                f"{action} {where}: there is no such bucket; create it, or check its name and the endpoint"
            ) from error
        raise StorageError(
            f"{action} {where}: no such file; it was removed or never finished, run again to make it"
        ) from error
    except PermissionError as error:
        if "://" in where:
            raise StorageError(
                f"{action} {where}: permission denied ({said(error)}); check the credentials in the environment and "
                "what they may do there, or choose another workspace"
            ) from error
        raise StorageError(
            f"{action} {where}: permission denied; choose another workspace or fix its rights"
        ) from error
    except OSError as error:
        if error.errno in _SPACE:
            raise StorageError(
                f"{action} {where}: no space left on the device; free some space and run the same command again: "
                "finished parts are kept"
            ) from error
        raise StorageError(f"{action} {where}: {said(error)}") from error


@dataclass(frozen=True)
class Workspace:
    """The root folder of a run, or of a release; picklable, so that tasks on any node open it themselves."""

    url: str

    @cached_property
    def _fs(self) -> Any:
        return resolve(self.url)[0]

    @cached_property
    def _root(self) -> str:
        return str(resolve(self.url)[1]).rstrip("/")

    def __reduce__(self) -> tuple[type[Workspace], tuple[str]]:
        return Workspace, (self.url,)

    @property
    def is_local(self) -> bool:
        """True when files are on this machine's disk, so that they can be memory-mapped and renamed."""
        return "file" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    @property
    def in_memory(self) -> bool:
        """True for memory://, files of this process."""
        return "memory" in (self._fs.protocol if isinstance(self._fs.protocol, tuple) else (self._fs.protocol,))

    def path(self, name: str = "") -> str:
        """The filesystem path of `name` inside the workspace."""
        return f"{self._root}/{name}" if name else self._root

    def where(self, name: str = "") -> str:
        """`name` as a URL for messages."""
        return f"{self.url.rstrip('/')}/{name}" if name else self.url

    def sub(self, name: str) -> Workspace:
        """The folder `name` as a workspace of its own."""
        return Workspace(self.where(name))

    def put(self, name: str, data: bytes | memoryview) -> None:
        """Write one file so that a reader sees all of it or none: one PUT, or temporary name, fsync and rename.

        Raises StorageError (permission, full disk). Memory: the data.
        """
        with explained("writing", self.where(name)):
            if self.is_local:
                with self._local_commit(name) as out:
                    out.write(data)
            else:
                self._fs.pipe_file(self.path(name), bytes(data))

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """Open `name` for streaming; it appears only when the block ends without an error.

        What is not on local disk is written to scratch disk first, then uploaded (from 32 MiB in parts) and looked at
        again: closing a half-written upload would make it visible. Raises StorageError (permission, full disk).
        """
        with explained("writing", self.where(name)):
            if self.is_local:
                with self._local_commit(name) as out:
                    yield out
            else:
                with tempfile.NamedTemporaryFile(prefix="curate-") as scratch:
                    yield cast(BinaryIO, scratch)
                    scratch.flush()
                    self._fs.put_file(scratch.name, self.path(name))

    @contextlib.contextmanager
    def _local_commit(self, name: str) -> Iterator[BinaryIO]:
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            with temporary.open("wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes:
        """All bytes of one file."""
        with explained("reading", self.where(name)):
            return bytes(self._fs.cat_file(self.path(name)))

    def read_range(self, name: str, start: int | None, stop: int | None) -> bytes:
        """Bytes [start, stop) of one file, one request up to 32 MiB; fewer only when the file ends before.

        start below 0 with stop None: the last -start bytes, or all there are.
        """
        with explained("reading", self.where(name)):
            if start is not None and stop is not None and stop <= start:
                return b""
            return bytes(self._fs.cat_file(self.path(name), start=start, end=stop))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open one file for reading with seek."""
        with explained("opening", self.where(name)), self._fs.open(self.path(name), "rb") as handle:
            yield cast(BinaryIO, handle)

    def exists(self, name: str) -> bool:
        """Whether the file or folder is there."""
        with explained("looking for", self.where(name)):
            return bool(self._fs.exists(self.path(name)))

    def listing(self, folder: str = "") -> dict[str, int]:
        """Names and sizes of the files directly in `folder` (one LIST); empty when there is no such folder."""
        self._fs.invalidate_cache()
        with explained("listing", self.where(folder)):
            try:
                entries = self._fs.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {
            name: int(entry["size"] or 0)
            for entry in entries
            # a name that ends in a slash is a folder's marker, which some tools leave on object stores
            if entry["type"] == "file" and (name := entry["name"].rsplit("/", 1)[-1]) and not name.startswith(".")
        }

    def folders(self, folder: str = "") -> list[str]:
        """Names of the folders directly in `folder`, sorted."""
        self._fs.invalidate_cache()
        with explained("listing", self.where(folder)):
            try:
                entries = self._fs.ls(self.path(folder), detail=True)
            except FileNotFoundError:
                return []
        return sorted(entry["name"].rstrip("/").rsplit("/", 1)[-1] for entry in entries if entry["type"] == "directory")

    def remove(self, name: str) -> None:
        """Remove one file or a whole folder; nothing happens when it is not there."""
        with explained("removing", self.where(name)), contextlib.suppress(FileNotFoundError):
            self._fs.rm(self.path(name), recursive=True)

    def sweep(self, folder: str = "") -> None:
        """Remove what killed writers left half written in `folder` and below it, once nobody writes there any more.

        Only local disks can hold such files; elsewhere a put is all or nothing.
        """
        if self.is_local:
            with explained("cleaning", self.where(folder)):
                for path in Path(self.path(folder)).rglob(".*.tmp"):
                    if _TEMPORARY.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Write and remove a small file, so that a wrong workspace is found before work starts."""
        probe = f".probe-{uuid.uuid4().hex[:8]}"
        self.put(probe, b"curate")
        self.remove(probe)
