"""What an input is made of, by name, size and etag only: shards and files, cut into parts. Opens nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from curate.errors import InputError

AUTO_PART_BYTES = 128 << 20
AUTO_PART_SHARDS = 1000


@dataclass(frozen=True, slots=True)
class ArchiveEnd:
    """What is to be told of a tar of tars: how it ended if not well (as in TarEnd), and members that are no tars."""

    name: str
    reason: str | None = None
    offset: int = 0
    detail: str = ""
    ignored: int = 0
    ignored_names: tuple[str, ...] = ()
    skipped: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A file beside a shard that tells more of it: what it is (``table``, ``stats``), where, its bytes, its etag."""

    kind: str
    url: str
    nbytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One tar or table: where it is, its path relative to the input root (part of the uid), size in bytes, etag.

    ``start``: byte of the file at which it begins, for a tar inside a tar. ``label``: class of all its samples.
    ``ends``: what is to be told of the archive around it, on the last of its tars. ``sidecars``: a downloader's files
    beside it, see img2dataset.py; None when they are not looked for, () when there are none. ``rows``: first row and
    the one after the last, for a table of which only a range is meant.
    """

    url: str
    rel: str
    nbytes: int
    etag: str
    start: int = 0
    label: str | None = None
    ends: ArchiveEnd | None = None
    sidecars: tuple[Sidecar, ...] | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of an image folder: path relative to the root, its extension as a member, size in bytes, etag."""

    rel: str
    ext: str
    nbytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class FileGroup:
    """The files of one sample of an image folder, the image first. ``label``: first folder level, if any."""

    key: str
    label: str | None
    files: tuple[FileInfo, ...]


@dataclass(frozen=True, slots=True)
class PartSource:
    """What one part is made of: consecutive shards, or a run of an image folder's sorted listing."""

    part: int
    kind: Literal["tar", "folder", "parquet", "embeddings", "datacomp"]
    shards: tuple[ShardInfo, ...] = ()
    root: str = ""
    files: tuple[FileGroup, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes to read for this part."""
        return sum(s.nbytes for s in self.shards) + sum(f.nbytes for g in self.files for f in g.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the shards, relative to the input root; the index column `shard` counts them."""
        return tuple(shard.rel for shard in self.shards)

    @property
    def label(self) -> str:
        """What to call the part in messages."""
        if self.kind == "folder":
            return f"{self.root}/{self.files[0].key} ..." if self.files else self.root
        return self.shards[0].rel if len(self.shards) == 1 else f"{self.shards[0].rel} ... {self.shards[-1].rel}"

    def identity(self) -> str:
        """A stable text of what the part contains (relative path, size, etag of each file), for fingerprints.

        Does not depend on where the input lies or on the part's number.
        """
        digest = hashlib.blake2b(digest_size=16)
        for rel, nbytes, etag in self._contents():
            for field in (rel, str(nbytes), etag):
                data = field.encode("utf-8", "surrogateescape")
                digest.update(len(data).to_bytes(8, "little") + data)
        return f"{self.kind}-{digest.hexdigest()}"

    def _contents(self) -> Iterator[tuple[str, int, str]]:
        for shard in self.shards:
            yield shard.rel, shard.nbytes, shard.etag
            if shard.rows is not None:
                yield f"{shard.rel}\0rows", shard.rows[0], str(shard.rows[1])
            if shard.sidecars == ():
                yield f"{shard.rel}\0none", 0, ""
            for sidecar in shard.sidecars or ():
                yield f"{shard.rel}\0{sidecar.kind}", sidecar.nbytes, sidecar.etag
        for group in self.files:
            for file in group.files:
                yield f"{group.key}\0{file.rel}", file.nbytes, file.etag


def plan_parts(
    shards: Sequence[ShardInfo],
    shards_per_part: int | Literal["auto"] = "auto",
    kind: Literal["tar", "parquet", "embeddings", "datacomp"] = "tar",
) -> list[PartSource]:
    """Group consecutive shards into parts.

    ``auto`` closes a part as soon as it has 128 MiB or 1,000 shards, greedily from the start, so appended shards can
    only change the last part or follow it.
    """
    if shards_per_part != "auto" and shards_per_part < 1:
        raise InputError(f"shards_per_part is {shards_per_part}; it must be at least 1, or auto.")
    parts: list[PartSource] = []
    group: list[ShardInfo] = []
    nbytes = 0
    limit = AUTO_PART_SHARDS if shards_per_part == "auto" else shards_per_part
    for shard in shards:
        group.append(shard)
        nbytes += shard.nbytes
        if len(group) >= limit or (shards_per_part == "auto" and nbytes >= AUTO_PART_BYTES):
            parts.append(PartSource(len(parts), kind, tuple(group)))
            group, nbytes = [], 0
    if group:
        parts.append(PartSource(len(parts), kind, tuple(group)))
    return parts
