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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import StorageError
from curate.store.workspace import Workspace

RUN_BYTES = 256 << 20
"""A run is flushed when its records and vectors reach this size."""
BUCKET_BYTES = 256 << 20
"""Aim for the records and vectors of a bucket; a single key may be larger, its vectors are then memory-mapped."""
MAX_PARTS = 200


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

        weights: int64 [k], bytes per key.
        """
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

        Memory: one run's share of the bucket, plus the result when it is below BUCKET_BYTES.
        """
        if self._position is None:
            raise StorageError("this exchange carries no vectors")
        place = np.full(len(self.rows), -1, dtype=np.int64)
        place[order] = np.arange(len(order))
        out: NDArray[np.float16] | None = None
        first = 0
        for workspace, name, start, stop in self._sources:
            chunk = read_rows(workspace, name, start, stop)
            if out is None:
                out = _space(len(order), chunk.shape[1])
            to = place[self._position[first : first + len(chunk)]]
            out[to[to >= 0]] = chunk[to >= 0]
            first += len(chunk)
        return np.zeros((0, 1), dtype=np.float16) if out is None else out


def _space(rows: int, dim: int) -> NDArray[np.float16]:
    if rows * dim * 2 <= BUCKET_BYTES:
        return np.empty((rows, dim), dtype=np.float16)
    handle = tempfile.TemporaryFile(prefix="curate-bucket-")  # noqa: SIM115  (unlinked: lives as long as the map)
    return np.memmap(handle, dtype=np.float16, mode="w+", shape=(rows, dim))


def read_rows(workspace: Workspace, name: str, start: int, stop: int) -> NDArray[Any]:
    """Rows [start, stop) of a `.npy` file, one range read."""
    with workspace.open(name) as handle:
        try:
            version = np.lib.format.read_magic(handle)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(handle)
        except ValueError as error:
            raise _damaged(workspace, name, str(error)) from error
        width = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        handle.seek(handle.tell() + start * width)
        data = handle.read((stop - start) * width)
    if len(data) != (stop - start) * width:
        raise _damaged(workspace, name, "it ends early")
    return np.frombuffer(data, dtype=dtype).reshape(stop - start, *shape[1:])


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


def write_runs(workspace: Workspace, scratch: str, run: int, records: Iterable[Records], buckets: Buckets) -> int:
    """Write the records of a group of parts as one run or more; returns the rows. Memory: RUN_BYTES and one part."""
    runs: list[dict[str, Any]] = []
    held: list[Records] = []
    rows = 0

    def flush() -> None:
        nonlocal held
        if not held:
            return
        table = np.concatenate([r.rows for r in held])
        order = np.lexsort((table["row"], table["part"], table["key"]))
        table = table[order]
        name = f"{scratch}/run-{run:05d}.{len(runs):03d}"
        _put_array(workspace, f"{name}.rows.npy", table)
        vectors = None
        if held[0].vectors is not None:
            vectors = f"{name}.vectors.npy"
            _put_array(workspace, vectors, np.concatenate([r.vectors for r in held if r.vectors is not None])[order])
        offsets = np.searchsorted(table["key"], np.asarray(buckets.bounds, dtype=np.int64)).tolist()
        runs.append({"rows": f"{name}.rows.npy", "vectors": vectors, "offsets": offsets})
        held = []

    for record in records:
        if len(record.rows):
            held.append(record)
            rows += len(record.rows)
            if sum(r.nbytes for r in held) >= RUN_BYTES:
                flush()
    flush()
    workspace.put(f"{scratch}/{run_marker(run)}", json.dumps(runs).encode())
    return rows


def read_bucket(workspace: Workspace, scratch: str, runs: int, bucket: int) -> Bucket:
    """All records of one bucket from all runs. Memory: its records, not its vectors."""
    tables, sources, carries = [], [], False
    for run in range(runs):
        for entry in _read_json(workspace, f"{scratch}/{run_marker(run)}"):
            start, stop = entry["offsets"][bucket], entry["offsets"][bucket + 1]
            if start == stop:
                continue
            tables.append(read_rows(workspace, entry["rows"], start, stop))
            if entry["vectors"] is not None:
                carries = True
                sources.append((workspace, entry["vectors"], start, stop))
    if not tables:
        return Bucket(np.zeros(0, dtype=[("key", "u4"), ("part", "u4"), ("row", "u4")]))
    table = np.concatenate(tables)
    order = np.lexsort((table["row"], table["part"], table["key"]))
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order))
    return Bucket(table[order], sources, position if carries else None)


def write_back(workspace: Workspace, scratch: str, bucket: int, back: NDArray[Any]) -> None:
    """Write what a bucket sends back, sorted by (part, row), with an index by part."""
    back = back[np.lexsort((back["row"], back["part"]))]
    parts, starts = np.unique(back["part"], return_index=True)
    _put_array(workspace, f"{scratch}/bucket-{bucket:05d}.npy", back)
    index = {"parts": parts.tolist(), "starts": [*starts.tolist(), len(back)]}
    workspace.put(f"{scratch}/{bucket_marker(bucket)}", json.dumps(index).encode())


def read_back(
    workspace: Workspace, scratch: str, buckets: int, parts: Sequence[int]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """For each part of a contiguous group: its records from all buckets, sorted by row. Memory: the group's records."""
    tables: list[NDArray[Any]] = []
    for bucket in range(buckets):
        index = _read_json(workspace, f"{scratch}/{bucket_marker(bucket)}")
        first = int(np.searchsorted(index["parts"], parts[0]))
        last = int(np.searchsorted(index["parts"], parts[-1], side="right"))
        if first < last:
            start, stop = index["starts"][first], index["starts"][last]
            tables.append(read_rows(workspace, f"{scratch}/bucket-{bucket:05d}.npy", start, stop))
    if not tables:
        empty = read_rows(workspace, f"{scratch}/bucket-00000.npy", 0, 0)
        yield from ((part, empty) for part in parts)
        return
    table = np.concatenate(tables)
    table = table[np.lexsort((table["row"], table["part"]))]
    for part in parts:
        start, stop = np.searchsorted(table["part"], [part, part + 1])
        yield part, table[start:stop]
