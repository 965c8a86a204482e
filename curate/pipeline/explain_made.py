"""The story of a sample that a run has made: which image it is, and in which shard. Read from the release alone."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import polars as pl

from curate.errors import InputError
from curate.formats.tar import TarScan, split_name
from curate.pipeline.api import Run
from curate.pipeline.stories import StepStory, Story
from curate.store.uids import format_uid, parse_uid
from curate.store.workspace import Workspace


def explain_made(run: Run, *, uid: str | None = None, key: str | None = None, shard: str | None = None) -> list[Story]:
    """As `explain.explain`. key: number of the image; shard: one of the dataset's own. Memory: the uids and keys of one
    shard. Raises InputError when there is no such sample, or when the run has not come to its end.
    """
    if run.release is None:
        raise InputError(
            f"this run is not finished ({run.record.status}), and its images are listed at its end; run the same "
            "command again, then ask again"
        )
    if uid is None and key is None:
        raise InputError("name a sample: by its uid (32 hex digits) or by its key, the number of the image")
    column, wanted = ("key", str(key)) if uid is None else ("uid", format_uid(*parse_uid(uid)))
    release = Workspace(run.release)
    found = list(_find(run, release, column, wanted, shard))
    if not found:
        where = f" in shard {shard}" if shard else ""
        raise InputError(
            f"no sample of this run has the {column} {wanted}{where}; it made {run.record.rows:,} images, and their "
            "keys are their numbers from 0"
        )
    return found


def _find(run: Run, release: Workspace, column: str, wanted: str, only: str | None) -> Iterator[Story]:
    sizes = json.loads(release.read("sizes.json"))
    for number, name in enumerate(sorted(sizes, key=lambda name: (len(name), name))):
        if only not in (None, name, release.where(name)):
            continue
        data = release.read(f"samples.parquet/{name.removesuffix('.tar')}.parquet")
        found = pl.read_parquet(io.BytesIO(data), columns=[column])[column].index_of(wanted)
        if found is not None:
            row = pl.read_parquet(io.BytesIO(data)).row(found, named=True)
            yield _story(run, release, number, found, row)
            return


def _story(run: Run, release: Workspace, part: int, place: int, row: dict[str, Any]) -> Story:
    step = run.record.steps[0]
    told = {name: value for name, value in row.items() if name not in ("uid", "key", "shard") and value is not None}
    return Story(
        uid=row["uid"],
        key=row["key"],
        shard=row["shard"],
        part=part,
        row=place,
        members=list(_members(release, row["shard"], row["uid"])),
        status="ok",
        detail=None,
        alive=True,
        steps=[StepStory(step.name, step.kind, "made", None, told)],
        release=release.where(row["shard"]),
        released_as=row["uid"],
    )


def _members(release: Workspace, shard: str, uid: str) -> Iterator[dict[str, Any]]:
    """The members of one sample, which stand together."""
    seen = False
    with release.open(shard) as handle:
        for member in TarScan(handle, wanted=lambda _: False):
            named = split_name(member.raw_name)
            if named is not None and named[0] == uid.encode():
                seen = True
                yield {"ext": named[1], "nbytes": member.nbytes}
            elif seen:
                return
