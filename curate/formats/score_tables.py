"""Tables that say something of samples: scores, predictions, runs of training. CSV, text, Parquet or `.npz`.

A table is opened once (its bytes are hashed) and then read by ranges of rows, so that many workers share it. Which
columns it must have, and what they mean, is known to the stage that asks. What never lives here: samples, scores.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, SpecError
from curate.formats import score_arrays
from curate.formats.arrow import DAMAGE, NotReadable, Table, one_line
from curate.store import urls

Kind = Literal["text", "number", "vector"]
Batch = Mapping[str, pl.Series | NDArray[Any]]
"""Some rows: a polars Series for each column of texts or numbers, an array [rows, width] for each of vectors."""
_CHUNK = 8 << 20
_ROWS = 1024
"""Rows of a Parquet batch: 1,000 classes in float64 are then 8 MiB."""
_QUOTE, _END = ord('"'), ord("\n")


@dataclass(frozen=True)
class Field:
    """A column: what it holds; of a vector its length (0: not known before it is read) and type."""

    kind: Kind
    width: int = 0
    dtype: str = ""


@dataclass(frozen=True)
class Piece:
    """Rows that are read together: lines of a CSV by bytes, a row group of a Parquet file."""

    first: int
    rows: int
    start: int
    stop: int


@dataclass(frozen=True)
class ScoreTable:
    """An opened table."""

    url: str
    kind: Literal["csv", "parquet", "npz"]
    rows: int
    fields: Mapping[str, Field]
    sha256: str
    etag: str
    pieces: tuple[Piece, ...] = ()
    arrays: Mapping[str, score_arrays.Member] = field(default_factory=dict)
    headed: bool = True
    """Whether a CSV names its columns; otherwise they are column_1, column_2, ..."""

    def place(self, row: int) -> str:
        """Where a row (from 0) stands, as people count."""
        return f"line {row + 1 + self.headed:,}" if self.kind == "csv" else f"row {row:,}"

    def described(self) -> str:
        """The columns with what they hold, for messages."""
        return ", ".join(f"{name} ({one.kind})" for name, one in self.fields.items()) or "none"


def open_table(url: str, names: Collection[str] = ()) -> ScoreTable:
    """Open a table: its columns, its rows, the sha256 of its bytes, and where it may be cut.

    .csv and .tsv with a head line or without one, .txt (one text a line, no head line), .parquet, .npz (arrays of
    one length). `names` are known column names: a one-column CSV has a head line only if that is one of them.
    Reads the file once. Memory: 8 MiB of text a few times over. Raises InputError for a file that is gone or damaged,
    SpecError for an unknown kind.
    """
    path = urlsplit(url).path if "://" in url else url
    kind = path.rpartition(".")[2].lower()
    etag = urls.etag(url)
    if kind in ("csv", "tsv", "txt"):
        return _open_csv(url, etag, names, kind)
    if kind not in ("parquet", "npz"):
        raise SpecError(f"{url}: a table of scores is a file named .csv, .tsv, .txt, .parquet or .npz")
    digest = hashlib.sha256()
    with urls.open_read(url) as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
    if kind == "parquet":
        return _open_parquet(url, etag, digest.hexdigest())
    arrays = score_arrays.members(url)
    fields = {name: _field_of(array) for name, array in arrays.items()}
    lengths = {array.shape[0] for array in arrays.values() if len(array.shape)}
    rows = lengths.pop() if len(lengths) == 1 else 0
    return ScoreTable(url, "npz", rows, fields, digest.hexdigest(), etag, arrays=arrays)


def read_table(table: ScoreTable, names: Collection[str], start: int, stop: int) -> Iterator[tuple[int, Batch]]:
    """Columns of rows [start, stop), a batch at a time, with the number of its first row.

    Memory: one batch: 8 MiB of a file, or 1,024 rows of Parquet. A row group that overlaps the range is read from its
    beginning. Raises InputError: the file changed since it was opened, or is damaged.
    """
    if urls.etag(table.url) != table.etag:
        raise InputError(f"{table.url}: the table changed while the run was at work; run the same command again")
    if table.kind == "npz":
        yield from _npz_rows(table, names, start, stop)
        return
    for piece in table.pieces:
        if piece.first + piece.rows <= start or piece.first >= stop:
            continue
        parts = _csv_piece(table, piece, names) if table.kind == "csv" else _parquet_piece(table, piece, names)
        for first, batch in parts:
            rows = len(next(iter(batch.values())))
            low, high = max(start - first, 0), min(stop - first, rows)
            if low < high:
                yield first + low, {name: column[low:high] for name, column in batch.items()}


# --- values -----------------------------------------------------------------------------------------------------------


def numbers(table: ScoreTable, name: str, first: int, column: pl.Series) -> NDArray[np.float64]:
    """A column as float64; NaN for empty cells. Raises InputError with the place of a cell that is no number."""
    column = column.str.strip_chars() if column.dtype == pl.String else column
    values = column.cast(pl.Float64, strict=False)
    bad = values.is_null() & column.is_not_null()
    if column.dtype == pl.String:
        bad &= column != ""
    if bad.any():
        row = int(bad.arg_true()[0])
        raise InputError(
            f"{table.url}: {table.place(first + row)}: the column {name} holds {str(column[row])[:60]!r}, no number"
        )
    return values.fill_null(np.nan).to_numpy()


def whole_numbers(table: ScoreTable, name: str, first: int, column: pl.Series) -> NDArray[np.int64]:
    """A column as int64. Raises InputError with the place of an empty cell or one that is no whole number."""
    values = numbers(table, name, first, column)
    bad = ~np.isfinite(values) | (np.rint(values) != values) | (np.abs(values) > 2.0**53)
    if bad.any():
        row = int(bad.argmax())
        raise InputError(
            f"{table.url}: {table.place(first + row)}: the column {name} holds {column[row]!r}, no whole number"
        )
    return values.astype(np.int64)


def truths(table: ScoreTable, name: str, first: int, column: pl.Series) -> NDArray[np.bool_]:
    """A column as bool: true, false, 1 or 0 in any case. Raises InputError with the place of any other cell."""
    words = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    values = words.replace_strict(
        {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False},
        default=None, return_dtype=pl.Boolean,
    )  # fmt: skip
    if values.null_count():
        row = int(values.is_null().arg_true()[0])
        raise InputError(
            f"{table.url}: {table.place(first + row)}: the column {name} holds {column[row]!r}, not true or false"
        )
    return values.to_numpy()


# --- CSV --------------------------------------------------------------------------------------------------------------


def _open_csv(url: str, etag: str, known: Collection[str], kind: str) -> ScoreTable:
    digest, pieces, names, headed = hashlib.sha256(), list[Piece](), list[str](), False
    numeric: list[bool] = []
    first = at = 0
    for block in _blocks(url, digest):
        start = at
        at += len(block)
        if not names:
            names, headed = _names(url, block, known, kind)
            numeric = [True] * len(names)
        frame = _parsed(url, block, names, start == 0 and headed, first)
        pieces.append(Piece(first, frame.height, start, at))
        first += frame.height
        for i, name in enumerate(names):
            if numeric[i]:
                cells = frame[name].str.strip_chars()
                numeric[i] = not (cells.cast(pl.Float64, strict=False).is_null() & (cells != "")).any()
    if not names:
        raise InputError(f"{url}: is empty")
    fields = {name: Field("number" if yes else "text") for name, yes in zip(names, numeric, strict=True)}
    return ScoreTable(url, "csv", first, fields, digest.hexdigest(), etag, tuple(pieces), headed=headed)


def _blocks(url: str, digest: Any) -> Iterator[bytes]:
    """The file in pieces of about 8 MiB that end at the end of a line, outside of quotes."""
    rest = b""
    with urls.open_read(url) as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            block = rest + chunk
            letters = np.frombuffer(block, np.uint8)
            ends = np.flatnonzero(letters == _END)
            if b'"' in block:
                ends = ends[np.searchsorted(np.flatnonzero(letters == _QUOTE), ends) % 2 == 0]
            cut = int(ends[-1]) + 1 if len(ends) else 0
            rest = block[cut:]
            if len(rest) > 4 * _CHUNK:
                raise InputError(f"{url}: a line goes on for more than 32 MiB; this is no table")
            if cut:
                yield block[:cut]
    if rest:
        yield rest


def _separator(url: str) -> str:
    return "\t" if url.lower().endswith(".tsv") else ","


def _names(url: str, block: bytes, known: Collection[str], kind: str) -> tuple[list[str], bool]:
    """Names of the columns, and whether the first line gives them."""
    if kind == "txt":
        return ["column_1"], False
    cells = [str(cell or "").strip() for cell in _read(url, block, None, False, 1, 0).row(0)]
    number = [_is_number(cell) for cell in cells]
    # pandas writes a Series as ",0": an empty cell only stands in a head line
    headed = ("" in cells and len(cells) > 1) or not any(number)
    if len(cells) == 1 and cells[0].lower() not in {name.lower() for name in known}:
        headed = False
    if not headed:
        return [f"column_{i + 1}" for i in range(len(cells))], False
    names = [cell or f"column_{i + 1}" for i, cell in enumerate(cells)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{url}: two columns are named {twice[0]}; rename one")
    return names, True


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parsed(url: str, block: bytes, names: list[str], headed: bool, first: int) -> pl.DataFrame:
    frame = _read(url, block, names, headed, None, first)
    return frame.filter(~pl.all_horizontal(pl.all().is_null())) if frame.width > 1 else frame.drop_nulls()


def _read(url: str, block: bytes, names: list[str] | None, headed: bool, rows: int | None, first: int) -> pl.DataFrame:
    try:
        frame = pl.read_csv(
            io.BytesIO(block), has_header=False, skip_rows=int(headed), infer_schema=False, n_rows=rows,
            separator="\x01" if names == ["column_1"] and url.lower().endswith(".txt") else _separator(url),
            quote_char=None if url.lower().endswith(".txt") else '"', raise_if_empty=False,
        )  # fmt: skip
    except pl.exceptions.PolarsError as error:
        raise InputError(
            f"{url}: at or after row {first:,}: cannot be read as CSV ({one_line(error)}); mend it"
        ) from error
    if names is not None and frame.width < len(names):
        frame = frame.with_columns(
            pl.lit(None, pl.String).alias(f"column_{i + 1}") for i in range(frame.width, len(names))
        )
    return frame if names is None else frame.rename(dict(zip(frame.columns, names, strict=True)))


def _csv_piece(table: ScoreTable, piece: Piece, names: Collection[str]) -> Iterator[tuple[int, Batch]]:
    block = urls.read_range(table.url, piece.start, piece.stop - piece.start)
    frame = _parsed(table.url, block, list(table.fields), piece.start == 0 and table.headed, piece.first)
    yield piece.first, {name: frame[name] for name in names}


# --- Parquet ----------------------------------------------------------------------------------------------------------


def _open_parquet(url: str, etag: str, sha256: str) -> ScoreTable:
    import pyarrow as pa

    def field_of(one: Any) -> Field:
        if pa.types.is_list(one.type) or pa.types.is_large_list(one.type) or pa.types.is_fixed_size_list(one.type):
            width = one.type.list_size if pa.types.is_fixed_size_list(one.type) else 0
            return Field("vector", width, str(np.dtype(one.type.value_type.to_pandas_dtype()).str))
        text = pa.types.is_string(one.type) or pa.types.is_large_string(one.type) or pa.types.is_string_view(one.type)
        return Field("text" if text or pa.types.is_dictionary(one.type) else "number")

    with _table(url) as opened:
        fields = {one.name: field_of(one) for one in opened.schema}
        pieces, first = [], 0
        for group, rows in enumerate(opened.group_rows):
            pieces.append(Piece(first, rows, group, group + 1))
            first += rows
        for name, one in fields.items():
            if one.kind == "vector" and not one.width and first:
                batch = next(opened.batches(0, [name], 1))
                fields[name] = Field("vector", len(batch.column(0)[0] or ()), one.dtype)
    return ScoreTable(url, "parquet", first, fields, sha256, etag, tuple(pieces))


def _table(url: str) -> Table:
    try:
        return Table(url, urls.size(url))
    except NotReadable as error:
        raise InputError(f"{url}: {error}; write it again") from error


def _parquet_piece(table: ScoreTable, piece: Piece, names: Collection[str]) -> Iterator[tuple[int, Batch]]:
    with _table(table.url) as opened:
        first = piece.first
        try:
            for batch in opened.batches(piece.start, list(names), _ROWS):
                yield first, {name: _column(table, name, first, batch.column(name)) for name in names}
                first += batch.num_rows
        except DAMAGE as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{table.url}: row {first:,}: cannot be read ({one_line(error)}); write it again"
            ) from error


def _column(table: ScoreTable, name: str, first: int, array: Any) -> pl.Series | NDArray[Any]:
    of = table.fields[name]
    if of.kind != "vector":
        return pl.Series(name, pl.from_arrow(array))
    values = array.flatten()
    lengths = np.diff(np.asarray(array.offsets)) if hasattr(array, "offsets") else np.full(len(array), of.width)
    if array.null_count or values.null_count or (lengths != of.width).any():
        row = int((lengths != of.width).argmax())
        raise InputError(
            f"{table.url}: row {first + row:,}: the column {name} has {int(lengths[row]):,} values or nulls, other "
            f"rows {of.width:,}; every row needs as many"
        )
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(array), of.width)


# --- npz --------------------------------------------------------------------------------------------------------------


def _field_of(array: score_arrays.Member) -> Field:
    if np.dtype(array.dtype).kind in "US":
        return Field("text")
    return Field("vector", array.shape[1], array.dtype) if len(array.shape) > 1 else Field("number")


def _npz_rows(table: ScoreTable, names: Collection[str], start: int, stop: int) -> Iterator[tuple[int, Batch]]:
    widths = [max(1, int(np.prod(table.arrays[name].shape[1:], dtype=np.int64))) for name in names]
    step = max(1, min(1 << 16, _CHUNK // (8 * max(widths, default=1))))
    readers = {name: _even(score_arrays.read_rows(table.url, table.arrays[name], start, stop), step) for name in names}
    for first in range(start, stop, step):
        batch: dict[str, pl.Series | NDArray[Any]] = {}
        for name, reader in readers.items():
            rows = next(reader)
            batch[name] = rows if table.fields[name].kind == "vector" else _series(name, rows)
        yield first, batch


def _even(chunks: Iterator[tuple[int, NDArray[Any]]], step: int) -> Iterator[NDArray[Any]]:
    """The same rows, `step` at a time."""
    held: list[NDArray[Any]] = []
    count = 0
    for _, chunk in chunks:
        held.append(chunk)
        count += len(chunk)
        while count >= step:
            rows = np.concatenate(held) if len(held) > 1 else held[0]
            yield rows[:step]
            held, count = [rows[step:]], count - step
    if count:
        yield np.concatenate(held)


def _series(name: str, rows: NDArray[Any]) -> pl.Series:
    if rows.dtype.kind == "S":
        return pl.Series(name, [value.decode("utf-8", "replace") for value in rows.tolist()], dtype=pl.String)
    return pl.Series(name, rows.tolist(), dtype=pl.String) if rows.dtype.kind == "U" else pl.Series(name, rows)
