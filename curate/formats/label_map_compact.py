"""A compact form of label maps, about half of ReLabel's compressed files, for archives and copies: scores are rounded.

    data = compress(records)        # any number of records; 2.9 kB a map of 5 x 15 x 15 alone
    records = expand(data)          # scores and lse as multiples of 1/128, classes as they were

Scores, and lse, move by at most 1/256. What is expanded and compressed again gives the same bytes. Training reads the
plain records (label_maps.py), which need no work. Format: docs/formats/label-maps.md, "Compact form".
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.label_maps import is_map, map_dtype

STEP = 128
"""Scores are whole multiples of 1 / STEP. A float16 from 16 up is one already."""
_MAGIC = b"CLMC"
_HEAD = struct.Struct("<4sBBBBIHHHI")
"""Magic, version 1, bytes of a class number, of a step and of a rest, maps, K, H, W, classes that occur."""


def compress(records: NDArray[np.void]) -> bytes:
    """Records [n], float16 with lse, as bytes. Memory: about six times the records.

    Raises InputError for records of another kind, and for scores or lse that the form cannot hold.
    """
    if records.ndim != 1 or not is_map(records.dtype) or records.dtype.names != ("scores", "classes", "lse"):
        raise InputError("The compact form holds records of float16 scores, classes and lse; these are others.")
    if records.dtype["scores"].base != np.float16:
        raise InputError("The compact form holds float16 scores; these are float32.")
    n, (k, height, width) = len(records), records.dtype["scores"].shape
    scores = np.rint(records["scores"].astype(np.float64) * STEP)
    rest = np.rint(records["lse"].astype(np.float64) * STEP - scores[:, 0])
    if not (np.isfinite(scores).all() and np.isfinite(rest).all()) or np.abs(rest).max(initial=0) > 1 << 30:
        raise InputError("A label map with a score or lse that is not finite, or far beyond the other, is not stored.")
    whole = scores.astype(np.int64)
    steps = np.concatenate([_across(whole[:, :1]), whole[:, :-1] - whole[:, 1:]], axis=1)
    numbers, inverse, often = np.unique(records["classes"], return_inverse=True, return_counts=True)
    order = np.argsort(-often, kind="stable")
    rank = np.empty(len(order), dtype=np.uint32)
    rank[order] = np.arange(len(order))
    size = records.dtype["classes"].base.itemsize
    # a best score that is rounded up past the lse must not make a probability above 1
    past = (rest < 0) & (records["lse"] >= records["scores"][:, 0])
    pieces = [_folded(steps), _folded(np.where(past, 0, rest).astype(np.int64))]
    body = [
        _planes(pieces[0]),
        _planes(numbers[order].astype(f"<u{size}")),
        _planes(rank[inverse.reshape(-1)].astype(_smallest(len(order)))),
        _planes(pieces[1]),
    ]
    sizes = size, pieces[0].itemsize, pieces[1].itemsize
    return _HEAD.pack(_MAGIC, 1, *sizes, n, k, height, width, len(order)) + zlib.compress(b"".join(body), 9)


def expand(data: bytes, where: str = "the data") -> NDArray[np.void]:
    """The records [n] that `compress` was given, with rounded scores. Raises InputError, naming `where`, for others.

    Memory: about six times the records; nothing is made larger than the shape in the head says.
    """
    try:
        magic, version, size, step, gap, n, k, height, width, many = _HEAD.unpack_from(data)
    except struct.error:
        magic = b""
    if magic != _MAGIC or version != 1 or size not in (2, 4) or not {step, gap} <= {1, 2, 4}:
        raise InputError(f"{where}: is no compact form of label maps.")
    cells = n * height * width
    index = _smallest(many)
    types = [np.dtype(f"<u{step}"), np.dtype(f"<u{size}"), index, np.dtype(f"<u{gap}")]
    lengths = [count * dtype.itemsize for count, dtype in zip((cells * k, many, cells * k, cells), types, strict=True)]
    stream = zlib.decompressobj()
    try:
        body = stream.decompress(data[_HEAD.size :], sum(lengths) + 1)
    except zlib.error as error:
        raise InputError(f"{where}: is damaged ({error}); copy it again.") from error
    if len(body) != sum(lengths) or not stream.eof:
        raise InputError(f"{where}: is damaged: holds other bytes than its head says; copy it again.")
    pieces, start = [], 0
    for length, dtype in zip(lengths, types, strict=True):
        pieces.append(_joined(body[start : start + length], dtype))
        start += length
    steps, numbers, ranks, rest = pieces
    if ranks.size and int(ranks.max()) >= many:
        raise InputError(f"{where}: is damaged: names a class that is not in its table; copy it again.")
    whole = _unfolded(steps).reshape(n, k, height, width)
    whole[:, :1] = np.cumsum(np.cumsum(whole[:, :1], axis=3), axis=2)
    whole[:, 1:] = whole[:, :1] - np.cumsum(whole[:, 1:], axis=1)
    records = np.empty(n, map_dtype(k, height, width, 1 << (8 * size)))
    records["scores"] = whole / STEP
    records["classes"] = numbers[ranks].reshape(n, k, height, width)
    records["lse"] = (whole[:, 0] + _unfolded(rest).reshape(n, height, width)) / STEP
    return records


def _across(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """What each cell has more than its neighbours: differences along rows, then along columns."""
    along = np.diff(values, axis=3, prepend=0)
    return np.diff(along, axis=2, prepend=0)


def _folded(values: NDArray[np.int64]) -> NDArray[Any]:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..., in the smallest type that holds them."""
    folded = (values << 1) ^ (values >> 63)
    return folded.astype(_smallest(int(folded.max(initial=0)) + 1))


def _unfolded(values: NDArray[Any]) -> NDArray[np.int64]:
    wide = values.astype(np.int64)
    return (wide >> 1) ^ -(wide & 1)


def _smallest(many: int) -> np.dtype[Any]:
    return np.dtype("u1" if many <= 1 << 8 else "<u2" if many <= 1 << 16 else "<u4")


def _planes(values: NDArray[Any]) -> bytes:
    """All first bytes, then all second bytes, ...: high bytes are alike and compress well."""
    return np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _joined(data: bytes, dtype: np.dtype[Any]) -> NDArray[Any]:
    planes = np.frombuffer(data, dtype=np.uint8).reshape(dtype.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(dtype).reshape(-1)
