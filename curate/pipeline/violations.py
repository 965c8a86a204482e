"""What `curate verify` finds wrong, and how it says so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NAMED = 5
"""Examples given when one check fails for many samples."""


@dataclass(frozen=True)
class Violation:
    """One thing that does not fit: in which file, and what."""

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}"


def some(items: Iterable[str], shown: int = NAMED, total: int | None = None) -> str:
    """The first items, and how many more there are."""
    items = list(items)
    rest = (total or len(items)) - min(len(items), shown)
    return ", ".join(items[:shown]) + (f" and {rest:,} more" if rest else "")


def shown(value: Any) -> str:
    """A value for a sentence."""
    return f"{value:,}" if isinstance(value, int) else "nothing" if value is None else str(value)
