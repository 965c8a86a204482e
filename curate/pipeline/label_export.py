"""Label sets of a run or a release as files that others read: real.json, multi-label CSV, multi-hot npz, JSON lines.

Which image a row belongs to is always written or asked for, never assumed. What never lives here: the shapes of the
files (formats/label_sets.py), and which labels count.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from curate.errors import InputError, SpecError
from curate.formats.class_lists import ClassList, read_classes
from curate.formats.label_maps import INFO, parse_info
from curate.formats.label_sets import LabelSets, write_csv, write_multi_hot, write_real
from curate.formats.row_orders import RowOrder, places, read_order, some_of, unique
from curate.pipeline.api import Run, open_run
from curate.store.manifest import read_manifest
from curate.store.uids import format_uid
from curate.store.workspace import Workspace

Format = Literal["real", "csv", "npz", "jsonl"]
Names = Literal["key", "uid"]
ORDER = ".order.json"
"""Ending of the list of images that is written beside a real.json, which names none."""
_TABLES = "samples.parquet/"
_SETS = ("labels", "outcome", "suspect")
_SLICE = 10_000


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written. ``order``: the list of images beside a real.json; ``left_out``: images that --order lacks;
    ``missing``: images of --order that the source lacks; ``unlabelled``: images without a kept label.
    """

    file: str
    format: str
    step: str | None
    images: int
    labels: int
    unlabelled: int
    left_out: int
    missing: int
    order: str | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Source:
    """One row an image: uid, key, label (as given), labels, outcome, suspect. ``classes``: how many there are."""

    url: str
    frame: pl.DataFrame
    names: Mapping[int, str]
    numbers: Mapping[str, int] = field(default_factory=dict)
    classes: int | None = None
    step: str | None = None
    calibrator: str | None = None


def export_labels(
    source: str,
    to: str,
    form: Format,
    *,
    step: str | None = None,
    order: str | None = None,
    names: Names = "key",
    classes: str | None = None,
    allow_missing: bool = False,
) -> Exported:
    """Write the label sets of the samples that are alive at the end of a run (or are in a release) to a file.

    source: workspace of a finished run, or a release. to: file to write; replaced when it is there. step: the
    label_sets step of a run (default: the last). order: list of images; rows come in its order, images that it lacks
    are left out. Without it rows have the order of the run's input or the release's shards. names: what images are
    called. classes: list of classes, for names and for the numbers of given labels. allow_missing: images of `order`
    that the source lacks get no labels. Memory: 500 bytes an image; of npz one byte an image and class.
    Raises SpecError, InputError, StorageError.
    """
    if form not in get_args(Format):
        raise SpecError(f"--format {form} is not known; give {', '.join(get_args(Format)[:-1])} or jsonl")
    listed = ClassList({}) if classes is None else read_classes(classes)
    held = _opened(source, step, listed)
    named = held.frame["uid" if names == "uid" else "key"].to_list()
    if not named:
        raise InputError(f"{held.url}: no sample is left, so there are no label sets to export")
    try:
        unique(named, held.url, "sample")
    except InputError as error:
        raise InputError(f"{error} Give --names uid.") from error
    left_out = missing = 0
    frame = held.frame
    if order is not None:
        wanted = read_order(order)
        frame, named, missing = _ordered(held, named, wanted, allow_missing)
        left_out = held.frame.height - (frame.height - missing)
    kept = _classes_of(frame, pl.element().struct.field("decision") == "keep")
    beside: str | None = None
    data: bytes | None = None
    if form != "jsonl":
        sets = _sets(held, frame, named, kept, form)
        if form == "real":
            data, beside = write_real(sets), to + ORDER
        else:
            data = write_csv(sets) if form == "csv" else write_multi_hot(sets, held.classes)
    folder, _, name = to.rpartition("/")
    place = Workspace(folder or ("/" if to.startswith("/") else "."))
    with place.create(name) as out:
        if data is not None:
            out.write(data)
        else:
            for line in _lines(held, frame, named):
                out.write(line)
    if beside is not None:
        place.put(name + ORDER, json.dumps(named).encode())
    sizes = [len(one) for one in kept]
    return Exported(to, form, held.step, len(named), sum(sizes), sizes.count(0), left_out, missing, beside)


# --- where label sets are ---------------------------------------------------------------------------------------------


def _opened(source: str, step: str | None, listed: ClassList) -> _Source:
    place = Workspace(source)
    if place.exists("manifest.json"):
        if step is not None:
            raise SpecError(f"{source} is a release, whose labels are of one step; leave out --step, or give the run")
        return _of_release(place, listed)
    if not place.exists("run.json"):
        raise InputError(
            f"{place.where()} holds neither run.json nor manifest.json; give a run's workspace or a release"
        )
    return _of_run(open_run(source), step, listed)


def _of_run(run: Run, step: str | None, listed: ClassList) -> _Source:
    done = [one.name for one in run.record.steps if one.kind == "label_sets" and one.status == "done"]
    if step is not None and step not in done:
        raise SpecError(f"the run has no finished label_sets step named {step}; it has {', '.join(done) or 'none'}")
    if not done:
        raise InputError(f"{run.workspace.where()}: the run has no finished label_sets step; add one to its pipeline")
    chosen = step or done[-1]
    index = run.record.steps[0].name
    with_columns = [one.name for one in run.record.steps if one.status == "done" and one.group is not None]
    dropping = [one for one in with_columns if "alive" in run.columns(one).collect_schema()]
    columns = [f"{index}.{name}" for name in ("uid_hi", "uid_lo", "key", "label")] + [f"{chosen}.{c}" for c in _SETS]
    steps = list(dict.fromkeys([index, chosen, *dropping[-1:]]))
    alive = pl.col(f"{dropping[-1]}.alive") if dropping else pl.lit(True)
    scan = pl.concat([run.columns(one).select(pl.all().name.prefix(f"{one}.")) for one in steps], how="horizontal")
    frame = scan.filter(alive).select(columns).collect()
    frame = frame.rename({name: name.rpartition(".")[2] for name in columns})
    uids = [format_uid(high, low) for high, low in frame.select("uid_hi", "uid_lo").iter_rows()]
    told = run.artifacts(chosen)["label_sets"]
    before = run.record.steps[: [one.name for one in run.record.steps].index(chosen)]
    nearest = next(one.name for one in reversed(before) if one.kind == "relabel")
    maps = run.group(chosen).config.get("maps") or nearest
    info = run.artifacts(maps)["label_maps"]
    numbers = {text: number for text, number in told["numbers"].items() if number >= 0}
    whole = run.record.step(chosen).whole
    return _Source(
        run.workspace.where(),
        frame.select(pl.Series("uid", uids, dtype=pl.String), "key", "label", *_SETS),
        listed.names,
        {**numbers, **listed.numbers},
        int(info["classes"]),
        chosen,
        whole if told["calibrated"] else None,
    )


def _of_release(place: Workspace, listed: ClassList) -> _Source:
    manifest = read_manifest(place)
    tables = sorted(name for name in manifest.files if name.startswith(_TABLES))
    wanted = ["uid", "key", "label", *_SETS]
    frames = []
    for name in tables:
        data = io.BytesIO(place.read(name))
        if "labels" not in pl.read_parquet_schema(data):
            raise InputError(f"{place.where(name)} has no labels; export from a release of a pipeline with label_sets")
        data.seek(0)
        frames.append(pl.read_parquet(data, columns=wanted))
    if not frames:
        raise InputError(f"{place.where()}: the release holds no samples")
    frame = pl.concat(frames).unique("uid", keep="first", maintain_order=True)  # copies of one sample
    classes = parse_info(place.read(INFO), place.where(INFO)).classes if place.exists(INFO) else None
    return _Source(place.where(), frame.select(wanted), listed.names, listed.numbers, classes)


# --- rows -------------------------------------------------------------------------------------------------------------


def _ordered(
    held: _Source, named: list[str], wanted: RowOrder, allow_missing: bool
) -> tuple[pl.DataFrame, list[str], int]:
    at = places(named, wanted.names)
    lost = np.flatnonzero(at < 0)
    if len(lost) == len(at) or (len(lost) and not allow_missing):
        some = some_of([wanted.names[row] for row in lost.tolist()])
        way = "are they of the same set?" if len(lost) == len(at) else "add --allow-missing to give them no labels"
        raise InputError(f"{held.url}: lacks {len(lost):,} of {len(at):,} images of {wanted.url} ({some}); {way}")
    rows = pl.DataFrame({"row": pl.Series([row if row >= 0 else None for row in at.tolist()], dtype=pl.UInt32)})
    frame = rows.join(held.frame.with_row_index("row"), on="row", how="left", maintain_order="left").drop("row")
    return frame, list(wanted.names), len(lost)


def _classes_of(frame: pl.DataFrame, which: pl.Expr) -> list[list[int]]:
    """Class numbers of the labels for which an expression over a label is true, best first; none for null."""
    chosen = pl.col("labels").list.eval(pl.element().filter(which).struct.field("class"))
    return frame.select(chosen.fill_null([]).alias("classes"))["classes"].to_list()


def _sets(held: _Source, frame: pl.DataFrame, named: list[str], kept: list[list[int]], form: Format) -> LabelSets:
    original = [held_number(label, held.numbers) for label in frame["label"]]
    unknown = next((row for row, number in enumerate(original) if number is None), None)
    if unknown is not None and form == "csv":
        label = frame["label"][unknown]
        told = "no label" if label is None else f"the label {label!r}, whose class number is not known"
        raise InputError(
            f"{held.url}: {named[unknown]} came with {told}, and the multi-label CSV has a column for it; give "
            "--classes, or another --format"
        )
    decision, votes = pl.element().struct.field("decision"), pl.element().struct.field("votes")
    return LabelSets(
        tuple(named),
        kept,
        held.url,
        original=None if unknown is not None else [number for number in original if number is not None],
        unclear=_classes_of(frame, decision == "unsure"),
        wrong=_classes_of(frame, (decision == "drop") & (votes > 0)),
        classes=held.classes,
    )


def held_number(label: str | None, numbers: Mapping[str, int]) -> int | None:
    """Class number of a given label: that of the list, else the number that it is; None when neither."""
    if label is None:
        return None
    if label in numbers:
        return numbers[label]
    return int(label) if not numbers and label.isascii() and label.isdigit() else None


def _lines(held: _Source, frame: pl.DataFrame, named: list[str]) -> Iterator[bytes]:
    for start in range(0, frame.height, _SLICE):
        for place, row in enumerate(frame[start : start + _SLICE].iter_rows(named=True), start):
            label = row["label"]
            told = {
                "name": named[place],
                "uid": row["uid"],
                "key": row["key"],
                "original": label,
                "original_class": held_number(label, held.numbers),
                "labels": [_label(one, held.names) for one in row["labels"] or ()],
                "outcome": row["outcome"],
                "empty": not any(one["decision"] == "keep" for one in row["labels"] or ()),
                "suspect": row["suspect"],
                "calibrator": held.calibrator,
            }
            yield json.dumps(told, ensure_ascii=False).encode() + b"\n"


def _label(one: Mapping[str, Any], names: Mapping[int, str]) -> dict[str, Any]:
    number = one["class"]
    box = [one[side] for side in ("y0", "x0", "y1", "x1")]
    return {
        "class": number,
        **({"name": names[number]} if number in names else {}),
        "probability": _short(one["probability"]),
        "score": _short(one["score"]),
        "votes": one["votes"],
        "decision": one["decision"],
        "peak": _short(one["peak"]),
        "box": None if None in box else [_short(value) for value in box],
    }


def _short(value: float | None) -> float | None:
    """The shortest number that is the same float32."""
    return None if value is None else float(str(np.float32(value)))
