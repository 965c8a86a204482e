"""Results by row that depend on the content of a row alone: what is stored of them is taken over, the rest is made.

For stages with arrays beside their columns (`embed`, `relabel`) that quarantine what cannot be done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import DTypeLike, NDArray

from curate.errors import StorageError
from curate.stages.base import Columns
from curate.stages.part import Part, Twin
from curate.stages.vectors import packed
from curate.store.columns import read_columns, read_vectors
from curate.store.workspace import Workspace

KEY = ["content_hi", "content_lo"]


def content(sha256: str | None, caption: str | None = None) -> tuple[int, int] | tuple[None, None]:
    """Hash of what decides a row's result; 128 bits, so that nobody finds two images that share one."""
    if sha256 is None:
        return None, None
    data = bytes.fromhex(sha256) + (b"" if caption is None else b"\n" + caption.encode("utf-8", "surrogatepass"))
    digest = hashlib.blake2b(data, digest_size=16, person=b"curate.content").digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")


class Rows:
    """What is known of the alive rows of one part so far: its piece of each array, or why there is none.

    kinds: array name -> the column that says where a row stands in it. The first kind is the one that a row must have;
    without it, it failed. Memory: the arrays, for all rows of the part.
    """

    def __init__(self, contents: pl.DataFrame, alive: NDArray[np.bool_], kinds: Mapping[str, str]) -> None:
        height = len(alive)
        self.contents, self.alive, self.kinds = contents, alive, dict(kinds)
        self.main = next(iter(kinds))
        self.arrays: dict[str, NDArray[Any]] = {}
        self.has = {kind: np.zeros(height, dtype=bool) for kind in kinds}
        self.status: list[str | None] = [None] * height
        self.detail: list[str | None] = [None] * height

    def space(self, dtype: DTypeLike, shape: tuple[int, ...] = ()) -> None:
        """Make room in each array for pieces of this dtype and shape, unless there is already."""
        for kind, has in self.has.items():
            if kind not in self.arrays:
                self.arrays[kind] = np.zeros((len(has), *shape), dtype=dtype)

    @property
    def unknown(self) -> NDArray[np.int64]:
        """Alive rows that have neither a result nor a reason why there is none."""
        failed = np.asarray([status is not None for status in self.status], dtype=bool)
        return np.flatnonzero(self.alive & ~self.has[self.main] & ~failed)

    def fail(self, row: int, status: str, detail: str) -> None:
        """No result for this row, and why."""
        self.status[row], self.detail[row] = status, detail

    def undecoded(self, row: int, detail: str) -> None:
        """The image of this row does not decode."""
        self.fail(row, "decode_error", detail)

    def take_over(self, part: Part) -> None:
        """Rows of the same content that this step computed before, and failures unless they are to be tried again.

        A result counts more than a failure: a decoder may have learnt something in between.
        """
        failures: list[tuple[int, str, str]] = []
        for twin in part.twins:
            if not len(wanted := self.unknown):
                break
            try:
                failures += self._take_over(part.workspace, twin, wanted)
            except StorageError:
                continue  # damaged, or removed meanwhile: then its rows are computed anew
        for row, status, detail in failures:
            if not self.has[self.main][row] and self.status[row] is None and not part.retry:
                self.fail(row, status, detail)

    def _take_over(self, workspace: Workspace, twin: Twin, wanted: NDArray[np.int64]) -> list[tuple[int, str, str]]:
        mine = self.contents[wanted.tolist()].with_columns(row=pl.Series(wanted))
        theirs = read_columns(workspace, twin.folder, twin.part, twin.fingerprint)
        judged = theirs.filter(pl.col("keep").is_not_null()).unique(KEY, keep="first", maintain_order=True)
        found = mine.join(judged, on=KEY, maintain_order="left")
        good = found.filter("keep")
        stored = {
            kind: read_vectors(workspace, twin.folder, twin.part, twin.fingerprint, kind) if good.height else None
            for kind in self.kinds
        }
        for kind, column in self.kinds.items():
            if (array := stored[kind]) is not None:
                there = good.filter(pl.col(column).is_not_null())
                rows = there["row"].to_numpy()
                self.space(array.dtype, array.shape[1:])
                self.arrays[kind][rows] = array[there[column].to_numpy()]
                self.has[kind][rows] = True
        self.taken(good)
        return list(found.filter(~pl.col("keep")).select("row", "reason", "detail").iter_rows())

    def taken(self, stored: pl.DataFrame) -> None:
        """Called with what was taken over: the stored columns, and `row`; for columns that are no arrays."""

    def scalars(self) -> dict[str, pl.Series]:
        """Further columns of the step, all rows."""
        return {}

    def columns(self, facts: Mapping[str, int]) -> Columns:
        """The step's columns: scalars, detail, content, keep, reason, and the arrays packed."""
        frame = pl.DataFrame(
            {
                "detail": pl.Series(self.detail, dtype=pl.String),
                "reason": pl.Series(self.status, dtype=pl.String),
                **self.scalars(),
            }
        ).with_columns(self.contents, keep=pl.col("reason").is_null())
        arrays = {}
        for kind, column in self.kinds.items():
            if kind in self.arrays:
                rows = np.flatnonzero(self.has[kind])
                arrays[kind] = self.arrays[kind][rows]
                frame = frame.with_columns(packed(len(self.alive), rows).alias(column))
        return Columns(frame, arrays, facts=facts)
