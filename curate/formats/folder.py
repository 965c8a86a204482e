"""A folder of images: one folder for each class, sidecar files beside the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from curate.errors import InputError
from curate.formats.samples import Draft, Reader
from curate.formats.sources import FileGroup, FileInfo, PartSource
from curate.store import urls


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


def index_folder(source: PartSource, reader: Reader) -> None:
    """Rows of one part of an image folder. Raises InputError when a file is gone. Memory: the files of one sample."""
    for group in source.files:
        _read_group(reader, source.root, group)


def _read_group(reader: Reader, root: str, group: FileGroup) -> None:
    draft = Draft(group.key.encode("utf-8", "surrogateescape"))
    for file in group.files:
        nbytes, data = file.nbytes, None
        if file.ext in reader.wanted and nbytes <= reader.options.max_member_bytes:
            url = urls.join(root, file.rel)
            try:
                with urls.open_read(url) as handle:
                    data = handle.read(reader.options.max_member_bytes + 1)
            except OSError as err:
                raise urls.unreadable(url, err) from err
            nbytes = len(data)
        raw = file.rel.encode("utf-8", "surrogateescape")
        reader.add(draft, raw, file.ext, 0, nbytes, data, raw.decode("utf-8", "backslashreplace"))
    reader.finish(draft, "", 0, group.label)
