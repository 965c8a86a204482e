"""Look at anything curate reads or writes: a shard, a part, a column group, a table, an array, a workspace, a release.

`inspect(path)` recognises which it is and returns plain data with the key `kind`. What never lives here: printing.
"""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, StorageError
from curate.formats.archive import list_archive
from curate.formats.datacomp import SUBSET, Subset, count_distinct, first_unsorted, uid_at
from curate.formats.datacomp_metadata import is_metadata, list_metadata, rows_about
from curate.formats.index import index_part
from curate.formats.npz import describe
from curate.formats.samples import IndexOptions
from curate.formats.sources import PartSource, ShardInfo
from curate.formats.tar import TarScan
from curate.pipeline.status import read_status
from curate.stages.fractal import SPECIFICATION
from curate.store import urls
from curate.store.columns import PartMeta, parse_meta, part_file, read_columns, read_vectors
from curate.store.groups import Group, group_file, read_group
from curate.store.manifest import Manifest, read_manifest
from curate.store.workspace import Workspace

COUNTED_PARTS = 1_000
"""Nulls of a column group are counted in this many parts at most."""
PROBLEMS = 20
"""Bad samples of a shard that are listed."""
_PART = re.compile(r"part-(\d{5,})\.([0-9a-f]{12})\.parquet\Z")
_GROUP = re.compile(r"group\.([0-9a-f]{12})\.json\Z")
_STEP = re.compile(r"[a-z][a-z0-9_-]*@[0-9a-f]{12}\Z")
KINDS = (
    "a tar shard, a folder of a column group, a .parquet, .npy or .npz file, a folder of DataComp metadata, "
    "a workspace (run.json) or a release"
)


def inspect(path: str, rows: int = 5) -> dict[str, Any]:
    """What `path` (or URL) holds: JSON-able facts, `kind` first, with the first `rows` rows or samples.

    Raises InputError when there is nothing, or nothing that is recognised, StorageError when a file of ours is damaged.
    Memory: the index of one shard, or one table, or one part at a time.
    """
    record = urls.info(path)
    folder, _, name = path.rstrip("/").rpartition("/")
    place = Workspace(folder or ("/" if path.startswith("/") else "."))
    if record["type"] == "file":
        return {"path": path} | _file(place, name, path, int(record["size"] or 0), rows)
    here = Workspace(path)
    listing = here.listing()
    if "manifest.json" in listing:
        return {"path": path} | _release(here, rows)
    if "run.json" in listing:
        return {"path": path, "kind": "workspace", "status": read_status(here).as_dict()}
    if any(_GROUP.match(file) or _PART.match(file) for file in listing):
        return {"path": path} | _group(here, rows)
    if _STEP.match(name):
        raise InputError(
            f"{path} holds no columns: its step writes other files, or has not got that far; it has {_some(listing)}"
        )
    shards = sorted(file for file in listing if file.endswith(".tar"))
    if shards:
        raise InputError(
            f"{path} is a folder of {len(shards):,} tar shards; inspect one, such as {here.where(shards[0])}"
        )
    if metadata := _metadata(here, path, listing, rows):
        return {"path": path} | metadata
    raise InputError(f"{path} is nothing that curate knows: it inspects {KINDS}; this folder has {_some(listing)}")


def _file(place: Workspace, name: str, path: str, nbytes: int, rows: int) -> dict[str, Any]:
    if name.endswith(".tar"):
        return _shard(path, name, nbytes, rows)
    if match := _PART.match(name):
        return _part(place, int(match[1]), match[2], nbytes, rows)
    if name.endswith(".parquet"):
        return {"kind": "table", "bytes": nbytes} | _table(_parquet(place.read(name), path), rows)
    if name.endswith(".npy"):
        array = _array(place, name)
        if array.dtype == SUBSET and array.ndim == 1:
            return {"kind": "uids", "bytes": nbytes} | _uids(array, rows)
        facts = {"kind": "array", "bytes": nbytes, "dtype": str(array.dtype), "shape": list(array.shape)}
        return facts | _first(array, rows)
    if name.endswith(".npz"):
        return {"kind": "arrays", "bytes": nbytes, "arrays": describe(path, nbytes)}
    raise InputError(f"{path} is nothing that curate knows: it inspects {KINDS}")


# --- shards ---------------------------------------------------------------------------------------------------------


def _shard(path: str, name: str, nbytes: int, rows: int) -> dict[str, Any]:
    with urls.open_read(path) as handle:
        first = next(iter(TarScan(handle, max_member_bytes=0, wanted=lambda _: False)), None)
    if first is not None and first.raw_name.lower().endswith(b".tar"):
        inner = list_archive(path)
        shown = [{"shard": shard.rel, "bytes": shard.nbytes} for shard in inner[:rows]]
        return {"kind": "archive", "bytes": nbytes, "shards": len(inner), "first": shown}
    source = PartSource(0, "tar", (ShardInfo(path, name, nbytes, ""),))
    frame, notes = index_part(source, IndexOptions(input_name="inspect", caption_ext="txt"))
    members = frame["members"].explode(empty_as_null=False).struct.unnest() if frame.height else pl.DataFrame()
    extensions = (
        members.group_by("ext").agg(pl.len().alias("members"), pl.col("nbytes").sum()).sort("ext").to_dicts()
        if members.height
        else []
    )
    bad = frame.filter(pl.col("status") != "ok")
    return {
        "kind": "shard",
        "bytes": nbytes,
        "samples": frame.height,
        "extensions": extensions,
        "status": dict(Counter(frame["status"].to_list()).most_common()),
        "notes": notes.as_dicts(),
        "first": [_sample(row) for row in frame.head(rows).iter_rows(named=True)],
        "problems": [_sample(row) for row in bad.head(PROBLEMS).iter_rows(named=True)],
    }


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    members = [{"ext": member["ext"], "nbytes": member["nbytes"]} for member in row["members"]]
    kept = ("key", "format", "width", "height", "caption", "label", "license", "status", "detail")
    return {name: row[name] for name in kept} | {"members": members}


# --- column groups --------------------------------------------------------------------------------------------------


def _part(place: Workspace, part: int, fingerprint: str, nbytes: int, rows: int) -> dict[str, Any]:
    name = part_file(part, fingerprint)
    data = place.read(name)
    meta = parse_meta(data, place.where(name))
    return {
        "kind": "part",
        "step": meta.step,
        "part": meta.part,
        "fingerprint": meta.fingerprint,
        "bytes": nbytes,
        "alive": meta.alive,
        "dropped": meta.counts,
        "notes": meta.notes,
        "vectors": list(_vectors(place, meta, rows)),
    } | _table(_parquet(data, place.where(name)), rows)


def _vectors(place: Workspace, meta: PartMeta, rows: int) -> Iterator[dict[str, Any]]:
    listing = place.listing()
    for which, file in meta.vectors.items():
        facts = {"name": which, "file": file.file, "shape": [file.rows, file.dim], "bytes": file.nbytes}
        if listing.get(file.file) != file.nbytes:
            there = "is missing" if file.file not in listing else f"has {listing[file.file]:,} bytes"
            problem = f"the file {there}, the part says {file.nbytes:,} bytes; delete the part and run again"
            yield facts | {"problem": problem}
            continue
        packed = read_vectors(place, "", meta.part, meta.fingerprint, which)
        if packed.dtype.fields is not None:
            fields = {field: f"{kind.base} {list(kind.shape)}" for field, (kind, *_) in packed.dtype.fields.items()}
            yield facts | {"fields": fields} | _first(packed, rows)
            continue
        norms = np.linalg.norm(packed[:10_000].astype(np.float64), axis=1)
        spread = {"norm_min": float(norms.min()), "norm_max": float(norms.max())} if len(norms) else {}
        yield facts | spread | _first(packed, rows)


def _group(here: Workspace, rows: int) -> dict[str, Any]:
    listing = here.listing()
    states = [read_group(here, "", match[1]) for name in sorted(listing) if (match := _GROUP.match(name))]
    parts = [match for name in sorted(listing) if (match := _PART.match(name))]
    if not states:
        # not finished yet: the parts that are there speak for themselves
        first = _part(here, int(parts[0][1]), parts[0][2], listing[parts[0][0]], rows)
        return first | {"kind": "unfinished group", "parts_stored": len({match[1] for match in parts})}
    group = _named(here, states)
    nulls: Counter[str] = Counter()
    counted = 0
    for entry in group.parts[:COUNTED_PARTS]:
        frame = read_columns(here, "", entry.part, entry.fingerprint)
        nulls.update({name: frame[name].null_count() for name in frame.columns})
        counted += frame.height
    shown = next((entry for entry in group.parts if entry.rows), group.parts[0])
    frame = read_columns(here, "", shown.part, shown.fingerprint)
    vectors = list(_vectors(here, shown, rows))
    return {
        "kind": "group",
        "step": group.step,
        "stage": group.kind,
        "fingerprint": group.fingerprint,
        "config": group.config,
        "parts": len(group.parts),
        "bytes": sum(entry.nbytes for entry in group.parts),
        "vector_bytes": sum(file.nbytes for entry in group.parts for file in entry.vectors.values()),
        "alive": group.alive,
        "dropped": group.counts,
        "artifacts": {n: size for n, size in sorted(listing.items()) if _artifact(n, group)},
        "other_states": [
            {"fingerprint": state.fingerprint, "parts": len(state.parts), "rows": state.rows}
            for state in states
            if state is not group
        ],
        "nulls_counted_in": counted,
        "shown_part": shown.part,
        "vectors": vectors,
    } | _table(frame, rows, group.rows, nulls)


def _named(here: Workspace, states: list[Group]) -> Group:
    """The state that the run beside it names, else the one with most rows."""
    beside = Workspace(here.url.rstrip("/").rpartition("/")[0] or ".")
    if len(states) > 1 and beside.exists("run.json"):
        raw = beside.read("run.json").decode("utf-8", "replace")
        for group in states:
            if f'"{group.fingerprint}"' in raw:
                return group
    return max(states, key=lambda group: (group.rows, group.fingerprint))


def _artifact(name: str, group: Group) -> bool:
    whole = group.artifacts
    return whole is not None and f".{whole}." in name and name != group_file(group.fingerprint)


# --- releases -------------------------------------------------------------------------------------------------------


def _release(here: Workspace, rows: int) -> dict[str, Any]:
    manifest = read_manifest(here)
    tables = sorted(name for name in manifest.files if name.startswith("samples.parquet/"))
    first = _parquet(here.read(tables[0]), here.where(tables[0])) if tables else pl.DataFrame()
    sizes = json.loads(here.read("sizes.json"))
    shards = [
        {"shard": name, "samples": sizes.get(name), "bytes": file.bytes}
        for name, file in manifest.files.items()
        if name.endswith(".tar")
    ]
    table = _table(first, rows)
    return {
        "kind": "release",
        "name": manifest.name,
        "metadata_license": manifest.metadata_license,
        "input_samples": manifest.input_samples,
        "samples": manifest.samples,
        "dropped_samples": manifest.dropped_samples,
        "dropped": manifest.dropped,
        "made": _made(here, manifest),
        "shards": shards,
        "files": len(manifest.files) + 1,
        "bytes": sum(file.bytes for file in manifest.files.values()),
        "columns": table["columns"],
        "first": table["first"],
    }


def _made(here: Workspace, manifest: Manifest) -> str | None:
    """What a release that was drawn from a specification says of it; None for all others."""
    if SPECIFICATION not in manifest.files:
        return None
    told = json.loads(here.read(SPECIFICATION))
    options, seed = told.get("options", {}), told.get("seed")
    family = next((name for name in ("ifs", "contours", "sinusoids") if options.get(name) is not None), "fractals")
    return (
        f"made from {SPECIFICATION}: {manifest.samples:,} of {options.get('images', 0):,} images of "
        f"{options.get('classes', 0):,} classes ({family}), seed {seed}"
    )


# --- tables and arrays ----------------------------------------------------------------------------------------------


def _table(
    frame: pl.DataFrame, rows: int, total: int | None = None, nulls: dict[str, int] | None = None
) -> dict[str, Any]:
    counted = {name: frame[name].null_count() for name in frame.columns} if nulls is None else nulls
    return {
        "rows": frame.height if total is None else total,
        "columns": [{"name": n, "type": str(t), "nulls": counted[n]} for n, t in frame.schema.items()],
        "first": frame.head(rows).to_dicts(),
    }


def _parquet(data: bytes, where: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(data))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StorageError(f"{where} cannot be read as Parquet: {error}") from error


def _metadata(here: Workspace, path: str, listing: dict[str, int], rows: int) -> dict[str, Any] | None:
    """A folder of DataComp metadata, or of folders of it: its files counted, and the first table."""
    tables = [listing, *(here.listing(folder) for folder in here.folders()[:1])]
    if not any(name.endswith(".parquet") for names in tables for name in names):
        return None
    shards = list_metadata(path)
    table = _table(_parquet(here.read(shards[0].rel), shards[0].url), rows)
    if not is_metadata([column["name"] for column in table["columns"]]):
        return None
    told = {"first_table": shards[0].rel, "rows": table["rows"], "columns": table["columns"], "first": table["first"]}
    return {
        "kind": "metadata",
        "tables": len(shards),
        "with_embeddings": sum(len(shard.sidecars or ()) > 1 for shard in shards),
        "rows_about": sum(rows_about(shard) for shard in shards),
        "bytes": sum(shard.nbytes for shard in shards),
    } | told


def _array(place: Workspace, name: str) -> NDArray[Any]:
    try:
        if place.is_local:
            return np.load(place.path(name), mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        return np.load(io.BytesIO(place.read(name)), allow_pickle=False)  # type: ignore[no-any-return]
    except (ValueError, OSError, EOFError) as error:
        raise StorageError(f"{place.where(name)} cannot be read as a numpy array: {error}") from error


def _uids(subset: Subset, rows: int) -> dict[str, Any]:
    """A DataComp subset file. Memory: a few MiB, as it is read in order."""
    unsorted = first_unsorted(subset)
    return {
        "rows": len(subset),
        "distinct": count_distinct(subset) if unsorted is None else None,
        "first_unsorted": unsorted,
        "first": [uid_at(subset, row) for row in range(min(rows, len(subset)))],
    }


def _first(array: NDArray[Any], rows: int) -> dict[str, Any]:
    """The first rows, eight numbers of each."""
    if array.ndim == 0 or array.dtype.kind not in "iufb":
        return {"first": []}
    return {"first": array[:rows].reshape(min(rows, len(array)), -1)[:, :8].tolist()}


def _some(listing: dict[str, int]) -> str:
    names = sorted(listing)
    return (", ".join(names[:3]) + (f" and {len(names) - 3:,} more files" if len(names) > 3 else "")) or "no files"
