"""Exchange: rows regrouped by a key through the store, in bounded memory and resumable bucket by bucket.

1. emit: a task per group of parts writes runs: records sorted by (key, part, row), vectors in the same order, and an
   index of where each bucket (a contiguous key range) begins;
2. work: a task per bucket reads its range of every run, works, writes what goes back sorted by (part, row);
3. collect: a task per group of parts reads its range of every bucket.

A record is a row of a structured array with the fields key (u4), part (u4), row (u4) and whatever else is needed.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import StorageError
from curate.store import rows as stored
from curate.store.npy import header
from curate.store.workspace import Workspace

RUN_BYTES = 256 << 20
"""A run is flushed when its records and vectors reach this size."""
BUCKET_BYTES = 256 << 20
"""Aim for the records and vectors of a bucket; vectors of a larger one are memory-mapped."""
MAX_BUCKETS = 4096
"""Beyond about so many, buckets cut by weight grow instead: each reads a range of every run, so reads would explode."""
MAX_PARTS = 200
READERS = 16
"""Reads of remote storage that are under way at once; together with AHEAD_BYTES."""
AHEAD_BYTES = 64 << 20
_BLOCK_BYTES = 16 << 20
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Records:
    """Rows of one part on their way to a bucket; vectors, if any, are float16 [len(rows), d]."""

    rows: NDArray[Any]
    vectors: NDArray[np.float16] | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of records and vectors."""
        return self.rows.nbytes + (0 if self.vectors is None else self.vectors.nbytes)


@dataclass(frozen=True)
class Buckets:
    """Contiguous key ranges: bucket b holds keys in [bounds[b], bounds[b + 1])."""

    bounds: tuple[int, ...]

    @property
    def n(self) -> int:
        """Number of buckets."""
        return len(self.bounds) - 1

    @staticmethod
    def by_weight(weights: NDArray[np.int64], limit: int = BUCKET_BYTES) -> Buckets:
        """Cut keys 0..k-1 greedily into ranges of at most `limit` bytes; a heavier key is alone in its range.

        weights: int64 [k], bytes per key. The limit is raised where it would make more than MAX_BUCKETS full buckets.
        """
        limit = max(limit, -(-int(weights.sum()) // MAX_BUCKETS))
        bounds, total = [0], 0
        for key, weight in enumerate(weights.tolist()):
            if total and total + weight > limit:
                bounds.append(key)
                total = 0
            total += weight
        return Buckets((*bounds, max(len(weights), 1)))

    @staticmethod
    def uniform(keys: int, n: int) -> Buckets:
        """Cut keys 0..keys-1 into at most n ranges of equal width; for keys that are hashes."""
        n = max(1, min(n, keys))
        return Buckets(tuple(keys * i // n for i in range(n + 1)))


@dataclass(frozen=True)
class Worked:
    """What work on a bucket gives: records that go back to their parts (fields part, row, ...), and a table to keep."""

    back: NDArray[Any]
    table: pl.DataFrame | None = None


@dataclass
class Bucket:
    """All records of one key range, sorted by (key, part, row); vectors are fetched on demand."""

    rows: NDArray[Any]
    _sources: list[tuple[Workspace, str, int, int]] = field(default_factory=list)
    _position: NDArray[np.int64] | None = None
    """Where each record, in order of reading, stands in `rows`."""

    def vectors(self, order: NDArray[np.int64]) -> NDArray[np.float16]:
        """Vectors of rows[order], float16 [len(order), d]; on scratch disk when larger than a bucket should be.

        Memory: one run's share of the bucket (AHEAD_BYTES or one share when remote), plus the result when it is below
        BUCKET_BYTES.
        """
        if self._position is None:
            raise StorageError("this exchange carries no vectors")
        place = np.full(len(self.rows), -1, dtype=np.int64)
        place[order] = np.arange(len(order))
        out: NDArray[np.float16] | None = None
        first = 0
        for chunk in _spans(self._sources):
            if out is None:
                out = _space(len(order), chunk.shape[1])
            to = place[self._position[first : first + len(chunk)]]
            wanted = to >= 0
            if wanted.all():
                out[to] = chunk
            else:
                out[to[wanted]] = chunk[wanted]
            first += len(chunk)
        return np.zeros((0, 1), dtype=np.float16) if out is None else out


def _space(rows: int, dim: int) -> NDArray[np.float16]:
    if rows * dim * 2 <= BUCKET_BYTES:
        return np.empty((rows, dim), dtype=np.float16)
    handle = tempfile.TemporaryFile(prefix="curate-bucket-")  # noqa: SIM115  (unlinked: lives as long as the map)
    return np.memmap(handle, dtype=np.float16, mode="w+", shape=(rows, dim))


def read_rows(workspace: Workspace, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of a `.npy` file in scratch; StorageError when it is damaged."""
    try:
        return stored.read_rows(workspace, name, start, stop)
    except ValueError as error:
        raise _damaged(workspace, name, str(error)) from error


def _spans(spans: Sequence[tuple[Workspace, str, int, int]]) -> Iterator[NDArray[Any]]:
    """Rows of each span of a file, in order."""
    if not spans:
        return
    workspace, name, _, _ = spans[0]
    width = 1 if workspace.is_local else read_rows(workspace, name, 0, 1)[:1].nbytes
    yield from _ahead(workspace, lambda span: read_rows(*span), spans, lambda span: (span[3] - span[2]) * width)


def _ahead(
    workspace: Workspace, read: Callable[[T], R], items: Sequence[T], nbytes: Callable[[T], int] = lambda _: 0
) -> Iterator[R]:
    """What `read` gives for each item, in order; remote ones on threads, since a request mostly waits."""
    if workspace.is_local or len(items) < 2:
        yield from map(read, items)
        return
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Future[R], int]] = deque()
        held = 0
        for item in items:
            size = nbytes(item)
            while waiting and (len(waiting) >= READERS or held + size > AHEAD_BYTES):
                future, freed = waiting.popleft()
                held -= freed
                yield future.result()
            waiting.append((pool.submit(read, item), size))
            held += size
        for future, _ in waiting:
            yield future.result()


def _damaged(workspace: Workspace, name: str, why: str) -> StorageError:
    scratch = workspace.where(name.rpartition("/")[0])
    return StorageError(f"{workspace.where(name)} is damaged ({why}); delete {scratch} and run the same command again")


def _read_json(workspace: Workspace, name: str) -> Any:
    try:
        return json.loads(workspace.read(name))
    except ValueError as error:
        raise _damaged(workspace, name, str(error)) from error


def _put_array(workspace: Workspace, name: str, array: NDArray[Any]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    workspace.put(name, buffer.getbuffer())


def part_groups(n: int) -> list[range]:
    """Cut parts 0..n-1 into groups that one task handles: at most 200, and about 64 groups for small runs."""
    size = max(1, min(MAX_PARTS, -(-n // 64)))
    return [range(start, min(start + size, n)) for start in range(0, n, size)]


def run_marker(run: int) -> str:
    """File that says all of a task's runs are written."""
    return f"run-{run:05d}.json"


def bucket_marker(bucket: int) -> str:
    """File that says a bucket is worked."""
    return f"bucket-{bucket:05d}.json"


def _put_sorted(workspace: Workspace, name: str, pieces: list[NDArray[Any]], order: NDArray[np.int64]) -> None:
    """Write rows `order` of the concatenated pieces as one `.npy`. Memory: a block."""
    first = pieces[0]
    starts = np.cumsum([0, *(len(piece) for piece in pieces)])
    width = first.dtype.itemsize * int(np.prod(first.shape[1:], dtype=np.int64))
    size = max(1, _BLOCK_BYTES // max(width, 1))
    with workspace.create(name) as out:
        out.write(header(first.dtype, (len(order), *first.shape[1:])))
        for at in range(0, len(order), size):
            rows = order[at : at + size]
            block = np.empty((len(rows), *first.shape[1:]), dtype=first.dtype)
            owner = np.searchsorted(starts, rows, side="right") - 1
            for piece in np.unique(owner).tolist():
                mine = owner == piece
                block[mine] = pieces[piece][rows[mine] - starts[piece]]
            out.write(block.reshape(-1).view(np.uint8).data)


def write_runs(workspace: Workspace, scratch: str, run: int, records: Iterable[Records], buckets: Buckets) -> int:
    """Write the records of a group of parts as one run or more; returns the rows.

    Memory: RUN_BYTES and one part, and once more the records (not the vectors).
    """
    runs: list[dict[str, str | None]] = []
    offsets: list[NDArray[np.int64]] = []
    held: list[Records] = []
    rows = 0

    def flush() -> None:
        nonlocal held
        if not held:
            return
        vectors = [r.vectors for r in held if r.vectors is not None]
        table = np.concatenate([r.rows for r in held])
        held = []
        order = np.lexsort((table["row"], table["part"], table["key"]))
        name = f"{scratch}/run-{run:05d}.{len(runs):03d}"
        _put_sorted(workspace, f"{name}.rows.npy", [table], order)
        if vectors:
            _put_sorted(workspace, f"{name}.vectors.npy", vectors, order)
        keys = table["key"][order]
        offsets.append(np.searchsorted(keys, np.asarray(buckets.bounds, dtype=np.int64)))
        runs.append({"rows": f"{name}.rows.npy", "vectors": f"{name}.vectors.npy" if vectors else None})

    for record in records:
        if len(record.rows):
            held.append(record)
            rows += len(record.rows)
            if sum(r.nbytes for r in held) >= RUN_BYTES:
                flush()
    flush()
    if runs:
        # a row a bucket: a worker reads two rows of every group, however many buckets there are
        _put_array(workspace, _offsets_file(scratch, run), np.stack(offsets, axis=1).astype(np.int64))
    workspace.put(f"{scratch}/{run_marker(run)}", json.dumps(runs).encode())
    return rows


def _offsets_file(scratch: str, run: int) -> str:
    return f"{scratch}/run-{run:05d}.offsets.npy"


def read_bucket(workspace: Workspace, scratch: str, runs: int, bucket: int) -> Bucket:
    """All records of one bucket from all runs. Memory: its records twice, not its vectors."""
    found: list[tuple[Workspace, str, int, int]] = []
    sources: list[tuple[Workspace, str, int, int]] = []

    def spans_of(run: int) -> list[tuple[dict[str, str | None], int, int]]:
        entries = _read_json(workspace, f"{scratch}/{run_marker(run)}")
        if not entries:
            return []
        starts, stops = read_rows(workspace, _offsets_file(scratch, run), bucket, bucket + 2).tolist()
        return list(zip(entries, starts, stops, strict=True))

    for spans in _ahead(workspace, spans_of, range(runs)):
        for entry, start, stop in spans:
            if start < stop:
                found.append((workspace, str(entry["rows"]), start, stop))
                if entry["vectors"] is not None:
                    sources.append((workspace, entry["vectors"], start, stop))
    if not found:
        return Bucket(np.zeros(0, dtype=[("key", "u4"), ("part", "u4"), ("row", "u4")]))
    dtype = read_rows(*found[0][:2], 0, 0).dtype
    table = np.empty(sum(stop - start for *_, start, stop in found), dtype=dtype)
    at = 0
    for chunk in _spans(found):
        table[at : at + len(chunk)] = chunk
        at += len(chunk)
    order = np.lexsort((table["row"], table["part"], table["key"]))
    position = None
    if sources:
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
    return Bucket(table[order], sources, position)


def write_back(workspace: Workspace, scratch: str, bucket: int, back: NDArray[Any]) -> None:
    """Write what a bucket sends back, sorted by (part, row), and where each part begins. Memory: one block."""
    order = np.lexsort((back["row"], back["part"]))
    _put_sorted(workspace, f"{scratch}/bucket-{bucket:05d}.npy", [back], order)
    last = int(back["part"].max()) if len(back) else -1
    starts = np.concatenate([[0], np.cumsum(np.bincount(back["part"], minlength=last + 1))]).astype(np.int64)
    _put_array(workspace, _starts_file(scratch, bucket), starts)
    workspace.put(f"{scratch}/{bucket_marker(bucket)}", json.dumps({"last": last}).encode())


def _starts_file(scratch: str, bucket: int) -> str:
    return f"{scratch}/bucket-{bucket:05d}.starts.npy"


def read_back(
    workspace: Workspace, scratch: str, buckets: int, parts: Sequence[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """For each part of a contiguous group: its records from all buckets, sorted by row. Memory: the group's records."""

    def records_of(bucket: int) -> NDArray[Any] | None:
        last = _read_json(workspace, f"{scratch}/{bucket_marker(bucket)}")["last"]
        if parts[0] > last:
            return None
        starts = read_rows(workspace, _starts_file(scratch, bucket), parts[0], min(parts[-1], last) + 2)
        start, stop = int(starts[0]), int(starts[-1])
        return read_rows(workspace, f"{scratch}/bucket-{bucket:05d}.npy", start, stop) if start < stop else None

    tables = [table for table in _ahead(workspace, records_of, range(buckets)) if table is not None]
    if not tables:
        empty = read_rows(workspace, f"{scratch}/bucket-00000.npy", 0, 0)
        yield from ((part, empty) for part in parts)
        return
    table = np.concatenate(tables)
    tables.clear()
    table = table[np.lexsort((table["row"], table["part"]))]
    for part in parts:
        start, stop = np.searchsorted(table["part"], [part, part + 1])
        yield part, table[start:stop]
