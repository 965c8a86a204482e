"""Label maps from a release to a tree of ReLabel's or TokenLabeling's files, and from such a tree to arrays of ours.

One map at a time, lossless: what the wanted type cannot hold exactly is refused. FKD's files hold no maps (they hold
targets of crops that were drawn), so there is nothing to convert.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError, SpecError
from curate.formats.arrow import one_line
from curate.formats.label_map_shards import LabelMapShards
from curate.formats.label_maps import FOLDER, INFO, MapsInfo, array_header, faults, pack, unpack
from curate.formats.label_trees import (
    SUFFIX,
    LabelFile,
    Layout,
    Orientation,
    detect_layout,
    list_labels,
    read_label,
    write_label,
)
from curate.formats.row_orders import read_bytes
from curate.stages.release_files import put_json, put_table
from curate.store import urls
from curate.store.workspace import Workspace

Target = Literal["relabel", "token-labeling", "curate"]
BOX_COLUMNS = ("image", "class", "top", "left", "height", "width")
_TYPES: dict[str, Literal["float32", "float16"]] = {"relabel": "float32", "token-labeling": "float16"}
_ENOUGH = 2_000
"""Images with boxes that are looked at."""


@dataclass(frozen=True)
class Converted:
    """What was done."""

    to: str
    kind: str
    maps: int
    layout: str
    k: int
    height: int
    width: int
    scores: str
    lost: tuple[str, ...] = ()
    """What the written files cannot say, in words."""
    orientation: dict[str, Any] | None = None
    """What the boxes said of the layout."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def convert(
    source: str,
    to: str,
    kind: Target,
    *,
    layout: Layout | None = None,
    boxes: str | None = None,
    classes: int = 1000,
    per_shard: int = 10_000,
) -> Converted:
    """Write the maps of `source` to the folder `to`, which must be empty or new.

    source: a folder with label_maps.json for the kinds relabel and token-labeling, a tree of .pt files for curate.
    layout: of the files of the tree; for a tree that is read, `boxes` (a table of objects) may tell it instead.
    classes: how many there are; per_shard: maps in one array. Both for curate only.
    Memory: one map, and the names of all, about 200 bytes each.
    Raises SpecError for options that do not fit, InputError for maps that cannot be read or held, StorageError.
    """
    ours = urls.split_protocol(source)[0] == "file" and (Path(source) / INFO).exists()
    target = Workspace(to)
    if target.exists("") and (target.listing("") or target.folders("")):
        raise SpecError(f"{target.where()} is not empty; give a folder that is new")
    if kind == "curate":
        if ours:
            raise SpecError(f"{source} holds label maps of curate already; give --to relabel or token-labeling")
        return _take(source, target, layout, boxes, classes, per_shard)
    if not ours:
        raise SpecError(
            f"{source} has no {INFO}, so it holds no label maps of curate on local disk; a tree of {SUFFIX} files is "
            "read with --to curate"
        )
    if boxes is not None:
        raise SpecError("--boxes finds the layout of a tree that is read; give --layout for one that is written")
    if layout is None:
        raise SpecError("say --layout hw (rows first) or wh (columns first); ReLabel's own loader pools wh right")
    return _give(source, target, kind, layout)


# --- to a tree --------------------------------------------------------------------------------------------------------


def _give(source: str, target: Workspace, kind: Target, layout: Layout) -> Converted:
    maps = LabelMapShards(source)
    seen: dict[str, str] = {}
    done = 0
    for stem in maps.shards:
        for name, uid, record in zip(_names(maps, stem), maps.names(stem), maps.shard(stem), strict=True):
            if name in seen:
                if seen[name] == uid:
                    continue  # a further copy of one sample
                raise InputError(
                    f"{source}: two samples would be {name}{SUFFIX}; a tree has one file a name, so release them apart."
                )
            seen[name] = uid
            scores, classes, _ = unpack(record)
            try:
                data = write_label(scores, classes, layout, dtype=_TYPES[kind])
            except InputError as error:
                raise InputError(f"{source}: the map of {name}: {error}") from error
            target.put(name + SUFFIX, data)
            done += 1
    lost = ("lse: such files have no place for it, so probabilities cannot be had from them",) if maps.info.lse else ()
    info = maps.info
    return Converted(target.where(), kind, done, layout, info.k, info.height, info.width, _TYPES[kind], lost)


def _names(maps: LabelMapShards, stem: str) -> list[str]:
    """Name in the tree of each row: its key, behind its label when the key has no folder."""
    path = maps.folder / "samples.parquet" / f"{stem}.parquet"
    try:
        schema = pl.read_parquet_schema(path)
        columns = ["key", "label"] if "label" in schema else ["key"]
        table = pl.read_parquet(path, columns=columns)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: cannot be read ({one_line(error)}); copy the release again.") from error
    labels = table["label"].to_list() if "label" in table.columns else [None] * table.height
    names = []
    for key, label in zip(table["key"].to_list(), labels, strict=True):
        name = key if "/" in key or label is None else f"{label}/{key}"
        if any(piece in ("", ".", "..") for piece in name.split("/")) or "\\" in name or not name.isprintable():
            raise InputError(f"{path}: {name!r} is no name for a file of a tree; samples need plain keys.")
        names.append(name)
    return names


# --- from a tree ------------------------------------------------------------------------------------------------------


def _take(
    source: str, target: Workspace, layout: Layout | None, boxes: str | None, classes: int, per_shard: int
) -> Converted:
    found = None
    if boxes is not None:
        found = _orientation(source, boxes, classes)
        if not found.sure:
            raise InputError(
                f"{boxes}: {found.images:,} boxes do not tell rows from columns in {source} (z = {found.z:.1f}, 4 are "
                "wanted); give more of them, or --layout."
            )
        if layout not in (None, found.layout):
            raise SpecError(
                f"--layout {layout} contradicts the boxes, which say {found.layout} (z = {abs(found.z):.1f})"
            )
        layout = found.layout
    if layout is None:
        raise SpecError(
            "say --layout hw (rows first) or wh (columns first), or give --boxes with objects of known place: the "
            "files of a tree do not tell"
        )
    names = list(list_labels(source))
    shards = -(-len(names) // per_shard)
    info: MapsInfo | None = None
    for number in range(shards):
        some = names[len(names) * number // shards : len(names) * (number + 1) // shards]
        records = _records(some, layout, classes, info)
        first = next(records)
        info = info or _info(first, classes)
        stem = f"{number:05d}"
        with target.create(f"{FOLDER}/{stem}.npy") as out:
            out.write(array_header(first.dtype, len(some)))
            out.write(first.tobytes())
            for record in records:
                out.write(record.tobytes())
        keys = [name for name, _ in some]
        labels = [name.rpartition("/")[0] or None for name in keys]
        table = pl.DataFrame({"key": keys, "label": labels}, schema={"key": pl.String, "label": pl.String})
        put_table(target, f"samples.parquet/{stem}.parquet", table)
    assert info is not None  # list_labels refuses an empty tree
    put_json(target, INFO, info.model_dump(mode="json"))
    return Converted(
        target.where(),
        "curate",
        len(names),
        layout,
        info.k,
        info.height,
        info.width,
        info.scores,
        ("lse: the files do not say it, so pool with tail zero",),
        None if found is None else asdict(found) | {"sure": found.sure},
    )


def _info(record: NDArray[np.void], classes: int) -> MapsInfo:
    k, height, width = record.dtype["scores"].shape
    scores = str(record.dtype["scores"].base)
    return MapsInfo.model_validate(
        {"k": k, "height": height, "width": width, "classes": classes, "scores": scores, "lse": False, "teachers": []}
    )


def _records(
    names: list[tuple[str, str]], layout: Layout, classes: int, info: MapsInfo | None
) -> Iterator[NDArray[np.void]]:
    """The record [1] of each file; all must be as `info` says, or as the first."""
    wanted = None if info is None else info.dtype
    kind = np.uint16 if classes <= 1 << 16 else np.uint32
    for _, url in names:
        one = read_label(url, layout, classes)
        record = pack(one.scores[None], one.classes[None].astype(kind), None)
        wanted = wanted or record.dtype
        if record.dtype != wanted:
            raise InputError(
                f"{url}: holds {one.scores.dtype} {list(one.scores.shape)}, the files before it "
                f"{wanted['scores'].base} {list(wanted['scores'].shape)}; all maps of a folder have one shape."
            )
        if wrong := faults(record, classes):
            raise InputError(f"{url}: has {next(iter(wrong))}.")
        yield record


def _orientation(source: str, boxes: str, classes: int) -> Orientation:
    """What boxes say of the layout of a tree; of images that have no file nothing is asked."""
    table = _read_boxes(boxes)
    known = dict(list_labels(source))
    groups = table.filter(pl.col("image").is_in(list(known))).group_by("image", "class", maintain_order=True)

    def files() -> Iterator[tuple[LabelFile, int, NDArray[np.floating[Any]]]]:
        for (image, label), rows in islice(groups, _ENOUGH):
            yield (
                read_label(known[str(image)], "hw", classes),
                int(str(label)),
                rows.select(BOX_COLUMNS[2:]).to_numpy().astype(np.float64),
            )

    try:
        return detect_layout(files())
    except InputError as error:
        if table.height and not table["image"].is_in(list(known)).any():
            raise InputError(
                f"{boxes}: none of its images is in {source}; `image` is the path in the tree without {SUFFIX}, such "
                f"as {next(iter(known))}."
            ) from error
        raise


def _read_boxes(url: str) -> pl.DataFrame:
    data = io.BytesIO(read_bytes(url))
    wanted = {"image": pl.String, "class": pl.UInt32} | dict.fromkeys(BOX_COLUMNS[2:], pl.Float64)
    try:
        table = pl.read_parquet(data) if url.endswith(".parquet") else pl.read_csv(data, infer_schema_length=None)
        return table.select(pl.col(name).cast(dtype) for name, dtype in wanted.items()).drop_nulls()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(
            f"{url}: is no table of boxes ({one_line(error)[:160]}); wanted columns {', '.join(BOX_COLUMNS)}: shares "
            "of the image, and the number of the class."
        ) from error
