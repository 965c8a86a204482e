"""What img2dataset leaves beside a tar: `00000.parquet`, a row for each url it tried, `00000_stats.json`, its totals.

Rows that it failed to get become rows of the index, so that a collection adds up to what was asked for.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from curate.errors import InputError
from curate.formats.arrow import DAMAGE, NotReadable, Table, one_line, rows_of
from curate.formats.samples import Reader
from curate.formats.sources import ShardInfo, Sidecar
from curate.formats.tar import printable
from curate.store import urls

#: Columns that a downloader's table must have to be one, and those of use here where it has them.
_NEEDED = ("key", "status")
_USED = ("error_message", "uid", "caption", "label", "license")
_MAX_STATS = 64 << 20
#: Reasons, and things that do not add up, that a part's note tells one by one.
_TOLD = 20
_BATCH = 4096
_COUNTS = ("shards", "without_table", "attempted", "successes", "failed", "problems")

Records = Callable[[Sequence[str]], Sequence[dict[str, Any] | None]]


def with_sidecars(
    shards: Sequence[ShardInfo], mode: Literal["auto", "img2dataset", "none"], records: Records
) -> list[ShardInfo]:
    """The shards with the files beside them: `NNNNN.parquet` and `NNNNN_stats.json` for `NNNNN.tar`.

    ``auto`` looks once, for the table of the first shard, and leaves all shards as they are when it is not there.
    ``records`` gives the size and etag record of each of many URLs, None when missing. Memory: two records a shard.
    """
    if mode == "none" or not shards or (mode == "auto" and not _exists(_beside(shards[0].url)[0])):
        return list(shards)
    names = [_beside(shard.url) for shard in shards]
    found = iter(records([url for pair in names for url in pair]))
    out = []
    for shard, pair in zip(shards, names, strict=True):
        fs, _ = urls.resolve(shard.url)
        sidecars = []
        for kind, url in zip(("table", "stats"), pair, strict=True):
            if (record := next(found)) is not None:
                sidecars.append(Sidecar(kind, url, int(record["size"] or 0), urls.etag_of(fs, record)))
        out.append(replace(shard, sidecars=tuple(sidecars)))
    return out


def _beside(url: str) -> tuple[str, str]:
    stem = url.removesuffix(".tar")
    return f"{stem}.parquet", f"{stem}_stats.json"


def _exists(url: str) -> bool:
    """One look. Storage that refuses to say (http servers do) counts as no."""
    try:
        return bool(urls.info(url)["type"] == "file")
    except InputError:
        return False


@dataclass(slots=True)
class _Table:
    """What one table said."""

    failed: int = 0
    succeeded: int = 0
    absent: int = 0
    contradicted: int = 0


class Downloads:
    """Adds up what the downloader's files of one part's shards say. Memory: the keys of one shard, 20 sentences."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._shards = self._tried = self._got = self._failed = self._without = 0
        self._reasons: Counter[str] = Counter()
        self._problems: list[str] = []
        self._problem_count = 0

    def add(self, shard: ShardInfo, ordinal: int, first_row: int) -> None:
        """Rows of the failures of one shard, whose samples stand from ``first_row`` on; its totals are added up."""
        self._shards += 1
        there = {sidecar.kind: sidecar for sidecar in shard.sidecars or ()}
        samples = self._reader.rows - first_row
        if "table" not in there:
            self._without += 1
            self._tell(f"{shard.rel}: there is no table beside it, so nothing is known of failed downloads")
        table, reasons = self._table(there.get("table"), shard, ordinal, first_row)
        stats = self._stats(there.get("stats"), shard)
        if table and table.absent:
            self._tell(f"{shard.rel}: {table.absent:,} samples that its table calls downloaded are not in the tar")
        if table and table.contradicted:
            self._tell(f"{shard.rel}: {table.contradicted:,} samples that its table calls failed are in the tar")
        if stats is None:
            failed = table.failed if table else 0
            self._tried, self._got = self._tried + samples + failed, self._got + samples
        else:
            tried, got, reasons = stats
            failed = tried - got
            self._tried, self._got = self._tried + tried, self._got + got
            if got != samples:
                self._tell(f"{shard.rel}: its stats count {got:,} downloaded samples, the tar holds {samples:,}")
            if table and table.failed != failed:
                self._tell(f"{shard.rel}: its stats count {failed:,} failures, its table {table.failed:,}")
        self._failed += failed
        self._reasons.update(reasons)
        if rest := failed - reasons.total():
            self._reasons["other"] += rest

    def notes(self) -> tuple[dict[str, Any], ...]:
        """One note of kind ``upstream``; none when no shard was asked about."""
        if not self._shards:
            return ()
        ranked = sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))
        reasons = dict(ranked[:_TOLD])
        if len(ranked) > _TOLD:
            reasons["other"] = reasons.get("other", 0) + sum(n for _, n in ranked[_TOLD:])
        note = {
            "kind": "upstream",
            "shards": self._shards,
            "without_table": self._without,
            "attempted": self._tried,
            "successes": self._got,
            "failed": self._failed,
            "reasons": reasons,
            "problems": self._problem_count,
            "details": list(self._problems),
        }
        return (note,)

    def _tell(self, sentence: str) -> None:
        self._problem_count += 1
        if len(self._problems) < _TOLD:
            self._problems.append(sentence)

    # --- the table --------------------------------------------------------------------------------------------------

    def _table(
        self, sidecar: Sidecar | None, shard: ShardInfo, ordinal: int, first_row: int
    ) -> tuple[_Table | None, Counter[str]]:
        reasons: Counter[str] = Counter()
        if sidecar is None:
            return None, reasons
        keys = set(self._reader.columns["key"][first_row:])
        said = _Table()
        try:
            for row in self._rows(sidecar):
                key = "" if row["key"] is None else str(row["key"])
                raw = key.encode("utf-8", "surrogateescape")
                if row["status"] == "success":
                    said.succeeded += 1
                    said.absent += printable(raw) not in keys
                    continue
                said.failed += 1
                reason = printable(str(row.get("error_message") or row["status"] or "no reason given").encode())
                reasons[reason] += 1
                if printable(raw) in keys:
                    said.contradicted += 1
                    continue
                self._reader.absent(raw, shard.rel, ordinal, "not_downloaded", reason, row)
        except NotReadable as err:
            self._tell(f"{sidecar.url}: {err}; its failed downloads are not known")
            return None, Counter()
        except DAMAGE as err:
            self._tell(f"{sidecar.url}: is damaged ({one_line(err)}); only some of its failed downloads are known")
        return said, reasons

    def _rows(self, sidecar: Sidecar) -> Iterator[dict[str, Any]]:
        with Table(sidecar.url, sidecar.nbytes) as table:
            names = table.schema.names
            if missing := [name for name in _NEEDED if name not in names]:
                raise NotReadable("other", f"is no downloader's table, it has no column {' or '.join(missing)}")
            fields = [name for name, _ in self._reader.options.fields]
            wanted = [name for name in dict.fromkeys([*_NEEDED, *_USED, *fields]) if name in names]
            for group in range(len(table.group_rows)):
                for batch in table.batches(group, wanted, _BATCH):
                    yield from rows_of(batch)

    # --- the totals -------------------------------------------------------------------------------------------------

    def _stats(self, sidecar: Sidecar | None, shard: ShardInfo) -> tuple[int, int, Counter[str]] | None:
        """Attempted, downloaded, failures by reason; None when the file is not there or says no such thing."""
        if sidecar is None:
            return None
        try:
            with urls.open_read(sidecar.url) as handle:
                stats = json.loads(handle.read(_MAX_STATS))
            counts = [_count(stats[name]) for name in ("count", "successes")]
            reasons = Counter({printable(k.encode()): _count(n) for k, n in stats.get("status_dict", {}).items()})
        except OSError as err:
            raise urls.unreadable(sidecar.url, err) from err
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._tell(f"{sidecar.url}: does not hold a downloader's totals (count, successes, status_dict)")
            return None
        del reasons["success"]
        tried, got = counts
        if got > tried or reasons.total() > tried - got:
            self._tell(f"{sidecar.url}: its totals do not add up ({tried:,} tried, {got:,} downloaded)")
            return None
        return tried, got, reasons


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError
    return value


def add_up(notes: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Totals of all notes of kind `upstream`; None without one. Memory: at most 21 reasons and sentences a part."""
    totals: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    details: list[str] = []
    found = False
    for note in notes:
        if note.get("kind") == "upstream":
            found = True
            totals.update({name: note[name] for name in _COUNTS})
            reasons.update(note["reasons"])
            details += note["details"]
    if not found:
        return None
    ranked = dict(sorted(reasons.items(), key=lambda item: (item[0] == "other", -item[1], item[0])))
    return {name: totals[name] for name in _COUNTS} | {"reasons": ranked, "details": details}
