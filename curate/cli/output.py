"""How commands print: tables and lines on stdout, plain when it is not a terminal; JSON alone when it was asked for."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 10_000
# control characters, and those that are invisible or turn the reading direction
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def stdout() -> Console:
    """The console of a command's answer. Without a terminal lines are never folded: a script reads them."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def stderr() -> Console:
    """The console of progress, summaries and errors: names from the input are text, never markup."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """The machine-readable answer, the only thing on stdout."""
    json.dump(value, sys.stdout, indent=1, ensure_ascii=False)
    sys.stdout.write("\n")


def line(console: Console, text: str, style: str = "") -> None:
    """One line, not folded."""
    console.print(Text(text, style=style), soft_wrap=True)


def columns(console: Console, heads: Sequence[str], rows: Iterable[Sequence[object]], indent: int = 2) -> None:
    """A table without borders; a head that begins with > is of a column of numbers."""
    table = Table(box=None, header_style="bold", show_header=any(heads), pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head.removeprefix(">"), justify="right" if head.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell(value)) for value in row))
    with console.capture() as capture:
        console.print(table)
    for text in capture.get().splitlines():
        console.out(" " * indent + text.rstrip(), highlight=False)


def cell(value: object) -> str:
    """A value as people read it: counts with commas, nothing as -."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return clean(str(value))


def clean(text: str) -> str:
    """Text of unknown origin without what a terminal would act on."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode(), text)


def size(nbytes: float) -> str:
    """Bytes with a unit: 21 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" or nbytes >= 9.95 else f"{nbytes:.1f} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} TB"


def count(n: int, thing: str) -> str:
    """1 file, 2 files."""
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
