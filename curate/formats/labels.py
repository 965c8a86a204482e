"""Tables of labels for samples that carry none: key and label, or one label a line. Knows nothing of samples."""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import polars as pl

from curate.errors import InputError
from curate.store import urls

MAX_BYTES = 1 << 30
#: How the columns of a table may be called, in any case; `predictionstring` is Kaggle's and begins with the label.
KEY_NAMES = ("key", "imageid", "image_id", "image", "id", "filename", "file_name", "file", "path", "name")
LABEL_NAMES = (
    "label", "labels", "class", "cls", "class_id", "class_index", "synset", "wnid", "category", "target",
    "predictionstring",
)  # fmt: skip
_NUMBER = re.compile(r"\d+\Z")
_WANTED = "a table has a key and a label a line, or one label a line"


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Which table: where it is, and the sha256 of its bytes (hex)."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Labels by key, or by number: ``lines[n - 1]`` belongs to the sample whose key ends in the number n."""

    by_key: dict[str, str] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def get(self, key: str) -> str | None:
        """The label of a sample; None when the table has none. Keys match whole, else by their last path component."""
        name = key.rpartition("/")[2]
        if not self.lines:
            return self.by_key.get(key) or self.by_key.get(name)
        match = _NUMBER.search(name)
        number = int(match[0][-18:]) if match else 0
        return self.lines[number - 1] if 1 <= number <= len(self.lines) else None


def open_labels(url: str) -> LabelSource:
    """Read a table once to check it and to name it by its content. Raises InputError with the line that is wrong."""
    data = _read(url)
    source = LabelSource(url, hashlib.sha256(data).hexdigest())
    _table(source)
    return source


def labels_of(source: LabelSource) -> LabelTable:
    """The table of a source, read once a process. Memory: the file, then about 200 bytes a label.

    Raises :class:`InputError` when the file is gone, or is not the one that was planned with.
    """
    return _table(source)


@lru_cache(maxsize=2)
def _table(source: LabelSource) -> LabelTable:
    data = _read(source.url)
    if hashlib.sha256(data).hexdigest() != source.sha256:
        raise InputError(f"{source.url}: the table of labels changed while the run was going on; run again.")
    return parse_labels(data, source.url)


def _read(url: str) -> bytes:
    try:
        with urls.open_read(url) as handle:
            data = handle.read(MAX_BYTES + 1)
    except OSError as err:
        raise urls.unreadable(url, err) from err
    if len(data) > MAX_BYTES:
        raise InputError(f"{url}: a table of labels may have {MAX_BYTES:,} bytes; put labels into the shards instead.")
    return data


def parse_labels(data: bytes, url: str) -> LabelTable:
    """A table from the bytes of a csv, tsv, space-separated or Parquet file; see docs/formats/inputs.md.

    Keys are cut at the first dot of their last path component, as member names are. Raises :class:`InputError`.
    """
    if data[:4] == b"PAR1":
        return LabelTable(_by_key(_parquet_rows(data, url), url, "row"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as err:
        line = data[: err.start].count(b"\n") + 1
        raise InputError(f"{url}, line {line}: is not UTF-8 text (byte 0x{data[err.start]:02x}); convert it.") from err
    rows = [(number, row) for number, row in _rows(text, url) if row]
    if not rows:
        raise InputError(f"{url}: the table of labels is empty; {_WANTED}.")
    first_number, first = rows[0]
    if len(first) == 1:
        return LabelTable(lines=_one_a_line(rows, url))
    columns = _columns(first)
    if columns is None and len(first) != 2:
        raise InputError(
            f"{url}, line {first_number}: has {len(first)} columns and no heading that names key and label; {_WANTED}."
        )
    prediction = columns is not None and first[columns[1]].lower() == "predictionstring"
    pairs = _pairs(rows[columns is not None :], columns or (0, 1), len(first), prediction, url)
    return LabelTable(_by_key(pairs, url, "line"))


def _rows(text: str, url: str) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each line, split at tabs, else commas, else blanks, as the first line has them."""
    head = next((line for line in text.splitlines() if line.strip()), "")
    if "\0" in text:
        raise InputError(f"{url}, line {text[: text.index(chr(0))].count(chr(10)) + 1}: holds a zero byte; {_WANTED}.")
    delimiter = "\t" if "\t" in head else "," if "," in head else None
    if delimiter is None:
        yield from ((number, line.split()) for number, line in enumerate(text.splitlines(), 1))
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            yield reader.line_num, cells if any(cells) else []
    except csv.Error as err:
        raise InputError(f"{url}, line {reader.line_num}: {err}.") from err


def _columns(heading: list[str]) -> tuple[int, int] | None:
    """Places of key and label when the line is a heading that names both."""
    names = [cell.lower() for cell in heading]
    key = next((names.index(name) for name in KEY_NAMES if name in names), None)
    label = next((names.index(name) for name in LABEL_NAMES if name in names), None)
    return None if key is None or label is None else (key, label)


def _one_a_line(rows: list[tuple[int, list[str]]], url: str) -> tuple[str, ...]:
    if rows[0][1][0].lower() in LABEL_NAMES:
        raise InputError(
            f"{url}, line 1: is a heading; with one label a line, line n belongs to the sample whose key ends in n, "
            "so remove it, or add a column of keys."
        )
    for expected, (number, row) in enumerate(rows, 1):
        if number != expected:
            raise InputError(f"{url}, line {expected}: is empty; with one label a line every line must hold one.")
        if len(row) != 1:
            raise InputError(f"{url}, line {number}: has {len(row)} columns where line 1 has one; {_WANTED}.")
    return tuple(row[0] for _, row in rows)


def _pairs(
    rows: list[tuple[int, list[str]]], columns: tuple[int, int], width: int, prediction: bool, url: str
) -> Iterator[tuple[int, str, str]]:
    for number, row in rows:
        if len(row) != width:
            raise InputError(f"{url}, line {number}: has {len(row)} columns where the first line has {width}.")
        key, label = row[columns[0]], row[columns[1]]
        yield number, key, label.split(maxsplit=1)[0] if prediction and label else label


def _parquet_rows(data: bytes, url: str) -> Iterator[tuple[int, str, str]]:
    try:
        names = list(pl.read_parquet_schema(io.BytesIO(data)))
        places = _columns(names)
        if places is None:
            raise InputError(
                f"{url}: has the columns {', '.join(names)}; name one key and one label "
                f"(known names: {', '.join(KEY_NAMES)}; {', '.join(LABEL_NAMES)})."
            )
        key, label = names[places[0]], names[places[1]]
        table = pl.read_parquet(io.BytesIO(data), columns=[key, label])
    except (pl.exceptions.PolarsError, OSError) as err:
        raise InputError(f"{url}: cannot be read as Parquet ({str(err)[:200]}).") from err
    for name in (key, label):
        if not (table[name].dtype.is_integer() or table[name].dtype == pl.String):
            raise InputError(f"{url}: column {name} is {table[name].dtype}; keys and labels are text or whole numbers.")
    text = table.select(pl.col(key).cast(pl.String).alias("key"), pl.col(label).cast(pl.String).alias("label"))
    for number, (a, b) in enumerate(text.iter_rows(), 1):
        if b is not None:
            yield number, (a or "").strip(), b.strip()


def _by_key(pairs: Iterator[tuple[int, str, str]], url: str, unit: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at: dict[str, int] = {}
    for number, given, label in pairs:
        folder, slash, name = given.removeprefix("./").rpartition("/")
        key = folder + slash + name.partition(".")[0]
        if not name.partition(".")[0] or not label:
            what = "label" if key else "key"
            raise InputError(f"{url}, {unit} {number}: has no {what}; {_WANTED}.")
        if found.setdefault(key, label) != label:
            raise InputError(
                f"{url}, {unit} {number}: gives {key} the label {label}, but {unit} {at[key]} gives {found[key]}; "
                "remove one."
            )
        at.setdefault(key, number)
    return found


def is_number(label: Any) -> bool:
    """Whether a label is a whole number in its plain form, such as ``7``, so that it can serve as a class number."""
    return isinstance(label, str) and label.isascii() and label.isdigit() and (label == "0" or label[0] != "0")
