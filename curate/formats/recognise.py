"""Look at a folder, bucket or file and say in which layout its samples are; opens one file at most.

What never lives here: reading of samples for a run (index.py), and the pipeline file that `curate init` writes.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from curate.errors import InputError
from curate.formats.archive import list_archive
from curate.formats.datacomp_metadata import is_metadata
from curate.formats.shards import expand_shards
from curate.formats.tar import TarScan, split_name
from curate.store import urls

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""Extensions that are taken for images, the most usual first."""
LAYOUTS = (
    "tar shards (WebDataset, img2dataset, DataComp), a tar of tars (ImageNet), a folder of images, Parquet files with "
    "image bytes (Hugging Face, img2dataset), embeddings (clip-retrieval), DataComp metadata, or a .txt list of shards"
)
PEEK_SAMPLES = 200
"""Samples of the first shard that are looked at."""
_INNER_BYTES = 8 << 20
"""Bytes of a tar in a tar that are looked at."""
_FOLDERS = 50
"""Folders of the first level that are looked into."""
_CAPTIONS = ("caption", "text", "txt", "title", "captions", "alt_text")
_LABELS = ("label", "labels", "cls", "class", "fine_label", "category")
_OURS = {"uid", "key", "caption", "sha256", "status", "error_message", "label", "license", "width", "height", "exif"}
_SPLITS = ("train", "training")


@dataclass(frozen=True)
class Recognised:
    """What was found. ``layout`` and ``options`` are options of a pipeline file's `input`."""

    layout: str
    location: str
    what: str
    """In words, such as "img2dataset shards"."""
    files: int
    """Shards, tables or images; of a folder of images those that were seen."""
    nbytes: int | None
    """Bytes of all files, None when not all were listed."""
    samples: int | None
    """About how many samples there are, None when unknown."""
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    """Further columns that the samples carry, name -> type."""
    notes: tuple[str, ...] = ()
    """What the user should know."""
    vectors: bool = False
    """Whether embeddings are there, so that none need be computed."""


@dataclass(frozen=True)
class _File:
    url: str
    name: str
    nbytes: int


def recognise(source: str) -> Recognised:
    """Say what `source` (a path or URL of a folder or file) holds.

    Reads listings of two levels and the beginning of one file. Raises InputError when there is nothing, or nothing that
    is known. Memory: the listings.
    """
    source = source.rstrip("/") or "/"
    if source.endswith(".txt"):
        shards = [_File(shard.url, shard.rel, shard.nbytes) for shard in expand_shards(source)]
        return _tars(shards, source, ())
    if urls.split_protocol(source)[0] in ("http", "https"):
        return _file(_File(source, source.rsplit("/", 1)[-1], int(urls.info(source)["size"] or 0)))
    record = urls.info(source)
    if record["type"] == "file":
        return _file(_File(source, source.rsplit("/", 1)[-1], int(record["size"] or 0)))
    return _folder(source)


def _listing(url: str) -> tuple[list[_File], list[str]]:
    """Files and names of folders directly in a folder, sorted, hidden ones left out."""
    fs, path = urls.resolve(url)
    try:
        entries = fs.ls(path, detail=True)
    except OSError as err:
        raise urls.unreadable(url, err) from err
    files, folders = [], []
    for entry in sorted(entries, key=lambda one: str(one["name"])):
        name = entry["name"].rstrip("/").rsplit("/", 1)[-1]
        if name.startswith(".") or entry["name"].rstrip("/") == path.rstrip("/"):
            continue
        if entry["type"] == "directory":
            folders.append(name)
        else:
            files.append(_File(urls.join(url, name), name, int(entry["size"] or 0)))
    return files, folders


def _extension(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _file(file: _File) -> Recognised:
    ext = _extension(file.name)
    if ext == "tar":
        return _tars([file], file.url, ())
    if ext == "parquet":
        return _tables([file], file.url, file.url.rpartition("/")[0] or ".", ())
    raise InputError(f"{file.url} is in no layout that curate reads; it reads {LAYOUTS}.")


def _folder(source: str) -> Recognised:
    files, folders = _listing(source)
    if "img_emb" in folders:
        return _embeddings(source, folders)
    if found := _of_files(source, "", files):
        return found
    if images := [file for file in files if _extension(file.name) in IMAGES]:
        return _images(source, images, labelled=False)
    inner = {name: _listing(urls.join(source, name)) for name in folders[:_FOLDERS]}
    together = [
        _File(file.url, f"{name}/{file.name}", file.nbytes) for name, (inside, _) in inner.items() for file in inside
    ]
    if found := _of_files(source, "*/", together):
        return found
    split = next((name for name in folders if name.lower() in _SPLITS and inner.get(name, ((), ()))[1]), None)
    if split is not None or (len(folders) == 1 and not files):
        name = split or folders[0]
        found = _folder(urls.join(source, name))
        others = ", ".join(other for other in folders if other != name)
        left = f"{source} also holds {others}, which this file leaves out"
        return _noted(found, left) if others else found
    if images := [file for file in together if _extension(file.name) in IMAGES]:
        return _images(source, images, labelled=True)
    names = ", ".join([file.name for file in files[:5]] + [f"{name}/" for name in folders[:5]]) or "nothing"
    raise InputError(f"{source} holds {names}: no layout that curate reads; it reads {LAYOUTS}.")


def _noted(found: Recognised, note: str) -> Recognised:
    return replace(found, notes=(*found.notes, note))


def _of_files(source: str, level: str, files: list[_File]) -> Recognised | None:
    """Shards or tables among the files of a folder (`level` "") or of its folders ("*/")."""
    tars = [file for file in files if _extension(file.name) == "tar"]
    train = [file for file in tars if "img_train" in file.name]
    if train:
        found = _tars(train[:1], train[0].url, ())
        others = [file.name for file in tars if file is not train[0]]
        return (
            _noted(found, f"{source} also holds {', '.join(others)}, which this file leaves out") if others else found
        )
    names = {file.name for file in files}
    if tars:
        return _tars(tars, urls.join(source, f"{level}*.tar"), names)
    tables = [file for file in files if _extension(file.name) == "parquet"]
    if tables:
        wanted = [file for file in tables if file.name.rsplit("/", 1)[-1].startswith("train")]
        if not wanted or len(wanted) == len(tables):
            return _tables(tables, urls.join(source, f"{level}*.parquet"), source, names)
        found = _tables(wanted, urls.join(source, f"{level}train*.parquet"), source, names)
        return _noted(found, f"{len(tables) - len(wanted)} tables of other splits are left out")
    return None


# --- tars -------------------------------------------------------------------------------------------------------------


@dataclass
class _Peek:
    """What the first samples of a shard are like."""

    samples: int = 0
    nbytes: int = 0
    exts: Counter[str] = field(default_factory=Counter)
    fields: dict[str, set[str]] = field(default_factory=dict)
    uids: int = 0
    whole: bool = True
    """Whether the shard holds no more than was looked at."""
    inner: str | None = None
    """Name of the first member that is a tar."""


def _peek(url: str) -> _Peek:
    with urls.open_read(url) as handle:
        return _scan(url, handle)


def _scan(url: str, handle: Any) -> _Peek:
    peek, key = _Peek(), None
    scan = TarScan(handle, max_member_bytes=1 << 20, wanted=lambda raw: raw.endswith(b".json"))
    for raw, offset, nbytes, data in scan:
        if raw.lower().endswith(b".tar"):
            peek.inner = raw.decode("utf-8", "replace")
            break
        named = split_name(raw)
        if named is None:
            continue
        if named[0] != key:
            if peek.samples == PEEK_SAMPLES:
                peek.whole = False
                break
            key = named[0]
            peek.samples += 1
        peek.exts[named[1]] += 1
        peek.nbytes = offset + nbytes
        if data is not None:
            _note_fields(peek, data)
    if not peek.samples and peek.inner is None:
        raise InputError(f"{url} holds no samples ({scan.end.detail or scan.end.reason}); point at a shard that does.")
    return peek


def _note_fields(peek: _Peek, data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(value, dict):
        return
    uid = value.get("uid")
    peek.uids += isinstance(uid, str) and len(uid) == 32
    for name, one in value.items():
        kind = {bool: "bool", int: "int", float: "float", str: "string"}.get(type(one))
        if kind and name.isidentifier() and len(name) <= 64 and name not in _OURS:
            peek.fields.setdefault(name, set()).add(kind)


def _types(fields: Mapping[str, set[str]]) -> dict[str, str]:
    """One type a field; int and float make float, anything else that differs is left out."""
    found = {}
    for name, kinds in fields.items():
        if len(kinds) == 1:
            found[name] = next(iter(kinds))
        elif kinds == {"int", "float"}:
            found[name] = "float"
    return found


def _tars(shards: list[_File], location: str, names: Iterable[str]) -> Recognised:
    first = next((file for file in shards if file.nbytes > 10_240), shards[0])
    peek, total = _peek(first.url), sum(file.nbytes for file in shards)
    if peek.inner is not None:
        if len(shards) > 1:
            raise InputError(f"{location}: {len(shards)} tars of tars; give one of them, such as {first.url}.")
        return _archive(first)
    images = [ext for ext in IMAGES if peek.exts[ext]]
    if not images:
        there = ", ".join(sorted(peek.exts))
        raise InputError(f"{first.url} holds samples with {there}, but no image; curate needs {', '.join(IMAGES)}.")
    images.sort(key=lambda ext: -peek.exts[ext])
    options: dict[str, Any] = {"image": ";".join(images)}
    notes = []
    for ext in ("txt", "caption"):
        if peek.exts[ext]:
            options["caption"] = ext
            if peek.exts[ext] < peek.samples:
                options["caption_required"] = False
                notes.append(f"{peek.samples - peek.exts[ext]} of the first {peek.samples} samples have no caption")
            break
    stem = first.name[: -len(".tar")]
    sidecar = f"{stem}.parquet" in names or f"{stem}_stats.json" in names
    what = "WebDataset shards"
    if sidecar:
        options["upstream"] = "img2dataset"
        uids = peek.uids == peek.samples
        what = "DataComp shards (img2dataset with uids)" if uids else "img2dataset shards with their download tables"
    share = total / max(1, first.nbytes if peek.whole else peek.nbytes)
    return Recognised(
        "shards", location, what, len(shards), total, round(peek.samples * max(1.0, share)), options,
        _types(peek.fields), tuple(notes),
    )  # fmt: skip


def _archive(file: _File) -> Recognised:
    shards = list_archive(file.url)
    inner = io.BytesIO(urls.read_range(file.url, shards[0].start, min(shards[0].nbytes, _INNER_BYTES)))
    peek = _scan(f"{file.url} ({shards[0].rel})", inner)
    seen = shards[0].nbytes if peek.whole and shards[0].nbytes <= _INNER_BYTES else peek.nbytes
    samples = round(peek.samples * max(1.0, sum(shard.nbytes for shard in shards) / max(1, seen)))
    what = "a tar of tars, one for each class, as ImageNet is distributed"
    return Recognised("archive", file.url, what, len(shards), file.nbytes, samples)


# --- the others -------------------------------------------------------------------------------------------------------


def _tables(tables: list[_File], location: str, folder: str, names: Collection[str]) -> Recognised:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = tables[0]
    fs, path = urls.resolve(first.url)
    try:
        with fs.open(path, "rb") as handle:
            footer = pq.ParquetFile(handle)
            schema, rows = footer.schema_arrow, footer.metadata.num_rows
    except (OSError, pa.ArrowException) as err:
        raise InputError(f"{first.url} is not a Parquet file that can be read ({err}).") from err
    types = {name: schema.field(name).type for name in schema.names}
    images = [name for name, kind in types.items() if _holds_bytes(kind)]
    nbytes = sum(file.nbytes for file in tables)
    samples = round(rows * nbytes / max(1, first.nbytes))
    if not images and is_metadata(types):
        npz = f"{first.name.removesuffix('.parquet')}.npz" in names
        what = "DataComp metadata" + (" with embeddings" if npz else "")
        return Recognised("datacomp", folder, what, len(tables), nbytes, samples, vectors=npz)
    if not images:
        hint = " It has URLs: download the images with img2dataset first." if "url" in map(str.lower, types) else ""
        raise InputError(f"{first.url} has no column of image bytes (columns: {', '.join(types)}).{hint}")
    image = min(images, key=lambda name: (name not in ("image", *IMAGES), images.index(name)))
    options: dict[str, Any] = {"image": image}
    for option, usual in (("caption", _CAPTIONS), ("label", _LABELS)):
        if name := next((name for name in usual if name in types), None):
            options[option] = name
    fields = {}
    for name, kind in types.items():
        if name in _OURS or name in options.values() or not name.isidentifier() or len(name) > 64:
            continue
        if typed := _field_type(kind):
            fields[name] = typed
    return Recognised(
        "parquet", location, "Parquet files with image bytes", len(tables), nbytes, samples, options, fields
    )


def _holds_bytes(kind: Any) -> bool:
    import pyarrow.types as pt

    if pt.is_struct(kind):
        return any(one.name == "bytes" and _holds_bytes(one.type) for one in kind)
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind))


def _field_type(kind: Any) -> str | None:
    import pyarrow.types as pt

    checks = (
        (pt.is_boolean, "bool"),
        (pt.is_integer, "int"),
        (pt.is_floating, "float"),
        (pt.is_string, "string"),
        (pt.is_large_string, "string"),
    )
    return next((name for check, name in checks if check(kind)), None)


def _embeddings(source: str, folders: list[str]) -> Recognised:
    files, _ = _listing(urls.join(source, "img_emb"))
    arrays = [file for file in files if _extension(file.name) == "npy"]
    if not arrays or "metadata" not in folders:
        lacks = "no .npy files in img_emb" if not arrays else "no folder metadata beside img_emb"
        raise InputError(f"{source} looks like clip-retrieval's embeddings, but has {lacks}.")
    tables = [file for file in _listing(urls.join(source, "metadata"))[0] if _extension(file.name) == "parquet"]
    options: dict[str, Any] = {}
    fields: dict[str, str] = {}
    rows = None
    if tables:
        import pyarrow as pa
        import pyarrow.parquet as pq

        fs, path = urls.resolve(tables[0].url)
        try:
            with fs.open(path, "rb") as handle:
                footer = pq.ParquetFile(handle)
                schema = footer.schema_arrow
                rows = round(footer.metadata.num_rows * sum(f.nbytes for f in arrays) / max(1, arrays[0].nbytes))
        except (OSError, pa.ArrowException) as err:
            raise InputError(f"{tables[0].url} is not a Parquet file that can be read ({err}).") from err
        if name := next((name for name in _CAPTIONS if name in schema.names), None):
            options |= {"caption": name, "caption_required": False}
        for one in schema:
            known = one.name in _OURS | {"image_path", *options.values()} or not one.name.isidentifier()
            if not known and (typed := _field_type(one.type)):
                fields[one.name] = typed
    text = " of images and texts" if "text_emb" in folders else ""
    nbytes = sum(file.nbytes for file in arrays)
    return Recognised(
        "embeddings", source, f"clip-retrieval embeddings{text}", len(arrays), nbytes, rows, options, fields,
        vectors=True,
    )  # fmt: skip


def _images(source: str, images: list[_File], *, labelled: bool) -> Recognised:
    exts = Counter(_extension(file.name) for file in images)
    options = {"image": ";".join(ext for ext, _ in exts.most_common())}
    what = "a folder of images, one folder for each class" if labelled else "a folder of images"
    notes = (f"images of the first {_FOLDERS} folders were counted",) if labelled else ()
    return Recognised("folder", source, what, len(images), None, len(images), options, {}, notes)
