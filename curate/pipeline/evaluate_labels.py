"""`curate evaluate labels` as a function: label sets on their own, against original labels, and against better ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, SpecError
from curate.evaluate import calibration_error, quality
from curate.evaluate.bootstrap import Resampling
from curate.evaluate.sets import Sets, from_pairs
from curate.formats.class_lists import ClassList
from curate.formats.label_sets import LabelSets, csv_columns, is_multi_hot, is_real, read_label_sets
from curate.formats.predictions import npz_arrays
from curate.formats.row_orders import RowOrder, parse_json, places, read_bytes, read_order, some_of
from curate.formats.scored_pairs import ScoredPairs, Votes, read_pairs
from curate.pipeline.evaluation_inputs import (
    Labels,
    Sources,
    class_list,
    describe,
    disagreement_report,
    labels_of,
    told,
)


@dataclass(frozen=True, slots=True)
class LabelFiles:
    """Files of an evaluation of labels; see docs/commands/evaluate.md."""

    labels: str
    truth: str | None = None
    labels_order: str | None = None
    original: str | None = None
    classes: str | None = None
    relations: str | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """Labels or pairs of images: what is released, and what was proposed with which score (None = as released)."""

    labels: Labels
    proposed: Sets
    score: NDArray[np.float64] | None = None
    kept: NDArray[np.bool_] | None = None
    known: Sets | None = None
    ignored: Sets | None = None


def evaluate_labels(
    files: LabelFiles,
    *,
    threshold: float | None = None,
    how: Resampling | None = None,
    limit: int = 20,
    allow_missing: bool = False,
) -> dict[str, Any]:
    """Report on label sets; the JSON of the command. Memory: the files, and about 200 bytes a pair.

    threshold: score from which a scored pair is a label. Raises InputError when a file is wrong or images are missing,
    SpecError when scores come without a threshold.
    """
    how = how or Resampling()
    original = None if files.original is None else read_order(files.original)
    sources = Sources(files.classes, original, files.relations)
    classes = class_list(sources)
    order = None if files.labels_order is None else read_order(files.labels_order)
    held = _held(files.labels, sources, classes, order, threshold)
    report: dict[str, Any] = {
        "labels": describe(held.labels) | {"threshold": threshold},
        "intervals": asdict(how),
        "disagreement": disagreement_report(held.labels, limit),
        "truth": None,
    }
    if files.truth is None:
        return report
    truth = _held(files.truth, sources, classes, order, None, "--truth")
    at = places(held.labels.names, truth.labels.names)
    rows = np.flatnonzero(at >= 0)
    if not len(rows):
        raise InputError(
            f"{files.labels}: has none of the images of {files.truth}: {some_of(held.labels.names)} against "
            f"{some_of(truth.labels.names)}."
        )
    if len(rows) < len(at) and not allow_missing:
        lacking = [truth.labels.names[row] for row in np.flatnonzero(at < 0)]
        raise InputError(
            f"{files.labels}: says nothing of {len(lacking):,} of the {len(at):,} images of {files.truth} "
            f"({some_of(lacking)}); give --allow-missing to compare the others alone."
        )
    if truth.labels.reviewed is not None:
        rows = rows[~truth.labels.reviewed.problematic[rows]]
        if not len(rows):
            raise InputError(f"{files.truth}: all images that {files.labels} knows are problematic; nothing is left.")
    return report | {"truth": _compared(held, at[rows], truth, rows, how) | {"missing": int((at < 0).sum())}}


def _compared(
    held: _Held, at: NDArray[np.int64], truth: _Held, rows: NDArray[np.int64], how: Resampling
) -> dict[str, Any]:
    pairs = quality.judge(
        held.proposed.take(at),
        truth.labels.sets.take(rows),
        score=_taken(held.proposed, held.score, at),
        kept=_taken(held.proposed, held.kept, at),
        known=None if truth.known is None else truth.known.take(rows),
        ignored=None if truth.ignored is None else truth.ignored.take(rows),
    )
    proposed = pairs.proposed
    table = None
    scored = np.isfinite(pairs.score)
    if scored.any() and pairs.score[scored].min() >= 0 and pairs.score[scored].max() <= 1:
        bins = calibration_error.reliability(pairs.score[scored], pairs.right[scored], quality.BINS)
        table = [
            {"from": b / quality.BINS, "pairs": n, "probability": p if n else None, "share": s if n else None}
            for b, (n, p, s) in enumerate(
                zip(bins.pairs.tolist(), bins.probability.tolist(), bins.share.tolist(), strict=True)
            )
        ]
    return {
        "file": truth.labels.url,
        "images": len(rows),
        "pairs": len(pairs.image),
        "proposed": int(proposed.sum()),
        "wrongly_kept": int((proposed & pairs.kept & ~pairs.right).sum()),
        "wrongly_dropped": int((proposed & ~pairs.kept & pairs.right).sum()),
        "never_proposed": int((~proposed).sum()),
        "measures": {name: told(value) for name, value in quality.measures(pairs, how).items()},
        "reliability": table,
    }


def _taken(sets: Sets, values: NDArray[Any] | None, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    """Values of the labels of some images, in the order of `sets.take(rows)`."""
    if values is None:
        return None
    at = Sets(sets.offsets, np.arange(len(values), dtype=np.int32)).take(rows).classes
    return np.asarray(values[at])


# --- what a file holds ------------------------------------------------------------------------------------------------


def _held(
    url: str, sources: Sources, classes: ClassList, order: RowOrder | None, threshold: float | None, role: str = ""
) -> _Held:
    read = _read(url, classes, order)
    if threshold is not None and not isinstance(read, ScoredPairs):
        raise SpecError(f"{url}: its labels have no scores, so --threshold has nothing to cut; leave it out")
    if isinstance(read, LabelSets):
        labels = labels_of(read, sources, classes)
        ignored = None if labels.reviewed is None else labels.reviewed.unclear
        return _Held(labels, labels.sets, ignored=ignored)
    if isinstance(read, Votes):
        kept = 2 * read.answers[:, 2] > read.raters
    elif role:
        raise SpecError(f"{url}: {role} takes label sets or votes, not scores: cut them into sets first")
    elif threshold is None:
        raise SpecError(f"{url}: its labels have scores; say with --threshold from which score a label is kept")
    else:
        kept = read.scores >= threshold
    names = tuple(dict.fromkeys(read.images))
    at = {name: row for row, name in enumerate(names)}
    images = np.fromiter((at[name] for name in read.images), np.int64, len(read.images))
    back = np.argsort(images, kind="stable")
    proposed = from_pairs(images, read.classes, len(names))
    lists = from_pairs(images[kept], read.classes[kept], len(names)).lists()
    labels = labels_of(LabelSets(names, lists, url), sources, classes)
    score = read.scores[back] if isinstance(read, ScoredPairs) else None
    return _Held(labels, proposed, score, kept[back], known=proposed if isinstance(read, Votes) else None)


def _read(url: str, classes: ClassList, order: RowOrder | None) -> LabelSets | ScoredPairs | Votes:
    """Which of the shapes a file has is told by its content."""
    data = read_bytes(url)
    if data[:4] == b"PK\x03\x04":
        return read_label_sets(url, order, classes) if is_multi_hot(npz_arrays(data, url)) else read_pairs(url, classes)
    if data[:4] == b"PAR1":
        return read_pairs(url, classes)
    if url.lower().endswith(".json"):
        return read_label_sets(url, order) if is_real(parse_json(data, url)) else _single(url, classes)
    if "proposed_labels" in csv_columns(data, url):
        return read_label_sets(url, order, classes)
    return read_pairs(url, classes)


def _single(url: str, classes: ClassList) -> LabelSets:
    """One label an image, from a list of images with classes."""
    given = read_order(url)
    if given.labels is None:
        raise InputError(f"{url}: names images but no classes, so there is nothing to judge.")
    known = classes if classes.numbers else class_list(Sources(original=given))
    return LabelSets(given.names, [[known.number(text, url)] for text in given.labels], url)
