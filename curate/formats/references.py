"""Reference sets: what a run is compared with. Which samples are at a place, their vectors, hashes and uids.

    eval.npy, eval.npz            float [n, d], one row a sample; of a .npz the only such array
    eval/                         a folder of embeddings in clip-retrieval's layout
    run/                          a finished workspace: its alive samples, their hashes, uids and stored vectors
    release/                      a release: hashes and uids; vectors too if write_embeddings wrote them into it

Everything is read in bounded pieces. What never lives here: how samples are compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.clip_retrieval import (
    IMAGES,
    METADATA,
    check_rows,
    columns_of,
    file_of,
    key_column,
    key_of,
    list_embeddings,
    open_npy,
    read_column,
    read_rows,
)
from curate.formats.npz import NpzMember, describe, open_member
from curate.formats.npz import read_rows as read_member
from curate.formats.sources import ShardInfo, Sidecar
from curate.store import urls
from curate.store.columns import PartEntry, read_columns, read_vectors
from curate.store.fingerprint import fingerprint
from curate.store.groups import Group, read_group
from curate.store.manifest import read_manifest
from curate.store.uids import format_uid
from curate.store.workspace import Workspace

EMBEDDING = ("embed", "read_embeddings")
"""Kinds of steps whose vectors are taken from a workspace: the last one."""
_SAMPLES = "samples.parquet"
_CHUNK = 8 << 20
_LEFT_OUT = "the references changed while the run was at work; run the same command again"


@dataclass(frozen=True)
class ReferenceSet:
    """One set. Picklable; nothing is kept open."""

    name: str
    """Short name for reports: the last part of the path, made different from those of other sets."""
    url: str
    content: str
    """Changes when what it holds does: of sha256 on local disk, of etags elsewhere."""
    vectors: int
    """Rows that have a vector."""
    dim: int
    """Length of a vector; 0 without any."""
    samples: int
    """Samples that are known by hash or uid."""
    encoder: tuple[tuple[str, Any], ...] | None = None
    """Model, weights and library that a workspace's vectors come from, where it embedded them itself."""
    stamps: tuple[tuple[str, str], ...] = ()
    """Files with their etags, to find out that one has changed."""


Rows = tuple[list[str], NDArray[Any]]
"""Keys of some rows, and their vectors: float [n, d] of any width."""


def open_references(places: Sequence[str]) -> list[ReferenceSet]:
    """All sets, each looked at once: headers, listings, and on local disk every byte of vector files, for their hash.

    Raises InputError: nothing there, not recognised, unfinished, or files that do not fit together.
    """
    found: list[ReferenceSet] = []
    names: set[str] = set()
    for place in places:
        fs, path = urls.resolve(place)
        url = path if urls.is_local(fs) else place.rstrip("/")
        plain = url.rstrip("/").rpartition("/")[2]
        base = plain.removesuffix(".npy").removesuffix(".npz")
        name = next(n for n in (base, *(f"{base}-{i}" for i in range(2, len(places) + 2))) if n not in names)
        names.add(name)
        found.append(_open(url, name))
    return found


def _open(url: str, name: str) -> ReferenceSet:
    if url.endswith((".npy", ".npz")):
        return _open_array(url, name)
    place = Workspace(url)
    if place.exists("run.json"):
        return _open_workspace(place, name)
    has_vectors = place.exists(IMAGES)
    if place.exists("manifest.json"):
        manifest = read_manifest(place)
        content, samples = hashlib.sha256(place.read("manifest.json")).hexdigest(), manifest.samples
        if not has_vectors:
            return ReferenceSet(name, url, content, 0, 0, samples)
        inner = _open_embeddings(url, name)
        return ReferenceSet(
            name, url, fingerprint(content, inner.content), inner.vectors, inner.dim, samples, stamps=inner.stamps
        )
    if has_vectors:
        return _open_embeddings(url, name)
    raise InputError(
        f"{url}: is no reference set; one is a .npy or .npz file of vectors, a folder of embeddings ({IMAGES}/ and "
        f"{METADATA}/), the workspace of a finished run (run.json) or a release (manifest.json)"
    )


def vectors_of(one: ReferenceSet) -> Iterator[Rows]:
    """Its vectors with their keys, in order, 8,192 rows (of a workspace: a part) at a time.

    Raises InputError when a file is not what it was when the set was opened.
    """
    for url, stamp in one.stamps:
        if _stamp(url) != stamp:
            raise InputError(f"{url}: {_LEFT_OUT}")
    if not one.vectors:
        return
    if one.url.endswith(".npy"):
        yield from _numbered(_npy_rows(one.url))
    elif one.url.endswith(".npz"):
        yield from _numbered(_npz_rows(one.url))
    elif (place := Workspace(one.url)).exists("run.json"):
        yield from _Finished(place).vectors()
    else:
        yield from _folder_rows(one.url)


def samples_of(one: ReferenceSet) -> Iterator[pl.DataFrame]:
    """`uid_hi`, `uid_lo` (UInt64) and `sha256` (String, may be null) of its samples, a part or a file at a time."""
    if not one.samples:
        return
    place = Workspace(one.url)
    if place.exists("run.json"):
        yield from _Finished(place).samples()
        return
    for file in sorted(read_manifest(place).files):
        if file.startswith(f"{_SAMPLES}/"):
            with place.open(file) as handle:
                yield pl.read_parquet(handle, columns=["uid", "sha256"]).select(
                    pl.col("uid").str.slice(0, 16).str.to_integer(base=16, dtype=pl.UInt64).alias("uid_hi"),
                    pl.col("uid").str.slice(16, 16).str.to_integer(base=16, dtype=pl.UInt64).alias("uid_lo"),
                    "sha256",
                )


# --- files of vectors -------------------------------------------------------------------------------------------------


def _numbered(blocks: Iterator[NDArray[Any]]) -> Iterator[Rows]:
    at = 0
    for block in blocks:
        yield [f"{row:09d}" for row in range(at, at + len(block))], block
        at += len(block)


def _open_array(url: str, name: str) -> ReferenceSet:
    if url.endswith(".npy"):
        npy = open_npy(_file(url))
        rows, dim = npy.rows, npy.dim
    else:
        array = _npz_array(url).array
        rows, dim = array.rows, array.dim
    return ReferenceSet(name, url, _content([url]), rows, dim, 0, stamps=((url, _stamp(url)),))


def _file(url: str) -> Sidecar:
    return Sidecar("vectors", url, urls.size(url), "")


def _npy_rows(url: str) -> Iterator[NDArray[Any]]:
    npy = open_npy(_file(url))
    for _, block in read_rows(npy, np.arange(npy.rows)):
        yield block


def _npz_array(url: str) -> NpzMember:
    """The only array [n, d] of floats in the file."""
    nbytes = urls.size(url)
    arrays = {told["name"]: told for told in describe(url, nbytes)}
    found = [name for name, told in arrays.items() if len(told["shape"]) == 2 and told["dtype"].startswith("float")]
    if len(found) != 1:
        raise InputError(
            f"{url}: a reference set is one array of float rows, here there are {len(found)} "
            f"({', '.join(found) or 'none'}); save the one that is meant as a .npy"
        )
    return open_member(url, nbytes, found[0])


def _npz_rows(url: str) -> Iterator[NDArray[Any]]:
    member = _npz_array(url)
    for _, block in read_member(member, np.arange(member.array.rows)):
        yield block


def _open_embeddings(url: str, name: str) -> ReferenceSet:
    rows, dim, stamps = 0, 0, []
    shards = list_embeddings(url)
    for shard in shards:
        check_rows(shard)
        npy = open_npy(_images(shard))
        if dim and npy.dim != dim:
            raise InputError(
                f"{npy.url}: has vectors of {npy.dim} numbers, the files before it {dim}; they are of different models"
            )
        rows, dim = rows + npy.rows, npy.dim
        stamps += [(file.url, _stamp(file.url)) for file in shard.sidecars or () if file.kind in (IMAGES, METADATA)]
    return ReferenceSet(name, url, _content([file for file, _ in stamps]), rows, dim, 0, stamps=tuple(stamps))


def _images(shard: ShardInfo) -> Sidecar:
    file = file_of(shard, IMAGES)
    assert file is not None
    return file


def _folder_rows(url: str) -> Iterator[Rows]:
    before = 0
    for shard in list_embeddings(url):
        npy = open_npy(_images(shard))
        blocks = read_rows(npy, np.arange(npy.rows))
        where, block = next(blocks, (slice(0, 0), np.empty((0, npy.dim))))
        for first, values in read_column(shard, key_column(columns_of(shard))):
            at = 0
            while at < len(values):  # batches of the table and of the array end at different rows
                if first + at >= where.start + len(block):
                    where, block = next(blocks)
                some = block[first + at - where.start :][: len(values) - at]
                keys = [key_of(v, before + first + at + i) for i, v in enumerate(values[at : at + len(some)])]
                yield keys, some
                at += len(some)
        before += npy.rows


def _content(files: Sequence[str]) -> str:
    """sha256 of every file on local disk, etags elsewhere, in order."""
    told = []
    for url in files:
        if not urls.is_local(urls.resolve(url)[0]):
            told.append(_stamp(url))
            continue
        digest = hashlib.sha256()
        with urls.open_read(url) as handle:
            while chunk := handle.read(_CHUNK):
                digest.update(chunk)
        told.append(digest.hexdigest())
    return fingerprint(told)


def _stamp(url: str) -> str:
    return urls.etag(url)


# --- finished workspaces ----------------------------------------------------------------------------------------------


def _open_workspace(place: Workspace, name: str) -> ReferenceSet:
    finished = _Finished(place)
    groups = [group for group in (finished.index, finished.alive, finished.embedding) if group is not None]
    content = fingerprint([[part.sha256 for part in group.parts] for group in groups])
    samples = finished.index.rows if finished.alive is None else finished.alive.alive or 0
    embedding = finished.embedding
    if embedding is None:
        return ReferenceSet(name, place.url, content, 0, 0, samples)
    dim = max((part.vectors["image"].dim for part in embedding.parts if "image" in part.vectors), default=0)
    return ReferenceSet(name, place.url, content, samples, dim, samples, encoder_of(embedding))


def encoder_of(group: Group) -> tuple[tuple[str, Any], ...] | None:
    """Model, weights and library of a group of vectors; None when they were computed elsewhere."""
    if group.kind != "embed" or not group.config.get("model"):
        return None
    return tuple((option, group.config.get(option)) for option in ("model", "pretrained", "library"))


class _Finished:
    """What a finished run left: its index, the last word on who is alive, its last vectors."""

    def __init__(self, place: Workspace) -> None:
        self.place = place
        where = place.where("run.json")
        try:
            record = json.loads(place.read("run.json"))
            steps = [(s["kind"], s["folder"], s["group"]) for s in record["steps"] if s["group"]]
            status = record["status"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{where}: cannot be understood ({error}); run its pipeline again") from error
        if status != "done" or not steps:
            raise InputError(f"{where}: the run is {status}, a reference set is a finished one; run it to its end")
        groups = [read_group(place, folder, group) for _, folder, group in steps]
        self.index = groups[0]
        self.alive = next((group for group in reversed(groups) if group.drops), None)
        self.embedding = next((group for group in reversed(groups) if group.kind in EMBEDDING), None)

    def _read(self, group: Group, part: PartEntry, *columns: str) -> pl.DataFrame:
        entry = next(p for p in group.parts if p.part == part.part)
        return read_columns(self.place, group.folder, entry.part, entry.fingerprint, columns)

    def _alive(self, part: PartEntry) -> NDArray[np.bool_]:
        if self.alive is None:
            return np.ones(part.rows, dtype=bool)
        return self._read(self.alive, part, "alive")["alive"].to_numpy()

    def samples(self) -> Iterator[pl.DataFrame]:
        """Uids and hashes of alive rows, part by part."""
        for part in self.index.parts:
            yield self._read(self.index, part, "uid_hi", "uid_lo", "sha256").filter(pl.Series(self._alive(part)))

    def vectors(self) -> Iterator[Rows]:
        """Vectors of alive rows that have one, keyed by uid, part by part."""
        assert self.embedding is not None
        for part in self.embedding.parts:
            vec_row = self._read(self.embedding, part, "vec_row")["vec_row"]
            wanted = np.flatnonzero(self._alive(part) & vec_row.is_not_null().to_numpy())
            uids = self._read(self.index, part, "uid_hi", "uid_lo")[wanted.tolist()]
            packed = read_vectors(self.place, self.embedding.folder, part.part, part.fingerprint, "image")
            places = vec_row.fill_null(0).to_numpy()[wanted]
            yield [format_uid(hi, lo) for hi, lo in uids.iter_rows()], packed[places]
