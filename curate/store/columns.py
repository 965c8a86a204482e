"""Column groups, one part at a time: a Parquet file of scalars, `.npy` files of vectors or records beside it.

The Parquet file is written last and is the commit marker: its metadata names the vector files with size and sha256.
Format: docs/formats/column-group.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from curate.errors import StorageError
from curate.store.cache import cached
from curate.store.records import parse_record
from curate.store.workspace import Workspace, explained

SCHEMA_VERSION: Literal[1] = 1
_META_KEY = "curate"
_TAIL_BYTES = 64 << 10
"""Read from the end of a part for its footer, in one request; a larger footer takes a second one."""


class VectorFile(BaseModel):
    """A packed `.npy` named by the part's commit marker: float16 unit rows, or records (a structured dtype, dim 1)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    rows: int
    dim: int
    nbytes: int
    sha256: str


class PartMeta(BaseModel):
    """What the footer of a part's Parquet file says of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    step: str = Field(description="name of the step that wrote the part")
    part: int
    fingerprint: str
    rows: int
    alive: int | None = Field(description="rows still in after this step; null when the step drops nothing")
    counts: dict[str, int] = Field(
        default_factory=dict, description="rows dropped by this step in this part, by reason"
    )
    vectors: dict[str, VectorFile] = Field(default_factory=dict)
    notes: list[dict[str, Any]] = Field(default_factory=list, description="things to report, such as a cut shard")
    contents: list[str] = Field(
        default_factory=list, description="smallest content hashes of the part's rows, where a stage reuses rows"
    )


class PartEntry(PartMeta):
    """A part as a group file lists it: its footer, and the size and sha256 of the Parquet file itself."""

    nbytes: int
    sha256: str


def part_file(part: int, fingerprint: str) -> str:
    """File name of a part inside its group folder."""
    return f"part-{part:05d}.{fingerprint}.parquet"


def write_part(
    workspace: Workspace, folder: str, meta: PartMeta, frame: pl.DataFrame, vectors: Mapping[str, NDArray[Any]]
) -> PartEntry:
    """Commit one part: vectors first, under a name no other attempt uses, then the Parquet file in one put.

    vectors: name -> float16 [n, d] unit rows, or records, a structured array [n]. Raises StorageError. Memory: the
    part.
    """
    files: dict[str, VectorFile] = {}
    for name, rows in vectors.items():
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, np.ascontiguousarray(rows), allow_pickle=False)
        data = buffer.getbuffer()
        file = f"part-{meta.part:05d}.{uuid.uuid4().hex[:8]}.{name}.npy"
        workspace.put(f"{folder}/{file}", data)
        files[name] = VectorFile(
            file=file, rows=len(rows), dim=_dim(rows), nbytes=len(data), sha256=hashlib.sha256(data).hexdigest()
        )
    meta = meta.model_copy(update={"vectors": files})
    out = io.BytesIO()
    frame.write_parquet(out, compression="zstd", statistics=True, metadata={_META_KEY: meta.model_dump_json()})
    data = out.getbuffer()
    workspace.put(f"{folder}/{part_file(meta.part, meta.fingerprint)}", data)
    return PartEntry(**meta.model_dump(), nbytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _dim(rows: NDArray[Any]) -> int:
    return 1 if _records(rows) else rows.shape[1]


def _records(rows: NDArray[Any]) -> bool:
    return rows.ndim == 1 and rows.dtype.names is not None


def parse_meta(data: bytes, where: str) -> PartMeta:
    """Read a part's footer; an unknown schema version or a damaged file is a StorageError that says so.

    data: the file, or its end with the whole footer in it.
    """
    try:
        record = pl.read_parquet_metadata(io.BytesIO(data))[_META_KEY]
    except (pl.exceptions.PolarsError, KeyError, OSError) as error:
        raise StorageError(
            f"{where} is damaged or was not written by curate ({error}); delete it and run again"
        ) from error
    return parse_record(PartMeta, record, where, "delete it and run again")


def read_meta(workspace: Workspace, folder: str, part: int, fingerprint: str) -> PartMeta:
    """What the footer of a stored part says, without reading the part. Raises StorageError. Memory: the footer."""
    name = f"{folder}/{part_file(part, fingerprint)}"
    data = workspace.read_range(name, -_TAIL_BYTES, None)
    footer = int.from_bytes(data[-8:-4], "little") + 12  # of a Parquet file: footer, its length, "PAR1"
    if footer > len(data) == _TAIL_BYTES:
        data = workspace.read_range(name, -footer, None)
    return parse_meta(data, workspace.where(name))


def read_entry(workspace: Workspace, folder: str, part: int, fingerprint: str) -> PartEntry:
    """Footer, size and sha256 of a part that an earlier run committed; its vector files must be there too."""
    name = f"{folder}/{part_file(part, fingerprint)}"
    data = workspace.read(name)
    meta = parse_meta(data, workspace.where(name))
    return PartEntry(**meta.model_dump(), nbytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def read_columns(
    workspace: Workspace, folder: str, part: int, fingerprint: str, columns: Sequence[str] | None = None
) -> pl.DataFrame:
    """Columns of one part, in row order. Raises StorageError when damaged. Memory: the columns asked for.

    From remote storage the part is read whole, up to 16 MiB in one request: fewer and faster than a footer and chunks.
    """
    name = f"{folder}/{part_file(part, fingerprint)}"
    with explained("reading", workspace.where(name)):
        source: Any = Path(workspace.path(name)) if workspace.is_local else io.BytesIO(workspace.read(name))
        try:
            return pl.read_parquet(source, columns=None if columns is None else list(columns))
        except pl.exceptions.PolarsError as error:
            raise StorageError(f"{workspace.where(name)} cannot be read ({error}); delete it and run again") from error


def read_vectors(workspace: Workspace, folder: str, part: int, fingerprint: str, which: str) -> NDArray[Any]:
    """The packed vectors of one part, float16 [n, d], or its records [n].

    A read-only memory map on local disk, else an array. Of a remote workspace a copy on local disk is kept and mapped,
    see `cache`.
    """
    name = f"{folder}/{part_file(part, fingerprint)}"
    meta = read_meta(workspace, folder, part, fingerprint)
    if which not in meta.vectors:
        raise StorageError(f"{workspace.where(name)} has no vectors named {which}; it has {sorted(meta.vectors)}")
    vector = meta.vectors[which]
    where = f"{folder}/{vector.file}"
    told = (vector, workspace.where(where), workspace.where(name))
    if workspace.is_local:
        return load_vectors(Path(workspace.path(where)), *told)
    if not workspace.in_memory:
        found = cached(workspace.url, where, vector.nbytes, vector.sha256, lambda: workspace.read(where))
        if isinstance(found, bytes):
            return load_vectors(io.BytesIO(found), *told)
        with contextlib.suppress(StorageError):  # another process may just have removed it to make room
            return load_vectors(found, *told)
    return load_vectors(io.BytesIO(workspace.read(where)), *told)


def load_vectors(source: Path | BinaryIO, vector: VectorFile, where: str, marker: str) -> NDArray[Any]:
    """One vector file, float16 [n, d], or records [n]: a path as a read-only memory map, a stream as an array.

    where, marker: the file and its part's Parquet file, for messages. Raises StorageError when it is gone or damaged.
    """
    with explained("mapping", where):
        try:
            rows = np.load(source, mmap_mode="r" if isinstance(source, Path) else None, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise StorageError(f"{where} is damaged ({error}); delete {marker} and run again") from error
    if _records(rows):
        fits = (len(rows), 1) == (vector.rows, vector.dim)
    else:
        fits = rows.shape == (vector.rows, vector.dim) and rows.dtype == np.float16
    if not fits:
        raise StorageError(
            f"{where} holds {rows.dtype} {rows.shape}, its part says float16 ({vector.rows}, {vector.dim}); "
            f"delete {marker} and run again"
        )
    return rows  # type: ignore[no-any-return]
