"""The story of one sample: where it is, what each step found, why it stayed or went.

stories = explain(open_run("runs/laion"), uid="0d5a…")
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache, cached_property
from typing import Any

import polars as pl

from curate.engine.exchange import Buckets
from curate.errors import CurateError, InputError
from curate.formats.sources import PartSource
from curate.pipeline.api import Run
from curate.pipeline.explain_labels import explain_labels, explain_map
from curate.pipeline.explain_made import explain_made
from curate.pipeline.load import load
from curate.pipeline.plan import input_sources
from curate.pipeline.retries import read_retries
from curate.pipeline.runfile import StepRecord
from curate.pipeline.stories import Other, StepStory, Story, Verdict
from curate.stages import configs
from curate.stages.prune_rows import grouped_by
from curate.stages.release_layout import LAYOUTS, SAMPLE_IDS, Layout
from curate.stages.uids import PREFIXES
from curate.store.artifacts import read_artifacts
from curate.store.columns import part_file, read_columns
from curate.store.fingerprint import fingerprint
from curate.store.groups import Group
from curate.store.uids import format_uid, parse_uid
from curate.store.workspace import Workspace

__all__ = ["Other", "StepStory", "Story", "explain"]

RANKED_ROWS = 5_000_000
"""Up to this many samples the rank within a concept is looked up: two columns of all rows."""
MOST = 20
"""Samples told at most when a key stands for many."""
_BOOKKEEPING = ("keep", "reason", "alive")


def explain(run: Run, *, uid: str | None = None, key: str | None = None, shard: str | None = None) -> list[Story]:
    """The stories of all samples with this uid, or with this key (in this input shard), in input order.

    uid: 32 hex digits; key and shard as they are in the input. Raises InputError when there is none, or when the run
    has not come far enough. Memory: the columns of one part at a time; a uid reads one row group of the uid table.
    """
    if run.record.made:
        return explain_made(run, uid=uid, key=key, shard=shard)
    teller = _Teller(run)
    if uid is not None:
        hi, lo = parse_uid(uid)
        places = teller.places(hi, lo)
        if not places:
            raise InputError(
                f"no sample of this run has the uid {format_uid(hi, lo)}; the run read {teller.index.rows:,} samples "
                f"from {_input_of(run)}"
            )
    elif key is not None:
        places = list(teller.by_key(key, shard))
        if not places:
            where = f" in shard {shard}" if shard else ""
            raise InputError(f"no sample of this run has the key {key!r}{where}; keys are names up to the first dot")
    else:
        raise InputError("name a sample: by its uid (32 hex digits) or by its key")
    return [teller.story(part, row) for part, row in places]


class _Teller:
    """Reads single rows of a run; keeps only group files and the sources of the input."""

    def __init__(self, run: Run) -> None:
        self.run, self.workspace = run, run.workspace
        self.groups: dict[str, Group] = {}
        for step in run.record.steps:
            if (group := run.record.group(run.workspace, step)) is not None:
                self.groups[step.name] = group
        self.index_step = run.record.steps[0].name
        if self.index_step not in self.groups:
            raise InputError(
                f"the index of this run is not finished ({run.record.status}); run it again, then ask again"
            )
        self.index = self.groups[self.index_step]
        self.part = cache(self._part)

    # --- finding rows -----------------------------------------------------------------------------------------------

    def places(self, hi: int, lo: int) -> list[tuple[int, int]]:
        """(part, row) of every sample with this uid, in input order."""
        step = next((step for step in self.run.record.steps if step.kind == "uids"), None)
        if step is None or step.name not in self.groups:
            raise InputError(
                "the table of uids of this run is not finished; run it again to its end, or look by --key instead"
            )
        suffix = f".{step.whole}.parquet"
        names = self.workspace.listing(step.folder)
        tables = sorted(name for name in names if name.startswith("table-") and name.endswith(suffix))
        numbers = [int(name.split(".")[0].removeprefix("table-")) for name in tables]
        if not tables:
            return []
        # buckets are equal ranges of the first 16 bits, so one table can hold the uid; where the last bucket stayed
        # empty the number of buckets is not known from the names, and all tables are asked
        buckets = Buckets.uniform(PREFIXES, numbers[-1] + 1)
        if numbers == list(range(buckets.n)):
            at = next(b for b in range(buckets.n) if hi >> 48 < buckets.bounds[b + 1])
            tables = tables[at : at + 1]
        found = []
        for name in tables:
            hit = self._scan(f"{step.folder}/{name}").filter((pl.col("uid_hi") == hi) & (pl.col("uid_lo") == lo))
            found += hit.select("part", "row").collect().rows()
        return sorted(found)

    def by_key(self, key: str, shard: str | None) -> Iterator[tuple[int, int]]:
        """(part, row) of samples with this key, MOST at most."""
        told = 0
        for number, entry in enumerate(self.index.parts):
            name = f"{self.index.folder}/{part_file(entry.part, entry.fingerprint)}"
            hits = self._scan(name).select("key", "shard").with_row_index("row").filter(pl.col("key") == key).collect()
            for row, _, ordinal in hits.rows():
                if shard is not None and shard not in self._shard_names(number, ordinal):
                    continue
                yield number, row
                told += 1
                if told == MOST:
                    return

    def _scan(self, name: str) -> pl.LazyFrame:
        if self.workspace.is_local:
            return pl.scan_parquet(self.workspace.path(name), glob=False)
        return pl.scan_parquet(self.workspace.read(name))

    def _part(self, step: str, part: int) -> pl.LazyFrame:
        group = self.groups[step]
        entry = group.parts[part]
        return self._scan(f"{group.folder}/{part_file(entry.part, entry.fingerprint)}")

    def row(self, step: str, part: int, row: int) -> dict[str, Any]:
        """All columns of one row."""
        return self.part(step, part).slice(row, 1).collect().row(0, named=True)

    def other(self, uid: str | None) -> dict[str, Any] | None:
        """A sample named as evidence."""
        if uid is None:
            return None
        places = self.places(*parse_uid(uid))
        if not places:
            return asdict(Other(uid))
        part, row = places[0]
        there = self.part(self.index_step, part).select("key", "shard").slice(row, 1).collect().row(0)
        return asdict(Other(uid, there[0], self.shard(part, there[1])))

    # --- names of shards --------------------------------------------------------------------------------------------

    @cached_property
    def sources(self) -> dict[int, PartSource]:
        """Parts of the input as they are listed now, those only that are what the run has read."""
        record = self.run.record
        try:
            listed = self.run.sources
            if not listed:
                listed, _ = input_sources(load(record.spec, registry=configs()).spec, record.limit_shards)
        except CurateError:
            return {}  # the input has moved: shards are then called by number
        own, retries = self.index.folder.rpartition("@")[2], read_retries(self.workspace)
        return {
            source.part: source
            for source, entry in zip(listed, self.index.parts, strict=False)
            if entry.fingerprint in retries.states(self.index.folder, fingerprint(own, [source.identity()], ""))
        }

    def shard(self, part: int, ordinal: int | None) -> str:
        """What to call an input shard: its path below the input root, or its number when the input is not there."""
        source = self.sources.get(part)
        if source is None or ordinal is None:
            return f"shard {ordinal or 0} of part {part}"
        return source.shards[ordinal].rel if source.shards else source.root

    def _shard_names(self, part: int, ordinal: int | None) -> set[str]:
        source = self.sources.get(part)
        names = {self.shard(part, ordinal)}
        if source is not None and source.shards and ordinal is not None:
            names |= {source.shards[ordinal].url, source.shards[ordinal].rel.rpartition("/")[2]}
        return names

    # --- telling ----------------------------------------------------------------------------------------------------

    def story(self, part: int, row: int) -> Story:
        """Everything about one row."""
        base = self.row(self.index_step, part, row)
        uid = format_uid(base["uid_hi"], base["uid_lo"])
        steps, alive = [], True
        for record in self.run.record.steps:
            if record.name in self.groups:
                told = self._step(record, part, row)
                alive = alive and told.verdict in ("made", "kept")
                steps.append(told)
            elif record.group is not None:
                steps.append(StepStory(record.name, record.kind, "not run yet"))
        return Story(
            uid=uid,
            key=base["key"],
            shard=self.shard(part, base["shard"]),
            part=part,
            row=row,
            members=[{"ext": m["ext"], "nbytes": m["nbytes"]} for m in base["members"]],
            status=base["status"],
            detail=base["detail"],
            alive=alive,
            steps=steps,
            release=(release := self._release(part, row) if alive else None),
            released_as=None if release is None else self._layout.key(uid),
        )

    def _step(self, record: StepRecord, part: int, row: int) -> StepStory:
        group = self.groups[record.name]
        values = self.row(record.name, part, row)
        judged = values.get("keep")
        verdict: Verdict = "made"
        if group.drops:
            verdict = "not judged" if judged is None else "kept" if judged else "dropped"
        reason = values.get("reason")
        evidence: dict[str, Any] = {}
        if "first_part" in values and values["first_part"] is not None:
            first = self.part(self.index_step, values["first_part"])
            there = first.select("key", "shard").slice(values["first_row"], 1).collect().row(0)
            evidence["first"] = {"key": there[0], "shard": self.shard(values["first_part"], there[1])}
        for name in ("duplicate_of", "keeper"):
            if (other := self.other(values.get(name))) is not None:
                evidence[name] = other
        if record.kind == "filter":
            evidence["where"] = group.config.get("where")
        if record.kind == "lists":
            evidence |= {name: group.config.get(name) for name in ("column", "allow", "deny")}
        if record.kind == "prune" and values.get("score") is not None:
            evidence |= self._quota(record, group, part, row, values["score"])
        if record.kind == "relabel" and values.get("map_row") is not None:
            evidence["map"] = explain_map(self.run, record.name, part, values["map_row"])
        if record.kind == "label_sets" and values.get("outcome") is not None:
            label = self.row(self.index_step, part, row)["label"]
            evidence |= explain_labels(self.run, record.name, values, label)
        hidden = {*_BOOKKEEPING, "uid_hi", "uid_lo", "members", "key", "shard", "vec_row", "text_row", "map_row"}
        hidden |= {"duplicate_of", "keeper", "first_part", "first_row", "of_part", "of_row", "order_key", "links"}
        hidden |= {"content_hi", "content_lo", "map_row"}
        shown = {name: value for name, value in values.items() if name not in hidden and value is not None}
        return StepStory(record.name, record.kind, verdict, reason, shown, evidence)

    def _quota(self, record: StepRecord, group: Group, part: int, row: int, score: int) -> dict[str, Any]:
        """Quota of the sample's concept or class and, when it is cheap, the rank of its score there."""
        artifacts = read_artifacts(self.workspace, record.folder, record.whole)
        table, told = artifacts["concepts"], artifacts["diagnostics"]
        assert isinstance(table, pl.DataFrame)
        assert isinstance(told, dict)
        step, column, name = grouped_by(told["within"], table, self.index_step)
        mine = 0 if step is None else self.row(step, part, row)[column]
        facts = table.filter(pl.col(name) == mine).row(0, named=True)
        which = group.config["which"]
        found = {"concept": facts["concept"], "quota": facts["quota"], "size": facts["size"], "which": which}
        if facts["label"] is not None:
            found["label"] = facts["label"]
        if group.rows <= RANKED_ROWS and which in ("hard", "easy"):
            found["rank"] = 1 + self._better(record.name, (step, column, mine), score, which, part, row)
        return found

    def _better(
        self, prune: str, group: tuple[str | None, str, Any], score: int, which: str, part: int, row: int
    ) -> int:
        """Samples of the group that come first: better scores, and equal ones of a smaller uid."""
        mine = self.row(self.index_step, part, row)
        best = (pl.col("score") > score) if which == "hard" else (pl.col("score") < score)
        smaller = (pl.col("uid_hi") < mine["uid_hi"]) | (
            (pl.col("uid_hi") == mine["uid_hi"]) & (pl.col("uid_lo") < mine["uid_lo"])
        )
        total = 0
        step, column, value = group
        for number in range(len(self.index.parts)):
            frame = pl.concat(
                [
                    self._columns(prune, number, ["score"]),
                    *([self._columns(step, number, [column])] if step is not None else []),
                    self._columns(self.index_step, number, ["uid_hi", "uid_lo"]),
                ],
                how="horizontal",
            )
            same = pl.lit(True) if step is None else pl.col(column) == value
            here = frame.filter(pl.col("score").is_not_null() & same)
            total += here.filter(best | ((pl.col("score") == score) & smaller)).height
        return total

    def _columns(self, step: str, part: int, names: list[str]) -> pl.DataFrame:
        group = self.groups[step]
        entry = group.parts[part]
        return read_columns(self.workspace, group.folder, entry.part, entry.fingerprint, names)

    def _number(self, record: StepRecord) -> int:
        return self.run.record.steps.index(record)

    @cached_property
    def _layout(self) -> Layout:
        there = Workspace(str(self.run.release)).exists(SAMPLE_IDS)
        return LAYOUTS["datacomp" if there else "webdataset"]

    def _release(self, part: int, row: int) -> str | None:
        """The shard of the release: samples keep the order of the input, and sizes.json says where shards are cut."""
        url = self.run.release
        last = next((name for name, group in reversed(self.groups.items()) if group.drops), None)
        if url is None or last is None:
            return None
        parts = self.groups[last].parts
        before = self._columns(last, part, ["alive"]).head(row)["alive"].sum()
        place = sum(entry.alive or 0 for entry in parts[:part]) + int(before)
        release = Workspace(url)
        if not release.exists("sizes.json"):
            return None
        for shard, size in sorted(_json(release, "sizes.json").items(), key=lambda item: (len(item[0]), item[0])):
            if place < size:
                return release.where(shard)
            place -= size
        return None


def _json(workspace: Workspace, name: str) -> dict[str, int]:
    value: dict[str, int] = json.loads(workspace.read(name))
    return value


def _input_of(run: Run) -> str:
    given = run.record.spec.get("input", {})
    layouts = ("shards", "folder", "archive", "parquet", "embeddings", "datacomp")
    found = next((given[name] for name in layouts if given.get(name)), None) if isinstance(given, dict) else given
    return ", ".join(map(str, found)) if isinstance(found, list) else str(found)
