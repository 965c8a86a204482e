"""DataComp's metadata: tables of uids, urls, captions and scores, each with an array file of embeddings beside it.

    0a1b...f0.parquet   uid (32 hex digits), url, text, original_width, original_height, clip_b32_similarity_score,
                        clip_l14_similarity_score, face_bboxes, sha256
    0a1b...f0.npz       b32_img, b32_txt, l14_img, l14_txt: one row for each row of the table, see npz.py

Both may lie in folders of any depth (part_0/ ...). What never lives here: subset files (datacomp.py).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.arrow import DAMAGE, TEXT, NotReadable, Table, one_line, text_column
from curate.formats.fields import FIELD_TYPES
from curate.formats.samples import IndexOptions, PartNotes, index_schema
from curate.formats.sources import PartSource, ShardInfo, Sidecar
from curate.formats.tar import printable
from curate.store import urls
from curate.store.uids import make_uid

TABLE, ARRAYS = "metadata", "npz"
CAPTION = "text"
#: Further columns that the index gets unless `input.fields` gives them another type.
FIELDS = {
    "url": "string",
    "clip_b32_similarity_score": "float",
    "clip_l14_similarity_score": "float",
    "face_bboxes": "string",
}
RANGE_ROWS = 50_000
"""Rows of one range of a large table."""
_WHOLE_BYTES = 24 << 20
"""Tables of at most so many bytes (about 100,000 rows) are not looked into before work starts."""
_ROW_BYTES = 235
"""Of a table: the pool "small" has 12.8 million rows in 3 GB."""
_BATCH_ROWS = 8192
_SIZES = {"width": "original_width", "height": "original_height"}


# --- which files there are ------------------------------------------------------------------------------------------


def list_metadata(root: str) -> list[ShardInfo]:
    """All tables under `root`, sorted by path, each a shard with its array file if there is one. One recursive LIST.

    Opens nothing. Raises InputError when there is no folder or no table. Memory: one record a file.
    """
    fs, path = urls.resolve(root)
    try:
        if not fs.isdir(path):
            raise InputError(f"{root}: there is no such folder; check input.datacomp.")
        records = fs.find(path, detail=True)
    except OSError as err:
        raise urls.unreadable(root, err) from err
    base = path.rstrip("/") + "/"
    names = {n[len(base) :]: r for n, r in records.items() if not any(p[:1] == "." for p in n[len(base) :].split("/"))}
    tables = sorted(name for name in names if name.endswith(".parquet"))
    if not tables:
        raise InputError(f"{root}: there is no .parquet file in it; input.datacomp is a folder of DataComp metadata.")

    def sidecar(kind: str, name: str) -> Sidecar:
        record = names[name]
        return Sidecar(kind, urls.join(root, name), int(record["size"] or 0), urls.etag_of(fs, record))

    shards = []
    for name in tables:
        files = [sidecar(TABLE, name)]
        if (arrays := f"{name.removesuffix('.parquet')}.npz") in names:
            files.append(sidecar(ARRAYS, arrays))
        shards.append(ShardInfo(files[0].url, name, sum(f.nbytes for f in files), "", sidecars=tuple(files)))
    return shards


def list_ranges(root: str) -> list[ShardInfo]:
    """The shards of `list_metadata`, those of more than 24 MiB cut into ranges of about 50,000 rows.

    A range ends with a row group, unless one row group has more than 50,000 rows. Reads the footers of large tables.
    """
    return [piece for shard in list_metadata(root) for piece in _cut(shard)]


def _cut(shard: ShardInfo) -> list[ShardInfo]:
    if table_of(shard).nbytes <= _WHOLE_BYTES:
        return [shard]
    with opened(shard) as table:
        bounds = cuts(table.group_rows)
    if len(bounds) <= 2:
        return [shard]
    share = shard.nbytes // (len(bounds) - 1)
    return [
        ShardInfo(shard.url, shard.rel, share, "", sidecars=shard.sidecars, rows=(first, stop))
        for first, stop in pairwise(bounds)
    ]


def cuts(groups: Sequence[int], rows: int = RANGE_ROWS) -> list[int]:
    """Where ranges begin, and where the last one ends: as many whole row groups as fit into `rows`, larger groups cut.

    groups: rows of each row group, in order.
    """
    bounds, at = [0], 0
    for count in groups:
        if at > bounds[-1] and at + count - bounds[-1] > rows:
            bounds.append(at)
        while at + count - bounds[-1] > rows:
            bounds.append(bounds[-1] + rows)
        at += count
    return [*bounds, at] if at > bounds[-1] or len(bounds) == 1 else bounds


def is_metadata(columns: Collection[str]) -> bool:
    """Whether a table with these columns is one of DataComp's."""
    return {"uid", "url", CAPTION} <= set(columns) and any(column in columns for column in _SIZES.values())


def rows_about(shard: ShardInfo) -> int:
    """Rows of a shard: those of its range, else about as many as its table has bytes for."""
    return shard.rows[1] - shard.rows[0] if shard.rows else max(1, table_of(shard).nbytes // _ROW_BYTES)


def table_of(shard: ShardInfo) -> Sidecar:
    """The table of a shard."""
    return next(file for file in shard.sidecars or () if file.kind == TABLE)


def arrays_of(shard: ShardInfo) -> Sidecar:
    """The array file of a shard. Raises InputError when there is none."""
    found = next((file for file in shard.sidecars or () if file.kind == ARRAYS), None)
    if found is None:
        name = shard.rel.rpartition("/")[2].removesuffix(".parquet")
        raise InputError(
            f"{shard.url}: there is no {name}.npz beside it, so its samples have no embeddings; get it, or take "
            "read_embeddings out of the pipeline."
        )
    return found


def opened(shard: ShardInfo) -> Table:
    """The table of a shard, open. Raises InputError when it cannot be read."""
    file = table_of(shard)
    try:
        return Table(file.url, file.nbytes)
    except NotReadable as err:
        raise InputError(f"{file.url}: {err}; get it again.") from err


# --- rows of the index ----------------------------------------------------------------------------------------------


def index_datacomp(source: PartSource, options: IndexOptions) -> tuple[pl.DataFrame, PartNotes]:
    """Rows of all tables of one part: no members, no image; sizes, hashes, captions and fields as the tables say.

    The key is the uid. A uid that is not 32 hex digits gives the status `bad_uid`, a caption that is not UTF-8
    `bad_caption`, and one that is missing `missing_caption` when captions are required. Of the columns only `uid` and
    the caption must be there. A field of type string gives nested columns as JSON. Raises InputError when a table is
    damaged or lacks a column. Memory: the rows of the part, and 8,192 rows of the columns used.
    """
    frames, misfits = [], dict.fromkeys((name for name, _ in options.fields), 0)
    for ordinal, shard in enumerate(source.shards):
        for first, batch in _batches(shard, options):
            frames.append(_rows(batch, first, shard, ordinal, options, misfits))
    schema = index_schema(options)
    frame = pl.concat(frames) if frames else pl.DataFrame(schema=schema)
    return frame, PartNotes(frame.height, misfits={name: n for name, n in misfits.items() if n})


def _batches(shard: ShardInfo, options: IndexOptions) -> Iterator[tuple[int, pa.RecordBatch]]:
    """``(number of its first row, batch)``, cut to the rows that are meant."""
    with opened(shard) as table:
        start, stop = shard.rows or (0, table.rows)
        if "uid" not in table.schema.names or not any(is_(table.schema.field("uid").type) for is_ in TEXT):
            raise InputError(f"{table.url}: there is no column uid of texts; its columns are {table.described()}.")
        if stop > table.rows:
            raise InputError(f"{table.url}: has {table.rows:,} rows, fewer than when it was listed; run again.")
        caption = [text_column(table, options.caption_ext, "caption")] if options.caption_ext else []
        wanted = {"uid", "sha256", *_SIZES.values(), *caption, *(name for name, _ in options.fields)}
        leaves = [name for name in table.schema.names if name in wanted]
        at = 0
        try:
            for group, count in enumerate(table.group_rows):
                if at + count <= start or at >= stop:
                    at += count
                    continue
                for batch in table.batches(group, leaves, _BATCH_ROWS):
                    low, high = max(start - at, 0), min(stop - at, batch.num_rows)
                    if low < high:
                        yield at + low, batch.slice(low, high - low)
                    at += batch.num_rows
                    if at >= stop:
                        break
        except DAMAGE as err:
            raise InputError(
                f"{table.url}: rows from {at:,} on cannot be read ({one_line(err)}); get it again."
            ) from err


def _rows(
    batch: pa.RecordBatch, first: int, shard: ShardInfo, ordinal: int, options: IndexOptions, misfits: dict[str, int]
) -> pl.DataFrame:
    uid, _ = _texts(batch, "uid")
    hi, lo, good = parse_uids(uid)
    rows = np.arange(first, first + len(uid))
    frame = pl.DataFrame({"uid": uid, "good": good, "row": rows}).with_columns(status=pl.lit("ok"))
    caption = pl.Series([None] * len(uid), dtype=pl.String)
    if options.caption_ext:
        column = next(name for name in options.caption_ext.split(";") if name in batch.schema.names)
        caption, torn = _texts(batch, column)
        missing = caption.is_null() & ~torn & options.caption_required
        frame = frame.with_columns(
            status=pl.when(torn).then(pl.lit("bad_caption")).when(missing).then(pl.lit("missing_caption")).otherwise("status")
        )  # fmt: skip
    told = pl.col("uid").str.slice(0, 64).fill_null("missing")
    status = pl.when("good").then("status").otherwise(pl.lit("bad_uid"))
    frame = frame.with_columns(status=status).with_columns(
        detail=pl.when(pl.col("status") == "bad_uid")
        .then(pl.format("uid of row {} is {}, not 32 hexadecimal digits", "row", told))
        .when(pl.col("status") == "bad_caption")
        .then(pl.format("the caption of row {} is not UTF-8", "row"))
        .when(pl.col("status") == "missing_caption")
        .then(pl.format("the caption of row {} is null", "row"))
    )
    for row in np.flatnonzero(~good).tolist():
        # a sample needs a name all the same: that of its place, or a hash of what stands there
        given = printable(uid[row].encode()) if uid[row] else None
        hi[row], lo[row], _ = make_uid(given, options.input_name, shard.rel, f"{first + row:09d}")
    columns = {
        "uid_hi": pl.Series(hi),
        "uid_lo": pl.Series(lo),
        "key": uid.fill_null(pl.Series([f"{row:09d}" for row in rows])) if uid.null_count() else uid,
        "caption": caption,
        "status": frame["status"],
        "detail": frame["detail"],
        "sha256": _hashes(batch),
    }
    columns |= {name: _size(batch, column) for name, column in _SIZES.items()}
    for name, kind in options.fields:
        columns[name], bad = _field(batch, name, kind)
        misfits[name] += bad
    schema = index_schema(options)
    constant = {"shard": pl.lit(ordinal, dtype=pl.UInt32), "members": pl.lit([], dtype=schema["members"])}
    return pl.DataFrame(columns).select(
        constant.get(name, pl.col(name) if name in columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def parse_uids(uid: pl.Series) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
    """``(hi, lo, good)``, uint64 and bool [n], of texts of 32 hex digits; zero where there is none."""
    good = uid.str.contains(r"\A[0-9a-fA-F]{32}\z").fill_null(False).to_numpy()
    words = np.frombuffer(bytes.fromhex("".join(uid.filter(pl.Series(good)))), dtype=">u8").reshape(-1, 2)
    hi, lo = np.zeros(len(uid), dtype=np.uint64), np.zeros(len(uid), dtype=np.uint64)
    hi[good], lo[good] = words[:, 0], words[:, 1]
    return hi, lo, good


def _texts(batch: pa.RecordBatch, name: str) -> tuple[pl.Series, pl.Series]:
    """A column of texts or bytes, null where it is not UTF-8; and where that is so."""
    raw: pl.Series = pl.Series(name, pl.from_arrow(pc.cast(batch.column(name), pa.large_binary())))
    try:
        text = raw.cast(pl.String)
    except pl.exceptions.ComputeError:  # somewhere: the rare table is read value by value
        text = pl.Series(name, [_decoded(value) for value in raw], dtype=pl.String)
    return text, text.is_null() & raw.is_not_null()


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _hashes(batch: pa.RecordBatch) -> pl.Series:
    """sha256 in lower case; null where there is none, or something else."""
    if "sha256" not in batch.schema.names or not any(is_(batch.schema.field("sha256").type) for is_ in TEXT):
        return pl.Series([None] * batch.num_rows, dtype=pl.String)
    text, _ = _texts(batch, "sha256")
    return pl.select(pl.when(text.str.contains(r"\A[0-9a-fA-F]{64}\z")).then(text.str.to_lowercase())).to_series()


def _size(batch: pa.RecordBatch, column: str) -> pl.Series:
    """Pixels; null where there is none, or no number of pixels."""
    if column not in batch.schema.names or not pa.types.is_integer(batch.schema.field(column).type):
        return pl.Series([None] * batch.num_rows, dtype=pl.UInt32)
    return pl.Series(pl.from_arrow(batch.column(column))).cast(pl.UInt32, strict=False)


def _field(batch: pa.RecordBatch, name: str, kind: str) -> tuple[pl.Series, int]:
    """A further column as its type, and how many values do not fit; the rules are those of fields.py."""
    dtype = FIELD_TYPES[kind]
    if name not in batch.schema.names:
        return pl.Series([None] * batch.num_rows, dtype=dtype), 0
    arrow = batch.schema.field(name).type
    if kind == "string":
        if any(is_(arrow) for is_ in TEXT):
            text, torn = _texts(batch, name)
            return text, int(torn.sum())
        if pa.types.is_nested(arrow):
            return _json_texts(batch.column(name)), 0
    fits = {
        "float": pa.types.is_floating(arrow) or pa.types.is_integer(arrow),
        "int": pa.types.is_integer(arrow),
        "bool": pa.types.is_boolean(arrow),
        "string": False,
    }
    series = pl.Series(pl.from_arrow(batch.column(name)))
    there = series.len() - series.null_count()
    if not fits[kind]:
        nan = int(series.is_nan().sum() or 0) if series.dtype.is_float() else 0
        return pl.Series([None] * batch.num_rows, dtype=dtype), there - nan
    if series.dtype.is_float():
        series = series.fill_nan(None)
        there = series.len() - series.null_count()
        series = pl.select(pl.when(series.is_finite()).then(series)).to_series()
    out = series.cast(dtype, strict=False)
    return out, there - (out.len() - out.null_count())


def _json_texts(column: pa.Array) -> pl.Series:
    """Nested values as JSON. Most images have no face, so empty lists are written all at once."""
    texts: list[str | None] = [None] * len(column)
    rows = np.arange(len(column))
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
        texts = ["[]" if there else None for there in column.is_valid().to_pylist()]
        rows = np.flatnonzero(lengths)
    for row, plain in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
        texts[row] = None if plain is None else json.dumps(plain, ensure_ascii=False, default=str)
    return pl.Series(texts, dtype=pl.String)
