"""Recompute every checksum and count of a release and name all that does not fit.

A release is complete in itself (docs/formats/release.md): nothing but its folder is read.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.datacomp import open_subset
from curate.formats.tar import Member, TarScan, check_name, printable, split_name
from curate.pipeline.hashing import Hashing
from curate.pipeline.verify_labels import LabelMapsCheck, ShardMaps
from curate.pipeline.violations import NAMED, Violation, shown, some
from curate.stages.fractal import CARD, SPECIFICATION, SYSTEMS
from curate.stages.release_layout import LAYOUTS, SAMPLE_IDS
from curate.store.manifest import Manifest, read_manifest
from curate.store.workspace import Workspace

MANIFEST = "manifest.json"
_SHARD = re.compile(r"(\d{5,})\.tar\Z")
_KNOWN = re.compile(
    r"(\d{5,}\.tar|\d{5,}_stats\.json|(sizes|classes|specification|label_maps)\.json|sample_ids\.npy|systems\.parquet|README\.md|"
    r"(samples|dropped)\.parquet/\d{5,}\.parquet|label_maps/\d{5,}\.npy)\Z"
)
_FOLDERS = ("", "samples.parquet", "dropped.parquet", "label_maps")
_UID = re.compile(r"[0-9a-f]{32}\Z")


@dataclass
class Verification:
    """What was looked at and what was found; `ok` when nothing is wrong."""

    url: str
    samples: int = 0
    shards: int = 0
    files: int = 0
    nbytes: int = 0
    seconds: float = 0.0
    manifest_sha256: str = ""
    violations: list[Violation] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether the release is as its manifest says."""
        return not self.violations

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"ok": self.ok, **asdict(self)}


@dataclass
class _Shard:
    """What one shard was found to hold."""

    name: str
    nbytes: int = 0
    samples: int | None = None
    uids: NDArray[np.uint64] = field(default_factory=lambda: np.zeros((0, 2), dtype=np.uint64))


def verify_release(
    release: Workspace, *, workers: int = 4, advance: Callable[[int], None] | None = None
) -> Verification:
    """Check a release against its manifest and itself; all violations are found, not only the first.

    workers: threads that read and hash. advance(n): called as n more shards or tables are done. Every file is read
    once. Raises StorageError when there is no manifest or it cannot be understood.
    Memory: per thread a member, a shard's table and its label maps; 16 bytes a sample for the uids, three times that
    while sorting.
    """
    start = time.monotonic()
    manifest = read_manifest(release)
    digest = hashlib.sha256(release.read(MANIFEST)).hexdigest()
    checker = _Checker(release, manifest)
    checker.listing()
    shards = sorted(name for name in checker.there if _SHARD.match(name))
    tables = sorted(name for name in checker.there if name.startswith("dropped.parquet/"))
    if not manifest.shards:  # of an input without images: tables alone
        bare = sorted(name for name in checker.there if name.startswith("samples.parquet/"))
    else:
        bare = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        found = list(pool.map(checker.bare, bare))
        for shard in pool.map(checker.shard, shards):
            found.append(shard)
            if advance:
                advance(1)
        dropped: Counter[tuple[str, str]] = Counter()
        for counts in pool.map(checker.dropped, tables):
            dropped.update(counts)
            if advance:
                advance(1)
    checker.totals(found, dropped)
    return Verification(
        url=release.url,
        samples=sum(shard.samples or 0 for shard in found) - (manifest.copies or 0),
        shards=len(shards),
        files=len(checker.there) + 1,
        nbytes=sum(checker.there.values()),
        seconds=time.monotonic() - start,
        manifest_sha256=digest,
        violations=sorted(checker.violations, key=lambda violation: (violation.file, violation.what)),
    )


class _Checker:
    """Gathers violations; its methods run on several threads (appending to a list is atomic)."""

    def __init__(self, release: Workspace, manifest: Manifest) -> None:
        self.release, self.manifest = release, manifest
        self.violations: list[Violation] = []
        self.there: dict[str, int] = {}
        self.sizes: dict[str, Any] = {}
        self._seen: set[str] = set()
        self.maps = LabelMapsCheck(manifest, self.bad)
        self.layout = LAYOUTS["datacomp" if SAMPLE_IDS in manifest.files else "webdataset"]

    def bad(self, file: str, what: str) -> None:
        self.violations.append(Violation(file, what))

    def listing(self) -> None:
        """Which files are there, and which should be."""
        found: dict[str, int] = {}
        for folder in _FOLDERS:
            prefix = f"{folder}/" if folder else ""
            found |= {f"{prefix}{name}": size for name, size in self.release.listing(folder).items()}
        for folder in self.release.folders():
            if folder not in _FOLDERS and not folder.startswith("."):
                self.bad(f"{folder}/", "the folder does not belong to the release")
        listed = self.manifest.files
        for name, entry in listed.items():
            if not _KNOWN.match(name):
                self.bad(MANIFEST, f"lists {name!r}, which is no file of a release")
            elif name not in found:
                self.bad(name, f"the file is missing ({entry.bytes:,} bytes in the manifest)")
            else:
                self.there[name] = found[name]
        for name in sorted(found.keys() - listed.keys() - {MANIFEST}):
            self.bad(name, "the file is not in the manifest")
        if "sizes.json" not in listed:
            self.bad(MANIFEST, "does not list sizes.json")
        self.sizes = self._json("sizes.json")
        if "classes.json" in listed:
            self._json("classes.json")
        if SPECIFICATION in listed:
            self._fractals()
        self.maps.read_info(self._read)

    def _fractals(self) -> None:
        """A specification, the classes it needs, and the card."""
        told = self._json(SPECIFICATION)
        systems = self._table(SYSTEMS, ("class",))
        classes = told.get("options", {}).get("classes")
        if systems is not None and told and systems.height != classes:
            self.bad(SYSTEMS, f"has {systems.height:,} rows, {SPECIFICATION} says {shown(classes)} classes")
        self._read(CARD)

    def shard(self, name: str) -> _Shard:
        """One tar with its statistics and its table, in one pass over the tar."""
        number = name.removesuffix(".tar")
        table = self._table(f"samples.parquet/{number}.parquet", ("uid", "sha256", "shard"))
        shard = _Shard(name)
        maps = self.maps.of_shard(number, self._read)
        with self.release.open(name) as handle:
            stream = Hashing(handle)
            keys, unlike = self._scan(name, stream, None if table is None else table["sha256"].to_list(), maps)
            stream.drain()
        maps.end(name, len(keys))
        uids = self.layout.uids(keys)
        shard.samples, shard.nbytes = len(uids), stream.nbytes
        self._matches(name, stream.nbytes, stream.digest.hexdigest())
        if table is not None:
            self._agree(name, f"samples.parquet/{number}.parquet", table, uids, unlike)
        self._name(shard, uids)
        self._counts_of(name, len(uids), stream)
        return shard

    def bare(self, name: str) -> _Shard:
        """A table of samples that have no shard."""
        table = self._table(name, ("uid",))
        shard = _Shard(name, samples=0 if table is None else table.height)
        self._name(shard, [] if table is None else table["uid"].to_list())
        return shard

    def _name(self, shard: _Shard, uids: list[str]) -> None:
        wrong = [uid for uid in uids if not _UID.match(uid or "")]
        if wrong:
            self.bad(shard.name, f"{len(wrong):,} samples are not named by a uid: {some(wrong)}")
        else:
            shard.uids = np.frombuffer(bytes.fromhex("".join(uids)), dtype=">u8").reshape(-1, 2).astype(np.uint64)

    def _counts_of(self, name: str, samples: int, stream: Hashing) -> None:
        file = f"{name.removesuffix('.tar')}_stats.json"
        if file not in self.manifest.files:
            self.bad(MANIFEST, f"does not list {file}")
        stats = self._json(file)
        facts = {"successes": samples, "bytes": stream.nbytes, "sha256": stream.digest.hexdigest()}
        for key, value in facts.items():
            if stats and stats.get(key) != value:
                self.bad(file, f"says {key} {shown(stats.get(key))}, but {name} has {shown(value)}")
        if self.sizes and self.sizes.get(name) != samples:
            self.bad("sizes.json", f"says {shown(self.sizes.get(name))} samples in {name}, which has {samples:,}")

    def _scan(
        self, name: str, stream: Hashing, hashes: list[str | None] | None, maps: ShardMaps
    ) -> tuple[list[str], list[str]]:
        """Keys of the tar in order; those of samples none of whose members has the sha256 of the table."""
        keys: list[str] = []
        unlike: list[str] = []
        matched = True
        scan = TarScan(stream, max_member_bytes=self.manifest.files[name].bytes)
        for member in scan:
            if unsafe := check_name(member.raw_name):
                self.bad(name, unsafe[1])
            named = split_name(member.raw_name)
            if named is None:
                self.bad(name, f"the member {printable(member.raw_name)!r} belongs to no sample")
                continue
            key = printable(named[0])
            if not keys or key != keys[-1]:
                if not matched:
                    unlike.append(keys[-1])
                keys.append(key)
                matched = hashes is None or len(keys) > len(hashes)
            maps.member(named[1], member.data, key, len(keys) - 1)
            if not matched and hashes is not None:
                matched = _has(member, hashes[len(keys) - 1])
        if keys and not matched:
            unlike.append(keys[-1])
        if not scan.end.clean:
            self.bad(name, f"the tar is damaged: {scan.end.detail}")
        for kind, n in scan.skipped.items():
            self.bad(name, f"holds {n:,} members that are no files ({kind})")
        return keys, unlike

    def _agree(self, name: str, file: str, table: pl.DataFrame, uids: list[str], unlike: list[str]) -> None:
        """A tar and its table name the same samples in the same order, with the same images."""
        if table.height != len(uids):
            self.bad(file, f"has {table.height:,} rows, but {name} has {len(uids):,} samples")
        pairs = zip(table["uid"].to_list(), uids, strict=False)
        other = [f"row {row} is {uid}, the tar has {key}" for row, (uid, key) in enumerate(pairs) if uid != key]
        if other:
            self.bad(file, f"{len(other):,} rows differ from the order of {name}: {some(other, 2)}")
        elif unlike:
            self.bad(name, f"{len(unlike):,} images have not the sha256 of {file}: {some(unlike)}")
        strangers = table.filter(pl.col("shard").is_null() | (pl.col("shard") != name)).height
        if strangers:
            self.bad(file, f"{strangers:,} rows name another shard than {name}")

    def dropped(self, name: str) -> Counter[tuple[str, str]]:
        """Dropped samples of one part by stage and reason."""
        table = self._table(name, ("uid", "stage", "reason"))
        if table is None:
            return Counter()
        counted = table.group_by("stage", "reason").len().iter_rows()
        return Counter({(str(stage), str(reason)): n for stage, reason, n in counted})

    def totals(self, shards: list[_Shard], dropped: Counter[tuple[str, str]]) -> None:
        """Sums over the whole release."""
        manifest = self.manifest
        copies = manifest.copies or 0
        samples = sum(shard.samples or 0 for shard in shards) - copies
        numbers = sorted(name for name in manifest.files if _SHARD.match(name))
        if numbers != [f"{self.layout.shard(i)}.tar" for i in range(len(numbers))]:
            first, second = self.layout.shard(0), self.layout.shard(1)
            self.bad(MANIFEST, f"its shards are not numbered {first}.tar, {second}.tar, ... without a gap")
        for said, found, what in (
            (manifest.shards, len(numbers), "shards"),
            (manifest.samples, samples, "samples in the shards"),
            (manifest.dropped_samples, dropped.total(), "rows in dropped.parquet"),
            (manifest.input_samples, samples + dropped.total(), "samples and dropped samples together"),
        ):
            if said != found:
                self.bad(MANIFEST, f"says {said:,}, but there are {found:,} {what}")
        listed = Counter({(s, r): n for s, reasons in manifest.dropped.items() for r, n in reasons.items()})
        for stage, reason in sorted(listed.keys() | dropped.keys()):
            said, found = listed[stage, reason], dropped[stage, reason]
            if said != found:
                self.bad(MANIFEST, f"says {said:,} dropped by {stage} as {reason}, dropped.parquet has {found:,}")
        for name in sorted(self.sizes.keys() - set(numbers)):
            self.bad("sizes.json", f"names {name}, which is no shard of the manifest")
        ranked = self._unique(shards)
        if SAMPLE_IDS in manifest.files:
            self._sample_ids(ranked)
        for name in sorted(self.there.keys() - self._seen):
            self.bad(name, "belongs to a shard that is missing")
            self._read(name)

    def _sample_ids(self, ranked: NDArray[np.uint64]) -> None:
        """The subset file names the samples of the shards, in order."""
        found = self._read(SAMPLE_IDS)
        if found is None or not found[1]:
            return
        try:
            subset = open_subset(self.release.where(SAMPLE_IDS))
        except InputError as error:
            self.bad(SAMPLE_IDS, str(error))
            return
        if not (np.array_equal(subset["f0"], ranked[:, 0]) and np.array_equal(subset["f1"], ranked[:, 1])):
            self.bad(SAMPLE_IDS, f"its {len(subset):,} uids are not those of the samples in the shards, in order")

    def _unique(self, shards: list[_Shard]) -> NDArray[np.uint64]:
        """All uids, sorted."""
        if not shards:
            return np.zeros((0, 2), dtype=np.uint64)
        uids = np.concatenate([shard.uids for shard in shards])
        ends = np.cumsum([len(shard.uids) for shard in shards])
        order = np.lexsort((uids[:, 1], uids[:, 0]))
        ranked = uids[order]
        again = np.flatnonzero((ranked[1:] == ranked[:-1]).all(axis=1))
        shard = np.searchsorted(ends, order, "right")
        meant = len(again) == (self.manifest.copies or 0) and (shard[again] == shard[again + 1]).all()
        if not meant:
            examples = []
            for place in again[:NAMED]:
                first, second = (shards[int(n)].name for n in shard[place : place + 2])
                uid = "".join(f"{int(word):016x}" for word in ranked[place])
                examples.append(f"{uid} in {first} and {second}")
            told = some(examples, NAMED, len(again))
            self.bad(MANIFEST, f"{len(again):,} samples share a uid with another one: {told}")
        return ranked

    # --- files ------------------------------------------------------------------------------------------------------

    def _matches(self, name: str, nbytes: int, digest: str) -> bool:
        self._seen.add(name)
        entry = self.manifest.files[name]
        if nbytes != entry.bytes:
            self.bad(name, f"has {nbytes:,} bytes, the manifest says {entry.bytes:,}")
        if digest != entry.sha256:
            self.bad(name, f"its sha256 is {digest}, the manifest says {entry.sha256}")
        return digest == entry.sha256

    def _read(self, name: str) -> tuple[bytes, bool] | None:
        """The bytes of a listed file that is there, and whether they are the right ones."""
        if name not in self.there:
            return None
        data = self.release.read(name)
        return data, self._matches(name, len(data), hashlib.sha256(data).hexdigest())

    def _json(self, name: str) -> dict[str, Any]:
        found = self._read(name)
        if found is None:
            return {}
        try:
            value = json.loads(found[0])
        except ValueError as error:
            self.bad(name, f"is not JSON: {error}")
            return {}
        if not isinstance(value, dict):
            self.bad(name, "is not a JSON object")
            return {}
        return value

    def _table(self, name: str, columns: tuple[str, ...]) -> pl.DataFrame | None:
        """Columns of a table; None (and a violation) when it is missing or not the one of the manifest."""
        if name not in self.manifest.files:
            self.bad(MANIFEST, f"does not list {name}")
        found = self._read(name)
        # a damaged Parquet file is not parsed: its checksum has said enough
        if found is None or not found[1]:
            return None
        try:
            return pl.read_parquet(io.BytesIO(found[0]), columns=list(columns))
        except (pl.exceptions.PolarsError, OSError) as error:
            self.bad(name, f"cannot be read: {error}")
            return None


def _has(member: Member, sha256: str | None) -> bool:
    return sha256 is not None and member.data is not None and hashlib.sha256(member.data).hexdigest() == sha256
