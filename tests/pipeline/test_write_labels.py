"""The section "Labels" of a run's report, and what explain tells, against the columns and maps counted by hand."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import pytest
import tiny_teacher
from PIL import Image

import curate
from curate.formats.label_maps import unpack
from curate.pipeline.api import Run
from curate.pipeline.explain import explain
from curate.pipeline.explain_labels import labels_sentence, map_sentence
from curate.pipeline.summary import summarise
from curate.pipeline.write_labels import labels_section, steps_of
from curate.pipeline.write_report import report_data, write_report
from curate.report import labels as page

PHOTOS = 24
NAMES = [f"n{number:08d}" for number in range(100, 100 + tiny_teacher.CLASSES)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """24 pictures in 12 folders of WordNet ids, with maps and labels by a network with random weights."""
    root = tmp_path_factory.mktemp("labels")
    for seed in range(PHOTOS):
        photo = root / "photos" / NAMES[seed % 12] / f"{seed:02d}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(corpus.jpeg(seed, (300, 200)))
    classes = [{"cid": cid, "wnid": wnid, "synset": [f"thing {cid}"]} for cid, wnid in enumerate(NAMES)]
    (root / "classes.json").write_text(json.dumps(classes))
    (root / "relations.csv").write_text("a,b,relation\n" + "".join(f"{a},{a + 2},co-occurring\n" for a in range(10)))
    options = {"class_names": f"{root}/classes.json", "relations": f"{root}/relations.csv", "keep": 0.5, "drop": 0.1}
    teacher = tiny_teacher.save(root / "w.pth", seed=2) | {"temperature": 8.0}
    spec = {
        "name": "labels",
        "input": {"folder": f"{root}/photos"},
        "workspace": f"{root}/work",
        "stages": ["index", {"relabel": teacher}, {"label_sets": options}],
    }
    return curate.run(spec, workers=0)


@pytest.fixture(scope="module")
def section(made: Run) -> page.Labels:
    found = labels_section(made)
    assert found is not None
    return found


def rows_of(run: Run) -> list[dict[str, Any]]:
    frame = run.columns("index", "relabel", "label_sets").collect()
    return [{name.rpartition(".")[2]: value for name, value in row.items()} for row in frame.iter_rows(named=True)]


def test_the_numbers_are_those_of_the_columns(made: Run, section: page.Labels) -> None:
    sets = section.sets
    assert sets is not None
    rows, same, other, multi_with, multi_without, none = rows_of(made), 0, 0, 0, 0, 0
    added, extended, per_image = 0, 0, [0] * 13
    pairs: dict[tuple[int, int], int] = {}
    for row in rows:
        given = NAMES.index(row["label"])
        kept = {label["class"] for label in row["labels"] if label["decision"] == "keep"}
        per_image[len(kept)] += 1
        added += len(kept - {given})
        extended += bool(kept - {given})
        same += kept == {given}
        other += len(kept) == 1 and given not in kept
        multi_with += len(kept) > 1 and given in kept
        multi_without += len(kept) > 1 and given not in kept
        none += not kept
        for number in kept if given not in kept else ():
            pairs[given, number] = pairs.get((given, number), 0) + 1
    assert min(same, other, multi_with, multi_without) > 0, "the pictures were to show these"
    assert (section.maps, sets.images, sets.given) == (PHOTOS, PHOTOS, PHOTOS)
    assert list(sets.per_image) == per_image[: len(sets.per_image)]
    assert sum(per_image[len(sets.per_image) :]) == 0
    assert (sets.added, sets.extended, sets.labels) == (added, extended, sum(row["n_labels"] for row in rows))
    assert sets.suspect == sum(row["suspect"] for row in rows)
    for outcome in ("labelled", "undecided", "nothing"):
        assert getattr(sets, outcome) == sum(row["outcome"] == outcome for row in rows)
    told = sets.disagreement
    assert told is not None
    assert (told.same, told.other, told.multi_with, told.multi_without, told.none) == (
        same,
        other,
        multi_with,
        multi_without,
        none,
    )
    for pair in told.confusions:
        a, b = int(pair.given.removeprefix("thing ")), int(pair.found.removeprefix("thing "))
        assert pair.images == pairs[a, b]
        assert pair.relation == ("co_occurring" if abs(a - b) == 2 else None)
    assert [pair.images for pair in told.confusions] == sorted(pairs.values(), reverse=True)[:12]


def test_photos_are_those_with_the_smallest_uids_and_their_maps(made: Run, section: page.Labels) -> None:
    rows = {f"{row['uid_hi']:016x}{row['uid_lo']:016x}": row for row in rows_of(made)}
    records = np.concatenate(list(made.vector_parts("relabel", "maps")))
    galleries = {gallery.title: gallery for gallery in section.galleries}
    several = sorted(uid for uid, row in rows.items() if row["n_labels"] > 1)
    assert several
    assert [look.uid for look in galleries["Several labels"].looks] == several[:6]
    assert galleries["Several labels"].of == len(several)
    suspects = sorted(uid for uid, row in rows.items() if row["suspect"])
    assert [look.uid for look in galleries["The given label is suspect"].looks] == suspects[:4]
    for look in galleries["Several labels"].looks:
        row = rows[look.uid]
        kept = [label for label in row["labels"] if label["decision"] == "keep"]
        assert [mark.name for mark in look.kept] == [f"thing {label['class']}" for label in kept]
        for mark, label in zip(look.kept, kept, strict=True):
            assert mark.box == pytest.approx(
                (label["x0"], label["y0"], label["x1"] - label["x0"], label["y1"] - label["y0"])
            )
        assert (look.width, look.height) == (250, 167)
        scores, classes, lse = unpack(records[row["map_row"]])
        first = kept[0]["class"]
        probability = min(1.0, np.where(classes == first, np.exp(scores.astype(np.float64) - lse), 0).max())
        assert look.heats[0].name == f"thing {first}"
        assert look.heats[0].peak == pytest.approx(probability, rel=1e-3)
        picture = Image.open(io.BytesIO(base64.b64decode(look.heats[0].picture.partition(",")[2])))
        assert picture.size == (250, 167)
    for look in galleries["The given label is suspect"].looks:
        assert look.heats[-1].given
        assert look.heats[-1].name == look.given


def test_the_section_is_the_same_again_and_without_photos_where_the_input_is_not_known(
    made: Run, section: page.Labels
) -> None:
    assert labels_section(made) == section
    opened = labels_section(curate.open_run(made.workspace.url))
    assert opened is not None
    assert opened.sets == section.sets
    assert not any(look.photo for gallery in opened.galleries for look in gallery.looks)


def test_a_run_with_maps_alone_shows_maps(made: Run, tmp_path: Path) -> None:
    spec = made.record.spec | {"workspace": str(tmp_path), "stages": made.record.spec["stages"][:2]}
    run = curate.run(spec, workers=0)
    assert steps_of(run) == ("relabel", None)
    found = labels_section(run)
    assert found is not None
    assert found.sets is None
    assert [(gallery.of, len(gallery.looks)) for gallery in found.galleries] == [(PHOTOS, 8)]
    assert all(len(look.heats) == 3 for look in found.galleries[0].looks)
    write_report(run, summarise(run))
    assert "Photos with their maps" in (tmp_path / "report.html").read_text()


def test_a_run_without_maps_has_no_section(tiny: dict[str, Any]) -> None:
    run = curate.run(tiny, workers=0)
    assert steps_of(run) == (None, None)
    assert report_data(run, summarise(run)).labels is None


def test_explain_tells_the_labels_and_where_they_are(made: Run) -> None:
    row = next(row for row in rows_of(made) if row["suspect"])
    uid = f"{row['uid_hi']:016x}{row['uid_lo']:016x}"
    (story,) = explain(made, uid=uid)
    told = {step.step: step.evidence for step in story.steps}
    kept = [label for label in row["labels"] if label["decision"] == "keep"]
    first = told["label_sets"]["labels"][0]
    assert (first["class"], first["name"], first["decision"]) == (kept[0]["class"], f"thing {row['best']}", "keep")
    assert first["box"] == [kept[0][name] for name in ("y0", "x0", "y1", "x1")]
    assert told["label_sets"]["given"] == f"thing {NAMES.index(row['label'])}"
    best = told["relabel"]["map"]["best"][0]
    scores, classes, lse = unpack(np.concatenate(list(made.vector_parts("relabel", "maps")))[row["map_row"]])
    probability = np.exp(scores[:, best["row"], best["column"]].astype(np.float64) - lse[best["row"], best["column"]])
    assert classes[0, best["row"], best["column"]] == best["class"]
    assert best["probability"] == pytest.approx(min(1.0, probability[0]), rel=1e-3)
    top, left, bottom, right = (round(100 * side) for side in first["box"])
    place = f"(rows {top} to {bottom} %, columns {left} to {right} %)"
    values = next(step.values for step in story.steps if step.step == "label_sets")
    sentence = labels_sentence(values, told["label_sets"])
    assert sentence.startswith(f"labelled; keeps thing {row['best']} {first['probability']:.2f} {place}")
    assert sentence.endswith(f"the given label thing {NAMES.index(row['label'])} is suspect")
    start = f"a map of 5 x 5 cells; the most probable: thing {best['class']} {best['probability']:.2f} in cell "
    assert map_sentence(told["relabel"]["map"]).startswith(f"{start}({best['row']}, {best['column']})")
