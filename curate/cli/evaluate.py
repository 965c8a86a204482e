"""`curate evaluate`: how good predictions are when images have several right labels, and how good the labels are."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from curate.cli.output import cell, columns, count, line, print_json, stdout

evaluate = typer.Typer(
    no_args_is_help=True,
    help="Judge predictions and labels where images have several right labels.",
    add_completion=False,
)

Resamples = Annotated[int, typer.Option("--resamples", min=0, help="Resamples of images for intervals; 0 = none.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the resamples.")]
Original = Annotated[
    str | None, typer.Option("--original", help="List of images with one original label each (.json, .csv, .txt).")
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help="List of classes: a .json file, or imagenet-1k."),
]
Relations = Annotated[
    str | None, typer.Option("--relations", help="Table of related classes (.csv, .parquet): a, b, relation.")
]
LabelsOrder = Annotated[
    str | None, typer.Option("--labels-order", help="List of the images of label rows that name none.")
]
Missing = Annotated[
    bool, typer.Option("--allow-missing", help="Judge the images that both files know, where some are missing.")
]
Limit = Annotated[int, typer.Option("--limit", min=0, help="Rows of lists of classes.")]
Json = Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")]

_NAMES = {
    "top1": "top-1 of the original label",
    "top5": "top-5 of the original label",
    "real1": "ReaL@1",
    "real5": "ReaL@5",
    "multi_label_by_class": "multi-label accuracy, mean over classes",
    "multi_label_by_class_strict": "  without unclear labels",
    "multi_label_by_image": "multi-label accuracy, mean over images",
    "multi_label_by_image_strict": "  without unclear labels",
    "unreviewed": "best prediction reviewed by nobody",
    "variable_uniform": "variable top-k, mean over numbers of labels",
    "variable_pooled": "variable top-k, mean over images",
    "variable_exact": "first k are exactly the labels",
}


@evaluate.command("predictions")
def predictions(
    files: Annotated[list[str], typer.Argument(help="Predictions (.npy, .npz, .csv, .parquet), a file a model.")],
    labels: Annotated[str, typer.Option("--labels", help="Label sets: real.json, multi-label .csv, multi-hot .npz.")],
    order: Annotated[
        str | None,
        typer.Option("--order", help="List of the images of rows that name none, or by-name: sorted by file name."),
    ] = None,
    labels_order: LabelsOrder = None,
    original: Original = None,
    classes: Classes = None,
    relations: Relations = None,
    mistakes: Annotated[
        list[str] | None, typer.Option("--mistakes", help="List of sorted mistakes (.json); may be repeated.")
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option("--against", help="Predictions of another model to compare; may be repeated.")
    ] = None,
    least: Annotated[
        int, typer.Option("--least", min=1, help="Images a number of labels needs for the mean over numbers.")
    ] = 1,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    limit: Limit = 10,
    allow_missing: Missing = False,
    trust_order: Annotated[
        bool, typer.Option("--trust-order", help="Accept rows that agree with the labels no better than chance.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Accuracy of models against label sets: top-k, ReaL, multi-label accuracy, variable top-k, mistakes."""
    from curate.evaluate.bootstrap import Resampling
    from curate.pipeline.evaluate_predictions import Against, Options, evaluate_predictions

    truth = Against(labels, labels_order, order, original, classes, relations, tuple(mistakes or ()))
    options = Options(Resampling(resamples, seed), least, limit, allow_missing, trust_order)
    report = evaluate_predictions(files, truth, options, against or ())
    if as_json:
        print_json(report)
        return 0
    _labels(report["labels"])
    _disagreement(report["disagreement"])
    for listed in report["mistakes"]:
        _mistakes(listed)
    for model in report["models"]:
        _model(model)
    for comparison in report["comparisons"]:
        _comparison(comparison)
    if report["comparisons"]:
        _how_to_read(report["intervals"])
    _intervals(report["intervals"])
    return 0


@evaluate.command("labels")
def label_sets(
    file: Annotated[
        str, typer.Argument(help="Label sets, as for predictions, or scored pairs (.npz, .csv, .parquet).")
    ],
    truth: Annotated[
        str | None, typer.Option("--truth", help="Better label sets, or votes of experts (.npz), to measure against.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Score from which a scored pair is a label.")
    ] = None,
    labels_order: LabelsOrder = None,
    original: Original = None,
    classes: Classes = None,
    relations: Relations = None,
    resamples: Resamples = 1000,
    seed: Seed = 0,
    limit: Limit = 10,
    allow_missing: Missing = False,
    as_json: Json = False,
) -> int:
    """Label sets on their own, against the original labels, and against better label sets."""
    from curate.evaluate.bootstrap import Resampling
    from curate.pipeline.evaluate_labels import LabelFiles, evaluate_labels

    report = evaluate_labels(
        LabelFiles(file, truth, labels_order, original, classes, relations),
        threshold=threshold,
        how=Resampling(resamples, seed),
        limit=limit,
        allow_missing=allow_missing,
    )
    if as_json:
        print_json(report)
        return 0
    _labels(report["labels"])
    _disagreement(report["disagreement"])
    if report["truth"]:
        _truth(report["truth"])
        _intervals(report["intervals"])
    return 0


# --- tables -----------------------------------------------------------------------------------------------------------


def _labels(told: dict[str, Any]) -> None:
    out = stdout()
    cut = f", kept from a score of {told['threshold']:g}" if told.get("threshold") is not None else ""
    line(out, f"labels: {told['file']}{cut}", "bold")
    several = "" if told["several"] is None else f", {told['several']:.2%} of the images with labels have several"
    line(out, f"  {told['images']:,} images, {told['empty']:,} without a label, {told['labels']:,} labels{several}")
    numbers = [(number, images) for number, images in enumerate(told["by_number"]) if images]
    columns(out, ["labels", *(f">{number}" for number, _ in numbers)], [["images", *(n for _, n in numbers)]])


def _disagreement(told: dict[str, Any] | None) -> None:
    if told is None:
        return
    out = stdout()
    words = {
        "same": "the original label alone",
        "multi_with": "several, with the original",
        "multi_without": "several, without it",
        "other": "another label alone",
        "none": "no label",
    }
    line(out, f"\nagainst the original labels: {_share(told['agreement'])} of the sets contain them", "bold")
    columns(out, ["", ">images"], [[words[kind], told["counts"][kind]] for kind in words])
    if told["weak_classes"]:
        line(out, f"  classes that agree for less than 70 %: {told['weak_classes_in_all']:,}")
        rows = [[row["class"], row["name"], row["images"], _share(row["agreement"])] for row in told["weak_classes"]]
        columns(out, [">class", "name", ">images", ">agreement"], rows, 4)
    _pairs("original label missing, this one found", told["confusions"])
    _pairs("found beside the original label", told["companions"])


def _pairs(title: str, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    out = stdout()
    line(out, f"  {title}:")
    related = any(row["relation"] for row in rows)
    heads = ["first", "second", ">images", *(["relation"] if related else [])]
    body = [[row["first_name"], row["second_name"], row["images"], row["relation"]] for row in rows]
    columns(out, heads, (row[: len(heads)] for row in body), 4)


def _mistakes(told: dict[str, Any]) -> None:
    out = stdout()
    seen = told["with_labels"]
    line(out, f"\nmistakes: {told['file']}", "bold")
    line(
        out,
        f"  {told['mistakes']:,} mistakes; of {seen['images']:,} images with label sets {seen['right']:,} are right by "
        f"these and {seen['without_labels']:,} have no label",
    )
    for other, number in told["shared"].items():
        line(out, f"  {number:,} of the images are also in {other}")
    _categories(told["by_category"])


def _categories(table: dict[str, dict[str, int]]) -> None:
    if not table:
        return
    severities = list(next(iter(table.values())))
    total = {s: sum(row[s] for row in table.values()) for s in severities}
    rows = [[name, *(row[s] for s in severities), sum(row.values())] for name, row in table.items()]
    columns(
        stdout(),
        ["category", *(f">{s}" for s in severities), ">all"],
        [*rows, ["all", *total.values(), sum(total.values())]],
        4,
    )


def _model(told: dict[str, Any]) -> None:
    out = stdout()
    line(out, f"\n{told['file']}", "bold")
    extra = [f"{told[key]:,} {word}" for key, word in (("missing", "missing"), ("unused", "unused")) if told[key]]
    line(
        out,
        f"  {told['images']:,} images, {told['width']} predictions each{''.join(f', {text}' for text in extra)}; rows "
        + (
            "are too few to check their order"
            if told["order"]["verdict"] == "unknown"
            else "agree with the labels for "
        )
        + ("" if told["order"]["verdict"] == "unknown" else f"{told['order']['agreement']:.2%}"),
    )
    rows = [[_NAMES[name], _share(m["value"]), _range(m), m["images"]] for name, m in told["metrics"].items()]
    columns(out, ["", ">%", "interval", ">images"], rows)
    if told["beyond"]:
        line(out, f"  {told['beyond']:,} images have more labels than there are predictions: not in variable top-k")
    heads = [">labels", ">images", ">top-1", ">ReaL@1", ">variable top-k", ">exact"]
    keys = ("top1", "real1", "variable", "exact")
    columns(out, heads, ([s["labels"], s["images"], *(_value(s[key]) for key in keys)] for s in told["subgroups"]))
    _pairs("commonest wrong predictions (predicted, label)", told["confusions"])
    for again in told["repeated"]:
        number = sum(sum(row.values()) for row in again["by_category"].values())
        line(out, f"  makes {number:,} of the {again['of']:,} mistakes of {again['file']} again")
        _categories(again["by_category"])


def _comparison(told: dict[str, Any]) -> None:
    out = stdout()
    line(out, f"\n{told['file']} against {told['against']}", "bold")
    left = f" that both predict, {told['left_out']:,} left out" if told["left_out"] else ""
    line(
        out,
        f"  {told['images']:,} images{left}; the first {count(told['width'], 'prediction')} of each; best predictions "
        f"are the same for {told['same_best'] / told['images']:.2%}",
    )
    rows = []
    for name, m in told["metrics"].items():
        found = m["difference"]
        signed = None if found["value"] is None else f"{100 * found['value']:+.3f}"
        span = "" if found["low"] is None else f"{100 * found['low']:+.3f} to {100 * found['high']:+.3f}"
        rows.append([_NAMES[name], _share(m["this"]), _share(m["other"]), signed, span, m["verdict"]])
    columns(out, ["", ">this %", ">other %", ">difference", "interval", ""], rows)
    counted = {_NAMES[name]: m["counts"] for name, m in told["metrics"].items() if m["counts"]}
    keys = ("both", "only_this", "only_other", "neither")
    heads = ["images", ">both", ">only this", ">only other", ">neither", ">p"]
    columns(out, heads, ([name, *(c[key] for key in keys), _p(c["p"])] for name, c in counted.items()))


def _how_to_read(told: dict[str, Any]) -> None:
    line(
        stdout(),
        "\nbetter and worse need an interval of the difference that leaves out 0, and a p of at most "
        f"{1 - told['level']:.2g}; no difference shown: these images cannot tell the two apart, which does not make "
        "them equal",
    )


def _truth(told: dict[str, Any]) -> None:
    out = stdout()
    line(out, f"\nagainst {told['file']}", "bold")
    missing = f", {told['missing']:,} missing" if told["missing"] else ""
    line(
        out,
        f"  {told['images']:,} images{missing}; {told['proposed']:,} proposed labels, of them "
        f"{told['wrongly_kept']:,} wrongly kept and {told['wrongly_dropped']:,} wrongly dropped; "
        f"{told['never_proposed']:,} right ones never proposed",
    )
    rows = [[name.replace("_", " "), _number(m["value"]), _span(m)] for name, m in told["measures"].items()]
    columns(out, ["", ">value", "interval"], rows)
    if told["reliability"]:
        line(out, "  how often labels of a score are right:")
        filled = [row for row in told["reliability"] if row["pairs"]]
        body = [[_number(r["from"]), r["pairs"], _number(r["probability"]), _number(r["share"])] for r in filled]
        columns(out, [">from", ">labels", ">mean score", ">right"], body, 4)


def _intervals(told: dict[str, Any]) -> None:
    if told["resamples"]:
        line(
            stdout(),
            f"\nintervals: {told['level']:.0%} of {told['resamples']:,} resamples of the images, seed {told['seed']}",
        )


def _share(value: float | None) -> str:
    return cell(None) if value is None else f"{100 * value:.3f}"


def _value(estimate: dict[str, Any] | None) -> str:
    return cell(None) if estimate is None else _share(estimate["value"])


def _range(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return ""
    return f"{100 * estimate['low']:.2f} to {100 * estimate['high']:.2f}"


def _p(value: float) -> str:
    return "<1e-300" if value < 1e-300 else f"{value:.2g}"


def _number(value: float | None) -> str:
    return cell(None) if value is None else f"{value:.4f}"


def _span(estimate: dict[str, Any]) -> str:
    return "" if estimate["low"] is None else f"{estimate['low']:.4f} to {estimate['high']:.4f}"
