"""From what a user writes (braces, globs, folders, lists of URLs) to an ordered list of shards. Opens no shard."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from curate.errors import InputError
from curate.formats.sources import ShardInfo
from curate.store import urls

_PATTERN = re.compile(r"[{*?\[]")
_WILD = re.compile(r"[*?\[]")


def expand_shards(spec: str | Sequence[str], suffix: str = ".tar") -> list[ShardInfo]:
    """All shards that ``spec`` names, in order: as given, sorted within a glob or a folder.

    ``spec``: a URL with braces and globs, a folder (its files that end in ``suffix``), a ``.txt`` file of URLs (one a
    line, ``#`` starts a comment, relative ones are relative to the file), or a list of any of these.

    ``rel``, which enters the uid, is the path relative to the folder before the first brace or wildcard (for a plain
    name: to the name's folder; for a folder: to it), so appending shards never changes it. Where two patterns give
    the same ``rel``, the later shard takes as many more parent folders as make it unique.

    Raises :class:`InputError` for missing shards (count and first names), duplicates, and nothing found.
    Memory: one record a shard.
    """
    found: list[tuple[str, str]] = []  # (url, root)
    listings: dict[str, dict[str, dict[str, Any]]] = {}
    for pattern in _patterns([spec] if isinstance(spec, str) else list(spec)):
        root = _fixed_root(pattern)
        for url in urls.expand_braces(pattern):
            names = _expand_one(url, listings, suffix)
            folder = names != [url] and not _PATTERN.search(pattern)
            found.extend((name, pattern if folder else root) for name in names)
    if not found:
        raise InputError(f"{spec!r} names no shards; give tar files, a folder of them, or a text file of their URLs.")
    records = _records([url for url, _ in found], listings)
    missing = [url for (url, _), record in zip(found, records, strict=True) if record is None]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3:,} more" if len(missing) > 3 else "")
        raise InputError(
            f"{len(missing):,} of {len(found):,} shards are missing: {shown}. Check the range or the path."
        )
    shards: list[ShardInfo] = []
    paths: set[str] = set()
    rels: set[str] = set()
    for (url, root), record in zip(found, records, strict=True):
        assert record is not None
        fs, path = urls.resolve(url)
        if path in paths:
            raise InputError(f"{url} is listed twice; remove one, its samples would all be duplicates.")
        paths.add(path)
        rel = _relative(path, urls.resolve(root)[1] if root else "", rels)
        rels.add(rel)
        shards.append(ShardInfo(url, rel, int(record["size"] or 0), urls.etag_of(fs, record)))
    return shards


def _patterns(specs: list[str]) -> Iterator[str]:
    for spec in specs:
        urls.split_protocol(spec)
        if spec.endswith(".txt"):
            base = spec.rsplit("/", 1)[0] if "/" in spec else "."
            try:
                with urls.open_read(spec) as handle:
                    lines = handle.read().decode("utf-8-sig").splitlines()
            except UnicodeDecodeError as err:
                raise InputError(f"{spec}: the list of shards is not UTF-8 text.") from err
            for line in lines:
                entry = line.split("#", 1)[0].strip() if line.lstrip().startswith("#") or " #" in line else line.strip()
                if entry:
                    protocol, _ = urls.split_protocol(entry)
                    plain = protocol == "file" and not entry.startswith(("/", "~", "file:"))
                    yield urls.join(base, entry) if plain else entry
        else:
            yield spec


def _fixed_root(pattern: str) -> str:
    """The folder part of a pattern before its first brace or wildcard."""
    head = _PATTERN.split(pattern, maxsplit=1)[0]
    return head.rsplit("/", 1)[0] + "/" if "/" in head else "./" if urls.split_protocol(pattern)[0] == "file" else ""


def _expand_one(url: str, listings: dict[str, dict[str, dict[str, Any]]], suffix: str) -> list[str]:
    """A glob or folder to its shards; a plain URL to itself."""
    if url.startswith(("http://", "https://")):
        return [url]
    fs, path = urls.resolve(url)
    try:
        if _WILD.search(path):
            names = fs.glob(path, detail=True)
            records = {n: r for n, r in names.items() if r["type"] == "file"}
        elif url.endswith(suffix) or not fs.isdir(path):
            return [url]
        else:
            records = {r["name"]: r for r in fs.ls(path, detail=True) if r["type"] == "file"}
            records = {n: r for n, r in records.items() if n.endswith(suffix)}
    except OSError as err:
        raise urls.unreadable(url, err) from err
    if not records:
        what = "matches no file" if _WILD.search(path) else f"holds no {suffix} file"
        raise InputError(f"{url} {what}; check the path (an image folder is given as input.folder).")
    for name, record in records.items():
        listings.setdefault(name.rsplit("/", 1)[0], {})[name] = record
    prefix = "" if urls.is_local(fs) else urls.split_protocol(url)[0] + "://"
    return [prefix + name.lstrip("/") if prefix else name for name in sorted(records)]


def records_of(names: Sequence[str]) -> list[dict[str, Any] | None]:
    """Size and etag record of each of many URLs, None when missing. Raises InputError where storage does not answer."""
    return _records(list(names), {})


def _records(shards: list[str], listings: dict[str, dict[str, dict[str, Any]]]) -> list[dict[str, Any] | None]:
    """Size and etag record of each shard, None when missing: one LIST for a folder with many, else one look each."""
    resolved = [urls.resolve(url) for url in shards]
    wanted: dict[str, int] = {}
    for _, path in resolved:
        wanted[path.rsplit("/", 1)[0]] = wanted.get(path.rsplit("/", 1)[0], 0) + 1

    def look(item: tuple[Any, str]) -> dict[str, Any] | None:
        fs, path = item
        folder = path.rsplit("/", 1)[0]
        if folder in listings and path in listings[folder]:
            return listings[folder][path]
        if folder in listed:
            return None
        try:
            record: dict[str, Any] = fs.info(path)
        except FileNotFoundError:
            return None
        except OSError as err:
            raise urls.unreadable(path, err) from err
        return record if record["type"] == "file" else None

    listed: set[str] = set()
    for fs, path in resolved:
        folder = path.rsplit("/", 1)[0]
        if wanted[folder] > 16 and folder not in listed and not path.startswith("http"):
            try:
                entries = fs.ls(folder, detail=True)
            except FileNotFoundError:
                entries = []
            except OSError as err:
                raise urls.unreadable(folder, err) from err
            listings.setdefault(folder, {}).update({r["name"]: r for r in entries if r["type"] == "file"})
            listed.add(folder)
    if any(path.startswith("http") for _, path in resolved):
        with ThreadPoolExecutor(16) as pool:
            return list(pool.map(look, resolved))
    return [look(item) for item in resolved]


def _relative(path: str, root: str, taken: set[str]) -> str:
    root = root.rstrip("/") + "/" if root else ""
    rel = path[len(root) :] if root and path.startswith(root) else path.rsplit("/", 1)[-1]
    while rel in taken:
        parents = path[: len(path) - len(rel)].rstrip("/")
        if not parents:
            raise InputError(f"{path}: two shards have the same path; they would give their samples the same uid.")
        rel = f"{parents.rsplit('/', 1)[-1]}/{rel}"
    return rel
