"""A tar of tars, as ImageNet is distributed: each inner tar is a shard, and its name is the class of its samples.

Only headers of the outer tar are read; what lies inside the inner ones is read like any shard, from its first byte.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import Protocol

from curate.errors import InputError
from curate.formats.sources import ArchiveEnd, ShardInfo
from curate.formats.tar import TarEnd, TarScan, printable
from curate.store import urls

#: Bytes of one range request: while headers are read, and while an inner tar is.
HEADER_AHEAD = 64 << 10
DATA_AHEAD = 8 << 20
_BUFFER = 1 << 20


class Window(Protocol):
    """A stretch of a file, read forward."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes; b"" at the end."""
        ...

    def skip(self, size: int, /) -> int:
        """Pass over up to ``size`` bytes without reading them; how many there were."""
        ...

    def close(self) -> None:
        """Give up what is held open."""
        ...


def open_window(url: str, start: int, nbytes: int, ahead: int = DATA_AHEAD) -> Window:
    """Read ``nbytes`` bytes of a file from byte ``start``: an open file locally, range requests of ``ahead`` remote.

    Raises :class:`InputError` when the file cannot be opened. Memory: one buffer of 1 MiB local, ``ahead`` remote.
    """
    fs, path = urls.resolve(url)
    return _Local(url, path, start, nbytes, ahead) if urls.is_local(fs) else _Ranges(url, start, nbytes, ahead)


class _Local:
    def __init__(self, url: str, path: str, start: int, nbytes: int, ahead: int) -> None:
        try:
            self._handle = io.BufferedReader(io.FileIO(path, "rb"), min(_BUFFER, ahead))
            size = self._handle.seek(0, io.SEEK_END)
            self._handle.seek(start)
        except OSError as err:
            raise urls.unreadable(url, err) from err
        self._left = max(0, min(nbytes, size - start))

    def read(self, size: int = -1, /) -> bytes:
        data = self._handle.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(data)
        return data

    def skip(self, size: int, /) -> int:
        step = min(size, self._left)
        self._handle.seek(step, io.SEEK_CUR)
        self._left -= step
        return step

    def close(self) -> None:
        self._handle.close()


class _Ranges:
    def __init__(self, url: str, start: int, nbytes: int, ahead: int) -> None:
        self._url, self._pos, self._end, self._ahead = url, start, start + nbytes, ahead
        self._buffer, self._at = b"", 0

    def read(self, size: int = -1, /) -> bytes:
        """At least one byte unless the end is reached; callers ask again for the rest."""
        if self._at == len(self._buffer):
            length = min(self._ahead, self._end - self._pos)
            self._buffer, self._at = urls.read_range(self._url, self._pos, length) if length > 0 else b"", 0
            if len(self._buffer) > length:
                raise InputError(
                    f"{self._url}: the server ignores range requests; copy the archive to a disk or an object store."
                )
            self._pos += len(self._buffer)
            if len(self._buffer) < length:
                self._end = self._pos
        stop = len(self._buffer) if size < 0 else min(len(self._buffer), self._at + size)
        data = self._buffer[self._at : stop]
        self._at = stop
        return data

    def skip(self, size: int, /) -> int:
        inside = min(size, len(self._buffer) - self._at)
        self._at += inside
        step = min(size - inside, self._end - self._pos)
        self._pos += step
        return inside + step

    def close(self) -> None:
        self._buffer = b""


@dataclass(frozen=True, slots=True)
class _Inner:
    raw: bytes
    offset: int
    nbytes: int


def list_archive(url: str) -> list[ShardInfo]:
    """The inner tars of a tar of tars, in its order; ``rel`` is the member name, ``label`` its last part without .tar.

    A damaged archive gives the inner tars that are there, the last one perhaps cut; what is wrong with it, and members
    that are no tars, stand in ``ends`` of the last shard. Raises :class:`InputError` when there is no inner tar, two
    have one name, or the first holds tars again. Reads one header a member (64 KiB remote). Memory: one record each.
    """
    record = urls.info(url)
    size = int(record["size"] or 0)
    fs, _ = urls.resolve(url)
    etag = urls.etag_of(fs, record)
    window = open_window(url, 0, size, HEADER_AHEAD)
    try:
        scan = TarScan(window, wanted=lambda raw: False, skip=window.skip)
        inner, others = _members(scan)
    except OSError as err:
        raise urls.unreadable(url, err) from err
    finally:
        window.close()
    inner += _cut_member(scan.end)
    if not inner:
        raise InputError(_nothing(url, scan.end, others))
    _check_first(url, inner[0])
    shards: list[ShardInfo] = []
    seen: dict[str, int] = {}
    for member in inner:
        rel = printable(member.raw)
        if rel in seen:
            raise InputError(
                f"{url}: two inner tars are called {rel}, at byte {seen[rel]} and {member.offset}; their samples would "
                "have the same uids. Unpack the archive and give the tars as input.shards."
            )
        seen[rel] = member.offset
        label = rel.rpartition("/")[2].rpartition(".")[0] or None
        nbytes = min(member.nbytes, size - member.offset)
        shards.append(ShardInfo(url, rel, nbytes, f"{etag}@{member.offset}+{member.nbytes}", member.offset, label))
    end = None if scan.end.clean else scan.end
    if end or others or any(kind != "directory" for kind in scan.skipped):
        last = shards[-1]
        note = ArchiveEnd(
            name=url.rstrip("/").rpartition("/")[2],
            reason=end.reason if end else None,
            offset=end.offset if end else 0,
            detail=end.detail if end else "",
            ignored=len(others),
            ignored_names=tuple(printable(raw) for raw in others[:10]),
            skipped=tuple(sorted(scan.skipped.items())),
        )
        shards[-1] = replace(last, ends=note)
    return shards


def _members(scan: TarScan) -> tuple[list[_Inner], list[bytes]]:
    inner: list[_Inner] = []
    others: list[bytes] = []
    for raw, offset, nbytes, _ in scan:
        if raw.lower().endswith(b".tar"):
            inner.append(_Inner(raw, offset, nbytes))
        else:
            others.append(raw)
    return inner, others


def _cut_member(end: TarEnd) -> list[_Inner]:
    """The inner tar that a cut archive ends in: its readable beginning is a shard too."""
    if end.reason != "cut" or end.raw_name is None or not end.raw_name.lower().endswith(b".tar"):
        return []
    assert end.extent is not None
    return [_Inner(end.raw_name, *end.extent)]


def _nothing(url: str, end: TarEnd, others: list[bytes]) -> str:
    if others:
        return (
            f"{url}: holds no inner tars but {len(others):,} other files, the first called {printable(others[0])}; if "
            "these are images, give it as input.shards."
        )
    detail = end.detail or "it has no members"
    return f"{url}: no inner tar can be read: {detail}."


def _check_first(url: str, inner: _Inner) -> None:
    """Refuse an archive nested twice, by the first member of its first inner tar."""
    window = open_window(url, inner.offset, min(inner.nbytes, HEADER_AHEAD), HEADER_AHEAD)
    try:
        first = next(iter(TarScan(window, wanted=lambda raw: False, skip=window.skip)), None)
    except OSError as err:
        raise urls.unreadable(url, err) from err
    finally:
        window.close()
    if first is not None and first.raw_name.lower().endswith(b".tar"):
        raise InputError(
            f"{url}: is nested twice: its inner tar {printable(inner.raw)} holds tars again "
            f"({printable(first.raw_name)}). Unpack the outer one and give one of its tars as input.archive."
        )
