"""Lists of uids, or of the values of another text column, as files: read into sorted arrays of 128-bit codes.

The code of a uid is the uid; that of any other value is a 128-bit hash of its text, so that a list takes 16 bytes an
entry whatever it holds. Two of n values share a hash with a probability below n^2 / 2^129: for a list of 10^8 entries
against 10^10 samples, 3 in 10^21. What never lives here: what a list is used for.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, SpecError
from curate.formats.datacomp import SUBSET, Subset, fresh, positions, read_subset, records, uid_at
from curate.store import urls

UID = "uid"
"""Name of the column that means the uid itself, which the index holds as two numbers."""
KINDS = ("txt", "csv", "parquet", "npy")
_CHUNK = 8 << 20
"""Bytes of a file read together."""
_LONGEST = 1 << 20
"""Bytes of a line."""
_BATCH = 1 << 18
"""Values that are turned into codes together."""
_DIGITS = np.full(256, 255, dtype=np.uint8)
_DIGITS[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)
_DIGITS[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


@dataclass(frozen=True)
class ValueList:
    """What a list file holds: the distinct codes, sorted, and the sha256 of the file."""

    codes: Subset
    sha256: str


@dataclass(frozen=True)
class _Batch:
    """Values with their places in the file, such as line 12."""

    places: list[int]
    values: list[str]


def kind_of(url: str) -> str:
    """txt, csv, parquet or npy, by the extension. Raises SpecError for any other."""
    path = urlsplit(url).path if "://" in url else url
    kind = path.rpartition(".")[2].lower()
    if kind not in KINDS:
        raise SpecError(f"{url}: a list is a file named .txt, .csv, .parquet or .npy")
    return kind


def read_list(url: str, column: str = UID) -> ValueList:
    """The distinct values of a list file as codes, and the sha256 of its bytes.

    .txt: one value a line; empty lines and lines that begin with # do not count. .csv (with a head line) and .parquet:
    the column of that name; empty cells do not count. .npy: a DataComp subset, for uids only. Blanks around a value are
    taken off. Raises InputError: no such file, no such column, a line that is no uid (with its number), text that is
    not UTF-8, an unsorted subset; SpecError: an unknown kind of file.
    Memory: 16 bytes an entry, 40 more while they are sorted; a subset on local disk is mapped and takes none.
    """
    kind = kind_of(url)
    if kind == "npy":
        if column != UID:
            raise SpecError(f"{url}: a .npy subset holds uids; values of {column} are listed as .txt, .csv or .parquet")
        return ValueList(_distinct(read_subset(url)), _sha256(url))
    digest = hashlib.sha256()
    chunks = [codes for _, codes in _coded(url, kind, column, digest.update)]
    codes = np.concatenate(chunks) if chunks else np.empty(0, dtype=SUBSET)
    chunks.clear()
    return ValueList(_distinct(codes[np.lexsort((codes["f1"], codes["f0"]))]), digest.hexdigest())


def some_values(url: str, column: str, codes: Subset, wanted: NDArray[np.bool_], most: int) -> list[str]:
    """The first `most` values of the file, in its order, whose code is marked: codes [n] sorted, wanted bool [n].

    Memory: one batch of values.
    """
    if kind_of(url) == "npy":
        return [uid_at(codes, int(row)) for row in np.flatnonzero(wanted)[:most]]
    found: list[str] = []
    if not wanted.any():
        return found
    for batch, coded in _coded(url, kind_of(url), column, lambda data: None):
        at = positions(codes, coded["f0"], coded["f1"])
        for row in np.flatnonzero((at >= 0) & wanted[at]):
            if batch.values[row] not in found:
                found.append(batch.values[row])
            if len(found) == most:
                return found
    return found


def code_texts(values: list[str]) -> Subset:
    """128-bit hashes of texts (blake2b), in their order."""
    digests = b"".join(
        hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=16, person=b"curate.list").digest()
        for value in values
    )
    return np.frombuffer(digests, SUBSET)


def _distinct(codes: Subset) -> Subset:
    """A sorted array without repeats; the array itself (which may be mapped) when it has none."""
    new = np.concatenate([np.empty(0, dtype=bool), *fresh(codes)])
    return codes if new.all() else codes[new]


# --- values in batches ------------------------------------------------------------------------------------------------


def _coded(url: str, kind: str, column: str, seen: Callable[[bytes], None]) -> Iterator[tuple[_Batch, Subset]]:
    """The values of a file with their codes; `seen` is given every byte of it."""
    if kind == "txt":
        batches = _txt(url, seen)
    elif kind == "csv":
        batches = _csv(url, column, seen)
    else:
        batches = _parquet(url, column, seen)
    for batch in batches:
        if batch.values:
            yield batch, _codes(url, "row" if kind == "parquet" else "line", column, batch)


def _codes(url: str, unit: str, column: str, batch: _Batch) -> Subset:
    if column != UID:
        return code_texts(batch.values)
    bad = [n for n, value in enumerate(batch.values) if len(value) != 32]
    if not bad:
        letters = np.frombuffer("".join(batch.values).encode("ascii", "replace"), np.uint8)
        digits = _DIGITS[letters].reshape(-1, 32)
        bad = np.flatnonzero((digits > 15).any(axis=1)).tolist()
    if bad:
        value = batch.values[bad[0]]
        shown = value if len(value) <= 60 else f"{value[:60]}..."
        raise InputError(
            f"{url}: {unit} {batch.places[bad[0]]:,}: {shown!r} is not a uid, which is 32 hexadecimal digits; mend or "
            "remove it, or name the column that the list holds with the option column"
        )
    octets = (digits[:, 0::2] << 4) | digits[:, 1::2]
    words = octets.view(">u8")
    return records(words[:, 0], words[:, 1])


def _lines(url: str, seen: Callable[[bytes], None]) -> Iterator[tuple[int, list[str]]]:
    """Lines without their ends, 8 MiB of them together, and the number of the first. Memory: 12 times that."""
    number, rest = 1, b""
    with urls.open_read(url) as handle:
        while chunk := _read(url, handle):
            seen(chunk)
            block, end, rest = (rest + chunk).rpartition(b"\n")
            lines = _text(url, number, block).split("\n") if end else []
            yield number, lines
            number += len(lines)
            if len(rest) > _LONGEST:
                raise InputError(f"{url}: line {number:,} goes on for more than 1 MiB; this is no list")
    if rest:
        yield number, [_text(url, number, rest)]


def _read(url: str, handle: BinaryIO) -> bytes:
    try:
        return handle.read(_CHUNK)
    except OSError as error:
        raise urls.unreadable(url, error) from error


def _text(url: str, number: int, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = number + data.count(b"\n", 0, error.start)
        raise InputError(f"{url}: line {line:,} is not UTF-8; save the list as UTF-8 text") from error


def _txt(url: str, seen: Callable[[bytes], None]) -> Iterator[_Batch]:
    for first, lines in _lines(url, seen):
        kept = [(n, value) for n, line in enumerate(lines, first) if (value := line.strip()) and value[0] != "#"]
        yield _Batch([n for n, _ in kept], [value for _, value in kept])


def _csv(url: str, column: str, seen: Callable[[bytes], None]) -> Iterator[_Batch]:
    reader = csv.reader((f"{line}\n" for _, lines in _lines(url, seen) for line in lines), strict=True)
    try:
        at = _column_at(url, column, [name.strip() for name in next(reader, [])])
        while rows := [(reader.line_num, row) for row in itertools.islice(reader, _BATCH)]:
            if short := next((n for n, row in rows if len(row) <= at and any(map(str.strip, row))), None):
                raise InputError(f"{url}: line {short:,} has fewer cells than the head line, and no {column}; mend it")
            kept = [(n, value) for n, row in rows if len(row) > at and (value := row[at].strip())]
            yield _Batch([n for n, _ in kept], [value for _, value in kept])
    except csv.Error as error:
        raise InputError(f"{url}: line {reader.line_num:,} is not CSV ({error}); mend it") from error


def _parquet(url: str, column: str, seen: Callable[[bytes], None]) -> Iterator[_Batch]:
    fs, path = urls.resolve(url)
    source: Any = path
    if urls.is_local(fs):
        _each_chunk(url, seen)
    else:
        with urls.open_read(url) as handle:
            data = handle.read()
        seen(data)
        source = io.BytesIO(data)
    try:
        table = pl.scan_parquet(source, glob=False) if isinstance(source, str) else pl.read_parquet(source).lazy()
        schema = table.collect_schema()
        _column_at(url, column, schema.names())
        if schema[column] != pl.String:
            raise InputError(f"{url}: the column {column} holds {schema[column]}, a list holds texts; write it as text")
        rows = int(table.select(pl.len()).collect().item())
        for start in range(0, rows, _BATCH):
            values = table.select(column).slice(start, _BATCH).collect().to_series().to_list()
            kept = [(n, text) for n, value in enumerate(values, start) if value and (text := value.strip())]
            yield _Batch([n for n, _ in kept], [text for _, text in kept])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{url}: cannot be read as Parquet ({error}); write it again") from error


def _column_at(url: str, column: str, names: list[str]) -> int:
    if column not in names:
        raise InputError(
            f"{url}: has no column named {column}; it has {', '.join(names) or 'none'}: rename it, or name the column "
            "that is meant with the option column"
        )
    return names.index(column)


def _sha256(url: str) -> str:
    digest = hashlib.sha256()
    _each_chunk(url, digest.update)
    return digest.hexdigest()


def _each_chunk(url: str, seen: Callable[[bytes], None]) -> None:
    with urls.open_read(url) as handle:
        while chunk := handle.read(_CHUNK):
            seen(chunk)
