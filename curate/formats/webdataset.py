"""WebDataset shards: a tar whose neighbouring members of one key are a sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing
from typing import Any

from curate.formats.archive import open_window
from curate.formats.img2dataset import Downloads
from curate.formats.samples import Draft, PartNotes, Reader, ShardProblem
from curate.formats.sources import PartSource, ShardInfo
from curate.formats.tar import Readable, TarEnd, TarScan, check_name, printable, split_name
from curate.store import urls


def index_tars(source: PartSource, reader: Reader) -> PartNotes:
    """Rows of all shards of one part, each read once, front to back; a cut shard gives its readable prefix.

    Behind the rows of a shard come those of samples that its downloader failed to get, if it left a table.
    Raises InputError when a shard cannot be opened or read. Memory: one member, the text members of one sample; a
    remote tar inside a tar 8 MiB, a downloader's table a few columns of it.
    """
    options = reader.options
    problems: list[ShardProblem] = []
    skipped: Counter[str] = Counter()
    ignored: list[str] = []
    ignored_count = 0
    downloads = Downloads(reader)
    for ordinal, shard in enumerate(source.shards):
        first_row = reader.rows
        try:
            with _open(shard) as handle:
                scan = TarScan(handle, max_member_bytes=options.max_member_bytes, wanted=reader.is_wanted)
                for raw in _read_shard(reader, scan, shard, ordinal):
                    ignored_count += 1
                    if len(ignored) < 10:
                        ignored.append(printable(raw))
        except OSError as err:
            raise urls.unreadable(shard.url, err) from err
        skipped.update(scan.skipped)
        if not scan.end.clean:
            end = scan.end
            problems.append(ShardProblem(shard.rel, end.reason, end.offset, end.detail, reader.rows - first_row))
        if (archive := shard.ends) is not None:
            skipped.update(dict(archive.skipped))
            ignored_count += archive.ignored
            ignored = [*ignored, *archive.ignored_names][:10]
            if archive.reason is not None:
                problems.append(ShardProblem(archive.name, archive.reason, archive.offset, archive.detail, 0))
        if shard.sidecars is not None:
            downloads.add(shard, ordinal, first_row)
    return PartNotes(reader.rows, tuple(problems), dict(skipped), ignored_count, tuple(ignored), more=downloads.notes())


def _open(shard: ShardInfo) -> AbstractContextManager[Readable]:
    return closing(open_window(shard.url, shard.start, shard.nbytes)) if shard.start else urls.open_read(shard.url)


def _read_shard(reader: Reader, scan: TarScan, shard: ShardInfo, ordinal: int) -> Iterator[bytes]:
    """Rows of one shard; yields the names of members that are no sample's. Memory: one row number a key."""
    draft: Draft | None = None
    rows: dict[bytes, list[int]] = {}

    def close() -> None:
        if draft is not None:
            rows.setdefault(draft.key, []).append(reader.rows)
            reader.finish(draft, shard.rel, ordinal, shard.label)

    for raw, offset, nbytes, data in scan:
        named = split_name(raw)
        if named is None:
            yield raw
            continue
        key, ext = named
        if draft is None or key != draft.key or ext in draft.exts:
            close()
            draft = Draft(key)
        reader.add(draft, raw, ext, offset, nbytes, data, None)
    if scan.end.broken:
        draft = _cut_draft(scan.end, draft, close)
    close()
    for numbers in rows.values():
        if len(numbers) > 1:
            _flag_repeated(reader, numbers)


def _cut_draft(end: TarEnd, draft: Draft | None, close: Any) -> Draft | None:
    """The sample that a broken shard ends in: the one whose member was cut, else the last one, which may lack more."""
    named = split_name(end.raw_name) if end.raw_name is not None else None
    if end.raw_name is not None and named is None:
        return draft
    if named is not None and (draft is None or draft.key != named[0] or named[1] in draft.exts):
        close()
        draft = Draft(named[0])
        draft.name_problem = check_name(end.raw_name or b"")
    if draft is not None:
        draft.cut = f"the shard is damaged here and the sample may be incomplete: {end.detail}"
    return draft


def _flag_repeated(reader: Reader, numbers: list[int]) -> None:
    """Rows of one key in one shard: disjoint extensions are fragments of one sample, repeated ones are duplicates."""
    members = reader.columns["members"]
    starts = {n: members[n][0]["offset"] for n in numbers if members[n]}
    seen: set[str] = set()
    fragments: list[int] = []
    for n in numbers:
        if not members[n]:  # only its cut first member: stays cut_tar
            continue
        exts = {m["ext"] for m in members[n]}
        if exts & seen:
            detail = f"the key is used before in this shard, at byte {starts[fragments[0]]}; the first one is kept"
            reader.flag(n, "duplicate_key", detail)
        else:
            seen |= exts
            fragments.append(n)
    if len(fragments) > 1:
        for n in fragments:
            other = ", ".join(str(starts[m]) for m in fragments if m != n)
            reader.flag(n, "scattered_members", f"the key's members are not adjacent: others are at byte {other}")
