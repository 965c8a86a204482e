"""Parquet files with image bytes: one row a sample. img2dataset's `output_format=parquet`, Hugging Face datasets."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from curate.errors import InputError
from curate.formats.arrow import (
    BYTES,
    DAMAGE,
    TEXT,
    NotReadable,
    Table,
    is_plain,
    json_text,
    one_line,
    rows_of,
    text_column,
)
from curate.formats.samples import Draft, IndexOptions, PartNotes, Reader, ShardProblem
from curate.formats.sources import PartSource, ShardInfo
from curate.store.images import FORMATS, sniff

#: The image column of Hugging Face datasets: tried after the names of ``input.image``.
IMAGE_COLUMN = "image"
LABEL_COLUMN = "label"
_EXTS = {name: "jpg" if name == "jpeg" else name for name in FORMATS}
#: Extension of bytes that are no image.
UNKNOWN = "bin"


@dataclass(frozen=True)
class _Roles:
    """Which column is what in one file. ``classes``: names of the numbers of a ClassLabel column."""

    image: str
    caption: str | None
    label: str | None
    classes: tuple[str, ...] | None
    plain: tuple[str, ...]


def index_parquet(source: PartSource, options: IndexOptions) -> tuple[Reader, PartNotes]:
    """Rows of all files of one part. Members: the image, ``txt``, ``cls`` and ``json`` that a release will write;
    ``offset`` is the row in the file, ``file`` the column (none for ``json``: all columns that hold no bytes).

    A damaged row group gives its readable rows, and a note with the number of those that are lost. Raises InputError
    when a file cannot be read, or has no image or caption column. Memory: 64 rows, a page of each column.
    """
    reader = Reader(
        replace(
            options,
            image_exts=(*_EXTS.values(), UNKNOWN),
            caption_ext=options.caption_ext and "txt",
            label_ext=options.label_ext and "cls",
        )
    )
    problems: list[ShardProblem] = []
    for ordinal, shard in enumerate(source.shards):
        before = reader.rows

        def problem(reason: str, at: int, detail: str, shard: ShardInfo = shard, before: int = before) -> None:
            problems.append(ShardProblem(shard.rel, reason, at, detail, reader.rows - before))

        try:
            with Table(shard.url, shard.nbytes) as table:
                _index_table(table, shard, ordinal, options, reader, problem)
        except NotReadable as err:
            problem(err.reason, 0, str(err))
    return reader, PartNotes(reader.rows, tuple(problems))


def _index_table(
    table: Table, shard: ShardInfo, ordinal: int, options: IndexOptions, reader: Reader, problem: Any
) -> None:
    roles = _roles(table, options)
    if not table.rows:
        problem("empty", 0, "the file has no rows")
    first = 0
    for group, rows in enumerate(table.group_rows):
        at = first
        try:
            for batch in table.batches(group, _leaves(table, roles)):
                for sample in _samples(batch, roles, at):
                    _add(reader, sample, roles, shard.rel, ordinal)
                at += batch.num_rows
        except DAMAGE as err:
            lost = f"rows {at:,} to {first + rows - 1:,} (row group {group}) cannot be read: {one_line(err)}"
            problem("damaged_rows", at, lost)
        first += rows


def _leaves(table: Table, roles: _Roles, without_image: bool = False) -> list[str]:
    """Paths of the columns to read."""
    images = []
    if not without_image:
        struct = pa.types.is_struct(table.schema.field(roles.image).type)
        images = [f"{roles.image}.bytes" if struct else roles.image]
    texts = [name for name in (roles.caption, roles.label) if name and name not in roles.plain]
    return list(dict.fromkeys([*images, *texts, *roles.plain]))


# --- which column is what ---------------------------------------------------------------------------------------------


def _roles(table: Table, options: IndexOptions) -> _Roles:
    names = table.schema.names
    features = _features(table.schema)
    wanted = [*options.image_exts, IMAGE_COLUMN]
    image = next((name for name in wanted if name in names and _holds_bytes(table.schema.field(name).type)), None)
    if image is None:
        # a dataset that says itself which column is its image
        marked = [n for n, f in features.items() if f.get("_type") == "Image" and n in names]
        image = marked[0] if len(marked) == 1 else None
    if image is None:
        raise InputError(
            f"{table.url}: no column {', '.join(wanted[:-1])} or {wanted[-1]} holds image bytes; its columns are "
            f"{table.described()}. Name the column with input.image, or leave the file out."
        )
    caption = text_column(table, options.caption_ext, "caption") if options.caption_ext else None
    label = None
    if options.label_ext:
        label = next((n for n in (*options.label_ext.split(";"), LABEL_COLUMN) if n in names), None)
        if label is not None and pa.types.is_nested(table.schema.field(label).type):
            label = None
    classes = features.get(label, {}).get("names") if label else None
    return _Roles(image, caption, label, tuple(classes) if classes else None, tuple(table.plain_leaves()))


def _holds_bytes(kind: Any) -> bool:
    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and any(is_(kind.field(at).type) for is_ in BYTES)
    return any(is_(kind) for is_ in BYTES)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """The features that the library `datasets` notes in a file, by column; empty without."""
    try:
        found = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    return {name: f for name, f in found.items() if isinstance(f, dict)} if isinstance(found, dict) else {}


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sample:
    """One row: bytes of its members as a release writes them, and what the index wants to know by name."""

    row: int
    image: bytes | None
    caption: bytes | None
    label: bytes | None
    json: bytes
    given: dict[str, Any]


def _samples(batch: Any, roles: _Roles, first: int, with_image: bool = True) -> Iterator[_Sample]:
    names = batch.schema.names
    images = _image_bytes(batch, roles.image) if with_image else None
    captions = _raw(batch, roles.caption) if roles.caption else None
    labels = _raw(batch, roles.label) if roles.label else None
    keep = [name for name in names if name in {leaf.split(".", 1)[0] for leaf in roles.plain} | set(roles.plain)]
    if with_image and roles.image in keep and pa.types.is_struct(batch.schema.field(roles.image).type):
        # the path beside the bytes is worth keeping, the bytes are not
        batch = batch.set_column(names.index(roles.image), roles.image, _without_bytes(batch.column(roles.image)))
    plain = batch.select(keep)
    simple = is_plain(plain.schema)
    for i, row in enumerate(rows_of(plain)):
        text = json_text(row)
        yield _Sample(
            first + i,
            images[i].as_py() if images is not None else None,
            _value(captions[i]) if captions is not None else None,
            _value(labels[i]) if labels is not None else None,
            text,
            row if simple else json.loads(text),
        )


def _image_bytes(batch: Any, name: str) -> Any:
    column = batch.column(name)
    return pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column


def _without_bytes(column: Any) -> Any:
    names = [f.name for f in column.type if f.name != "bytes"]
    return pa.StructArray.from_arrays(
        [pc.struct_field(column, n) for n in names], names, mask=pc.is_null(column)
    )  # fmt: skip


def _raw(batch: Any, name: str) -> Any:
    """A column with its texts as bytes: whether they are UTF-8 is the reader's to say."""
    column = batch.column(name)
    return pc.cast(column, pa.large_binary()) if any(is_(column.type) for is_ in TEXT) else column


def _value(scalar: Any) -> bytes | None:
    value = scalar.as_py()
    return value if value is None or isinstance(value, bytes) else str(value).encode()


def _add(reader: Reader, sample: _Sample, roles: _Roles, rel: str, ordinal: int) -> None:
    """Write the row of one sample."""
    given, row = sample.given, sample.row
    key = given.get("key")
    key = f"{row:09d}" if key is None or key == "" else str(key)
    draft = Draft(key.encode("utf-8", "replace"))
    said = given.get("status")
    if sample.image is None and isinstance(said, str) and said != "success" and "error_message" in given:
        # a row that img2dataset could not download
        caption = None if sample.caption is None else sample.caption.decode("utf-8", "replace")
        more = given | {"caption": caption}
        reader.absent(draft.key, rel, ordinal, "not_downloaded", str(given["error_message"] or said), more)
        return
    name = b"row"  # a key of a table never becomes a path: any text will do
    if sample.image is not None:
        ext = _EXTS.get(sniff(sample.image) or "", UNKNOWN)
        reader.add(draft, name, ext, row, len(sample.image), sample.image, roles.image)
    if sample.caption is not None:
        reader.add(draft, name, "txt", row, len(sample.caption), sample.caption, roles.caption)
    label = None
    if sample.label is not None:
        reader.add(draft, name, "cls", row, len(sample.label), None, roles.label)
        label = _class_name(sample.label.decode("utf-8", "replace").strip(), roles.classes)
        given["label"] = None
    reader.add(draft, name, "json", row, len(sample.json), None, None)
    at = reader.rows
    reader.finish(draft, rel, ordinal, label, given)
    status = reader.columns["status"][at]
    if status == "missing_image":
        reader.flag(at, status, f"column {roles.image} is null in row {row}")
    elif status == "missing_caption":
        reader.flag(at, status, f"column {roles.caption} is null in row {row}")


def _class_name(text: str, classes: Sequence[str] | None) -> str | None:
    if classes is None:
        return text or None
    # -1 is how `datasets` writes a label that is not known
    return classes[int(text)] if text.isdigit() and int(text) < len(classes) else None


# --- reading members back ---------------------------------------------------------------------------------------------


def read_rows(
    shard: ShardInfo, wanted: Sequence[Sequence[dict[str, Any]]], exts: Collection[str] | None
) -> Iterator[tuple[int, dict[str, bytes]]]:
    """Yield ``(position in wanted, {ext: bytes})`` in order; ``wanted``: members of each sample, as in the index.

    Only the row groups that hold wanted rows are read, and of them only the columns asked for. Memory: as for
    `index_parquet`, and what rows that are not in order of the file make wait. Raises InputError when the file is
    gone, damaged, or not the one that was indexed.
    """
    members = [[m for m in row if exts is None or m["ext"] in exts] for row in wanted]
    rows = {row[0]["offset"]: i for i, row in enumerate(members) if row}
    ordered = sorted(rows)
    found: dict[int, dict[str, bytes]] = {i: {} for i, row in enumerate(members) if not row}
    due = 0
    try:
        with Table(shard.url, shard.nbytes) as table:
            roles, with_image = _roles_of(table, members)
            starts = [0, *accumulate(table.group_rows)]
            for group, at in enumerate(starts[:-1]):
                mine = _between(ordered, at, starts[group + 1])
                if not mine or roles is None:
                    continue
                for batch in table.batches(group, _leaves(table, roles, not with_image)):
                    picked = _between(mine, at, at + batch.num_rows)
                    if picked:
                        some = batch.take(pa.array([row - at for row in picked]))
                        for row, sample in zip(picked, _samples(some, roles, 0, with_image), strict=True):
                            found[rows[row]] = _bytes_of(shard, members[rows[row]], sample)
                    at += batch.num_rows
                    if at > mine[-1]:
                        break
                    while due in found:
                        yield due, found.pop(due)
                        due += 1
    except NotReadable as err:
        raise _changed(shard, str(err)) from err
    except DAMAGE as err:
        raise _changed(shard, one_line(err)) from err
    while due in found:
        yield due, found.pop(due)
        due += 1
    if due < len(members):
        raise _changed(shard, f"row {members[due][0]['offset']:,} was indexed, it has {starts[-1]:,} rows")


def _between(ordered: list[int], first: int, stop: int) -> list[int]:
    return ordered[bisect_left(ordered, first) : bisect_left(ordered, stop)]


def _roles_of(table: Table, members: Sequence[Sequence[dict[str, Any]]]) -> tuple[_Roles | None, bool]:
    """Which columns were indexed as what, and whether the image is wanted; only what `members` ask for is read."""
    names: dict[str, str | None] = {}
    for member in (m for row in members for m in row):
        names.setdefault(member["ext"] if member["ext"] in ("txt", "cls", "json") else "image", member["file"])
    if gone := [name for name in names.values() if name is not None and name not in table.schema.names]:
        raise InputError(f"{table.url}: column {gone[0]} was indexed but is gone; run again to index the file anew.")
    if not names:
        return None, False
    plain = tuple(table.plain_leaves()) if "json" in names else ()
    image = names.get("image")
    return _Roles(image or "", names.get("txt"), names.get("cls"), None, plain), image is not None


def _bytes_of(shard: ShardInfo, members: Sequence[dict[str, Any]], sample: _Sample) -> dict[str, bytes]:
    out = {}
    for member in members:
        ext = member["ext"]
        data = {"txt": sample.caption, "cls": sample.label, "json": sample.json}.get(ext, sample.image)
        if data is None or len(data) != member["nbytes"]:
            there = "nothing is" if data is None else f"{len(data)} bytes are"
            raise _changed(shard, f"{ext} of row {member['offset']} had {member['nbytes']} bytes, {there} there now")
        out[ext] = data
    return out


def _changed(shard: ShardInfo, why: str) -> InputError:
    return InputError(f"{shard.url}: {why}; the file has changed, run again to index it anew.")
