"""A small run with label sets, and the questions it has for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import corpus
import tiny_teacher

import curate
from curate.pipeline.api import Run
from curate.pipeline.review import Asking, Review

NAMES = [f"n{number:08d}" for number in range(100, 100 + tiny_teacher.CLASSES)]


def make(root: Path) -> Run:
    """18 pictures of 6 given labels, with labels by a network with random weights."""
    for seed in range(18):
        photo = root / "photos" / NAMES[seed % 6] / f"{seed:02d}.jpg"
        photo.parent.mkdir(parents=True, exist_ok=True)
        photo.write_bytes(corpus.jpeg(seed, (300, 200)))
    classes = [{"cid": cid, "wnid": wnid, "synset": [f"thing {cid} <b>"]} for cid, wnid in enumerate(NAMES)]
    (root / "classes.json").write_text(json.dumps(classes))
    options = {"class_names": f"{root}/classes.json", "keep": 0.3, "drop": 0.1}
    spec = {
        "name": "labels",
        "input": {"folder": f"{root}/photos"},
        "workspace": f"{root}/work",
        "stages": ["index", {"relabel": tiny_teacher.save(root / "w.pth")}, {"label_sets": options}],
    }
    return curate.run(spec, workers=0)


def review(run: Run, file: Path, **options: Any) -> Review:
    given: dict[str, Any] = {"rater": "kim", "questions": 1000} | options
    return Review(run, Asking(**given), file)


def asked(made: Review) -> list[tuple[str, int]]:
    return [(one.sample.uid, one.number) for one in made.questions]
