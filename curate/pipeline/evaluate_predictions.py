"""`curate evaluate predictions` as a function: models against labels and each other, every number with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.evaluate import accuracy, mistakes, order, paired
from curate.evaluate.bootstrap import Metric, Resampling, estimate
from curate.evaluate.disagreement import confusions
from curate.evaluate.sets import Sets, from_lists
from curate.formats.label_sets import read_label_sets
from curate.formats.mistake_lists import read_mistakes
from curate.formats.predictions import Predictions, read_predictions, with_order
from curate.formats.row_orders import RowOrder, places, read_order, some_of
from curate.pipeline.evaluation_inputs import (
    Labels,
    Sources,
    class_list,
    describe,
    disagreement_report,
    fits,
    labels_of,
    pairs_told,
    told,
)

BY_NAME = "by-name"
_VERDICTS = ("no difference shown", "better", "worse")


@dataclass(frozen=True, slots=True)
class Against:
    """What predictions are held against: labels, and the files that say whose rows are whose."""

    labels: str
    labels_order: str | None = None
    order: str | None = None
    """List of the images of the rows of files without names, or by-name."""
    original: str | None = None
    classes: str | None = None
    relations: str | None = None
    mistakes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """How the report is made; see docs/commands/evaluate.md."""

    how: Resampling = field(default_factory=Resampling)
    least: int = 1
    limit: int = 20
    allow_missing: bool = False
    trust_order: bool = False


def evaluate_predictions(
    files: Sequence[str], against: Against, options: Options | None = None, others: Sequence[str] = ()
) -> dict[str, Any]:
    """Report on predictions of one model or several; the JSON of the command.

    others: predictions that every one of `files` is compared with, image by image. Memory: one of `files` at a time,
    and all `others`. Raises InputError when a file is wrong, images lack predictions, rows are not those of the images
    they are said to be of, or one of two models to be compared cannot say classes of the labels.
    """
    options = options or Options()
    given = None if against.order in (None, BY_NAME) else read_order(str(against.order))
    original = given if against.original is None else read_order(against.original)
    sources = Sources(against.classes, original, against.relations)
    classes = class_list(sources)
    names = None if against.labels_order is None else read_order(against.labels_order)
    labels = labels_of(read_label_sets(against.labels, names, classes), sources, classes)
    if against.order == BY_NAME:
        given = RowOrder(tuple(sorted(labels.names)), None, "the labels, sorted by file name,")
    listed = {url: _listed(url) for url in against.mistakes}
    held = {url: _read(url, given, labels, sources, options) for url in others}
    models, comparisons = [], []
    for url in files:
        model = held[url] if url in held else _read(url, given, labels, sources, options)
        models.append(_model(model, labels, listed, options))
        comparisons += [_comparison(model, other, labels, options) for other in held.values()]
    return {
        "labels": describe(labels),
        "intervals": asdict(options.how),
        "disagreement": disagreement_report(labels, options.limit),
        "mistakes": [_mistake_report(url, listed, labels) for url in listed],
        "models": models,
        "comparisons": comparisons,
    }


@dataclass(frozen=True, slots=True)
class _Model:
    """Predictions that belong to their images: row i of ``classes`` is of the image ``images[i]`` of the labels.

    ``images``: int64 [n], ascending. ``rows``: rows of the file. ``known``: number of classes the model tells apart.
    """

    url: str
    classes: NDArray[np.int32]
    images: NDArray[np.int64]
    rows: int
    known: int | None
    checked: order.OrderCheck


def _read(url: str, given: RowOrder | None, labels: Labels, sources: Sources, options: Options) -> _Model:
    read = read_predictions(url)
    named = with_order(read, given if read.names is None else None)
    fits(named.classes, sources, labels.classes, url)
    at = places(named.names or (), labels.names)
    found = np.flatnonzero(at >= 0)
    if not len(found):
        raise InputError(
            f"{url}: predicts none of the images of {labels.url}; its rows are {some_of(named.names or ())}, "
            f"the labels are of {some_of(labels.names)}."
        )
    if len(found) < len(at) and not options.allow_missing:
        lacking = [labels.names[row] for row in np.flatnonzero(at < 0)]
        raise InputError(
            f"{url}: has no predictions for {len(lacking):,} of {len(at):,} images ({some_of(lacking)}); predict them, "
            "or give --allow-missing to judge the others alone."
        )
    rows = at[found]
    checked = _check_order(named, rows, _some(labels, found), options.trust_order)
    return _Model(url, named.classes[rows], found, len(named.classes), named.known, checked)


def _some(labels: Labels, images: NDArray[np.int64]) -> Labels:
    return labels if len(images) == len(labels.names) else labels.take(images)


def _model(
    model: _Model, labels: Labels, listed: dict[str, list[mistakes.Mistake]], options: Options
) -> dict[str, Any]:
    checked = model.checked
    return {
        "file": model.url,
        "images": len(model.images),
        "missing": len(labels.names) - len(model.images),
        "unused": model.rows - len(model.images),
        "width": model.classes.shape[1],
        "order": {"verdict": checked.verdict, "agreement": checked.agreement, "chance": checked.chance},
    } | _measured(model.classes, _some(labels, model.images), listed, options)


# --- the order of rows ------------------------------------------------------------------------------------------------


def _check_order(named: Predictions, rows: NDArray[np.int64], labels: Labels, trust: bool) -> order.OrderCheck:
    """Refuse rows that agree with the labels of their images no better than chance does."""
    sets = labels.sets
    if labels.original is not None and (labels.original >= 0).all():
        sets = from_lists(labels.original[:, None].tolist())
    back = np.argsort(rows)
    best = named.classes[:, 0]
    checked = order.check(best[rows[back]], sets.take(back))
    if trust or checked.verdict in ("right", "unknown"):
        return checked
    facts = f"its best predictions agree with the labels for {checked.agreement:.2%} of the images"
    if checked.verdict == "in part" and checked.rows is not None:
        first, last = (int(rows[back][row]) + 1 for row in checked.rows)
        raise InputError(
            f"{named.url}: {facts}, but for rows {first:,} to {last:,} no more than chance: some rows there belong to "
            "other images. Give the list that the rows follow, or --trust-order if this is how the model is."
        )
    hint = _other_order(best, rows, labels, sets)
    raise InputError(
        f"{named.url}: {facts}, as predictions of other images would ({checked.chance:.2%}): the rows are not in the "
        f"order that was said. {hint}Give the list that the rows follow with --order, or --trust-order if the model "
        "knows no better."
    )


def _other_order(best: NDArray[np.int32], rows: NDArray[np.int64], labels: Labels, sets: Sets) -> str:
    """A sentence about an order in which the rows would agree, if one of the usual ones does."""
    if len(rows) != len(best):
        return ""
    names = np.array(labels.names)
    orders = {
        "sorted by file name": np.argsort(names, kind="stable"),
        "of the file with the labels": np.arange(len(rows)),
    }
    if labels.original is not None:
        orders["sorted by original class, then by file name"] = np.lexsort((names, labels.original))
    for words, images in orders.items():
        found = order.check(best, sets.take(images))
        if found.verdict == "right":
            return f"In the order {words} they would agree for {found.agreement:.2%}. "
    return ""


# --- measures ---------------------------------------------------------------------------------------------------------


def _measured(
    classes: NDArray[np.int32], labels: Labels, listed: dict[str, list[mistakes.Mistake]], options: Options
) -> dict[str, Any]:
    sets = labels.sets
    hit = accuracy.hits(classes, sets)
    variable = accuracy.variable_top(hit, sets, options.least)
    metrics = _metrics(classes, hit, variable, labels)

    def value(metric: Metric | None) -> dict[str, Any] | None:
        return None if metric is None else told(estimate(metric, options.how))

    subgroups = [
        {"labels": size, "images": int((sets.sizes == size).sum()), "top1": value(one), "real1": value(real)}
        for size, (one, real) in accuracy.by_labels(classes, hit, sets, labels.original).items()
    ]
    for row in subgroups:
        right, exact = variable.by_size.get(int(str(row["labels"])), (None, None))
        row |= {"variable": value(right), "exact": value(exact)}
    return {
        "metrics": {name: value(metric) for name, metric in metrics.items()},
        "beyond": variable.beyond,
        "subgroups": subgroups,
        "confusions": pairs_told(confusions(classes[:, 0], sets, labels.relations, options.limit), labels.classes),
        "repeated": [
            {"file": url, "of": len(entries), "by_category": mistakes.tally(_repeated(entries, labels, classes))}
            for url, entries in listed.items()
        ],
    }


def _metrics(
    classes: NDArray[np.int32], hit: NDArray[np.bool_], variable: accuracy.VariableTop, labels: Labels
) -> dict[str, Metric]:
    """Every measure of all images by its name; those that need more predictions than there are, are left out."""
    metrics: dict[str, Metric] = {}
    for k in (1, 5):
        if k <= classes.shape[1]:
            if labels.original is not None:
                metrics[f"top{k}"] = accuracy.top(classes, labels.original, k)
            metrics[f"real{k}"] = accuracy.real(hit, labels.sets, k)
    metrics |= _multi_label(classes[:, 0], labels)
    metrics |= {"variable_uniform": variable.uniform, "variable_pooled": variable.pooled}
    return metrics | {"variable_exact": variable.exact}


def _multi_label(best: NDArray[np.int32], labels: Labels) -> dict[str, Metric]:
    """Multi-label accuracy, both ways to average and both ways to read unclear labels."""
    if labels.reviewed is None:
        return {}
    told: dict[str, Metric] = {}
    for by_class in (True, False):
        if by_class and (labels.original is None or (labels.original < 0).any()):
            continue
        over = "by_class" if by_class else "by_image"
        original = labels.original if labels.original is not None else np.zeros(len(best), dtype=np.int32)
        for strict in (False, True):
            metric = accuracy.multi_label(best, labels.reviewed, original, strict=strict, by_class=by_class)
            told[f"multi_label_{over}{'_strict' if strict else ''}"] = metric
    told["unreviewed"] = accuracy.unreviewed(best, labels.reviewed)
    return told


# --- two models -------------------------------------------------------------------------------------------------------


def _comparison(this: _Model, other: _Model, labels: Labels, options: Options) -> dict[str, Any]:
    """Differences of two models on the images that both predict, from as many predictions as both have."""
    _same_classes(this, other, labels)
    images, mine, theirs = np.intersect1d(this.images, other.images, assume_unique=True, return_indices=True)
    if not len(images):
        raise InputError(f"{this.url} and {other.url} predict none of the same images; nothing can be compared.")
    some = _some(labels, images)
    width = min(this.classes.shape[1], other.classes.shape[1])
    pair = [model.classes[rows, :width] for model, rows in ((this, mine), (other, theirs))]
    ones, others = (_all_metrics(classes, some, options) for classes in pair)
    return {
        "file": this.url,
        "against": other.url,
        "images": len(images),
        "left_out": len(this.images) + len(other.images) - 2 * len(images),
        "width": width,
        "same_best": int((pair[0][:, 0] == pair[1][:, 0]).sum()),
        "metrics": {name: _difference(name, ones[name], others[name], options.how) for name in ones},
    }


def _all_metrics(classes: NDArray[np.int32], labels: Labels, options: Options) -> dict[str, Metric]:
    hit = accuracy.hits(classes, labels.sets)
    return _metrics(classes, hit, accuracy.variable_top(hit, labels.sets, options.least), labels)


def _difference(name: str, this: Metric, other: Metric, how: Resampling) -> dict[str, Any]:
    found = paired.compare(this, other, how)
    side = paired.verdict(found, how.level)
    words = ("no difference shown", "more", "fewer") if name == "unreviewed" else _VERDICTS
    return {
        "this": found.this,
        "other": found.other,
        "difference": told(found.difference),
        "counts": None if found.counts is None else asdict(found.counts),
        "verdict": None if side is None else words[side],
    }


def _same_classes(this: _Model, other: _Model, labels: Labels) -> None:
    """Refuse a comparison in which one model alone cannot say classes that images have."""
    highest = int(labels.sets.classes.max(initial=-1))
    for model, rival in ((this, other), (other, this)):
        more = rival.known or 1 + int(rival.classes.max(initial=-1))
        if model.known is not None and model.known <= min(highest, more - 1):
            raise InputError(
                f"{model.url}: has scores of {model.known:,} classes, {rival.url} predicts at least {more:,}, and the "
                f"labels go up to class {highest}, which the first cannot say; compare models of the same classes, or "
                "judge each alone, without --against."
            )


# --- lists of mistakes ------------------------------------------------------------------------------------------------


def _listed(url: str) -> list[mistakes.Mistake]:
    read = read_mistakes(url)
    return [mistakes.normalised(mistakes.Mistake(m.image, m.prediction, m.category, m.severity)) for m in read]


def _repeated(entries: list[mistakes.Mistake], labels: Labels, classes: NDArray[np.int32]) -> list[mistakes.Mistake]:
    return mistakes.repeated(entries, places(labels.names, [m.image for m in entries]), classes[:, 0])


def _mistake_report(url: str, listed: dict[str, list[mistakes.Mistake]], labels: Labels) -> dict[str, Any]:
    entries = listed[url]
    predictions = np.array([m.prediction for m in entries], dtype=np.int32)
    verdicts = mistakes.judged(places(labels.names, [m.image for m in entries]), predictions, labels.sets)
    table = mistakes.tally(entries)
    return {
        "file": url,
        "mistakes": len(entries),
        "by_category": table,
        "by_severity": mistakes.severities(table),
        "by_severity_folded": mistakes.severities(mistakes.tally(entries, fold=True)),
        "with_labels": asdict(verdicts),
        "shared": {other: len(mistakes.shared(entries, more)) for other, more in listed.items() if other != url},
    }
