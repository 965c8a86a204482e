"""Where rows of the same content are stored: a few of the smallest content hashes of every part of a step.

Small hashes are a fair sample of a part's content, so parts that share content share some of them, wherever their rows
stand. Kept as one small table beside a finished group: `contents.<whole>.parquet`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

import polars as pl

from curate.errors import StorageError
from curate.store.columns import PartEntry
from curate.store.workspace import Workspace

KEPT = 8
"""Hashes kept a part. A part that holds a share s of a stored one is missed with probability (1 - s)^8."""
_SCHEMA = pl.Schema({"content": pl.UInt64(), "part": pl.UInt32(), "fingerprint": pl.String()})


def smallest(hashes: pl.Series) -> list[str]:
    """The KEPT smallest of UInt64 hashes, as 16 hex digits each (JSON numbers are exact to 53 bits only)."""
    return [f"{value:016x}" for value in hashes.drop_nulls().unique().sort().head(KEPT).to_list()]


def contents_file(whole: str) -> str:
    """Name of the table in the group's folder."""
    return f"contents.{whole}.parquet"


def write_contents(workspace: Workspace, folder: str, whole: str, parts: Iterable[PartEntry]) -> None:
    """Write the table of a group from the footers of its parts. Memory: KEPT rows a part."""
    rows = [(int(text, 16), part.part, part.fingerprint) for part in parts for text in part.contents]
    buffer = io.BytesIO()
    pl.DataFrame(rows, schema=_SCHEMA, orient="row").sort("content", "part").write_parquet(buffer)
    workspace.put(f"{folder}/{contents_file(whole)}", buffer.getbuffer())


def read_contents(workspace: Workspace, folder: str, names: Sequence[str]) -> pl.DataFrame:
    """The named tables of a folder, one below the other; what is gone or damaged is left out."""
    tables = [pl.DataFrame(schema=_SCHEMA)]
    for name in names:
        try:
            tables.append(pl.read_parquet(io.BytesIO(workspace.read(f"{folder}/{name}"))).cast(_SCHEMA))
        except (StorageError, pl.exceptions.PolarsError):
            continue
    return pl.concat(tables).unique(maintain_order=True)


def alike(table: pl.DataFrame, hashes: pl.Series) -> list[tuple[int, str]]:
    """(part, fingerprint) of the stored parts that share content with these rows, those that share most first."""
    shared = table.filter(pl.col("content").is_in(hashes.drop_nulls().unique().implode()))
    found = shared.group_by("part", "fingerprint").len()
    found = found.sort(["len", "part", "fingerprint"], descending=[True, False, False])
    return [(part, fingerprint) for part, fingerprint, _ in found.iter_rows()]
