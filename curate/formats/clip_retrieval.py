"""Folders of ready embeddings, as clip-retrieval writes them.

    img_emb/img_emb_0.npy       float [n, d], one row a sample
    text_emb/text_emb_0.npy     the same for captions; may be left out
    metadata/metadata_0.parquet n rows: image_path, caption, url, key, uid, ... whatever is there

Numbers may be padded with zeros and count in numeric order; all files of one number are a shard.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.arrow import DAMAGE, NotReadable, Table, one_line, rows_of, text_column
from curate.formats.members import plan_ranges
from curate.formats.samples import IndexOptions, PartNotes, Reader
from curate.formats.sources import PartSource, ShardInfo, Sidecar
from curate.formats.tar import printable
from curate.store import urls
from curate.store.npy import read_header

IMAGES, TEXTS, METADATA = "img_emb", "text_emb", "metadata"
_ENDS = {IMAGES: "npy", TEXTS: "npy", METADATA: "parquet"}
_KEYS = ("image_path", "key")
_BATCH_ROWS = 8192
_HEADER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Npy:
    """One array file: where, its shape and type, and the byte at which its rows begin."""

    url: str
    rows: int
    dim: int
    dtype: np.dtype[Any]
    start: int


def list_embeddings(root: str) -> list[ShardInfo]:
    """All shards of a folder in numeric order; of each the sidecars ``img_emb``, ``text_emb`` (if any), ``metadata``.

    Raises InputError when there are none, or a number lacks one of its files. One LIST a subfolder; opens nothing.
    """
    found = {kind: _numbered(root, kind) for kind in _ENDS}
    if not found[IMAGES]:
        raise InputError(
            f"{root}: there is no {IMAGES}/{IMAGES}_N.npy; input.embeddings is a folder in clip-retrieval's layout, "
            f"with {IMAGES}/, {METADATA}/ and perhaps {TEXTS}/ in it."
        )
    numbers = sorted(found[IMAGES].keys() | found[METADATA].keys() | found[TEXTS].keys())
    kinds = [kind for kind in _ENDS if kind != TEXTS or found[TEXTS]]
    for number in numbers:
        if lacking := [kind for kind in kinds if number not in found[kind]]:
            name = f"{lacking[0]}/{lacking[0]}_{number}.{_ENDS[lacking[0]]}"
            raise InputError(
                f"{root}: there is no {name}, but other files of this number; get it, or remove the others."
            )
    shards = []
    for number in numbers:
        files = tuple(found[kind][number] for kind in kinds)
        table = found[METADATA][number].url
        rel = f"{METADATA}/{table.rpartition('/')[2]}"
        shards.append(ShardInfo(table, rel, sum(f.nbytes for f in files), "", sidecars=files))
    return shards


def _numbered(root: str, kind: str) -> dict[int, Sidecar]:
    fs, path = urls.resolve(urls.join(root, kind))
    try:
        entries = fs.ls(path, detail=True)
    except FileNotFoundError:
        return {}
    except OSError as err:
        raise urls.unreadable(urls.join(root, kind), err) from err
    found: dict[int, Sidecar] = {}
    for entry in entries:
        name = entry["name"].rstrip("/").rpartition("/")[2]
        match = re.fullmatch(rf"{kind}_(\d+)\.{_ENDS[kind]}", name)
        if match is None or entry["type"] != "file":
            continue
        url = urls.join(root, kind, name)
        if (number := int(match[1])) in found:
            raise InputError(f"{url} and {found[number].url} have the same number; remove one.")
        found[number] = Sidecar(kind, url, int(entry["size"] or 0), urls.etag_of(fs, entry))
    return found


def file_of(shard: ShardInfo, kind: str) -> Sidecar | None:
    """The file of a shard by its kind; None when it has none."""
    return next((sidecar for sidecar in shard.sidecars or () if sidecar.kind == kind), None)


# --- arrays -----------------------------------------------------------------------------------------------------------


def open_npy(file: Sidecar) -> Npy:
    """Shape and type of an array file, from its header; one small read. Nothing is ever unpickled.

    Raises InputError unless it holds whole rows of float16, float32 or float64 in C order.
    """
    head = io.BytesIO(urls.read_range(file.url, 0, min(_HEADER_BYTES, file.nbytes)))
    try:
        shape, fortran, dtype = read_header(head)
    except (ValueError, EOFError) as err:
        raise InputError(f"{file.url}: not a .npy file ({one_line(err)}); get it again.") from err
    if len(shape) != 2 or dtype.kind != "f" or dtype.itemsize > 8 or fortran:
        order = ", in Fortran order" if fortran else ""
        raise InputError(
            f"{file.url}: holds {dtype} of shape {shape}{order}; embeddings are rows of float16, float32 or float64 "
            "in C order. Convert it with numpy."
        )
    npy = Npy(file.url, shape[0], shape[1], dtype, head.tell())
    whole = npy.start + npy.rows * npy.dim * dtype.itemsize
    if whole != file.nbytes:
        raise InputError(f"{file.url}: has {file.nbytes:,} bytes, its header promises {whole:,}; get it again.")
    return npy


def read_rows(npy: Npy, places: NDArray[np.int64]) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Rows of an array file by number, ascending: ``(slice of places, [n, d] in the type of the file)``, in order.

    Memory: 8,192 rows at a time. On local disk the file is memory-mapped, elsewhere neighbouring rows are fetched
    together. Raises InputError when the file is gone or shorter than its header said.
    """
    width = npy.dim * npy.dtype.itemsize
    fs, path = urls.resolve(npy.url)
    mapped: NDArray[Any] | None = None
    if urls.is_local(fs) and npy.rows and npy.dim:
        try:
            mapped = np.memmap(path, dtype=npy.dtype, mode="r", offset=npy.start, shape=(npy.rows, npy.dim))
        except OSError as err:
            raise urls.unreadable(npy.url, err) from err
        except ValueError as err:
            raise InputError(f"{npy.url}: has become shorter than when it was listed; run again.") from err
    for first in range(0, len(places), _BATCH_ROWS):
        some = places[first : first + _BATCH_ROWS]
        where = slice(first, first + len(some))
        yield where, np.asarray(mapped[some]) if mapped is not None else _fetch(npy, some, width)


def _fetch(npy: Npy, places: NDArray[np.int64], width: int) -> NDArray[Any]:
    out = np.empty((len(places), npy.dim), dtype=npy.dtype)
    extents = [(npy.start + int(place) * width, width) for place in places]
    for block in plan_ranges(extents):
        data = urls.read_range(npy.url, block.offset, block.nbytes)
        if len(data) != block.nbytes:
            raise InputError(f"{npy.url}: has become shorter than when it was listed; run again.")
        for n in block.extents:
            out[n] = np.frombuffer(data, npy.dtype, npy.dim, extents[n][0] - block.offset)
    return out


# --- metadata ---------------------------------------------------------------------------------------------------------


def key_column(names: list[str]) -> str | None:
    """Which column of the metadata is the key of a sample; None when the number of the row is."""
    return next((name for name in _KEYS if name in names), None)


def key_of(value: Any, row: int) -> str:
    """The key of a row, as it stands in the index."""
    return f"{row:09d}" if value is None or value == "" else printable(str(value).encode("utf-8", "replace"))


def read_column(shard: ShardInfo, column: str | None) -> Iterator[tuple[int, list[Any]]]:
    """``(first row, values)`` of one column of the metadata, a few thousand rows at a time; None: no values at all.

    Raises InputError when the file is damaged or has no such column.
    """
    for first, rows, count in _batches(shard, lambda names: [column] if column else []):
        yield first, [row[column] for row in rows] if column else [None] * count


def columns_of(shard: ShardInfo) -> list[str]:
    """Names of the columns of a shard's metadata."""
    with _opened(shard) as table:
        return list(table.schema.names)


def _opened(shard: ShardInfo) -> Table:
    file = file_of(shard, METADATA)
    assert file is not None
    try:
        return Table(file.url, file.nbytes)
    except NotReadable as err:
        raise InputError(f"{file.url}: {err}; get it again.") from err


def _batches(shard: ShardInfo, choose: Any) -> Iterator[tuple[int, list[dict[str, Any]], int]]:
    """``(first row, rows, their number)`` with the columns that ``choose`` picks from the names of all."""
    with _opened(shard) as table:
        wanted = choose(table.schema.names)
        if gone := [name for name in wanted if name not in table.schema.names]:
            raise InputError(f"{table.url}: there is no column {gone[0]}; its columns are {table.described()}.")
        at = 0
        try:
            for group in range(len(table.group_rows)):
                if not wanted:
                    yield at, [], table.group_rows[group]
                    at += table.group_rows[group]
                    continue
                for batch in table.batches(group, wanted, _BATCH_ROWS):
                    yield at, rows_of(batch), batch.num_rows
                    at += batch.num_rows
        except DAMAGE as err:
            raise InputError(
                f"{table.url}: rows from {at:,} on cannot be read ({one_line(err)}); get it again."
            ) from err


def index_embeddings(source: PartSource, options: IndexOptions) -> tuple[Reader, PartNotes]:
    """Rows of all shards of one part: no members, no image; what the metadata say. They are ``ok`` without an image.

    The key is ``image_path``, else ``key``, else the number of the row. Raises InputError when a file is damaged, or
    the arrays and the metadata of a shard differ in their number of rows. Memory: 8,192 rows of the columns asked for.
    """
    reader = Reader(options)
    for ordinal, shard in enumerate(source.shards):
        check_rows(shard)
        caption = _caption_column(shard, options)
        key, wanted = None, {"uid", "license", *(name for name, _ in options.fields)}
        label = None

        def choose(names: list[str], caption: str | None = caption, wanted: set[str] = wanted) -> list[str]:
            nonlocal key, label
            key = key_column(names)
            labels = [*(options.label_ext.split(";")), "label"] if options.label_ext else []
            label = next((name for name in labels if name in names), None)
            return [name for name in names if name in {key, label, caption, *wanted}]

        for first, rows, count in _batches(shard, choose):
            for i in range(count):
                _add(reader, rows[i] if rows else {}, first + i, (key, label, caption), shard.rel, ordinal)
    return reader, PartNotes(reader.rows)


def check_rows(shard: ShardInfo) -> None:
    """Every file of a shard has as many rows as the others, else InputError. Reads headers and a footer."""
    with _opened(shard) as table:
        rows = {table.url: table.rows}
    for file in shard.sidecars or ():
        if file.kind != METADATA:
            rows[file.url] = open_npy(file).rows
    if len(set(rows.values())) > 1:
        said = ", ".join(f"{url.rpartition('/')[2]} {n:,}" for url, n in rows.items())
        raise InputError(f"{shard.url}: the files of one number differ in their rows ({said}); get them again.")


def _caption_column(shard: ShardInfo, options: IndexOptions) -> str | None:
    if not options.caption_ext:
        return None
    with _opened(shard) as table:
        return text_column(table, options.caption_ext, "caption")


def _add(
    reader: Reader,
    row: Mapping[str, Any],
    number: int,
    roles: tuple[str | None, str | None, str | None],
    rel: str,
    ordinal: int,
) -> None:
    key, label, caption = (row.get(name) if name else None for name in roles)
    name = f"{number:09d}" if key is None or key == "" else str(key)
    status, detail = "ok", None
    if caption is None and reader.caption and reader.options.caption_required:
        status, detail = "missing_caption", f"column {roles[2]} is null in row {number}"
    given = {**row, "caption": caption, "label": label}
    reader.absent(name.encode("utf-8", "replace"), rel, ordinal, status, detail, given)
