"""`curate maps`: label maps to the files of others, and theirs to ours."""

from __future__ import annotations

from typing import Annotated, Any, cast

import typer

from curate.cli.output import clean, count, line, print_json, stdout
from curate.errors import SpecError

maps = typer.Typer(
    no_args_is_help=True, help="Convert label maps to and from the files of others.", add_completion=False
)

_KINDS = ("relabel", "token-labeling", "curate")


@maps.callback()
def _maps() -> None:
    """Convert label maps to and from the files of others."""


@maps.command("convert")
def convert(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Release with label maps, or tree of .pt files.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Folder to write; must be empty or new.")],
    to: Annotated[str, typer.Option("--to", help="relabel, token-labeling or curate: what is written.")],
    layout: Annotated[
        str | None, typer.Option("--layout", help="Of the tree's files: hw (rows first) or wh (columns first).")
    ] = None,
    boxes: Annotated[
        str | None, typer.Option("--boxes", help="Table of objects (.csv, .parquet) that tells the layout of a tree.")
    ] = None,
    classes: Annotated[int, typer.Option("--classes", min=1, help="Classes there are, when a tree is read.")] = 1000,
    per_shard: Annotated[
        int, typer.Option("--samples-per-shard", min=1, help="Maps in one array, when a tree is read.")
    ] = 10_000,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Write label maps as ReLabel's or TokenLabeling's trees, or take such a tree over."""
    if to not in _KINDS:
        raise SpecError(f"--to {to} is not known; give relabel, token-labeling or curate")
    if layout not in (None, "hw", "wh"):
        raise SpecError(f"--layout {layout} is not known; give hw (rows first) or wh (columns first)")
    from curate.pipeline.map_convert import convert as run

    given: Any = {"layout": layout, "boxes": boxes, "classes": classes, "per_shard": per_shard}
    found = run(source, target, cast(Any, to), **given)
    if as_json:
        print_json(found.as_dict())
        return 0
    out = stdout()
    what = f"{count(found.maps, 'label map')} of {found.k} x {found.height} x {found.width}, {found.scores}"
    line(out, clean(f"{found.to}: {what}, layout of the tree {found.layout}"), "green")
    if found.orientation is not None:
        line(out, f"boxes say {found.orientation['layout']}, z = {abs(found.orientation['z']):.1f}")
    for one in found.lost:
        line(out, f"not there: {one}")
    return 0
