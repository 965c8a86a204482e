"""Lists of the images that the rows of an array without names belong to, in the order of the rows.

What never lives here: whether the order is the right one (curate/evaluate/order.py).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl

from curate.errors import InputError
from curate.formats.arrow import one_line
from curate.store import urls

MAX_BYTES = 1 << 30
NAME_COLUMNS = ("name", "image", "file", "filename", "file_name", "key", "id", "image_id", "imageid", "path")
LABEL_COLUMNS = ("original_label", "label", "class", "target", "wnid", "synset", "class_id")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Names of images, row by row, each once; `labels`: the class of each as it is written, or None."""

    names: tuple[str, ...]
    labels: tuple[str, ...] | None
    url: str


def read_order(url: str) -> RowOrder:
    """A list of images with or without labels.

    json: a list of names or of [name, class] pairs, or an object with such a list as `image_filenames` (ImageNetV2's
    repository). csv and parquet: a column of names, and one of labels. txt: a name a line, or name and class parted by
    blanks. Memory: the file, and about 200 bytes a row. Raises InputError for anything else and for a name given twice.
    """
    data = read_bytes(url)
    kind = PurePosixPath(url).suffix.lower()
    if kind == ".json":
        names, labels = _of_json(parse_json(data, url), url)
    elif kind in (".csv", ".tsv", ".parquet"):
        table = read_table(data, url)
        names = texts(table, pick(table.columns, NAME_COLUMNS, url, "names"), url)
        column = next((c for c in table.columns if c.lower() in LABEL_COLUMNS), None)
        labels = None if column is None else texts(table, column, url)
    elif kind in (".txt", ".lst", ""):
        rows = [line.split() for line in decoded(data, url).splitlines() if line.strip()]
        names = [row[0] for row in rows]
        labels = [row[1] for row in rows] if rows and all(len(row) == 2 for row in rows) else None
    else:
        raise InputError(f"{url}: a list of images ends in .json, .csv, .tsv, .parquet or .txt.")
    if not names:
        raise InputError(f"{url}: lists no images.")
    unique(names, url, "row")
    return RowOrder(tuple(names), None if labels is None else tuple(labels), url)


def _of_json(value: Any, url: str) -> tuple[list[str], list[str] | None]:
    rows = value.get("image_filenames") if isinstance(value, dict) else value
    if isinstance(rows, list) and all(isinstance(row, str) for row in rows):
        return rows, None
    pair = (str, str | int)
    if isinstance(rows, list) and all(
        isinstance(row, list) and len(row) == 2 and isinstance(row[0], pair[0]) and isinstance(row[1], pair[1])
        for row in rows
    ):
        return [row[0] for row in rows], [str(row[1]) for row in rows]
    raise InputError(
        f"{url}: is no list of images; wanted a list of names or of [name, class] pairs, bare or as image_filenames."
    )


def places(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where each wanted name stands among names: int64 [len(wanted)], -1 = not there.

    Names are compared whole; when no whole name is found, by their last path component without its extension, if that
    is different for all names.
    """
    at = {name: row for row, name in enumerate(names)}
    found = np.fromiter((at.get(name, -1) for name in wanted), np.int64, len(wanted))
    if (found >= 0).any() or not len(wanted):
        return found
    at = {stem(name): row for row, name in enumerate(names)}
    if len(at) < len(names) or len({stem(name) for name in wanted}) < len(wanted):
        return found
    return np.fromiter((at.get(stem(name), -1) for name in wanted), np.int64, len(wanted))


def stem(name: str) -> str:
    """`val/n01440764/ILSVRC2012_val_00000293.JPEG` -> `ILSVRC2012_val_00000293`."""
    last = name.rpartition("/")[2]
    head, dot, _ = last.rpartition(".")
    return head if dot and head else last


def unique(names: Sequence[str], url: str, unit: str) -> None:
    """Raise InputError when a name stands twice."""
    seen: dict[str, int] = {}
    for row, name in enumerate(names):
        if seen.setdefault(name, row) != row:
            raise InputError(f"{url}: {unit}s {seen[name] + 1:,} and {row + 1:,} are both {name}; each may stand once.")


def some_of(names: Sequence[str]) -> str:
    """The first names of a list, for a sentence."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# --- reading files ----------------------------------------------------------------------------------------------------


def read_bytes(url: str) -> bytes:
    """All bytes of a file of at most 1 GiB. Raises InputError."""
    try:
        with urls.open_read(url) as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as err:
        raise urls.unreadable(url, err) from err
    if len(data) > MAX_BYTES:
        raise InputError(f"{url}: has more than {MAX_BYTES:,} bytes; is it the right file?")
    return data


def decoded(data: bytes, url: str) -> str:
    """Text of UTF-8 bytes. Raises InputError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        raise InputError(f"{url}: is not UTF-8 text (byte {err.start:,}); convert it.") from err


def parse_json(data: bytes, url: str) -> Any:
    """The value of a JSON file. Raises InputError."""
    try:
        return json.loads(decoded(data, url))
    except (ValueError, RecursionError) as err:
        raise InputError(f"{url}: is no JSON ({one_line(err)}).") from err


def read_table(data: bytes, url: str) -> pl.DataFrame:
    """A table of a csv, tsv or parquet file; every column of a text file is text. Raises InputError."""
    if data[:4] == b"PAR1":
        try:
            return pl.read_parquet(io.BytesIO(data))
        except (pl.exceptions.PolarsError, OSError) as err:
            raise InputError(f"{url}: cannot be read as Parquet ({one_line(err)}).") from err
    delimiter = "\t" if PurePosixPath(url).suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(decoded(data, url), newline=""), delimiter=delimiter)
    try:
        rows = [row for row in reader if row]
    except csv.Error as err:
        raise InputError(f"{url}, line {reader.line_num}: {err}.") from err
    if not rows:
        raise InputError(f"{url}: is empty.")
    head, *body = rows
    if len(set(head)) < len(head):
        raise InputError(f"{url}: the heading names a column twice ({', '.join(head)}).")
    wrong = next((n for n, row in enumerate(body, 2) if len(row) != len(head)), 0)
    if wrong:
        raise InputError(f"{url}, row {wrong}: has {len(body[wrong - 2])} columns, the heading has {len(head)}.")
    return pl.DataFrame({name: [row[i] for row in body] for i, name in enumerate(head)}, strict=False)


def pick(columns: Sequence[str], known: Sequence[str], url: str, what: str) -> str:
    """The column that holds `what`: the first of the known names. Raises InputError."""
    by_name: Mapping[str, str] = {column.lower(): column for column in reversed(columns)}
    for name in known:
        if name in by_name:
            return by_name[name]
    raise InputError(f"{url}: has the columns {', '.join(columns)}; {what} belong in one called {' or '.join(known)}.")


def texts(table: pl.DataFrame, column: str, url: str) -> list[str]:
    """A column of texts or whole numbers as text. Raises InputError for other types and empty cells."""
    held = table[column]
    if not (held.dtype == pl.String or held.dtype.is_integer()):
        raise InputError(f"{url}: column {column} is {held.dtype}; wanted text or whole numbers.")
    values = [value.strip() if value else "" for value in held.cast(pl.String)]
    if "" in values:
        raise InputError(f"{url}, row {values.index('') + 1}: column {column} is empty.")
    return values
