"""What workers run: each job is a small picklable callable that opens the step's state once and handles one item."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.engine import exchange
from curate.engine.state import keep
from curate.stages.base import Again, Columns, Stage, Totals, with_alive
from curate.stages.part import Part, Twin
from curate.stages.sink import Sink, Unit
from curate.store.artifacts import Artifact, read_artifacts, write_artifacts
from curate.store.columns import PartEntry, PartMeta, read_entry, write_part
from curate.store.contents import alike, read_contents, smallest
from curate.store.workspace import Workspace

_SUMMARY = re.compile(r"summary-(\d+)-(\d+)\.npz")
STATE_FILE = "state.npz"
"""What a pass of a reduce hands to the next, in the scratch folder of the next."""


@dataclass(frozen=True)
class Parts:
    """An item: one part, or a few neighbours."""

    parts: tuple[Part, ...]
    run: int = 0

    def __str__(self) -> str:
        first, last = self.parts[0], self.parts[-1]
        name = first.source.label
        return f"part {first.index} ({name})" if first is last else f"parts {first.index}-{last.index} (from {name})"


@dataclass(frozen=True)
class Job:
    """What all jobs of a step share."""

    workspace: Workspace
    step: str
    stage: Stage[Any]
    folder: str
    whole: str

    @property
    def scratch(self) -> str:
        """Folder of the files that live until the step is finished."""
        return f"scratch/{self.folder}/{self.whole}"

    def opened(self) -> tuple[Stage[Any], dict[str, Artifact]]:
        """The stage after `setup`, and its artifacts; kept by the worker."""

        def make() -> tuple[Stage[Any], dict[str, Artifact]]:
            self.stage.setup()
            has = self.stage.has_reduce()
            return self.stage, read_artifacts(self.workspace, self.folder, self.whole) if has else {}

        return keep(f"{self.workspace.url}/{self.folder}/{self.whole}", make)


@dataclass(frozen=True)
class ReadEntries(Job):
    """Look at parts that an earlier run committed."""

    def __call__(self, item: Parts) -> list[PartEntry]:
        """Footers of the parts."""
        return [read_entry(self.workspace, self.folder, part.index, part.fingerprint) for part in item.parts]


@dataclass(frozen=True)
class Pass(Job):
    """One pass of a reduce; `number` counts from 0."""

    totals: Totals
    number: int

    def folder_of(self, number: int) -> str:
        """Scratch folder of a pass."""
        return f"{self.scratch}/pass-{number:02d}"

    def state(self) -> dict[str, NDArray[Any]]:
        """What the pass before handed on."""
        return {} if self.number == 0 else self._load(f"{self.folder_of(self.number)}/{STATE_FILE}")

    def _load(self, name: str) -> dict[str, NDArray[Any]]:
        with np.load(io.BytesIO(self.workspace.read(name)), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def _save(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        self.workspace.put(name, buffer.getbuffer())


@dataclass(frozen=True)
class Summarise(Pass):
    """First half of a reduce."""

    def __call__(self, item: Parts) -> int:
        """Write one summary file a part, or one for all of them; returns how many parts."""
        state = self.state()
        summaries = (self.stage.summarise(part, self.totals, state) for part in item.parts)
        spans = [(part.index, part.index) for part in item.parts]
        if self.stage.has_merge():
            summaries = (self.stage.merge(all_of_them) for all_of_them in [summaries])
            spans = [(spans[0][0], spans[-1][1])]
        for span, summary in zip(spans, summaries, strict=True):
            self._save(f"{self.folder_of(self.number)}/{summary_file(*span)}", summary)
        return len(item.parts)


def summary_file(first: int, last: int) -> str:
    """Name in scratch of the summary of parts first..last."""
    return f"summary-{first:05d}-{last:05d}.npz"


def summarised(listing: Iterable[str]) -> list[tuple[int, int]]:
    """Spans of parts that have a summary, by their files."""
    return sorted((int(match[1]), int(match[2])) for name in listing if (match := _SUMMARY.fullmatch(name)))


@dataclass(frozen=True)
class Reduce(Pass):
    """Second half of a reduce."""

    spans: list[tuple[int, int]]
    """Parts of each summary, in order."""

    def __call__(self, item: str) -> bool:
        """Read all summaries in part order and reduce; commit the artifacts, or the state of another pass (True)."""
        result = self.stage.reduce(self._summaries(), self.totals, self.state())
        if isinstance(result, Again):
            self._save(f"{self.folder_of(self.number + 1)}/{STATE_FILE}", result.state)
            return True
        write_artifacts(self.workspace, self.folder, self.whole, result)
        return False

    def _summaries(self) -> Iterator[dict[str, NDArray[Any]]]:
        for span in self.spans:
            yield self._load(f"{self.folder_of(self.number)}/{summary_file(*span)}")


@dataclass(frozen=True)
class Emit(Job):
    """First third of an exchange."""

    buckets: exchange.Buckets

    def __call__(self, item: Parts) -> int:
        """Write the records of a group of parts; returns the rows."""
        stage, artifacts = self.opened()
        records = chain.from_iterable(_pieces(stage.emit(part, artifacts)) for part in item.parts)
        return exchange.write_runs(self.workspace, self.scratch, item.run, records, self.buckets)


def _pieces(emitted: exchange.Records | Iterator[exchange.Records]) -> Iterator[exchange.Records]:
    return iter((emitted,)) if isinstance(emitted, exchange.Records) else emitted


@dataclass(frozen=True)
class WorkBucket(Job):
    """Second third of an exchange."""

    runs: int

    def __call__(self, item: int) -> int:
        """Work on one bucket; returns its rows."""
        stage, artifacts = self.opened()
        bucket = exchange.read_bucket(self.workspace, self.scratch, self.runs, item)
        worked = stage.work(bucket, artifacts)
        if worked.table is not None:
            buffer = io.BytesIO()
            worked.table.write_parquet(buffer)
            self.workspace.put(f"{self.folder}/{table_file(item, self.whole)}", buffer.getbuffer())
        exchange.write_back(self.workspace, self.scratch, item, worked.back)
        return len(bucket.rows)


def table_file(bucket: int, whole: str) -> str:
    """Name of the table that a bucket leaves in the group's folder."""
    return f"table-{bucket:05d}.{whole}.parquet"


@dataclass(frozen=True)
class Mapped:
    """What became of a few parts: their footers, and counts of the work done."""

    entries: list[PartEntry] = field(default_factory=list)
    facts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class MapParts(Job):
    """The map shape, and the last third of an exchange."""

    buckets: int | None = None
    contents: tuple[str, ...] = ()
    """Tables that say which stored parts hold which content, for stages that reuse rows."""

    def __call__(self, item: Parts) -> Mapped:
        """Compute and commit the step's columns of a few parts."""
        stage, artifacts = self.opened()
        mapped = Mapped()
        back: Iterator[tuple[int, NDArray[Any] | None]] = ((part.index, None) for part in item.parts)
        if self.buckets is not None:
            back = exchange.read_back(self.workspace, self.scratch, self.buckets, [part.index for part in item.parts])
        for part, (_, rows) in zip(item.parts, back, strict=True):
            mapped.entries.append(self._one(stage, part, artifacts, rows, mapped.facts))
        return mapped

    def _one(
        self,
        stage: Stage[Any],
        part: Part,
        artifacts: dict[str, Artifact],
        back: NDArray[Any] | None,
        facts: Counter[str],
    ) -> PartEntry:
        if self.contents:
            part = replace(part, twins=(*part.twins, *self._alike(stage, part)))
        columns = stage.map(part, artifacts, back)
        facts.update(columns.facts)
        frame, alive, counts = _finished(stage, part, columns)
        meta = PartMeta(
            step=self.step,
            part=part.index,
            fingerprint=part.fingerprint,
            rows=frame.height,
            alive=alive,
            counts=counts,
            notes=columns.notes,
            contents=_contents(stage, part, frame),
        )
        return write_part(self.workspace, self.folder, meta, frame, columns.vectors)

    def _alike(self, stage: Stage[Any], part: Part) -> Iterator[Twin]:
        """Other parts that hold some of the content of this one: shards were put in or taken out before it."""
        table = _tables(self.workspace, self.folder, self.contents)
        there = {(twin.part, twin.fingerprint) for twin in part.twins}
        for number, fingerprint in alike(table, stage.contents(part)["content_hi"]) if table.height else ():
            if (number, fingerprint) not in there:
                yield Twin(self.folder, number, fingerprint)


@lru_cache(maxsize=1)
def _tables(workspace: Workspace, folder: str, names: tuple[str, ...]) -> pl.DataFrame:
    return read_contents(workspace, folder, names)


def _contents(stage: Stage[Any], part: Part, frame: pl.DataFrame) -> list[str]:
    """Of the rows that this state knows something of."""
    return smallest(frame["content_hi"].filter(pl.Series(part.alive))) if stage.reuses_rows else []


def _finished(stage: Stage[Any], part: Part, columns: Columns) -> tuple[pl.DataFrame, int | None, dict[str, int]]:
    frame = columns.frame
    if part.layers and frame.height != part.rows:
        raise ValueError(
            f"stage {stage.kind} returned {frame.height} rows for part {part.index}, which has {part.rows}"
        )
    alive, counts = None, {}
    if stage.drops:
        before = part.alive if part.layers else np.ones(frame.height, dtype=bool)
        frame = with_alive(frame, before)
        alive = int(frame["alive"].sum())
        dropped = frame.filter(pl.Series(before) & ~pl.col("alive"))["reason"].fill_null("unknown").value_counts()
        counts = dict(sorted(dropped.iter_rows()))
    schema = stage.schema()
    frame = frame.select(pl.col(name).cast(dtype) for name, dtype in schema.items())
    return frame, alive, counts


@dataclass(frozen=True)
class WriteUnit(Job):
    """One unit of a sink."""

    target: Workspace

    def __call__(self, item: UnitItem) -> int:
        """Write it, then its marker."""
        stage, artifacts = self.opened()
        assert isinstance(stage, Sink)
        result = stage.write(item.unit, item.parts, artifacts, self.target)
        self.workspace.put(f"{self.folder}/{unit_marker(item.unit, self.whole)}", json.dumps(result).encode())
        return int(result.get("samples", 0))


@dataclass(frozen=True)
class UnitItem:
    """A unit and the parts it reads."""

    unit: Unit
    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return f"{self.unit.kind} {self.unit.index}"


def unit_marker(unit: Unit, whole: str) -> str:
    """File in the step's folder that says a unit of a sink is finished, and what came of it."""
    return f"{unit.name}.{whole}.json"
