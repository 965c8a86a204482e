"""The label maps of a release, by uid or by shard and row, straight from memory-mapped files; no torch.

    maps = LabelMapShards("release")
    record = maps["b22de55a94c31e6c2db20fae96cc9861"]     # a 0-d record, a view; by place: maps["00003", 17]
    scores, classes, lse = unpack(record)

What never lives here: images; what training makes of a map (curate/relabel/pooling.py).
"""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.label_maps import FOLDER, MapsInfo, open_shard, read_info


class LabelMapShards:
    """All maps of a release on local disk, or of a tree that `curate maps convert` took over.

    Nothing is read before it is asked for. A copy in another process opens the files anew, so a Dataset that holds one
    may go to the workers of a loader. Memory: pages of the maps that were touched; once a name was asked for, about 150
    bytes a sample.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises InputError when the folder has no label_maps.json, or no arrays beside it."""
        self.folder = Path(folder)
        self.info: MapsInfo = read_info(self.folder)
        self.shards = tuple(sorted(path.stem for path in (self.folder / FOLDER).glob("*.npy")))
        if not self.shards:
            raise InputError(
                f"{self.folder / FOLDER}: holds no arrays of label maps; release them with label_maps: both or array."
            )
        self._open: dict[str, NDArray[np.void]] = {}
        self._index: dict[bytes | str, tuple[int, int]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}, "_index": None}

    def shard(self, stem: str) -> NDArray[np.void]:
        """The records of a shard [n], memory-mapped; row i belongs to row i of `samples.parquet/<stem>.parquet`."""
        if stem not in self._open:
            self._open[stem] = open_shard(self.folder / FOLDER / f"{stem}.npy", self.info)
        return self._open[stem]

    def __len__(self) -> int:
        return sum(len(self.shard(stem)) for stem in self.shards)

    def __getitem__(self, place: str | tuple[str | SupportsIndex, SupportsIndex]) -> NDArray[np.void]:
        """The record of a uid (32 hex digits), or of (shard, row); a shard is a stem or its number.

        Of a tree that was taken over, a name in it without .pt instead of a uid. Raises KeyError for a name that is not
        there, IndexError for a row that the shard has not.
        """
        if isinstance(place, str):
            shard, row = self._find(place)
            return self.shard(self.shards[shard])[row : row + 1].reshape(())
        stem, row = place[0], operator.index(place[1])  # numpy's integers too, of 8 bits
        records = self.shard(stem if isinstance(stem, str) else self.shards[operator.index(stem)])
        if not -len(records) <= row < len(records):
            raise IndexError(f"{stem} has {len(records):,} maps; there is no row {row}")
        return records[row % len(records) :][:1].reshape(())

    def __contains__(self, name: object) -> bool:
        try:
            return isinstance(name, str) and self._find(name) is not None
        except KeyError:
            return False

    def _find(self, name: str) -> tuple[int, int]:
        if self._index is None:
            self._index = self._read_index()
        found = self._index.get(_short(name))
        if found is None:
            raise KeyError(name)
        return found

    def _read_index(self) -> dict[bytes | str, tuple[int, int]]:
        found: dict[bytes | str, tuple[int, int]] = {}
        for number, stem in enumerate(self.shards):
            for row, name in enumerate(self.names(stem)):
                found.setdefault(_short(name), (number, row))
        return found

    def names(self, stem: str) -> list[str]:
        """uids of the samples of a shard, row by row; of a tree that was taken over, names in it without .pt.

        Raises InputError when the table cannot be read or has other rows than the array.
        """
        table = self.folder / "samples.parquet" / f"{stem}.parquet"
        try:
            column = "uid" if "uid" in pl.read_parquet_schema(table) else "key"
            names: list[str] = pl.read_parquet(table, columns=[column])[column].to_list()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(f"{table}: cannot be read ({error}); copy the release again.") from error
        if len(names) != len(self.shard(stem)):
            raise InputError(
                f"{self.folder / FOLDER / stem}.npy: holds {len(self.shard(stem)):,} maps, its table has "
                f"{len(names):,} rows; copy the release again."
            )
        return names


def _short(name: str) -> bytes | str:
    """A uid as 16 bytes, any other name as it is."""
    try:
        return bytes.fromhex(name) if len(name) == 32 else name
    except ValueError:
        return name
