"""From what a user writes to an ordered list of shards or files, and from that to parts.

Knows names, sizes and etags only; opens no shard.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

from curate.errors import InputError
from curate.store import urls

AUTO_PART_BYTES = 128 << 20
AUTO_PART_SHARDS = 1000
_PATTERN = re.compile(r"[{*?\[]")
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """One tar: where it is, its path relative to the input root (part of the uid), size in bytes, etag."""

    url: str
    rel: str
    nbytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of an image folder: path relative to the root, its extension as a member, size in bytes, etag."""

    rel: str
    ext: str
    nbytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class FileGroup:
    """The files of one sample of an image folder, the image first. ``label``: first folder level, if any."""

    key: str
    label: str | None
    files: tuple[FileInfo, ...]


@dataclass(frozen=True, slots=True)
class PartSource:
    """What one part is made of: consecutive shards, or a run of an image folder's sorted listing."""

    part: int
    kind: Literal["tar", "folder"]
    shards: tuple[ShardInfo, ...] = ()
    root: str = ""
    files: tuple[FileGroup, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes to read for this part."""
        return sum(s.nbytes for s in self.shards) + sum(f.nbytes for g in self.files for f in g.files)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the shards, relative to the input root; the index column `shard` counts them."""
        return tuple(shard.rel for shard in self.shards)

    @property
    def label(self) -> str:
        """What to call the part in messages."""
        if self.kind == "folder":
            return f"{self.root}/{self.files[0].key} ..." if self.files else self.root
        return self.shards[0].rel if len(self.shards) == 1 else f"{self.shards[0].rel} ... {self.shards[-1].rel}"

    def identity(self) -> str:
        """A stable text of what the part contains (relative path, size, etag of each file), for fingerprints.

        Does not depend on where the input lies or on the part's number.
        """
        digest = hashlib.blake2b(digest_size=16)
        for rel, nbytes, etag in self._contents():
            for field in (rel, str(nbytes), etag):
                data = field.encode("utf-8", "surrogateescape")
                digest.update(len(data).to_bytes(8, "little") + data)
        return f"{self.kind}-{digest.hexdigest()}"

    def _contents(self) -> Iterator[tuple[str, int, str]]:
        for shard in self.shards:
            yield shard.rel, shard.nbytes, shard.etag
        for group in self.files:
            for file in group.files:
                yield f"{group.key}\0{file.rel}", file.nbytes, file.etag


def expand_shards(spec: str | Sequence[str]) -> list[ShardInfo]:
    """All shards that ``spec`` names, in order: as given, sorted within a glob or a folder.

    ``spec``: a URL with braces and globs, a folder (its ``*.tar``), a ``.txt`` file of URLs (one a line, ``#`` starts
    a comment, relative ones are relative to the file), or a list of any of these.

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
            names = _expand_one(url, listings)
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


def _expand_one(url: str, listings: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """A glob or folder to its shards; a plain URL to itself."""
    if url.startswith(("http://", "https://")):
        return [url]
    fs, path = urls.resolve(url)
    try:
        if _WILD.search(path):
            names = fs.glob(path, detail=True)
            records = {n: r for n, r in names.items() if r["type"] == "file"}
        elif url.endswith(".tar") or not fs.isdir(path):
            return [url]
        else:
            records = {r["name"]: r for r in fs.ls(path, detail=True) if r["type"] == "file"}
            records = {n: r for n, r in records.items() if n.endswith(".tar")}
    except OSError as err:
        raise urls.unreadable(url, err) from err
    if not records:
        what = "matches no file" if _WILD.search(path) else "holds no .tar file"
        raise InputError(f"{url} {what}; check the path (an image folder is given as input.folder).")
    for name, record in records.items():
        listings.setdefault(name.rsplit("/", 1)[0], {})[name] = record
    prefix = "" if urls.is_local(fs) else urls.split_protocol(url)[0] + "://"
    return [prefix + name.lstrip("/") if prefix else name for name in sorted(records)]


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


def plan_parts(shards: Sequence[ShardInfo], shards_per_part: int | Literal["auto"] = "auto") -> list[PartSource]:
    """Group consecutive shards into parts.

    ``auto`` closes a part as soon as it has 128 MiB or 1,000 shards, greedily from the start, so appended shards can
    only change the last part or follow it.
    """
    if shards_per_part != "auto" and shards_per_part < 1:
        raise InputError(f"shards_per_part is {shards_per_part}; it must be at least 1, or auto.")
    parts: list[PartSource] = []
    group: list[ShardInfo] = []
    nbytes = 0
    limit = AUTO_PART_SHARDS if shards_per_part == "auto" else shards_per_part
    for shard in shards:
        group.append(shard)
        nbytes += shard.nbytes
        if len(group) >= limit or (shards_per_part == "auto" and nbytes >= AUTO_PART_BYTES):
            parts.append(PartSource(len(parts), "tar", tuple(group)))
            group, nbytes = [], 0
    if group:
        parts.append(PartSource(len(parts), "tar", tuple(group)))
    return parts


@dataclass(frozen=True, slots=True)
class FolderListing:
    """An image folder as parts, and the files that belong to no image (relative paths, sorted)."""

    parts: tuple[PartSource, ...]
    ignored: tuple[str, ...]


def list_folder(root: str, image_exts: Sequence[str], files_per_part: int = 10_000) -> FolderListing:
    """All images under ``root`` in sorted order, ``files_per_part`` samples to a part; class = first folder level.

    A file whose last extension (any case) is in ``image_exts`` is the image of a sample, keyed by its path without
    extension. Other files join the images whose stem they continue (``a.txt``, ``a.cls.json`` go with ``a.jpg``).
    Two images of one stem are two samples, both with the sidecars; the second is keyed by its full name. Dots in the
    file part of a key become underscores, since a WebDataset key ends at the first dot. Hidden files and folders are
    left out. Raises :class:`InputError` when there is no folder or no image. Memory: one record a file.
    """
    fs, path = urls.resolve(root)
    try:
        if not fs.isdir(path):
            raise InputError(f"{root}: there is no such folder; check input.folder.")
        records = fs.find(path, detail=True)
    except OSError as err:
        raise urls.unreadable(root, err) from err
    base = path.rstrip("/") + "/"
    names = sorted(n for n in records if not any(p.startswith(".") for p in n[len(base) :].split("/")))
    exts = {ext.lower() for ext in image_exts}
    images: dict[str, list[str]] = {}
    others: list[str] = []
    for name in names:
        stem, dot, ext = name.rpartition(".")
        if dot and ext.lower() in exts and not stem.endswith("/"):
            images.setdefault(stem, []).append(name)
        else:
            others.append(name)
    sidecars: dict[str, list[tuple[str, str]]] = {}
    ignored: list[str] = []
    for name in others:
        stem = _owner(name, images)
        if stem is None:
            ignored.append(name[len(base) :])
        else:
            sidecars.setdefault(stem, []).append((name, name[len(stem) + 1 :].lower()))
    if not images:
        raise InputError(f"{root}: no file ends in {', '.join(sorted(exts))}; check input.folder and input.image.")

    def file(name: str, ext: str) -> FileInfo:
        return FileInfo(name[len(base) :], ext, int(records[name]["size"] or 0), urls.etag_of(fs, records[name]))

    groups: list[FileGroup] = []
    taken: set[str] = {_key(stem[len(base) :]) for stem in images}
    used: set[str] = set()
    for name in sorted(name for group in images.values() for name in group):
        stem, _, ext = name.rpartition(".")
        key = _key(stem[len(base) :])
        if key in used:
            key = _key(name[len(base) :])
            while key in taken or key in used:
                key += "_"
        used.add(key)
        label = key.split("/", 1)[0] if "/" in key else None
        side = tuple(file(n, e) for n, e in sidecars.get(stem, ()))
        groups.append(FileGroup(key, label, (file(name, ext.lower()), *side)))
    chunks = [groups[i : i + files_per_part] for i in range(0, len(groups), files_per_part)]
    parts = tuple(PartSource(i, "folder", (), str(root), tuple(chunk)) for i, chunk in enumerate(chunks))
    return FolderListing(parts, tuple(ignored))


def _owner(name: str, images: dict[str, list[str]]) -> str | None:
    """The longest image stem that ``name`` continues with a dot."""
    folder = name.rfind("/") + 1
    cut = name.rfind(".")
    while cut > folder:
        if name[:cut] in images:
            return name[:cut]
        cut = name.rfind(".", 0, cut)
    return None


def _key(rel: str) -> str:
    folder, slash, name = rel.rpartition("/")
    return folder + slash + name.replace(".", "_")
