"""What a family of classes can do: list its classes, and draw one of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.fractal.randomness import Draws


@dataclass(frozen=True)
class Drawing:
    """One object before it has a tone or a colour."""

    counts: NDArray[np.uint32]
    """[size, size], how much lies on each pixel: points of an orbit, or lines; 0 is empty."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What was drawn at random, JSON-able: with the class it decides `counts`."""


class Family(Protocol):
    """Classes of one kind. Made from the options and the table of classes that `search` of the same file returns, so
    that workers share what was searched for. Instances are picklable and hold O(classes) memory.
    """

    table: pl.DataFrame
    """One row a class: `class` (Int64, from 0), `system` (12 hex digits that name its parameters), and what the family
    knows of it."""

    def draw(self, number: int, size: int, draws: Draws) -> Drawing:
        """Class `number` on a canvas of `size` pixels; `draws` decides everything that differs between its images."""
        ...
