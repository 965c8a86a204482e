"""How a release names its files and members: webdataset's habit, or that of DataComp's resharder.

What never lives here: which samples are released, and in what order.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from curate.errors import InputError
from curate.formats.datacomp import Subset, records, sorted_chunks, write_subset
from curate.store.workspace import Workspace

SAMPLE_IDS = "sample_ids.npy"
_READERS = 8
"""Tables that are read at once."""


@dataclass(frozen=True)
class Layout:
    """`webdataset`: shards of five digits, members named by uid."""

    digits: int = 5
    suffix: str = ""

    def shard(self, number: int) -> str:
        """Name of a shard, without an extension."""
        return f"{number:0{self.digits}d}"

    def key(self, uid: str, copy: int = 0) -> str:
        """Name of a sample's members, without an extension; copies count from 0."""
        return f"{uid}{self.suffix}"

    def repeated(self, table: pl.DataFrame) -> pl.DataFrame:
        """The table with one row for each time that its sample is written."""
        return table

    def uid(self, key: str) -> str:
        """The uid that `key` was made of; no uid when it was not made by this layout for a first copy."""
        return key.removesuffix(self.suffix) if key.endswith(self.suffix) else f"{key} without {self.suffix}"

    def uids(self, keys: Sequence[str]) -> list[str]:
        """The uids of the keys of a shard, in order; a further copy counts only behind the one before it."""
        found: list[str] = []
        copy = 0
        for key in keys:
            copy = copy + 1 if found and key == self.key(found[-1], copy + 1) and key != self.key(found[-1]) else 0
            found.append(found[-1] if copy else self.uid(key))
        return found

    def members(self, uid: str, members: dict[str, bytes], where: str) -> tuple[dict[str, bytes], str | None]:
        """The members to write, and what was done to their json: None, `added` or `changed`."""
        return members, None

    def finish(self, target: Workspace, sizes: dict[str, int]) -> dict[str, list[Any]]:
        """Files about the whole release: name -> bytes, sha256."""
        return {}


@dataclass(frozen=True)
class DatacompLayout(Layout):
    """`datacomp`: shards of eight digits, members named `<uid>-0`, a uid in every json, and the uids as a subset.

    A sample with `repeats` is written as often, as `<uid>-0`, `<uid>-1`, ... one after another.
    """

    digits: int = 8
    suffix: str = "-0"

    def key(self, uid: str, copy: int = 0) -> str:
        """`<uid>-<copy>`."""
        return f"{uid}-{copy}"

    def repeated(self, table: pl.DataFrame) -> pl.DataFrame:
        """As often as `repeats` says."""
        if "repeats" not in table.columns:
            return table
        times = table["repeats"].fill_null(1).to_numpy()
        return table[np.repeat(np.arange(table.height), times).tolist()]

    def members(self, uid: str, members: dict[str, bytes], where: str) -> tuple[dict[str, bytes], str | None]:
        """A sample without json gets one that holds the uid alone. A json without this uid gets it as its first entry;
        another uid there moves to `source_uid`. All else stays byte for byte.
        """
        if "json" not in members:
            return members | {"json": json.dumps({"uid": uid}).encode()}, "added"
        text = members["json"].decode("utf-8-sig")
        value = json.loads(text)
        if not isinstance(value, dict):
            raise InputError(
                f"{where}: its json member is no object, so it cannot hold the uid that layout datacomp needs; "
                "drop such samples, or release with layout: webdataset"
            )
        if isinstance(value.get("uid"), str) and value["uid"].lower() == uid:
            return members, None
        if "uid" not in value:
            rest = text[text.index("{") + 1 :]
            new = f'{{"uid": "{uid}"' + (", " if value else "") + rest
        else:
            # a second key of one name would be read by some and not by others: this json is written anew
            old = {} if value["uid"] in (None, "") else {"source_uid": value["uid"]}
            new = json.dumps({"uid": uid} | old | {name: one for name, one in value.items() if name != "uid"})
        return members | {"json": new.encode()}, "changed"

    def finish(self, target: Workspace, sizes: dict[str, int]) -> dict[str, list[Any]]:
        """sample_ids.npy: the uids of the release, sorted. Memory: about 1 GiB, and scratch disk of 16 bytes a sample
        above 16 Mi samples.
        """
        rows = sum(sizes.values())
        chunks = sorted_chunks(_uids(target, [name.removesuffix(".tar") for name in sorted(sizes)]), rows)
        nbytes, sha256 = write_subset(target, SAMPLE_IDS, chunks, rows)
        return {SAMPLE_IDS: [nbytes, sha256]}


LAYOUTS: dict[str, Layout] = {"webdataset": Layout(), "datacomp": DatacompLayout()}


def _uids(target: Workspace, shards: Sequence[str]) -> Iterator[Subset]:
    """The uids of each shard, from its table."""

    def read(shard: str) -> Subset:
        table = pl.read_parquet(io.BytesIO(target.read(f"samples.parquet/{shard}.parquet")), columns=["uid"])
        words = np.frombuffer(bytes.fromhex("".join(table["uid"])), dtype=">u8").reshape(-1, 2)
        return records(words[:, 0], words[:, 1])

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(shards), _READERS):
            yield from pool.map(read, shards[start : start + _READERS])
