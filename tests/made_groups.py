"""A finished column group written by hand, and what is in it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import s3_server
from numpy.typing import NDArray

from curate.store.columns import PartMeta, write_part
from curate.store.groups import Group
from curate.store.workspace import Workspace

DIM = 8
SCHEMA = {
    "key": pl.String,
    "vec_row": pl.UInt32,
    "score": pl.Float32,
    "big": pl.UInt64,
    "members": pl.List(pl.Struct({"ext": pl.String, "offset": pl.UInt64})),
}


@dataclass(frozen=True)
class Made:
    """The group, all its rows, and all its vectors."""

    group: Group
    frame: pl.DataFrame
    vectors: NDArray[np.float16]


def write(workspace: Workspace, sizes: Sequence[int], seed: int = 0, filler: int = 0) -> Made:
    """Parts of these sizes in the folder `g`; about two rows in three have a vector, in a shuffled order.

    filler: bytes of random text in each row's key, to make files large.
    """
    rng = np.random.default_rng(seed)
    entries, frames, vectors = [], [], []
    for number, rows in enumerate(sizes):
        has = rng.random(rows) < 2 / 3
        places = np.full(rows, -1)
        places[has] = rng.permutation(int(has.sum()))
        frame = pl.DataFrame(
            {
                "key": [f"{number}-{row}-{rng.bytes(filler).hex()}" for row in range(rows)],
                "vec_row": [int(place) if place >= 0 else None for place in places],
                "score": [float(x) if x > 0 else None for x in rng.standard_normal(rows)],
                "big": [2**63 + row for row in range(rows)],
                "members": [[{"ext": "jpg", "offset": row}] * (row % 3) for row in range(rows)],
            },
            schema=SCHEMA,
        )
        packed = rng.standard_normal((int(has.sum()), DIM)).astype(np.float16)
        meta = PartMeta(step="embed", part=number, fingerprint=f"f{number}", rows=rows, alive=None)
        entries.append(write_part(workspace, "g", meta, frame, {"image": packed}))
        frames.append(frame)
        vectors.append(packed)
    group = Group(
        step="embed",
        kind="embed",
        folder="g",
        fingerprint="f",
        config={},
        columns={name: str(dtype) for name, dtype in SCHEMA.items()},
        drops=False,
        quarantines=False,
        parts=entries,
    )
    return Made(group, pl.concat(frames), np.concatenate(vectors))


def places(kind: str, folder: Path) -> Iterator[Workspace]:
    """An empty workspace on local disk, in memory or on an S3 server; for fixtures."""
    if kind == "local":
        yield Workspace(str(folder))
    elif kind == "memory":
        workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
        yield workspace
        workspace.remove("")
    else:
        with s3_server.serving(folder) as server, s3_server.known(server.env):
            yield Workspace(server.url("run"))
