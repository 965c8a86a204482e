"""`score-table`: what tables of a user say of each sample. Precedes `score` when its metric is made of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.engine.exchange import BUCKET_BYTES, Bucket, Buckets, Records, Worked
from curate.errors import InputError, SpecError
from curate.formats.datacomp import positions, records
from curate.formats.published_scores import published_notes
from curate.formats.score_tables import open_table, read_table
from curate.pruning.metrics import metric
from curate.stages import score_join as joined
from curate.stages import score_sources as tables
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.stages.score_classes import class_numbers, read_classes
from curate.store import urls
from curate.store.artifacts import Artifact
from curate.store.uids import format_uid

PREFIXES = 1 << 16
FILTER_BITS = 26
_SAMPLE = np.uint32(0xFFFFFFFF)
"""In place of a table's number: the record is a sample that looks for what is said of it."""
_BASE: list[tuple[Any, ...]] = [
    ("key", "u4"), ("part", "u4"), ("row", "u4"), ("hi", "u8"), ("lo", "u8"), ("file", "u4"), ("place", "u8"),
    ("model", "u8"), ("label", "i4"),
]  # fmt: skip
_BACK = np.dtype([("part", "u4"), ("row", "u4"), ("value", "f8"), ("has", "?"), ("entries", "u4")])
_UNIT = {"forgetting": "epoch", "memorization": "model"}


class ScoreTableConfig(StageConfig):
    """The options of `score` that decide what its tables say."""

    metric: str
    files: tuple[str, ...]
    match: str = tables.KEY
    key: str | None = None
    column: str | None = None
    order: str | None = None
    high: bool = True
    classes: str | None = None
    label: str = Field("label")


class ScoreTableStage(Stage[ScoreTableConfig]):
    """Joins samples and rows of the tables by 128-bit codes in an exchange: memory is that of a bucket.

    Every part reads an even share of the tables' rows, so a share is held at once: rows / parts. A bitmap of the
    samples' codes (at most 8 MiB) keeps out most rows that no sample has. Two rows of one table (or one epoch, or one
    model) that name the same sample are refused. Samples that an earlier step dropped get their value, too.
    """

    kind = "score-table"
    VERSION = 1
    Config = ScoreTableConfig
    sees_alive = False
    not_hashed = frozenset({"files", "order", "classes"})

    _sources: tuple[tables.Source, ...] = ()
    _reading: tables.Reading = tables.Reading("", "")
    _notes: tuple[str, ...] = ()
    _sha256: tuple[str, ...] = ()

    @property
    def depends(self) -> Literal["all", "part"]:  # type: ignore[override]
        """Appended parts may bring a label that renumbers the others, where neither list nor width says how many."""
        return "all" if self._labelled and self._reading.mode == "look" and self._reading.classes is None else "part"

    def columns(self) -> dict[str, pl.DataType]:
        """value: the score; entries: rows of the tables that name the sample, 0 for a further sample of one name."""
        return {"value": pl.Float64(), "entries": pl.UInt32()}

    def reads(self) -> tuple[str, ...]:
        """The index, and the steps that have the column compared and the label."""
        index = next(iter(self.context.schema))
        owners = [self._owner(name) for name in (self._column, self.config.label)]
        return tuple(dict.fromkeys([index, *(owner for owner in owners if owner is not None)]))

    @property
    def _column(self) -> str:
        """The column of the samples that is compared."""
        return "key" if self.config.match in (tables.KEY, tables.NAME) else self.config.match

    def _owner(self, column: str) -> str | None:
        step, _, name = column.rpartition(".")
        schema = self.context.schema
        return next((s for s in reversed(list(schema)) if name in schema[s] and step in ("", s)), None)

    # --- before work starts -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Open every table and read it once for its sha256: a missing file or column is found before work starts."""
        config = self.config
        if config.match != tables.UID and self._owner(self._column) is None:
            raise SpecError(f"stage {self.context.step}: match is {config.match}, a column that no earlier step writes")
        order = None if config.order is None else tables.open_order(_whole(config.order))
        opened, shas = [], []
        for model, given in enumerate(config.files):
            for file in urls.expand_braces(given):
                table = open_table(_whole(file), tables.KNOWN)
                opened.append(tables.open_source(table, model, config.match, config.key, order))
                shas.append(f"{model} {table.sha256}")
        shas += [] if order is None else [f"order {order[0].sha256}"]
        self._sources = tuple(opened)
        self._reading = self._how(None if config.classes is None else read_classes(_whole(config.classes), shas))
        self._sha256 = tuple(shas)
        if config.metric == "imported":
            self._notes = tuple(published_notes(opened[0].table, self._reading.column))

    def _how(self, classes: Mapping[str, int] | None) -> tables.Reading:
        name, sources, first = self.config.metric, self._sources, self._sources[0]
        if name == "imported":
            column = tables.score_column(first.table, first.key, self.config.column)
            for source in sources:
                source.needs(column)
            return tables.Reading(name, "value", column=column, sign=1.0 if self.config.high else -1.0)
        if name == "forgetting":
            for source in sources:
                source.needs("correct", "predicted")
            if len(sources) == 1:
                first.needs("epoch")
            if not all("correct" in s.table.fields or s.label for s in sources):
                self._need_label()
            return tables.Reading(name, "look", classes=classes)
        if metric(name).needs == "subsets" or (name == "ddd" and "correct" in first.table.fields):
            return self._runs(name)
        kinds = {source.outputs for source in sources}
        if len(kinds) > 1:
            raise InputError(f"{first.table.url}: some tables hold probabilities and some logits; give one of both")
        for source in sources if name == "grand" else ():
            source.needs("features", "feature_norm")
        fields = [source.table.fields[source.outputs] for source in sources]
        if len({one.width for one in fields}) > 1:
            raise InputError(f"{first.table.url}: the tables have different numbers of classes; give those of one task")
        if name == "entropy" or all(source.label for source in sources):
            return tables.Reading(name, "value", classes=classes)
        self._need_label()
        outputs = "<f4" if all(np.dtype(one.dtype).itemsize <= 4 for one in fields) else "<f8"
        return tables.Reading(name, "vector", fields[0].width, outputs, classes=classes)

    def _runs(self, name: str) -> tables.Reading:
        for source in self._sources:
            if name.startswith("influence"):
                source.needs(tables.MASK)
                source.needs(tables.TEST)
            elif name == "ddd":
                source.needs("correct")
            elif tables.MASK in source.table.fields:
                source.needs(tables.CORRECTNESS)
            else:
                for column in ("model", "in_subset", "correct"):
                    source.needs(column)
        return tables.Reading(name, "value" if name.startswith("influence") else "counts")

    def _need_label(self) -> None:
        owner = self._owner(self.config.label)
        if owner is None:
            raise SpecError(
                f"stage {self.context.step} needs the own class of each sample: no earlier step writes a column "
                f"{self.config.label}, and the tables have no column label; name one with the option label"
            )

    def identity(self) -> dict[str, Any]:
        """What the tables hold, in their order."""
        return {"tables": list(self._sha256)}

    # --- the samples --------------------------------------------------------------------------------------------------

    @property
    def _labelled(self) -> bool:
        """Whether the labels of samples decide."""
        tells = all("correct" in source.table.fields or source.label for source in self._sources)
        return self._reading.mode == "vector" or (self._reading.mode == "look" and not tells)

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Bits of the filter that the part's rows set, and its labels when they decide."""
        bits = _filter_bits(totals.rows)
        code, known = self._codes(part)
        found = {"set": np.unique(code["f0"][known] >> np.uint64(64 - bits))}
        found["sample"] = np.asarray(self._texts(part).drop_nulls()[:1].to_list(), dtype=np.str_)
        if self._labelled:
            labels = part.columns(self._named(self.config.label)).to_series().cast(pl.String).str.strip_chars()
            found["labels"] = np.asarray(labels.drop_nulls().unique().sort().to_list(), dtype=np.str_)
        return found

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """The filter of all parts, and the class of each label. Memory: 64 MiB at most, and the labels."""
        wanted = np.zeros(1 << _filter_bits(totals.rows), dtype=bool)
        parts, labels, sample = 0, set[str](), ""
        for summary in summaries:
            wanted[summary["set"].astype(np.int64)] = True
            labels |= set(summary["labels"].tolist()) if "labels" in summary else set()
            parts, sample = parts + 1, sample or "".join(summary["sample"].tolist())
        step, reading = self.context.step.removesuffix("-table"), self._reading
        names = class_numbers(labels, reading.classes, reading.width, step) if self._labelled else {}
        schema = {"label": pl.String(), "class": pl.Int32()}
        classes = pl.DataFrame({"label": list(names), "class": list(names.values())}, schema=schema)
        rows = sum(source.rows for source in self._sources)
        told = {"parts": parts, "rows": rows, "first": self._first(), "sample": sample}
        return {"wanted": np.packbits(wanted), "parts": told, "classes": classes}

    def _first(self) -> str:
        """The name in the first row of the first table, for messages."""
        source = self._sources[0]
        if not source.rows:
            return ""
        if source.key is None:
            return str(source.named(0, 1)[0])
        return str(next(read_table(source.table, [source.key], 0, 1))[1][source.key][0])

    def _named(self, column: str) -> str:
        return f"{self._owner(column)}.{column.rpartition('.')[2]}"

    def _codes(self, part: Part) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """The code of every row, and whether it has a value at all."""
        if self.config.match == tables.UID:
            frame = self._uids(part)
            return records(*(series.to_numpy() for series in frame)), np.ones(frame.height, dtype=bool)
        values = self._texts(part)
        return tables.codes(values, self.config.match), values.is_not_null().to_numpy()

    def _uids(self, part: Part) -> pl.DataFrame:
        index = next(iter(self.context.schema))
        return part.columns(f"{index}.uid_hi", f"{index}.uid_lo")

    def _texts(self, part: Part) -> pl.Series:
        if self.config.match == tables.UID:
            return pl.Series([format_uid(*uid) for uid in self._uids(part)[:1].rows()], dtype=pl.String)
        return part.columns(self._named(self._column)).to_series()

    # --- the exchange -------------------------------------------------------------------------------------------------

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype([*_BASE, *self._reading.payload()])

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """Codes spread evenly; a sample makes a record, and each row of a table one."""
        rows = totals.rows + sum(source.rows for source in self._sources)
        return Buckets.uniform(PREFIXES, -(-rows * self._dtype.itemsize // BUCKET_BYTES))

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records:
        """The part's rows, and its share of the tables. Memory: a record for each, and one batch of a table."""
        wanted, parts = artifacts["wanted"], artifacts["parts"]
        assert isinstance(wanted, np.ndarray)
        assert isinstance(parts, dict)
        pieces, at = [self._samples(part, artifacts)], 0
        total = sum(source.rows for source in self._sources)
        first, stop = (total * n // parts["parts"] for n in (part.index, part.index + 1))
        for file, source in enumerate(self._sources):
            low, high = max(first - at, 0), min(stop - at, source.rows)
            at += source.rows
            if low < high:
                pieces += self._rows(part.index, file, source, low, high, wanted)
        return Records(np.concatenate(pieces))

    def _samples(self, part: Part, artifacts: Mapping[str, Artifact]) -> NDArray[Any]:
        code, known = self._codes(part)
        label = np.full(len(code), -1, dtype=np.int32)
        if self._labelled:
            classes = artifacts["classes"]
            assert isinstance(classes, pl.DataFrame)
            texts = part.columns(self._named(self.config.label)).to_series().cast(pl.String).str.strip_chars()
            number = dict(zip(classes["label"].to_list(), classes["class"].to_list(), strict=True))
            label = np.asarray([number.get(text, -1) for text in texts.to_list()], dtype=np.int32)
        rows = np.flatnonzero(known)
        out = self._blank(code[rows], part.index, rows)
        out["file"], out["label"] = _SAMPLE, label[rows]
        return out

    def _blank(self, code: NDArray[np.void], part: int, rows: NDArray[np.int64] | int) -> NDArray[Any]:
        out = np.zeros(len(code), dtype=self._dtype)
        out["hi"], out["lo"], out["key"] = code["f0"], code["f1"], code["f0"] >> np.uint64(48)
        out["part"], out["row"] = part, rows
        return out

    def _rows(
        self, part: int, file: int, source: tables.Source, start: int, stop: int, wanted: NDArray[np.uint8]
    ) -> Iterator[NDArray[Any]]:
        named = source.named(start, stop) if source.key is None else None
        shift = np.uint64(64 - (len(wanted) * 8).bit_length() + 1)
        for first, batch in self._batches(source, start, stop):
            payload = batch if isinstance(batch, dict) else {}
            rows = len(payload["model"])
            names = named[first - start : first - start + rows] if named is not None else payload.pop("names")
            code = tables.codes(pl.Series(names), self.config.match)
            bit = (code["f0"] >> shift).astype(np.int64)
            mine = np.flatnonzero((wanted[bit >> 3] >> (7 - (bit & 7)).astype(np.uint8)) & 1)
            out = self._blank(code[mine], part, 0)
            out["file"], out["place"] = file, first + mine
            for name, values in payload.items():
                out[name] = values[mine]
            yield out

    def _batches(self, source: tables.Source, start: int, stop: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Payload of rows [start, stop) with their names, when the table has them."""
        key = [] if source.key is None else [source.key]
        if tables.MASK in source.table.fields:
            for first, payload in tables.masks(source, self._reading, start, stop):
                rows = len(payload["model"])
                if key:
                    chunks = [b[key[0]] for _, b in read_table(source.table, key, first, first + rows)]
                    payload["names"] = pl.concat([pl.Series(chunk) for chunk in chunks])  # type: ignore[assignment]
                yield first, payload
            return
        wanted = list(dict.fromkeys([*key, *self._reading.columns(source)]))
        for first, batch in read_table(source.table, wanted, start, stop):
            payload = self._reading.read(source, first, batch)
            yield first, payload | ({"names": batch[key[0]]} if key else {})

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """What the tables say of each sample of the bucket. Memory: its records twice, and 8 MiB of outputs."""
        table = bucket.rows[bucket.rows["file"] != _SAMPLE] if len(bucket.rows) else bucket.rows
        if not len(table):
            return Worked(np.zeros(0, dtype=_BACK))
        samples = bucket.rows[bucket.rows["file"] == _SAMPLE]
        samples = samples[np.lexsort((samples["row"], samples["part"], samples["lo"], samples["hi"]))]
        table = table[np.lexsort((table["place"], table["file"], table["model"], table["lo"], table["hi"]))]
        at = positions(records(table["hi"], table["lo"]), samples["hi"], samples["lo"])
        samples, at = samples[at >= 0], at[at >= 0]
        same = (table["hi"][1:] == table["hi"][:-1]) & (table["lo"][1:] == table["lo"][:-1])
        ends = np.append(np.flatnonzero(~same) + 1, len(table))
        counts = ends[np.searchsorted(ends, at, side="right")] - at
        if twins := joined.twins(table, same, at, counts):
            raise InputError(self._refusal(table[twins[0]], table[twins[1]]))
        value = joined.values(self._reading, self._logits, samples, table, at, counts)
        back = np.zeros(len(samples), dtype=_BACK)
        back["part"], back["row"] = samples["part"], samples["row"]
        back["has"] = ~np.isnan(value)
        back["value"] = np.where(back["has"], value, 0.0)
        first = np.append(True, at[1:] != at[:-1])[: len(at)]
        back["entries"] = np.where(first, counts, 0)
        return Worked(back)

    def _refusal(self, *records: Any) -> str:
        places = []
        for record in records:
            source = self._sources[record["file"]]
            named = source.table if source.key is not None or source.order is None else source.order
            places.append(f"{named.url} {named.place(int(record['place']))}")
        again = f" at the same {unit}" if (unit := _UNIT.get(self.config.metric)) else ""
        return (
            f"{places[0]} and {places[1]} name the same sample{again} ({self.config.match}); remove one, or name the "
            "samples by another column with the option match"
        )

    @property
    def _logits(self) -> bool:
        return self._reading.mode == "vector" and self._sources[0].outputs == "logits"

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Values and counts, null where nothing is said."""
        assert back is not None
        rows = part.rows
        value, has = np.zeros(rows), np.zeros(rows, dtype=bool)
        entries, met = np.zeros(rows, dtype=np.uint32), np.zeros(rows, dtype=bool)
        value[back["row"]], has[back["row"]] = back["value"], back["has"]
        entries[back["row"]], met[back["row"]] = back["entries"], True
        frame = pl.DataFrame({"value": value, "has": has, "entries": entries, "met": met}).select(
            pl.when("has").then("value").alias("value"), pl.when("met").then("entries").alias("entries")
        )
        notes = [{"kind": "scores", "said": note} for note in self._notes] if part.index == 0 else []
        return Columns(frame, notes=notes)


def _filter_bits(rows: int) -> int:
    """About 64 bits a sample, between 2^16 and 2^26."""
    return min(FILTER_BITS, max(16, (64 * max(rows, 1)).bit_length()))


def _whole(url: str) -> str:
    """The path as any worker finds it, whatever its working folder."""
    return str(urls.resolve(url)[1]) if urls.split_protocol(url)[0] == "file" else url
