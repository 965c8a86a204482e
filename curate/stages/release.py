"""`release`: the alive samples as WebDataset shards, every member byte for byte; see docs/formats/release.md."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.errors import InputError
from curate.formats.img2dataset import add_up
from curate.formats.labels import is_number
from curate.formats.members import read_members
from curate.stages.base import State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.stages.release_files import TarOut, lost, put_json, put_table
from curate.stages.release_labels import Labels, Picked, Where
from curate.stages.release_layout import LAYOUTS, Layout
from curate.stages.sink import Lost, Sink, Unit
from curate.store.artifacts import Artifact
from curate.store.columns import read_meta
from curate.store.manifest import Manifest, ReleaseFile, ShardStats, Upstream
from curate.store.uids import format_uid
from curate.store.workspace import Workspace

_FROM_INDEX = ("key", "format", "width", "height", "sha256", "caption", "label", "license", "source_uid")
FROM_STAGES = ("concept", "distance", "score", "clip_score", "repeats", "weight")
NO_SHARD = pl.lit(None, dtype=pl.String)


class ReleaseConfig(StageConfig):
    """Shape and place of the release."""

    samples_per_shard: int = Field(10_000, ge=1, description="At most this many samples in a shard; shards are even.")
    to: str | None = Field(None, description="Folder to write to; default: release@<fingerprint> in the workspace.")
    metadata_license: str | None = Field(None, description="Licence of the tables of the release, such as CC-BY-4.0.")
    layout: Literal["webdataset", "datacomp"] = Field(
        "webdataset", description="Names of shards and members; datacomp: as DataComp's tools read and write them."
    )
    label_maps: Where = Field(
        "both", description="Label maps of a relabel stage: members of the samples, an array a shard, or both."
    )


class ReleaseStage(Sink[ReleaseConfig]):
    """Shards in input order, cut evenly; members are named by uid; the same bytes for any number of workers."""

    kind = "release"
    VERSION = 1
    Config = ReleaseConfig
    not_hashed = frozenset({"layout", "label_maps"})

    def identity(self) -> dict[str, Any]:
        """The layout, unless it is the one that all releases had once; where labels are from, if there are any."""
        layout = {} if self.config.layout == "webdataset" else {"layout": self.config.layout}
        return layout | self._labels.identity()

    @property
    def _layout(self) -> Layout:
        return LAYOUTS[self.config.layout]

    @property
    def _labels(self) -> Labels:
        return Labels.of(self.context.schema, self.config.label_maps)

    @property
    def _bare(self) -> bool:
        """Whether samples have no members to copy: tables are then all there is."""
        return self.context.input.bare

    def reads(self) -> tuple[str, ...]:
        """All steps: their columns tell the story of each sample."""
        return tuple(self.context.schema)

    def target(self, workspace: Workspace, whole: str) -> Workspace:
        """`to`, or a folder of the workspace that carries the fingerprint, so that two releases never mix."""
        return Workspace(self.config.to) if self.config.to else workspace.sub(f"{self.context.step}@{whole}")

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Alive rows of the part; classes too, of dropped samples as well, where labels are no members of their own."""
        labels: list[str] = []
        if part.source.kind == "folder":
            index = next(iter(self.context.schema))
            labels = part.columns(f"{index}.label").to_series().drop_nulls().unique().sort().to_list()
        elif self.context.input.labels is not None or any(shard.label for shard in part.source.shards):
            labels = self._given_labels(part)
        return {"alive": np.asarray(int(part.alive.sum())), "classes": np.asarray(labels, dtype=np.str_)}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Alive rows of every part, which is how shards are cut; classes in order. Memory: O(parts + classes)."""
        layout: list[int] = []
        classes: set[str] = set()
        for summary in summaries:
            layout.append(int(summary["alive"]))
            classes.update(summary["classes"].tolist())
        # a table of numbers has numbered the classes already
        as_is = self.context.input.labels is not None and all(map(is_number, classes))
        names = sorted(classes, key=int) if as_is else sorted(classes)
        made: dict[str, Artifact] = {"layout": np.asarray(layout, dtype=np.int64)}
        return made | {"classes": {"names": names, "as_is": as_is}} | self._labels.artifacts(totals)

    def _given_labels(self, part: Part) -> list[str]:
        """Labels of the samples of tars that have no label member: their inner tar or the table of labels gave them."""
        index = next(iter(self.context.schema))
        own = ["cls", (self.context.input.label_ext or "cls").lower()]
        frame = part.columns(f"{index}.label", f"{index}.members")
        has_own = pl.col(f"{index}.members").list.eval(pl.element().struct.field("ext").is_in(own)).list.any()
        return frame.filter(~has_own)[f"{index}.label"].drop_nulls().unique().sort().to_list()

    def units(self, artifacts: Mapping[str, Artifact], parts: int) -> list[Unit]:
        """One unit a shard, one a part for the table of what was dropped."""
        layout = artifacts["layout"]
        assert isinstance(layout, np.ndarray)
        ends = np.cumsum(layout)
        shards = []
        for shard, (start, stop) in enumerate(self._cuts(int(ends[-1]))):
            first, last = np.searchsorted(ends, [start, stop - 1], side="right")
            shards.append(Unit("shard", shard, tuple(range(int(first), int(last) + 1))))
        return shards + [Unit("dropped", part, (part,)) for part in range(parts)]

    def _cuts(self, samples: int) -> list[tuple[int, int]]:
        n = -(-samples // self.config.samples_per_shard)
        return [(samples * i // n, samples * (i + 1) // n) for i in range(n)]

    def write(
        self, unit: Unit, parts: Sequence[Part], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """One shard with its tables, or one table of dropped samples."""
        if unit.kind == "dropped":
            return self._dropped(unit, parts[0], target)
        layout = artifacts["layout"]
        assert isinstance(layout, np.ndarray)
        names = artifacts.get("label_names", {})
        assert isinstance(names, dict)
        return self._shard(unit, parts, layout, _class_numbers(artifacts), names, target)

    # --- shards -----------------------------------------------------------------------------------------------------

    def _shard(
        self,
        unit: Unit,
        parts: Sequence[Part],
        layout: NDArray[np.int64],
        classes: Mapping[str, int],
        names: Mapping[str, str],
        target: Workspace,
    ) -> dict[str, Any]:
        start, stop = self._cuts(int(layout.sum()))[unit.index]
        stem = self._layout.shard(unit.index)
        pieces = []
        for part in parts:
            before = int(layout[: part.index].sum())
            pieces.append((part, np.flatnonzero(part.alive)[max(0, start - before) : max(0, stop - before)]))
        name = f"{stem}.tar"
        if self._bare:
            samples = pl.concat([self._samples(part, rows)[2] for part, rows in pieces])
            table = self._layout.repeated(samples).with_columns(shard=NO_SHARD)
            files = put_table(target, f"samples.parquet/{stem}.parquet", table)
            copies = table.height - samples.height
            return {"kind": "table", "shard": name, "samples": table.height, "copies": copies, "files": files}
        tables, json_uids, maps = [], Counter[str](), list[Picked]()
        with target.create(name) as out:
            tar = TarOut(out)
            for part, rows in pieces:
                if (picked := self._labels.records(part, rows)) is not None:
                    maps.append(picked)
                tables.append(self._copy(part, rows, classes, names, picked, tar, json_uids))
            tar.close()
        samples = pl.concat(tables).with_columns(shard=pl.lit(name))
        table = self._layout.repeated(samples)
        files = {name: [tar.nbytes, tar.digest.hexdigest()]}
        files |= put_table(target, f"samples.parquet/{stem}.parquet", table)
        order = self._layout.repeated(samples.with_row_index("place"))["place"].to_numpy().astype(np.int64)
        files |= self._labels.write(target, stem, maps, order)
        stats = ShardStats(successes=table.height, bytes=tar.nbytes, sha256=tar.digest.hexdigest())
        files |= put_json(target, f"{stem}_stats.json", stats.model_dump())
        given = {"json_uids": dict(sorted(json_uids.items()))} if json_uids else {}
        copies = table.height - samples.height
        return {"kind": "shard", "shard": name, "samples": table.height, "copies": copies, "files": files} | given

    def _samples(self, part: Part, rows: NDArray[np.int64]) -> tuple[pl.DataFrame, list[str], pl.DataFrame]:
        """Columns of these rows, their uids, and what of it the table of the release says."""
        index = next(iter(self.context.schema))
        kept = [*_FROM_INDEX, *(name for name, _ in self.context.input.fields)]
        columns = [f"{index}.{name}" for name in ("uid_hi", "uid_lo", "shard", "members", "ext", *kept)]
        extra = {name: step for step, schema in self.context.schema.items() for name in FROM_STAGES if name in schema}
        extra |= self._labels.columns
        frame: pl.DataFrame = part.columns(*columns, *(f"{step}.{name}" for name, step in extra.items()))[rows.tolist()]
        frame = frame.rename({name: name.rpartition(".")[2] for name in frame.columns})
        uids = [format_uid(hi, lo) for hi, lo in frame.select("uid_hi", "uid_lo").iter_rows()]
        sources = pl.Series("source", _sources(part, frame), dtype=pl.String)
        return frame, uids, frame.select(pl.Series("uid", uids, dtype=pl.String), sources, *kept, *extra)

    def _copy(
        self,
        part: Part,
        rows: NDArray[np.int64],
        classes: Mapping[str, int],
        names: Mapping[str, str],
        maps: Picked | None,
        tar: TarOut,
        json_uids: Counter[str],
    ) -> pl.DataFrame:
        frame, uids, table = self._samples(part, rows)
        exts, hashes, labels = frame["ext"].to_list(), frame["sha256"].to_list(), self._labels
        for position, found in read_members(part.source, frame.select("shard", "members"), None):
            image = found[exts[position]]
            if hashlib.sha256(image).hexdigest() != hashes[position]:
                raise InputError(
                    f"{part.source.label}: the image of sample {frame['key'][position]} is not the one that was "
                    "indexed; the input changed during the run, run the same command again"
                )
            where = f"{part.source.label}: sample {frame['key'][position]}"
            members, given = self._layout.members(uids[position], found, where)
            if given is not None:
                json_uids[given] += 1
            if (number := classes.get(frame["label"][position])) is not None and "cls" not in members:
                # the folder or table a label came from is left behind: webdataset reads a class number from .cls
                members = members | {"cls": str(number).encode()}
            record = None if maps is None else maps[position]
            members = labels.members(members, record, table, position, names, where)
            for copy in range(self._layout.repeated(table[position]).height):
                key = self._layout.key(uids[position], copy)
                for ext, data in members.items():
                    tar.add(f"{key}.{ext}", data)
        return table

    # --- what was dropped ---------------------------------------------------------------------------------------------

    def _dropped(self, unit: Unit, part: Part, target: Workspace) -> dict[str, Any]:
        index = next(iter(self.context.schema))
        frame = part.columns(*(f"{index}.{name}" for name in ("uid_hi", "uid_lo", "shard", "key", "detail")))
        frame = frame.rename({name: name.rpartition(".")[2] for name in frame.columns})
        stage, reason, detail, keeper, similarity = (
            pl.lit(None, dtype=t) for t in (pl.String, pl.String, pl.String, pl.String, pl.Float64)
        )
        pieces = [frame]
        for layer in part.layers:
            if not layer.drops:
                continue
            wanted = [name for name in ("keep", "reason", "detail", "keeper", "similarity") if name in layer.columns]
            columns = part.columns(*(f"{layer.step}.{name}" for name in wanted))
            pieces.append(columns)
            out = pl.col(f"{layer.step}.keep") == False  # noqa: E712  (null means not judged)
            stage = pl.when(out).then(pl.lit(layer.step)).otherwise(stage)
            reason = pl.when(out).then(f"{layer.step}.reason").otherwise(reason)
            if "detail" in wanted:
                detail = pl.when(out).then(f"{layer.step}.detail").otherwise(detail)
            if "keeper" in wanted:
                keeper = pl.when(out).then(f"{layer.step}.keeper").otherwise(keeper)
            if "similarity" in wanted:
                similarity = pl.when(out).then(f"{layer.step}.similarity").otherwise(similarity)
        joined = pl.concat(pieces, how="horizontal").with_columns(
            stage=stage, reason=reason, why=pl.coalesce(detail, "detail"), keeper=keeper, similarity=similarity
        )
        gone = joined.filter(~pl.Series(part.alive))
        uids = [format_uid(hi, lo) for hi, lo in gone.select("uid_hi", "uid_lo").iter_rows()]
        table = gone.select(
            pl.Series("uid", uids, dtype=pl.String),
            pl.Series("source", _sources(part, gone), dtype=pl.String),
            "key",
            "stage",
            "reason",
            pl.col("why").alias("detail"),
            "keeper",
            "similarity",
        )
        counts = Counter(table.select("stage", "reason").iter_rows())
        files = put_table(target, f"dropped.parquet/{unit.index:05d}.parquet", table)
        rows = [[stage_, reason_, n] for (stage_, reason_), n in sorted(counts.items())]
        return {"kind": "dropped", "dropped": rows, "files": files, **self._upstream(part)}

    def _upstream(self, part: Part) -> dict[str, Any]:
        """What the downloader of the part's shards said, from the notes of the index."""
        if all(shard.sidecars is None for shard in part.source.shards):
            return {}
        layer = part.layers[0]
        notes = read_meta(part.workspace, layer.folder, part.index, layer.fingerprint).notes
        return {"upstream": [note for note in notes if note["kind"] == "upstream"]}

    # --- all together -----------------------------------------------------------------------------------------------

    def intact(self, report: dict[str, Any], target: Workspace) -> bool:
        """The manifest is the one that was written."""
        if not target.exists("manifest.json"):
            return False
        return hashlib.sha256(target.read("manifest.json")).hexdigest() == str(report["manifest_sha256"])

    def finish(
        self, results: Iterable[dict[str, Any]], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """sizes.json, classes.json where labels are no members of their own and, last, manifest.json."""
        files: dict[str, list[Any]] = {}
        tables: dict[str, int] = {}
        dropped: dict[str, Counter[str]] = {}
        notes: list[dict[str, Any]] = []
        json_uids: Counter[str] = Counter()
        copies = 0
        for result in results:
            files |= result["files"]
            json_uids.update(result.get("json_uids", {}))
            notes += result.get("upstream", [])
            if result["kind"] != "dropped":
                tables[result["shard"]] = result["samples"]
                copies += result["copies"]
            for stage, reason, n in result.get("dropped", []):
                dropped.setdefault(stage, Counter())[reason] += n
        if missing := lost(target, files):
            raise Lost(f"{target.where()} lost {missing} while the release was written; run again")
        sizes = {} if self._bare else tables
        files |= put_json(target, "sizes.json", dict(sorted(sizes.items())))
        files |= self._layout.finish(target, tables)
        if numbers := _class_numbers(artifacts):
            files |= put_json(target, "classes.json", numbers)
        files |= self._labels.finish(target, artifacts)
        samples, gone = sum(tables.values()) - copies, sum(c.total() for c in dropped.values())
        order = list(self.context.schema)
        found = add_up(notes)
        manifest = Manifest(
            name=self.context.pipeline,
            metadata_license=self.config.metadata_license,
            input_samples=samples + gone,
            samples=samples,
            copies=copies or None,
            dropped_samples=gone,
            dropped={stage: dict(sorted(dropped[stage].items())) for stage in sorted(dropped, key=order.index)},
            shards=len(sizes),
            upstream=Upstream.model_validate({n: found[n] for n in Upstream.model_fields}) if found else None,
            files={name: ReleaseFile(bytes=n, sha256=digest) for name, (n, digest) in sorted(files.items())},
        )
        without = {name for name, there in (("upstream", found), ("copies", copies)) if not there}
        written = put_json(target, "manifest.json", manifest.model_dump(exclude=without))
        return {
            "url": target.url,
            "shards": len(sizes),
            "samples": samples,
            "bytes": sum(n for n, _ in files.values()),
            "manifest_sha256": written["manifest.json"][1],
            **({"copies": copies} if copies else {}),
            **({"json_uids": dict(json_uids)} if json_uids else {}),
        }


def _class_numbers(artifacts: Mapping[str, Artifact]) -> dict[str, int]:
    """Class -> number by sorted name, as torchvision's ImageFolder counts, or the number it is called by; empty where
    samples bring their labels along.
    """
    classes = artifacts["classes"]
    assert isinstance(classes, dict)
    if classes.get("as_is"):
        return {name: int(name) for name in classes["names"]}
    return {name: number for number, name in enumerate(classes["names"])}


def _sources(part: Part, rows: pl.DataFrame) -> list[str]:
    """Where each row came from: its shard, or the root of an image folder, which has no shards."""
    names = part.source.names
    return [names[shard] for shard in rows["shard"]] if names else [part.source.root] * rows.height
