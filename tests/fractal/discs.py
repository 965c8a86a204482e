"""A family of classes that is quick to draw and easy to check: discs and dust, at times nothing at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from curate.fractal.families.base import Drawing
from curate.fractal.randomness import Draws
from curate.fractal.specification import FractalOptions, Specification


class Discs:
    """Class c is c % 3 discs and a share of dust; one drawing in 16 is empty."""

    def __init__(self, classes: int) -> None:
        self.table = pl.DataFrame({"class": range(classes), "system": [f"{c:012x}" for c in range(classes)]})

    def draw(self, number: int, size: int, draws: Draws) -> Drawing:
        own = Draws.of(draws.key, "discs")
        if own.below(16) == 0:
            return Drawing(np.zeros((size, size), dtype=np.uint32), {"empty": True})
        dust = own.one(0.0, 0.2)
        counts = (own.uniform(size * size) < dust).reshape(size, size).astype(np.uint32)
        across = np.arange(size)
        for _ in range(number % 3):
            row, column, radius = own.one(0, size), own.one(0, size), own.one(0, size / 2)
            counts += 3 * ((across[:, None] - row) ** 2 + (across - column) ** 2 < radius**2).astype(np.uint32)
        return Drawing(counts, {"dust": dust})


def specification(**fields: Any) -> Specification:
    """A small one; the family of its options is that of `Discs` in these tests."""
    seed = fields.pop("seed", 5)
    options = {"ifs": {"points": 2000}, "classes": 10, "images": 1000, "size": 64} | fields
    return Specification(version=1, renderer=1, name="small", seed=seed, options=FractalOptions.model_validate(options))
