"""`curate labels`: label sets of a run or a release to the files of others."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from curate.cli.output import clean, count, line, print_json, stdout
from curate.errors import SpecError

labels = typer.Typer(
    no_args_is_help=True, help="Write label sets in the shapes that others read.", add_completion=False
)


@labels.callback()
def _labels() -> None:
    """Write label sets in the shapes that others read."""


@labels.command("export")
def export(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Workspace of a finished run, or a release.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="File to write; replaced when it is there.")],
    form: Annotated[str, typer.Option("--format", help="real, csv, npz or jsonl: what is written.")],
    step: Annotated[
        str | None, typer.Option("--step", help="Stage label_sets of the run, where there are several.")
    ] = None,
    order: Annotated[
        str | None, typer.Option("--order", help="List of images: rows come in its order, others are left out.")
    ] = None,
    names: Annotated[str, typer.Option("--names", help="What images are called: key or uid.")] = "key",
    classes: Annotated[
        str | None,
        typer.Option("--classes", help="List of classes: a .json file, or imagenet-1k."),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Images of --order that are not there get no labels.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Write kept labels as real.json, multi-label CSV or multi-hot npz, or all that is known as JSON lines."""
    if names not in ("key", "uid"):
        raise SpecError(f"--names {names} is not known; give key or uid")
    from curate.pipeline.label_export import export_labels

    given: Any = {"step": step, "order": order, "names": names, "classes": classes, "allow_missing": allow_missing}
    found = export_labels(source, target, cast(Any, form), **given)
    if as_json:
        print_json(found.as_dict())
        return 0
    out = stdout()
    what = f"{count(found.images, 'image')}, {count(found.labels, 'label')}, {found.unlabelled:,} without one"
    line(out, clean(f"{found.file}: {what}"), "green")
    if found.order is not None:
        line(out, clean(f"{found.order}: the images of its rows"))
    if found.left_out:
        line(out, f"left out: {count(found.left_out, 'image')} that --order does not name")
    if found.missing:
        line(out, f"not there: {count(found.missing, 'image')} of --order, written without labels")
    return 0
