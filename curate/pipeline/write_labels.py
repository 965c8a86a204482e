"""What the section "Labels" of a report shows, collected from a run with the stages `relabel` and `label_sets`.

What never lives here: how labels are decided (stages/label_sets.py) and how the section looks (report/labels.py).
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image

from curate.errors import CurateError
from curate.evaluate.disagreement import companions, compare, confusions
from curate.evaluate.sets import Sets, from_pairs
from curate.formats.class_lists import ClassList, read_classes, read_relations
from curate.formats.label_maps import MapsInfo, unpack
from curate.pipeline.api import Run
from curate.pipeline.samples import Sample, sample_bytes
from curate.relabel.maps import LabelMap, probabilities
from curate.relabel.relations import Relations
from curate.report import labels as page
from curate.report.heat import heat
from curate.store.columns import read_columns, read_vectors
from curate.store.images import DecodeError, decode_rgb
from curate.store.uids import format_uid

EDGE, HEATS, OTHERS, PAIRS = 250, 3, 3, 12
"""Longer side of a photo in pixels, maps of a photo, labels told beside the kept ones, and pairs of classes."""
GALLERIES = (
    ("Several labels", pl.col("n_labels") > 1, 6),
    ("The given label is suspect", pl.col("suspect"), 4),
    ("Undecided", pl.col("outcome") == "undecided", 3),
    ("No valid label", pl.col("outcome") == "nothing", 3),
)
"""Title, which samples, how many are shown: those with the smallest uids, which are as good as drawn by chance."""
_SETS = ("labels", "n_labels", "outcome", "suspect")
_UID = ("uid_hi", "uid_lo")


@dataclass(frozen=True)
class Known:
    """Names and relations of classes, and the number of each given label, as a label_sets step knew them."""

    classes: ClassList = field(default_factory=lambda: ClassList({}))
    relations: Relations = field(default_factory=lambda: Relations.build({}))
    numbers: dict[str, int] = field(default_factory=dict)

    def given(self, label: str | None) -> str | None:
        """A given label for people."""
        number = self.numbers.get(label, -1) if label is not None else -1
        return label if number < 0 else self.classes.names.get(number, label)


def known_of(run: Run, step: str | None) -> Known:
    """What the files of a label_sets step say now; without names or relations where they are gone."""
    if step is None:
        return Known()
    config, classes, relations = run.group(step).config, ClassList({}), Relations.build({})
    with suppress(CurateError):
        if config.get("class_names"):
            classes = read_classes(config["class_names"])
        if config.get("relations"):
            relations = Relations.build(read_relations(config["relations"], classes))
    return Known(classes, relations, run.artifacts(step)["label_sets"]["numbers"])


def steps_of(run: Run) -> tuple[str | None, str | None]:
    """The last finished label_sets step and the relabel step it reads; without one the last relabel step."""
    done = [step for step in run.record.steps if step.status == "done"]
    sets = next((step.name for step in reversed(done) if step.kind == "label_sets"), None)
    if sets is not None:
        done = done[: [step.name for step in done].index(sets)]
    maps = next((step.name for step in reversed(done) if step.kind == "relabel"), None)
    if sets is not None:
        maps = run.group(sets).config.get("maps") or maps
    return maps, sets


def labels_section(run: Run) -> page.Labels | None:
    """The section; None for a run without label maps. Memory: labels of one part, and 30 bytes a kept label of all."""
    maps, sets = steps_of(run)
    if maps is None:
        return None
    info = MapsInfo.model_validate(run.artifacts(maps)["label_maps"])
    known, tally = known_of(run, sets), _Tally(run, maps, sets)
    return page.Labels(
        step=maps,
        teachers=tuple(teacher.name for teacher in info.teachers),
        maps=tally.maps,
        rows=info.height,
        columns=info.width,
        k=info.k,
        sets=None if sets is None else _sets(run, sets, tally, known),
        galleries=tuple(
            page.Gallery(
                title=title,
                of=tally.found[title],
                looks=tuple(_look(run, maps, row, known) for row in rows.iter_rows(named=True)),
            )
            for title, rows in tally.chosen.items()
            if rows.height
        ),
    )


class _Tally:
    """One pass over the parts: labels and given labels of all images that have a map, and the rows to show."""

    def __init__(self, run: Run, maps: str, sets: str | None) -> None:
        self.maps = 0
        self.outcomes: dict[str, int] = {}
        self.suspect = 0
        self.found: dict[str, int] = {}
        self.chosen: dict[str, pl.DataFrame] = {}
        self.kept: list[pl.DataFrame] = []
        self.given: list[pl.Series] = []
        galleries = GALLERIES if sets is not None else (("Some images", pl.lit(True), 8),)
        steps = {run.record.steps[0].name: (*_UID, "key", "label"), maps: ("map_row",)}
        if sets is not None:
            steps[sets] = _SETS
        groups = {step: run.group(step) for step in steps}
        for number, part in enumerate(next(iter(groups.values())).parts):
            frames = [
                read_columns(run.workspace, group.folder, part.part, group.parts[number].fingerprint, list(steps[step]))
                for step, group in groups.items()
            ]
            here = pl.lit(True) if sets is None else pl.col("outcome").is_not_null()
            table = pl.concat(frames, how="horizontal").with_row_index("row")
            table = table.with_columns(part=pl.lit(number)).filter(pl.col("map_row").is_not_null() & here)
            if sets is not None:
                self._count(table)
            self.maps += table.height
            for title, which, most in galleries:
                rows = table.filter(which)
                self.found[title] = self.found.get(title, 0) + rows.height
                both = [self.chosen[title], rows] if title in self.chosen else [rows]
                self.chosen[title] = pl.concat(both).sort(*_UID, "part", "row").head(most)

    def _count(self, table: pl.DataFrame) -> None:
        for outcome, n in table["outcome"].value_counts().iter_rows():
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + n
        self.suspect += int(table["suspect"].sum())
        images = table.select(image=pl.int_range(self.maps, self.maps + table.height, dtype=pl.Int64), labels="labels")
        labels = images.explode("labels").drop_nulls("labels").unnest("labels").filter(pl.col("decision") == "keep")
        self.kept.append(labels.select("image", pl.col("class").cast(pl.Int32)))
        self.given.append(table["label"])


def _sets(run: Run, step: str, tally: _Tally, known: Known) -> page.Sets:
    kept = pl.concat(tally.kept) if tally.kept else pl.DataFrame(schema={"image": pl.Int64, "class": pl.Int32})
    sets = from_pairs(kept["image"].to_numpy(), kept["class"].to_numpy(), tally.maps)
    labels = pl.concat(tally.given).to_list() if tally.given else []
    given = np.array([known.numbers.get(label, -1) for label in labels], dtype=np.int32)
    rows = np.flatnonzero(given >= 0)
    with_given = sets.take(rows)
    added = with_given.classes != given[rows][with_given.images]
    return page.Sets(
        step=step,
        calibrated=run.artifacts(step)["label_sets"]["calibrated"],
        images=tally.maps,
        **{outcome: tally.outcomes.get(outcome, 0) for outcome in ("labelled", "undecided", "nothing")},
        per_image=tuple(np.bincount(sets.sizes).tolist()),
        given=len(rows),
        added=int(added.sum()),
        extended=len(np.unique(with_given.images[added])),
        suspect=tally.suspect,
        disagreement=_disagreement(given[rows], with_given, known) if len(rows) else None,
    )


def _disagreement(given: NDArray[np.int32], sets: Sets, known: Known) -> page.Disagreement:
    name = known.classes.name
    confused, together = (
        tuple(
            page.Pair(
                given=name(one.first),
                found=name(one.second),
                images=one.images,
                relation=known.relations.relation(one.first, one.second),
            )
            for one in function(given, sets, limit=PAIRS)
        )
        for function in (confusions, companions)
    )
    counts = compare(given, sets).counts
    return page.Disagreement(images=len(given), **counts, confusions=confused, companions=together)


def _look(run: Run, maps: str, row: dict[str, Any], known: Known) -> page.Look:
    """A photo with its labels and the maps of the best ones; of a suspect given label too."""
    group = run.group(maps)
    part = group.parts[row["part"]]
    stored = read_vectors(run.workspace, group.folder, part.part, part.fingerprint, "maps")[row["map_row"]]
    label_map = LabelMap(*unpack(stored))
    uid = format_uid(row["uid_hi"], row["uid_lo"])
    photo = _photo(run, Sample(uid, row["key"], row["part"], row["row"], {}))
    own = known.numbers.get(row["label"], -1) if row["label"] is not None else -1
    labels = row.get("labels") or []
    shown = _told(labels, own)
    classes = [label["class"] for label in shown] or best_classes(label_map, HEATS)
    kept = [label["class"] for label in shown if label["decision"] == "keep"]
    wanted = (kept or classes)[:HEATS]
    if row.get("suspect") and own not in wanted:
        wanted = [*wanted[: HEATS - 1], own]
    return page.Look(
        uid=uid,
        key=row["key"],
        photo=None if photo is None else _jpeg(photo),
        width=0 if photo is None else photo.width,
        height=0 if photo is None else photo.height,
        given=known.given(row["label"]),
        marks=tuple(_mark(label, known, own) for label in shown),
        heats=() if photo is None else tuple(_heat(photo, label_map, number, known, own) for number in wanted),
    )


def _told(labels: Sequence[dict[str, Any]], own: int) -> list[dict[str, Any]]:
    """The kept labels, the next best others, and the given one."""
    kept = [label for label in labels if label["decision"] == "keep"]
    others = [label for label in labels if label["decision"] != "keep"]
    first = others[: OTHERS if not kept else 0] + [label for label in others if label["decision"] == "unsure"][:OTHERS]
    chosen = {label["class"] for label in first} | {own}
    return kept + [label for label in others if label["class"] in chosen]


def _mark(label: dict[str, Any], known: Known, own: int) -> page.Mark:
    top, left, bottom, right = (label[name] for name in ("y0", "x0", "y1", "x1"))
    return page.Mark(
        name=known.classes.name(label["class"]),
        probability=label["probability"],
        decision=label["decision"],
        box=None if top is None else (left, top, max(0.0, right - left), max(0.0, bottom - top)),
        given=label["class"] == own,
    )


def cells_of(label_map: LabelMap, number: int) -> NDArray[np.float32]:
    """Probability of a class in each cell, float32 [H, W]; 0 where the map does not store it."""
    found = np.where(label_map.classes == number, probabilities(label_map), np.float32(0)).max(axis=0)
    return np.asarray(np.minimum(found, 1), dtype=np.float32)  # float16 may round a score up past the lse


def best_classes(label_map: LabelMap, most: int) -> list[int]:
    """The classes with the highest probability in any cell, the highest first, of equal ones the lowest number."""
    numbers = np.unique(label_map.classes).tolist()
    return sorted(numbers, key=lambda number: (-float(cells_of(label_map, number).max()), number))[:most]


def _heat(photo: Image.Image, label_map: LabelMap, number: int, known: Known, own: int) -> page.Heat:
    cells = cells_of(label_map, number)
    return page.Heat(
        name=known.classes.name(number),
        peak=float(cells.max()),
        picture=_jpeg(heat(photo, cells)),
        given=number == own,
    )


def _photo(run: Run, sample: Sample) -> Image.Image | None:
    data = sample_bytes(run, sample)
    try:
        photo = None if data is None else decode_rgb(data, 100_000_000)
    except DecodeError:
        return None
    if photo is not None:
        photo.thumbnail((EDGE, EDGE))
    return photo


def _jpeg(image: Image.Image) -> str:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode()
