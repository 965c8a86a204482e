"""Classes that are nested radial contours, after RCDB (Kataoka et al., "Replacing Labeled Real-Image Datasets with
Auto-Generated Contours", CVPR 2022): polygons, oval, with noise on their radius, and smaller copies nested in them.

A class is its number of vertices and lines, the ratio of its axes, and the strength and fineness of its noise. An image
draws its own noise of that kind and its own turn. The published ranges and laws are the defaults: up to 200 vertices,
exponential with mean 100, 1 to 200 lines, each axis stretched by U(1, 2). As the contour is fitted to its canvas, only
the ratio of the two stretches remains. Ours, since the paper leaves them open: how strong and fine the noise is, that
all lines of an image share it (they are copies, so they never cross), that their sizes are evenly spaced, the turn.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.families.base import Drawing
from curate.fractal.families.parameters import check, fineness, spread, table_of, whole
from curate.fractal.outlines import around, nested, noise, star
from curate.fractal.randomness import Draws, key, words
from curate.fractal.specification import Contours, FractalOptions

SCHEMA: dict[str, pl.DataType] = {
    "vertices": pl.Int64(),
    "lines": pl.Int64(),
    "oval": pl.Float64(),
    "noise": pl.Float64(),
    "cells": pl.Int64(),
}
"""Parameters of a class. oval: longer by shorter axis. noise: most that it moves a vertex, as a share of the radius.
cells: steps of the noise around the contour, fewer than vertices; 0 without noise."""


def search(options: Contours, classes: int, seed: int) -> pl.DataFrame:
    """Classes spread evenly over the ranges of the options, one row each: class, system, and the columns of SCHEMA.

    More classes of a seed begin with the fewer. Memory: some 200 bytes a class. Raises SpecError when the options
    leave fewer different ones.
    """
    starts = words(key(seed, "contours"), 6)
    at = spread(starts, np.arange(classes, dtype=np.uint64))
    low, high = options.oval
    one, other = low + (high - low) * at[:, 2], low + (high - low) * at[:, 3]
    vertices = _exponential(at[:, 0], *options.vertices, options.mean)
    strength = options.noise * at[:, 4]
    return table_of(
        "contours",
        {
            "vertices": vertices,
            "lines": whole(at[:, 1], *options.lines),
            "oval": np.maximum(one, other) / np.minimum(one, other),
            "noise": strength,
            "cells": fineness(at[:, 5], *options.cells, strength, vertices),
        },
    )


class ContoursFamily:
    """The classes of `search`, drawn. Memory: some 200 bytes a class."""

    def __init__(self, options: FractalOptions, table: pl.DataFrame) -> None:
        """table: as `search` returns it, also after a round trip through Parquet.

        Raises SpecError when the options are of another family or the table is damaged or of another one.
        """
        if options.contours is None:
            raise SpecError("these options have no contours, so they do not say how to draw them.")
        check("contours", table, SCHEMA)
        self.table = table
        self._vertices, self._lines, self._cells = (table[name].to_list() for name in ("vertices", "lines", "cells"))
        self._oval, self._noise = table["oval"].to_list(), table["noise"].to_list()

    def draw(self, number: int, size: int, draws: Draws) -> Drawing:
        """Class `number` on a canvas of `size` pixels, as `outlines.nested` draws it: all of it, whatever the size.

        facts: turn (of the contour, in turns) and key (of its noise, 16 hex digits; its words are the phase and the
        gradients). Raises SpecError for a class that does not exist.
        """
        if not 0 <= number < len(self._lines):
            raise SpecError(f"there are classes 0 to {len(self._lines) - 1}, not {number}.")
        turn = Draws.of(draws.key, "turn").one()
        stream = Draws.of(draws.key, "noise")
        turns = around(self._vertices[number])
        radius = np.ones(len(turns))
        if cells := self._cells[number]:
            phase = stream.one()
            radius += self._noise[number] * noise(stream.uniform(cells, -1.0, 1.0), turns, phase)
        x, y = star(radius, turns, self._oval[number], turn)
        return Drawing(nested(x, y, self._lines[number], size), {"turn": turn, "key": f"{stream.key:016x}"})


def _exponential(shares: NDArray[np.float64], low: int, high: int, mean: float) -> NDArray[np.int64]:
    """Whole parts of an exponential law of this mean, given that they are low to high, from uniform shares."""
    most = -np.expm1(-(high + 1 - low) / mean)
    drawn = low + np.floor(-mean * np.log1p(-shares * most)).astype(np.int64)
    return np.asarray(np.minimum(drawn, high), dtype=np.int64)
