"""`write_subset`: the uids of the alive rows as a subset file, which DataComp's tools and `lists` read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from curate.errors import StorageError
from curate.formats.datacomp import SUBSET, Subset, count_distinct, make_subset, write_subset
from curate.stages.base import State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.stages.sink import Lost, Sink, Unit
from curate.store.artifacts import Artifact
from curate.store.workspace import Workspace

SUBSET_FILE, FINISHED = "subset.npy", "subset.json"
"""The uids, sorted; and, written last, how many they are."""
REPEATS = "repeats"
"""Column that says how often a row is wanted."""
RUN_RECORDS = 2 << 20
"""Records of one sorted run, about; a part of more is a run by itself."""
PREFIXES = 1 << 10
"""Ranges of uids at whose borders the runs can be cut."""
_RUNS = "runs"
_READERS = 8
_BLOCK = 8 << 20


class WriteSubsetConfig(StageConfig):
    """Where the file goes."""

    to: str | None = Field(
        None, description="Folder to write to; default: write_subset@<fingerprint> in the workspace."
    )


class WriteSubsetStage(Sink[WriteSubsetConfig]):
    """Each unit sorts the uids of some parts into a run; in the end the runs are merged, range of uids by range.

    A row stands in the file once, or as often as the latest column `repeats` says (null counts as once).
    """

    kind = "write_subset"
    VERSION = 1
    Config = WriteSubsetConfig

    @property
    def _repeats(self) -> str | None:
        """The step whose repeats count."""
        return next((step for step, columns in reversed(list(self.context.schema.items())) if REPEATS in columns), None)

    def reads(self) -> tuple[str, ...]:
        """The index for uids, and repeats if there are any; which rows are alive is known besides."""
        index = next(iter(self.context.schema))
        return (index, self._repeats) if self._repeats else (index,)

    def target(self, workspace: Workspace, whole: str) -> Workspace:
        """`to`, or a folder of the workspace that carries the fingerprint."""
        return Workspace(self.config.to) if self.config.to else workspace.sub(f"{self.context.step}@{whole}")

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Rows of the part, those that are alive, and their records."""
        copies = self._copies(part)
        return {"counts": np.asarray([part.rows, int(part.alive.sum()), int(copies.sum())])}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Records of every part, which is how runs are cut. Memory: O(parts)."""
        counts = np.asarray([summary["counts"] for summary in summaries], dtype=np.int64).reshape(-1, 3)
        rows, alive, records = (int(n) for n in counts.sum(axis=0))
        return {"layout": counts[:, 2], "totals": {"input": rows, "alive": alive, "records": records}}

    def _copies(self, part: Part) -> NDArray[np.int64]:
        """int64 [rows]: how often each row is written."""
        if self._repeats is None:
            return part.alive.astype(np.int64)
        given = part.columns(f"{self._repeats}.{REPEATS}").to_series().fill_null(1).to_numpy()
        return np.where(part.alive, given, 0).astype(np.int64)

    def units(self, artifacts: Mapping[str, Artifact], parts: int) -> list[Unit]:
        """Consecutive parts of about two million records together; parts without any are left out."""
        layout = artifacts["layout"]
        assert isinstance(layout, np.ndarray)
        groups: list[list[int]] = []
        held = RUN_RECORDS
        for part in np.flatnonzero(layout).tolist():
            if held + layout[part] > RUN_RECORDS:
                groups.append([])
                held = 0
            groups[-1].append(part)
            held += int(layout[part])
        return [Unit("run", number, tuple(group)) for number, group in enumerate(groups)]

    def write(
        self, unit: Unit, parts: Sequence[Part], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """One sorted run. Memory: 40 bytes a record, the uids of one part."""
        index = next(iter(self.context.schema))
        his, los = [], []
        for part in parts:
            copies = self._copies(part)
            frame = part.columns(f"{index}.uid_hi", f"{index}.uid_lo")
            hi, lo = (series.to_numpy() for series in frame)
            his.append(np.repeat(hi, copies))
            los.append(np.repeat(lo, copies))
        run = make_subset(np.concatenate(his), np.concatenate(los))
        nbytes, sha256 = write_subset(target, _run(unit.index), [run], len(run))
        return {"run": unit.index, "bytes": nbytes, "sha256": sha256, "cuts": cuts_of(run)}

    def intact(self, report: dict[str, Any], target: Workspace) -> bool:
        """Both files are those that were written, as far as a look at their sizes and the smaller one can tell."""
        there = target.listing()
        return (
            there.get(SUBSET_FILE) == report["bytes"]
            and FINISHED in there
            and hashlib.sha256(target.read(FINISHED)).hexdigest() == report["sha256"]
        )

    def finish(
        self, results: Iterable[dict[str, Any]], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """The merged file, read back and checked; then subset.json. Memory: 40 bytes a record of about four million,
        or of a range of 1/1,024 of all uids if that is more; 8 KiB a run.
        """
        totals = artifacts["totals"]
        assert isinstance(totals, dict)
        runs = list(results)
        if (record := _finished(target, totals)) is None:
            there = target.listing(_RUNS)
            for run in runs:
                if there.get(_run(run["run"]).rpartition("/")[2]) != run["bytes"]:
                    raise Lost(f"{target.where(_run(run['run']))} got lost while the subset was written; run again")
            distinct = 0

            def counted() -> Iterator[Subset]:
                nonlocal distinct
                for chunk in _merged(runs, target):
                    distinct += count_distinct(chunk)
                    yield chunk

            nbytes, sha256 = write_subset(target, SUBSET_FILE, counted(), totals["records"])
            _check(target, nbytes, sha256)
            record = {"schema_version": 1, "file": SUBSET_FILE, **totals, "uids": distinct}
            record |= {"bytes": nbytes, "sha256": sha256}
            target.put(FINISHED, json.dumps(record, indent=1).encode() + b"\n")
        target.remove(_RUNS)
        told = {name: record[name] for name in ("records", "uids", "bytes")}
        return {"url": target.url, **told, "sha256": hashlib.sha256(target.read(FINISHED)).hexdigest()}


def cuts_of(run: Subset) -> list[int]:
    """Where in a sorted run each of the prefixes begins, and its length; PREFIXES + 1 numbers."""
    borders = np.arange(1, PREFIXES, dtype=np.uint64) << np.uint64(64 - (PREFIXES.bit_length() - 1))
    inside: list[int] = np.searchsorted(np.ascontiguousarray(run["f0"]), borders).tolist()
    return [0, *inside, len(run)]


def _run(number: int) -> str:
    return f"{_RUNS}/{number:05d}.npy"


def _finished(target: Workspace, totals: Mapping[str, Any]) -> dict[str, Any] | None:
    """What subset.json says, when all was written but for the record of the run."""
    there = target.listing()
    if FINISHED not in there or SUBSET_FILE not in there:
        return None
    try:
        record: dict[str, Any] = json.loads(target.read(FINISHED))
        fits = {name: record[name] for name in totals} == dict(totals) and record["bytes"] == there[SUBSET_FILE]
    except (ValueError, KeyError, TypeError):
        return None
    return record if fits else None


def _merged(runs: Sequence[dict[str, Any]], target: Workspace) -> Iterator[Subset]:
    """All records in order, range of uids by range; borders of ranges are those of prefixes."""
    ends = np.sum([run["cuts"] for run in runs], axis=0) if runs else np.zeros(PREFIXES + 1, dtype=np.int64)
    borders = [0]
    for prefix in range(1, PREFIXES + 1):
        if ends[prefix] - ends[borders[-1]] > 2 * RUN_RECORDS and prefix - 1 > borders[-1]:
            borders.append(prefix - 1)
    borders.append(PREFIXES)
    with ThreadPoolExecutor(_READERS) as pool:
        for low, high in pairwise(borders):

            def piece(run: dict[str, Any], low: int = low, high: int = high) -> Subset:
                first, stop = run["cuts"][low], run["cuts"][high]
                if first == stop:
                    return np.empty(0, dtype=SUBSET)
                start = run["bytes"] - (run["cuts"][-1] - first) * SUBSET.itemsize
                data = target.read_range(_run(run["run"]), start, start + (stop - first) * SUBSET.itemsize)
                return np.frombuffer(data, SUBSET)

            if pieces := [some for some in pool.map(piece, runs) if len(some)]:
                whole = np.concatenate(pieces)
                yield make_subset(whole["f0"], whole["f1"])


def _check(target: Workspace, nbytes: int, sha256: str) -> None:
    """Read the file back; that it is sorted was seen while it was written."""
    digest, there = hashlib.sha256(), 0
    with target.open(SUBSET_FILE) as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
            there += len(block)
    if (there, digest.hexdigest()) != (nbytes, sha256):
        raise StorageError(
            f"{target.where(SUBSET_FILE)} has {there:,} bytes of sha256 {digest.hexdigest()[:12]}, written were "
            f"{nbytes:,} of {sha256[:12]}; the storage changed them: remove the file and run again"
        )
