"""`curate clean`: remove what no run of a workspace names any more."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Console

from curate.cli.output import clean as plain
from curate.cli.output import columns, count, line, print_json, size, stdout
from curate.errors import SpecError
from curate.pipeline.clean import Cleaning, Removable, carry_out, plan_cleaning
from curate.store.workspace import Workspace

_SHOWN = 30


def clean(
    workspace: Annotated[str, typer.Argument(help="Workspace: a folder or URL.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go and remove nothing.")] = False,
    only_latest: Annotated[
        bool, typer.Option("--only-latest", help="Forget every run but the latest, with its release.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a machine-readable answer on stdout.")] = False,
) -> int:
    """Remove parts, artifacts, scratch and releases that no run names. Files that curate did not write stay."""
    plan = plan_cleaning(Workspace(workspace), only_latest=only_latest)
    asks = not (dry_run or yes) and bool(plan.remove)
    if asks and (as_json or not sys.stdin.isatty()):
        raise SpecError(
            f"{count(len(plan.remove), 'thing')} ({size(plan.nbytes)}) would be removed and nobody is there to ask; "
            "add --yes to remove, or --dry-run to see"
        )
    if as_json:
        if not dry_run:
            carry_out(plan)
        print_json({"removed": not dry_run, **plan.as_dict()})
        return 0
    console = stdout()
    _show(console, plan)
    if not plan.remove:
        line(console, "nothing to remove: everything here is named by a run")
        return 0
    if dry_run:
        line(console, f"{size(plan.nbytes)} would be freed; nothing was removed (--dry-run)")
        return 0
    if asks and not typer.confirm(f"remove these and free {size(plan.nbytes)}?"):
        line(console, "nothing was removed")
        return 0
    carry_out(plan)
    line(console, f"freed {size(plan.nbytes)}")
    return 0


def _show(console: Console, plan: Cleaning) -> None:
    rows = list(_rows(plan.remove))
    if rows:
        columns(console, ("what", ">files", ">size", "why"), rows[:_SHOWN])
    if len(rows) > _SHOWN:
        line(console, f"  ... and {len(rows) - _SHOWN:,} more (--json lists all)")
    for path in plan.unknown[:_SHOWN]:
        line(console, plain(f"  {path} stays: curate did not write it"))


def _rows(items: list[Removable]) -> Iterator[tuple[object, ...]]:
    """Folders by themselves; files of one folder that go for one reason together."""
    together: dict[tuple[str, str], list[Removable]] = defaultdict(list)
    for item in items:
        folder, _, name = item.path.rpartition("/")
        together[(folder, item.why) if "." in name else (item.path, item.why)].append(item)
    for (folder, why), group in together.items():
        what = group[0].path if len(group) == 1 else f"{folder or '.'}/*"
        yield what, sum(item.files for item in group), size(sum(item.nbytes for item in group)), why
