"""Columns of finished groups as polars LazyFrames, from local disk or from any other storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from curate.errors import StorageError
from curate.pipeline.vectors import Vectors
from curate.store.columns import PartEntry, part_file
from curate.store.groups import Group
from curate.store.ranges import RangeFile
from curate.store.workspace import Workspace

AHEAD = 8
"""Parts of a remote workspace that are fetched at the same time."""


def scan(workspace: Workspace, group: Group) -> pl.LazyFrame:
    """All parts of a group as one LazyFrame, in order.

    Nothing is read before it is collected, and then only the columns that the query needs: on local disk polars scans
    the files, elsewhere byte ranges are fetched, `AHEAD` parts at a time. A limit stops the fetching. Memory of
    fetching: the columns asked for, of `AHEAD` parts.
    """
    if workspace.is_local:
        names = [workspace.path(_name(group, part)) for part in group.parts]
        return pl.scan_parquet(names, glob=False)

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        for frame in _fetched(workspace, group, columns, n_rows):
            yield frame if predicate is None else frame.filter(predicate)

    def schema() -> pl.Schema:
        return _frame(_open(workspace, group, group.parts[0]).schema_arrow.empty_table()).schema

    return register_io_source(source, schema=schema)


def vector_rows(workspace: Workspace, group: Group, which: str) -> pl.LazyFrame:
    """One column, `vector_row` (Int64): the row of each sample in `Vectors`, null for a sample without a vector.

    Memory: that column. Raises StorageError when the group has no such vectors.
    """
    starts = np.cumsum([0, *(part.rows for part in group.parts)], dtype=np.int64)[:-1]
    first = Vectors(workspace, group, which).ends[:-1]
    column = {"image": "vec_row", "maps": "map_row"}.get(which, f"{which}_row")
    # the number of parts that start at or before a row says which part it lies in; empty parts start there too
    part = pl.lit(pl.Series(starts)).search_sorted(pl.col("_row").cast(pl.Int64), side="right") - 1
    return (
        scan(workspace, group)
        .select(column)
        .with_row_index("_row")
        .select((pl.col(column).cast(pl.Int64) + pl.lit(pl.Series(first)).gather(part)).alias("vector_row"))
    )


def _name(group: Group, part: PartEntry) -> str:
    return f"{group.folder}/{part_file(part.part, part.fingerprint)}"


def _fetched(
    workspace: Workspace, group: Group, columns: Sequence[str] | None, n_rows: int | None
) -> Iterator[pl.DataFrame]:
    """The parts in order, at most `n_rows` rows of them; parts beyond these are not touched."""
    wanted: list[tuple[PartEntry, int]] = []
    left = group.rows if n_rows is None else n_rows
    for part in group.parts:
        if left > 0:
            wanted.append((part, min(part.rows, left)))
        left -= part.rows
    if not wanted:
        wanted = [(part, 0) for part in group.parts[:1]]
    pool = ThreadPoolExecutor(AHEAD)
    try:
        queue: deque[Future[pl.DataFrame]] = deque()
        for part, rows in wanted:
            queue.append(pool.submit(_read, workspace, group, part, columns, rows))
            if len(queue) == AHEAD:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # polars closes a scan from any thread, of the pool too


def _read(
    workspace: Workspace, group: Group, part: PartEntry, columns: Sequence[str] | None, rows: int
) -> pl.DataFrame:
    file = _open(workspace, group, part)
    table = file.read(columns=None if columns is None else list(columns), use_threads=False)
    frame = _frame(table)
    return (frame if columns is None else frame.select(columns)).head(rows)


def _frame(table: pa.Table) -> pl.DataFrame:
    frame = pl.from_arrow(table)
    assert isinstance(frame, pl.DataFrame)
    return frame


def _open(workspace: Workspace, group: Group, part: PartEntry) -> pq.ParquetFile:
    name = _name(group, part)
    try:
        ranges = RangeFile(lambda start, stop: workspace.read_range(name, start, stop), part.nbytes)
        return pq.ParquetFile(ranges, pre_buffer=True)
    except pa.ArrowInvalid as error:
        raise StorageError(
            f"{workspace.where(name)} is damaged ({error}); delete it and run the same command again"
        ) from error
