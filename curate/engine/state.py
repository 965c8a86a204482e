"""State a worker process keeps between items: loaded models, opened stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_kept: dict[str, object] = {}


def keep(key: str, make: Callable[[], T]) -> T:
    """Return the state of this name, made on first use in this process. One at a time: a new name frees the old."""
    if key not in _kept:
        _kept.clear()
        _kept[key] = make()
    return _kept[key]  # type: ignore[return-value]
