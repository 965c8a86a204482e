"""Find samples of a finished run by their columns, and read their bytes from the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from curate.errors import CurateError
from curate.formats.members import read_members
from curate.pipeline.api import Run
from curate.store.columns import read_columns
from curate.store.uids import format_uid


@dataclass(frozen=True)
class Sample:
    """One row of the run's table."""

    uid: str
    key: str
    part: int
    row: int
    values: dict[str, Any]
    """`step.column` -> value, for the columns asked for."""


def find_samples(run: Run, columns: Mapping[str, Sequence[str]], where: pl.Expr, limit: int) -> list[Sample]:
    """The first `limit` samples, in input order, for which `where` (over `step.column`) is true.

    The first step of `columns` is the index. Memory: the columns of one part.
    """
    index = run.record.steps[0].name
    groups = {step: run.group(step) for step in {index, *columns}}
    found: list[Sample] = []
    for number, part in enumerate(groups[index].parts):
        frames = []
        for step, group in groups.items():
            names = set(columns.get(step, ()))
            if step == index:
                names |= {"uid_hi", "uid_lo", "key"}
            entry = group.parts[number]
            frame = read_columns(run.workspace, group.folder, part.part, entry.fingerprint, sorted(names))
            frames.append(frame.rename({name: f"{step}.{name}" for name in frame.columns}))
        table = pl.concat(frames, how="horizontal").with_row_index("row").filter(where).head(limit - len(found))
        found += [
            Sample(
                format_uid(row[f"{index}.uid_hi"], row[f"{index}.uid_lo"]),
                row[f"{index}.key"],
                part.part,
                row["row"],
                row,
            )
            for row in table.iter_rows(named=True)
        ]
        if len(found) >= limit:
            break
    return found


def sample_bytes(run: Run, sample: Sample) -> bytes | None:
    """The image of a sample, read from the input; None when the input is gone or changed."""
    index = run.group(run.record.steps[0].name)
    fingerprint = index.parts[sample.part].fingerprint
    frame = read_columns(run.workspace, index.folder, sample.part, fingerprint, ["shard", "members", "ext"])
    row = frame[sample.row]
    source = run.sources[sample.part] if sample.part < len(run.sources) else None
    ext = row["ext"][0]
    if source is None or ext is None:
        return None
    try:
        return next(iter(read_members(source, row, {ext.lower()})))[1].get(ext)
    except (CurateError, StopIteration):
        return None
