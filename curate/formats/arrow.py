"""Parquet files wherever they lie, read a few rows at a time, and rows of them as JSON text.

What never lives here: what the columns mean (parquet.py, clip_retrieval.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from curate.errors import InputError
from curate.store import urls
from curate.store.ranges import RangeFile

BATCH_ROWS = 64
#: A remote row group of at most this many compressed bytes is fetched whole, in few requests; a larger one in pieces.
PREFETCH_BYTES = 256 << 20
_LOCAL_PIECE, _REMOTE_PIECE = 1 << 20, 8 << 20
_MAGIC = b"PAR1"
_PLAIN = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
BYTES = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
#: What pyarrow raises for a damaged file; its own errors are a ValueError or an OSError besides.
DAMAGE = (pa.ArrowException, OSError, ValueError)


class NotReadable(Exception):
    """A file that is no whole Parquet file: `reason` is one word, the message a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Table:
    """One open Parquet file. Raises InputError when it is gone, NotReadable when it cannot be understood."""

    def __init__(self, url: str, nbytes: int) -> None:
        self.url = url
        fs, path = urls.resolve(url)
        self.local = urls.is_local(fs)
        if self.local:
            urls.open_read(url).close()  # the sentence for a file that is gone
        source = path if self.local else RangeFile(_fetched(url), nbytes)
        try:
            # pieces, not column chunks: a row group of any size is then read in bounded memory
            piece = _LOCAL_PIECE if self.local else _REMOTE_PIECE
            self._file = pq.ParquetFile(source, buffer_size=piece, pre_buffer=False, page_checksum_verification=True)
            self._whole = (
                None
                if self.local
                else pq.ParquetFile(source, metadata=self._file.metadata, page_checksum_verification=True)
            )
            self.schema: Any = self._file.schema_arrow
        except DAMAGE as err:
            raise _not_readable(url, nbytes, err) from err
        meta = self._file.metadata
        self.group_rows: list[int] = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        self.rows: int = sum(self.group_rows)
        names = self.schema.names
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{url}: two columns are named {twice[0]}; rename one.")

    def described(self) -> str:
        """The columns with their types, for messages."""
        return ", ".join(f"{field.name} ({field.type})" for field in self.schema) or "none"

    def plain_leaves(self, without: Collection[str] = ()) -> list[str]:
        """Paths of all leaf columns that hold no raw bytes, but for the top-level columns `without`."""
        leaves = []
        schema = self._file.schema
        for i in range(len(schema.names)):
            leaf = schema.column(i)
            binary = leaf.physical_type in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY") and leaf.logical_type.type == "NONE"
            top = leaf.path if leaf.path in without else leaf.path.split(".", 1)[0]
            if not binary and top not in without:
                leaves.append(leaf.path)
        return leaves

    def batches(self, group: int, leaves: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[Any]:
        """Record batches of at most `rows` rows of one row group. Memory: two batches, a page and a piece of a file.

        Raises one of DAMAGE where the file is damaged; a remote file that cannot be fetched is an InputError.
        """
        meta = self._file.metadata.row_group(group)
        nbytes = sum(meta.column(i).total_compressed_size for i in range(meta.num_columns))
        file = self._whole if self._whole is not None and nbytes <= PREFETCH_BYTES else self._file
        yield from file.iter_batches(rows, row_groups=[group], columns=list(leaves), use_threads=False)

    def close(self) -> None:
        """Release the file."""
        for file in (self._file, self._whole):
            if file is not None:
                file.close(force=True)

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def text_column(table: Table, asked: str, option: str) -> str:
    """The first of the names in `asked` (separated by ;) that is a column of texts or bytes.

    option: what the user would change. Raises InputError, which names the columns that are there.
    """
    names = asked.split(";")
    column = next((name for name in names if name in table.schema.names), None)
    kind = table.schema.field(column).type if column else None
    if column is not None and any(is_(kind) for is_ in (*TEXT, *BYTES)):
        return column
    what = f"column {column} holds {kind}, not text" if column else f"there is no column {' or '.join(names)}"
    raise InputError(
        f"{table.url}: {what}; its columns are {table.described()}. Name the right one with input.{option}."
    )


def _fetched(url: str) -> Callable[[int, int], bytes]:
    def fetch(start: int, stop: int) -> bytes:
        data = urls.read_range(url, start, stop - start)
        if len(data) > stop - start:
            raise InputError(f"{url}: the server ignores range requests; copy the files to a disk or a bucket.")
        return data

    return fetch


def _not_readable(url: str, nbytes: int, err: Exception) -> NotReadable:
    head = urls.read_range(url, 0, 4) if nbytes else b""
    tail = urls.read_range(url, nbytes - 4, 4) if nbytes >= 8 else b""
    if head != _MAGIC:
        said = "the file has 0 bytes" if not nbytes else f"it begins with {head.hex(' ')}, not with PAR1"
        return NotReadable("empty" if not nbytes else "not_a_parquet", f"not a Parquet file: {said}")
    if tail != _MAGIC:
        return NotReadable("cut", f"the file stops after {nbytes:,} bytes without the footer that lists its rows")
    return NotReadable("garbage", f"the footer is damaged ({one_line(err)})")


def one_line(err: Exception) -> str:
    """An error's text on one line, cut."""
    return " ".join(str(err).split())[:200].rstrip(".") or type(err).__name__


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """Rows of a batch as dicts of Python values; times become text, and text that is not UTF-8 gets U+FFFD."""
    columns = {}
    for name in batch.schema.names:
        column = batch.column(name)
        if pa.types.is_temporal(column.type):
            column = pc.cast(column, pa.string())
        try:
            columns[name] = column.to_pylist()
        except UnicodeDecodeError:
            columns[name] = [_replaced(value) for value in column]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)] or [
        {} for _ in range(batch.num_rows)
    ]


def _replaced(value: Any) -> Any:
    if pa.types.is_string(value.type) or pa.types.is_large_string(value.type):
        raw = value.as_buffer()
        return None if raw is None else bytes(raw).decode("utf-8", "replace")
    try:
        return value.as_py()
    except UnicodeDecodeError:  # inside a list or struct: the value is left out
        return None


def is_plain(schema: Any) -> bool:
    """Whether `rows_of` gives only what JSON has: texts, whole numbers, floats, truth values."""
    return all(any(kind(field.type) for kind in _PLAIN) for field in schema)


def json_text(row: dict[str, Any]) -> bytes:
    """A row as one JSON object in UTF-8, in the order of the columns; NaN and infinity become null, others text."""
    try:
        text = json.dumps(row, ensure_ascii=False, allow_nan=False, default=_text)
    except ValueError:
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False, default=_text)
    return text.encode("utf-8", "replace")


def _text(value: Any) -> str | None:
    return None if isinstance(value, bytes) else str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value
