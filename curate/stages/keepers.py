"""Who stays instead of a dropped sample: links of all parts, followed to their end on local scratch disk.

A stage that drops a sample because of another one hands links to its reduce, and reads who stays in its map:

    def summarise(self, part, totals, state):
        return keepers.links(part.rows, rows, of_part, of_row, of_hi, of_lo)

    def reduce(self, summaries, totals, state):
        return Links(summaries).keepers()                       # artifacts `keepers` and `starts`

    def map(self, part, artifacts, back):
        keeper = keepers.of_part(artifacts, part.index)         # fields hi, lo: one for each link of the part, in order

A link leads from a row to one that is preferred to it in some total order, so that links form no ring. Every row that
is the start of no link stays; a row has at most one. Summaries are read once, in part order, and need no `merge`.
`Groups` is the same for links that join samples into groups, of which the first in the order stays.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from curate.dedup import chains
from curate.store.artifacts import Artifact
from curate.store.rows import Rows, StoredRows

LINK = np.dtype(
    [("row", "u4"), ("of_part", "u4"), ("of_row", "u4"), ("of_hi", "u8"), ("of_lo", "u8"), ("weight", "f8")]
)
"""A row of the part, the sample it goes for (its part, row and uid), and how alike they are."""
NODE = np.dtype([("row", "u4"), ("key", "i8"), ("hi", "u8"), ("lo", "u8")])
EDGE = np.dtype([("row", "u4"), ("of_part", "u4"), ("of_row", "u4")])
UID = np.dtype([("hi", "u8"), ("lo", "u8")])
_BLOCK = 1 << 18


class Spool:
    """Records of all parts in order, on local scratch disk. Memory: a block."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="curate-spool-")  # noqa: SIM115  (unlinked)
        self._ends = [0]

    def add(self, table: NDArray[Any]) -> None:
        """The records of the next part."""
        self._file.write(np.ascontiguousarray(table, dtype=self.dtype).data)
        self._ends.append(self._ends[-1] + len(table))

    def __len__(self) -> int:
        return self._ends[-1]

    def tables(self) -> Iterator[tuple[int, NDArray[Any]]]:
        """(part, its records), a block at a time. One reader at a time."""
        self._file.flush()
        self._file.seek(0)
        for part, (start, stop) in enumerate(pairwise(self._ends)):
            for at in range(start, stop, _BLOCK):
                data = self._file.read((min(stop, at + _BLOCK) - at) * self.dtype.itemsize)
                yield part, np.frombuffer(data, dtype=self.dtype)


def links(
    height: int,
    rows: ArrayLike,
    of_part: ArrayLike,
    of_row: ArrayLike,
    of_hi: ArrayLike,
    of_lo: ArrayLike,
    weight: ArrayLike = 0.0,
) -> dict[str, NDArray[Any]]:
    """Summary of one part of `height` rows: one link for each of `rows` (ascending, distinct), all arrays [n].

    of_part, of_row, of_hi, of_lo: place and uid of the sample that each goes for; it may be dropped itself. weight:
    by which links can be chosen in the reduce, such as the similarity.
    """
    table = np.zeros(len(np.asarray(rows)), dtype=LINK)
    for name, values in (("row", rows), ("of_part", of_part), ("of_row", of_row), ("of_hi", of_hi), ("of_lo", of_lo)):
        table[name] = values
    table["weight"] = weight
    return {"height": np.asarray(height), "links": table}


class Links:
    """The links of all parts.

    Scratch on local disk: 36 bytes a link, and 24 bytes a row of the run while `keepers` works. Memory: one part and a
    block; the files are mapped, so what of them is in memory the system can take back.
    """

    def __init__(self, summaries: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        self._links = Spool(LINK)
        heights = []
        for summary in summaries:
            self._links.add(summary["links"])
            heights.append(int(summary["height"]))
        self.offsets = _offsets(heights)

    def weights(self) -> Iterator[NDArray[np.float64]]:
        """The weights of all links, block by block."""
        for _, table in self._links.tables():
            yield np.ascontiguousarray(table["weight"])

    def keepers(self, above: float | None = None) -> dict[str, Artifact]:
        """Artifacts `keepers` (the uid at the end of the chain, for each link in order) and `starts` (int64
        [parts + 1]: where those of each part begin). above: links of no greater weight count as not there.
        """

        def chosen() -> Iterator[tuple[int, NDArray[np.int64], NDArray[Any]]]:
            for part, table in self._links.tables():
                table = table if above is None else table[table["weight"] > above]
                yield part, self.offsets[part] + table["row"], table

        parent, uids = scratch(self.offsets[-1], "i8", -1), scratch(self.offsets[-1], UID)
        counts = np.zeros(len(self.offsets) - 1, dtype=np.int64)
        for part, rows, table in chosen():
            targets = self.offsets[table["of_part"]] + table["of_row"]
            parent[rows] = targets
            uids["hi"][targets], uids["lo"][targets] = table["of_hi"], table["of_lo"]
            counts[part] += len(rows)
        chains.resolve(parent)
        return _artifacts(counts, (np.asarray(uids[parent[rows]]) for _, rows, _ in chosen()))


def group(
    height: int, nodes: NDArray[Any], row: ArrayLike, of_part: ArrayLike, of_row: ArrayLike
) -> dict[str, NDArray[Any]]:
    """Summary of one part of `height` rows: `nodes` (dtype NODE, ascending by row; those that any edge touches, with
    key and uid), and edges from `row` to (of_part, of_row).
    """
    edges = np.zeros(len(np.asarray(row)), dtype=EDGE)
    edges["row"], edges["of_part"], edges["of_row"] = row, of_part, of_row
    return {"height": np.asarray(height), "nodes": nodes, "edges": edges}


class Groups:
    """Samples joined by edges; of each group the first by (key, uid) stays.

    Scratch on local disk: 28 bytes a node, 12 an edge, and 40 bytes a row of the run while `keepers` works. Memory: as
    `Links`.
    """

    def __init__(self, summaries: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        self._nodes, self._edges = Spool(NODE), Spool(EDGE)
        heights = []
        for summary in summaries:
            self._nodes.add(summary["nodes"])
            self._edges.add(summary["edges"])
            heights.append(int(summary["height"]))
        self.offsets = _offsets(heights)

    def keepers(self) -> tuple[dict[str, Artifact], int]:
        """Artifacts `keepers` (the uid of the first of its group, its own for the first itself, for each node in order)
        and `starts`, and the number of samples that are not the first of their group.
        """
        n = self.offsets[-1]
        parent, best, key = scratch(n, "i8", -1), scratch(n, "i8"), scratch(n, "i8")
        hi, lo = scratch(n, "u8"), scratch(n, "u8")
        for part, table in self._edges.tables():
            ends = [self.offsets[part] + table["row"], self.offsets[table["of_part"]] + table["of_row"]]
            chains.union(parent, np.stack(ends, axis=1))
        counts = np.zeros(len(self.offsets) - 1, dtype=np.int64)
        for part, table in self._nodes.tables():
            rows = self.offsets[part] + table["row"]
            key[rows], hi[rows], lo[rows] = table["key"], table["hi"], table["lo"]
            counts[part] += len(rows)
        chains.resolve(parent)
        chains.earliest(parent, best, key, hi, lo)

        def first(part: int, table: NDArray[Any]) -> NDArray[np.int64]:
            return np.asarray(best[parent[self.offsets[part] + table["row"]]])

        def blocks() -> Iterator[NDArray[Any]]:
            for part, table in self._nodes.tables():
                uids, stays = np.zeros(len(table), dtype=UID), first(part, table)
                uids["hi"], uids["lo"] = hi[stays], lo[stays]
                yield uids

        gone = sum(int((first(p, t) != self.offsets[p] + t["row"]).sum()) for p, t in self._nodes.tables())
        return _artifacts(counts, blocks()), gone


def of_part(artifacts: Mapping[str, Artifact], part: int) -> NDArray[Any]:
    """The uids (fields hi, lo) that `keepers` holds for one part, in the order of its links or nodes."""
    stored, starts = artifacts["keepers"], artifacts["starts"]
    assert isinstance(stored, StoredRows)
    assert isinstance(starts, np.ndarray)
    return stored.read(int(starts[part]), int(starts[part + 1]))


def scratch(length: int, dtype: Any, fill: int = 0) -> NDArray[Any]:
    """An array on local scratch disk, gone with its last reference. Memory: a block."""
    if not length:
        return np.zeros(0, dtype=dtype)
    with tempfile.TemporaryFile(prefix="curate-rows-") as handle:  # unlinked: it lives as long as the map
        array = np.memmap(handle, dtype=dtype, mode="w+", shape=(int(length),))
    if fill:
        for start in range(0, length, _BLOCK):
            array[start : start + _BLOCK] = fill
    return array


def uid_texts(hi: NDArray[np.uint64], lo: NDArray[np.uint64]) -> list[str]:
    """The 32 hex digits of each uid."""
    text = np.stack([hi, lo], axis=1).astype(">u8").tobytes().hex()
    return [text[at : at + 32] for at in range(0, len(text), 32)]


def _offsets(heights: list[int]) -> NDArray[np.int64]:
    """Number in the run of the first row of each part, and the rows in all: int64 [parts + 1]."""
    return np.concatenate([[0], np.cumsum(heights, dtype=np.int64)]).astype(np.int64)


def _artifacts(counts: NDArray[np.int64], blocks: Iterator[NDArray[Any]]) -> dict[str, Artifact]:
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return {"keepers": Rows(UID, int(starts[-1]), blocks), "starts": starts}
