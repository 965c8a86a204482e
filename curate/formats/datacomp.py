"""DataComp's subset files: a sorted numpy array that says which samples, each named by its 128-bit uid.

A subset is one-dimensional with the dtype `SUBSET` (numpy's "u8,u8": first and last 16 hex digits of the uid, little
endian, 16 bytes a record), sorted as the hex texts are. Repeats are allowed: they ask for a sample more than once. The
file is a `.npy`, or the same records without a header. What never lives here: shards, and what a list is used for.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.store import urls
from curate.store.npy import header
from curate.store.uids import format_uid
from curate.store.workspace import Workspace

SUBSET: np.dtype[np.void] = np.dtype([("f0", "<u8"), ("f1", "<u8")])
Subset = NDArray[np.void]
"""[n] of dtype SUBSET; sorted unless said otherwise."""
_MAGIC = b"\x93NUMPY"
_CHUNK = 1 << 20
"""Rows looked at together."""
_BUCKET_ROWS = 16 << 20
"""Rows of one bucket while many are sorted on disk: 256 MiB."""


def make_subset(uid_hi: NDArray[np.uint64], uid_lo: NDArray[np.uint64]) -> Subset:
    """The sorted subset of these uids, repeats kept. Memory: 40 bytes a uid."""
    order = np.lexsort((uid_lo, uid_hi))
    return records(np.asarray(uid_hi)[order], np.asarray(uid_lo)[order])


def records(uid_hi: NDArray[np.uint64], uid_lo: NDArray[np.uint64]) -> Subset:
    """These uids in the order given, which need not be sorted. Memory: 16 bytes a uid."""
    subset = np.empty(len(uid_hi), dtype=SUBSET)
    subset["f0"], subset["f1"] = uid_hi, uid_lo
    return subset


def uid_at(subset: Subset, row: int) -> str:
    """The 32 hex digits of one row."""
    return format_uid(int(subset["f0"][row]), int(subset["f1"][row]))


def first_unsorted(subset: Subset) -> int | None:
    """The first row that is smaller than the one before it; None when the array is sorted.

    Memory: 1 Mi rows at a time, so a memory-mapped file of any size will do.
    """
    for start in range(1, len(subset), _CHUNK):
        rows = subset[start - 1 : start + _CHUNK]
        hi, lo = np.ascontiguousarray(rows["f0"]), np.ascontiguousarray(rows["f1"])
        bad = (hi[1:] < hi[:-1]) | ((hi[1:] == hi[:-1]) & (lo[1:] < lo[:-1]))
        if bad.any():
            return start + int(bad.argmax())
    return None


def fresh(subset: Subset) -> Iterator[NDArray[np.bool_]]:
    """Whether each row of a sorted subset differs from the one before it; the first one does. 1 Mi rows at a time."""
    for start in range(0, len(subset), _CHUNK):
        rows = subset[max(0, start - 1) : start + _CHUNK]
        new = (rows["f0"][1:] != rows["f0"][:-1]) | (rows["f1"][1:] != rows["f1"][:-1])
        yield new if start else np.concatenate([[True], new])


def count_distinct(subset: Subset) -> int:
    """Distinct uids of a sorted subset. Memory: 1 Mi rows at a time."""
    return sum(int(new.sum()) for new in fresh(subset))


def open_subset(url: str) -> Subset:
    """The records of a subset file as they lie there, sorted or not; nothing is ever unpickled.

    Memory: none on local disk, where the file is mapped; 16 bytes a record elsewhere. Raises InputError when the file
    is missing or is no subset file.
    """
    fs, path = urls.resolve(url)
    nbytes = urls.size(url)
    data = None
    if not urls.is_local(fs):
        with urls.open_read(url) as handle:
            data = handle.read()
        nbytes = len(data)
    head = data[:6] if data is not None else urls.read_range(url, 0, 6)
    if head != _MAGIC:
        if nbytes % SUBSET.itemsize or not nbytes:
            raise InputError(
                f"{url}: has {nbytes:,} bytes and no numpy header, so it is no subset file: a .npy of dtype u8,u8, or "
                "bare records of 16 bytes"
            )
        return np.frombuffer(data, SUBSET) if data is not None else np.memmap(path, SUBSET, mode="r")
    try:
        if data is not None:
            array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
        else:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{url}: cannot be read as a numpy array ({error}); write it again") from error
    if array.dtype != SUBSET or array.ndim != 1:
        raise InputError(
            f"{url}: holds {array.dtype} of shape {array.shape}; a subset file holds one dimension of the dtype u8,u8 "
            "(first and last half of each uid), as numpy.array(pairs, 'u8,u8') makes it"
        )
    return array


def read_subset(url: str) -> Subset:
    """A subset file, checked to be sorted: DataComp's own tools pick wrong samples from an unsorted one, silently.

    Memory as for `open_subset`, and 1 Mi rows while it is checked. Raises InputError, which names the first row that
    is out of order.
    """
    subset = open_subset(url)
    row = first_unsorted(subset)
    if row is not None:
        raise InputError(
            f"{url}: row {row:,} is {uid_at(subset, row)}, smaller than row {row - 1:,}, {uid_at(subset, row - 1)}; a "
            "subset file must be sorted, or wrong samples are taken: sort it with numpy.sort, or give the uids as .txt"
        )
    return subset


def positions(subset: Subset, uid_hi: NDArray[np.uint64], uid_lo: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Where each uid stands first in a sorted subset; -1 for one that is not in it. int64, as long as the uids.

    Exact for all 128 bits, also where many rows share their first half. Memory: 80 bytes a uid asked for, and none for
    the subset, which may be mapped; where more uids are asked for than it has rows, 8 bytes a row.
    """
    found = np.full(len(uid_hi), -1, dtype=np.int64)
    if not len(subset) or not len(uid_hi):
        return found
    order = np.argsort(uid_hi)  # in order, neighbours look at the same pages of the file
    hi, lo = np.asarray(uid_hi, dtype=np.uint64)[order], np.asarray(uid_lo, dtype=np.uint64)[order]
    first, second = subset["f0"], subset["f1"]
    left = np.searchsorted(first, hi, side="left")
    right = np.searchsorted(first, hi, side="right")
    # inside the rows of one first half, the second half is bisected; almost always there is one row
    there = np.flatnonzero(left < right)
    low, high, wanted = left[there], right[there], lo[there]
    while (open_ := low < high).any():
        middle = (low + high) // 2
        below = open_ & (second[np.minimum(middle, len(subset) - 1)] < wanted)
        low = np.where(below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    hit = (low < right[there]) & (second[np.minimum(low, len(subset) - 1)] == wanted)
    found[order[there[hit]]] = low[hit]
    return found


def contains(subset: Subset, uid_hi: NDArray[np.uint64], uid_lo: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each uid is in a sorted subset; bool, as long as the uids. Exact; memory as for `positions`."""
    return positions(subset, uid_hi, uid_lo) >= 0


def write_subset(workspace: Workspace, name: str, chunks: Iterable[Subset], rows: int) -> tuple[int, str]:
    """Write a `.npy` subset file of `rows` records, chunk after chunk; gives its bytes and sha256.

    The file appears whole or not at all. Raises ValueError when the chunks are not sorted, within or between them, or
    are not `rows` records together; StorageError when it cannot be written. Memory: one chunk.
    """
    digest, written = hashlib.sha256(), 0
    head = header(SUBSET, (rows,))
    last = np.empty(0, dtype=SUBSET)
    with workspace.create(name) as out:
        _put(out, digest, head)
        for chunk in chunks:
            if first_unsorted(np.concatenate([last, chunk])) is not None:
                raise ValueError("the chunks of a subset are not sorted")
            _put(out, digest, chunk.tobytes())
            written += len(chunk)
            last = chunk[-1:] if len(chunk) else last
        if written != rows:
            raise ValueError(f"the chunks of a subset have {written} records, not {rows}")
    return len(head) + written * SUBSET.itemsize, digest.hexdigest()


def _put(out: BinaryIO, digest: hashlib._Hash, data: bytes) -> None:
    out.write(data)
    digest.update(data)


def sorted_chunks(chunks: Iterable[Subset], rows: int) -> Iterator[Subset]:
    """The records of all chunks, about `rows` of them in any order, as sorted chunks that follow one another.

    uids are hashes, so equal ranges hold about equally many. Memory: one chunk, and 40 bytes a record of a range of
    about 16 Mi records. Scratch disk: 16 bytes a record, when there is more than one range.
    """
    ranges = 1 << max(0, -(-rows // _BUCKET_ROWS) - 1).bit_length()
    if ranges == 1:
        held = list(chunks)
        whole = np.concatenate(held) if held else np.empty(0, dtype=SUBSET)
        yield make_subset(whole["f0"], whole["f1"])
        return
    shift = np.uint64(64 - (ranges.bit_length() - 1))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="curate-subset-")))
        files = [stack.enter_context((folder / str(number)).open("wb+")) for number in range(ranges)]
        for chunk in chunks:
            number = chunk["f0"] >> shift
            order = np.argsort(number, kind="stable")
            cuts = np.searchsorted(number[order], np.arange(ranges + 1, dtype=np.uint64))
            for n in np.flatnonzero(np.diff(cuts)):
                files[n].write(chunk[order[cuts[n] : cuts[n + 1]]].tobytes())
        for file in files:
            file.seek(0)
            held_back = np.frombuffer(file.read(), SUBSET)
            yield make_subset(held_back["f0"], held_back["f1"])
