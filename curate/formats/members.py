"""Reading member bytes back by offset: coalesced ranges when little of a shard is wanted, streaming when much is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

import polars as pl

from curate.errors import InputError
from curate.formats.parquet import read_rows
from curate.formats.sources import PartSource
from curate.store import urls

MAX_GAP = 1 << 20
MAX_BLOCK = 64 << 20
LOCAL_BLOCK = 8 << 20
#: Above this share of the span between first and last wanted byte, gaps are read too.
STREAM_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Block:
    """One read: ``nbytes`` from ``offset`` (bytes), and the positions of the extents that lie in it."""

    offset: int
    nbytes: int
    extents: tuple[int, ...]


def plan_ranges(extents: Sequence[tuple[int, int]], max_gap: int = MAX_GAP, max_block: int = MAX_BLOCK) -> list[Block]:
    """Join extents ``(offset, length)`` into few reads, in order of offset; each extent lies whole in one block.

    Extents at most ``max_gap`` bytes apart share a block unless it would exceed ``max_block`` bytes; only an extent
    that is larger by itself makes a larger block. Overlapping and empty extents are allowed.
    """
    blocks: list[Block] = []
    start = end = 0
    inside: list[int] = []
    for i in sorted(range(len(extents)), key=lambda n: (extents[n], n)):
        offset, length = extents[i]
        new_end = max(end, offset + length)
        if inside and (offset - end > max_gap or new_end - start > max_block):
            blocks.append(Block(start, end - start, tuple(inside)))
            inside = []
        if not inside:
            start, new_end = offset, offset + length
        inside.append(i)
        end = new_end
    if inside:
        blocks.append(Block(start, end - start, tuple(inside)))
    return blocks


def read_members(
    source: PartSource, rows: pl.DataFrame, exts: Collection[str] | None = None
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield ``(row position in rows, {ext: bytes})`` for every row, in order.

    ``rows``: columns ``shard`` and ``members`` of the index, any subset of a part's rows, shards ascending. ``exts``:
    lower-case extensions to read; None reads every member. Each shard is opened once. Memory: two blocks (of 8 MiB
    locally, 64 MiB remote, or the largest member).

    Raises :class:`InputError` when a file is gone, or shorter than when it was indexed.
    """
    shards = rows["shard"].to_list()
    members = rows["members"].to_list()
    position = 0
    while position < len(shards):
        stop = position + 1
        while stop < len(shards) and shards[stop] == shards[position]:
            stop += 1
        wanted = [[m for m in members[i] if exts is None or m["ext"] in exts] for i in range(position, stop)]
        if source.kind == "folder":
            for i, row in enumerate(wanted):
                yield position + i, {m["ext"]: _whole(urls.join(source.root, m["file"]), m["nbytes"]) for m in row}
        elif source.kind == "parquet":
            for i, data in read_rows(source.shards[shards[position]], members[position:stop], exts):
                yield position + i, data
        else:
            shard = source.shards[shards[position]]
            for i, data in _read_shard(shard.url, shard.start, wanted):
                yield position + i, data
        position = stop


def _read_shard(url: str, start: int, rows: list[list[dict[str, Any]]]) -> Iterator[tuple[int, dict[str, bytes]]]:
    owners = [(i, m["ext"]) for i, row in enumerate(rows) for m in row]
    extents = [(start + m["offset"], m["nbytes"]) for row in rows for m in row]
    missing = [len(row) for row in rows]
    partial: dict[int, dict[str, bytes]] = {}
    due = 0
    if not extents:
        yield from ((i, {}) for i in range(len(rows)))
        return
    shard = _Opened(url)
    with shard as read:
        for block in plan_ranges(extents, max_gap=_gap(extents), max_block=shard.max_block):
            data = memoryview(read(block.offset, block.nbytes))
            for n in block.extents:
                row, ext = owners[n]
                at = extents[n][0] - block.offset
                partial.setdefault(row, {})[ext] = bytes(data[at : at + extents[n][1]])
                missing[row] -= 1
            while due < len(rows) and missing[due] == 0:
                yield due, partial.pop(due, {})
                due += 1
    while due < len(rows):
        yield due, partial.pop(due, {})
        due += 1


def _gap(extents: Sequence[tuple[int, int]]) -> int:
    if not extents:
        return MAX_GAP
    span = max(o + n for o, n in extents) - min(o for o, _ in extents)
    return MAX_BLOCK if sum(n for _, n in extents) > STREAM_SHARE * span else MAX_GAP


class _Opened(AbstractContextManager[Callable[[int, int], bytes]]):
    """A shard open for range reads; a context manager giving ``read(offset, nbytes)``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._fs, self._path = urls.resolve(url)
        self._handle: BinaryIO | None = None
        self.max_block = LOCAL_BLOCK if urls.is_local(self._fs) else MAX_BLOCK

    def __enter__(self) -> Callable[[int, int], bytes]:
        if urls.is_local(self._fs):
            self._handle = urls.open_read(self._url)
        return self._read

    def __exit__(self, *_: object) -> None:
        if self._handle:
            self._handle.close()

    def _read(self, offset: int, nbytes: int) -> bytes:
        try:
            if self._handle:
                self._handle.seek(offset)
                data = self._handle.read(nbytes)
            else:
                data = self._fs.cat_file(self._path, start=offset, end=offset + nbytes)
        except OSError as err:
            raise urls.unreadable(self._url, err) from err
        return _checked(self._url, data, offset, nbytes)


def _whole(url: str, nbytes: int) -> bytes:
    with urls.open_read(url) as handle:
        return _checked(url, handle.read(nbytes + 1), 0, nbytes)


def _checked(url: str, data: bytes, offset: int, nbytes: int) -> bytes:
    if len(data) > nbytes and url.startswith("http"):
        raise InputError(f"{url}: the server ignores range requests; copy the shards to a disk or an object store.")
    if len(data) != nbytes:
        raise InputError(
            f"{url}: {nbytes} bytes were indexed at byte {offset} but {len(data)} are there; the file has changed, "
            "run again to index it anew."
        )
    return data
