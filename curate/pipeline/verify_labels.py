"""The label maps of a release: arrays, members and label_maps.json against one another; see docs/formats/label-maps.md.

What never lives here: checksums and everything else of a release (verify.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.label_maps import FOLDER, INFO, MEMBER, MapsInfo, check_shard, faults, parse_info, read_member
from curate.pipeline.violations import some
from curate.store.manifest import Manifest

_CHUNK = 1024


class LabelMapsCheck:
    """Checks the maps of all shards; `bad(file, what)` is called with what is wrong, from several threads."""

    def __init__(self, manifest: Manifest, bad: Callable[[str, str], None]) -> None:
        self.bad = bad
        self.listed = manifest.files
        self.arrays = any(name.startswith(f"{FOLDER}/") for name in manifest.files)
        self.info: MapsInfo | None = None

    def read_info(self, read: Callable[[str], tuple[bytes, bool] | None]) -> None:
        """Look at label_maps.json; `read` gives the bytes of a listed file, and whether they are the right ones."""
        if INFO not in self.listed:
            if self.arrays:
                self.bad("manifest.json", f"lists arrays of label maps, but not {INFO}")
        elif (found := read(INFO)) is not None and found[1]:
            try:
                self.info = parse_info(found[0], INFO)
            except InputError as error:
                self.bad(INFO, str(error).removeprefix(f"{INFO}: "))

    def of_shard(self, stem: str, read: Callable[[str], tuple[bytes, bool] | None]) -> ShardMaps:
        """What a shard's members are compared with. Memory: its array, 5,400 bytes a sample at 5 x 15 x 15."""
        name = f"{FOLDER}/{stem}.npy"
        if name not in self.listed:
            if self.arrays:
                self.bad("manifest.json", f"does not list {name}")
            return ShardMaps(self, name, None)
        found = read(name)
        if found is None or not found[1]:
            return ShardMaps(self, name, None)
        try:
            records = np.load(io.BytesIO(found[0]), allow_pickle=False)
            check_shard(records, name, self.info)
        except (ValueError, EOFError, OSError, SyntaxError) as error:
            self.bad(name, f"is no array of label maps: {error}")
            return ShardMaps(self, name, None)
        except InputError as error:
            self.bad(name, str(error).removeprefix(f"{name}: "))
            return ShardMaps(self, name, None)
        if self.info is not None:
            for start in range(0, len(records), _CHUNK):
                for what, rows in faults(records[start : start + _CHUNK], self.info.classes).items():
                    places = (start + np.flatnonzero(rows)).tolist()
                    self.bad(name, f"{len(places):,} maps have {what}: rows {some(map(str, places))}")
        return ShardMaps(self, name, records)


class ShardMaps:
    """The maps of one shard, while its tar is read."""

    def __init__(self, check: LabelMapsCheck, name: str, records: NDArray[np.void] | None) -> None:
        self.check, self.name, self.records = check, name, records
        self.members = 0
        self._wrong: list[str] = []
        self._unlike: list[str] = []

    def member(self, ext: str, data: bytes | None, key: str, row: int) -> None:
        """One member of the sample `row`, called for all."""
        if ext != MEMBER or data is None:
            return
        self.members += 1
        info = self.check.info
        try:
            record = read_member(data)
        except InputError:
            self._wrong.append(key)
            return
        if info is not None and (record.dtype != info.dtype or faults(record.reshape(1), info.classes)):
            self._wrong.append(key)
        elif self.records is not None and row < len(self.records) and record.tobytes() != self.records[row].tobytes():
            self._unlike.append(key)

    def end(self, tar: str, samples: int) -> None:
        """Say what is wrong, once the tar is read."""
        if INFO not in self.check.listed:  # members of such a name that came with the input are nobody's
            return
        if self._wrong:
            self.check.bad(tar, f"{len(self._wrong):,} members {MEMBER} hold no such map as {INFO} says: "
                           f"{some(self._wrong)}")  # fmt: skip
        if self._unlike:
            self.check.bad(tar, f"{len(self._unlike):,} label maps are not those of {self.name}: {some(self._unlike)}")
        if self.records is not None and len(self.records) != samples:
            self.check.bad(self.name, f"has {len(self.records):,} maps, but {tar} has {samples:,} samples")
        if 0 < self.members != samples or (not self.members and not self.check.arrays):
            self.check.bad(tar, f"{self.members:,} of {samples:,} samples have a member {MEMBER}")
