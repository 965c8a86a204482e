"""Which vector is whose, and the vectors of rows that are alive: shared by every stage that reads or writes them."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.stages.part import Part


def alive_vectors(
    part: Part, step: str, only: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
    """Rows that are alive and have a vector (and are in `only`, bool [rows]), and their vectors float16 [n, d].

    Memory: the vectors asked for; on local disk the file is memory-mapped.
    """
    vec_row = part.columns(f"{step}.vec_row").to_series()
    wanted = part.alive & vec_row.is_not_null().to_numpy()
    if only is not None:
        wanted &= only
    rows = np.flatnonzero(wanted)
    packed = part.vectors(step)
    places = vec_row.fill_null(0).to_numpy()[rows]
    if len(places) == len(packed) and np.array_equal(places, np.arange(len(packed))):
        return rows, packed
    return rows, packed[places]


def packed(height: int, rows: NDArray[np.int64]) -> pl.Series:
    """UInt32 [height]: position in the packed vectors of each of `rows` (int64 [n]), null for all other rows."""
    places = np.full(height, -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    return pl.DataFrame({"row": places}).select(pl.when(pl.col("row") >= 0).then("row").cast(pl.UInt32)).to_series()
