"""Classes that are iterated function systems: each image a chaos game of its own, jittered, moved and zoomed."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.chaos import View, density, quantised
from curate.fractal.classes import SCHEMA, name_of
from curate.fractal.families.base import Drawing
from curate.fractal.jitter import jittered
from curate.fractal.patch import pattern, stamp
from curate.fractal.pilot import view_of
from curate.fractal.randomness import Draws, key
from curate.fractal.specification import FractalOptions, Ifs
from curate.fractal.systems import System, probabilities, window

LEAST_POINTS = 100
WINDOWS = 4
"""Windows tried until one shows something of the attractor; then all of it is shown."""


class IfsFamily:
    """The classes of `classes.find`, drawn. Memory: 48 bytes a map and some 150 bytes a class."""

    def __init__(self, options: FractalOptions, table: pl.DataFrame) -> None:
        """table: as `classes.find` returns it, also after a round trip through Parquet.

        Raises SpecError when the options are of another family, columns are missing, classes are not 0, 1, 2 and so
        on, or the maps of a class do not give the name of its system.
        """
        if options.ifs is None:
            raise SpecError("these options have no ifs, so they do not say how to draw iterated function systems.")
        needed = ("class", "system", "n", "maps", "p", "low", "high")
        if missing := [name for name in needed if table.schema.get(name) != SCHEMA[name]]:
            raise SpecError(f"the table of classes has no {', '.join(missing)} of the type that ifs needs.")
        if table["class"].to_list() != list(range(table.height)):
            raise SpecError("the table of classes is damaged: class does not count from 0, row by row.")
        self.table = table
        self._ifs: Ifs = options.ifs
        self._size = options.size
        for name, times in (("maps", 6), ("p", 1)):
            if not (table[name].list.len() == times * table["n"]).fill_null(False).all():
                raise SpecError(f"the table of classes is damaged: n and {name} do not fit each other.")
        for name in ("low", "high"):
            if not (table[name].list.len() == 2).fill_null(False).all():
                raise SpecError(f"the table of classes is damaged: {name} is not x and y.")
        self._maps, self._p = _flat(table["maps"]).reshape(-1, 2, 3), _flat(table["p"])
        self._ends = np.concatenate([[0], np.cumsum(table["n"].to_numpy())]).astype(np.int64)
        self._low, self._high = _flat(table["low"]).reshape(-1, 2), _flat(table["high"]).reshape(-1, 2)
        for number, name in enumerate(table["system"].to_list()):
            if name_of(self.system(number)) != name:
                raise SpecError(f"the table of classes is damaged: the maps of class {number} are not system {name}.")

    def system(self, number: int) -> System:
        """Maps and probabilities of a class, without jitter; views of the table's memory."""
        start, end = self._ends[number], self._ends[number + 1]
        return System(self._maps[start:end], self._p[start:end])

    def draw(self, number: int, size: int, draws: Draws) -> Drawing:
        """Class `number` on a canvas of `size` pixels: its points, as patterns when the options say so.

        facts: jitter (what it changed), view (low x, low y, high x, high y), points, patch (0: none) and key (of the
        symbols, 16 hex digits): enough to draw the same again with `chaos.density` and `patch.stamp`. Raises SpecError
        for a class that does not exist.
        """
        if not 0 <= number < self.table.height:
            raise SpecError(f"there are classes 0 to {self.table.height - 1}, not {number}.")
        options, address = self._ifs, draws.key
        system, view, facts = self._jittered(number, address)
        points = max(LEAST_POINTS, round(options.points * (size / self._size) ** 2))
        stream = key(address, "points")
        window_draws = Draws.of(address, "window")
        for left in range(WINDOWS, -1, -1):
            seen = self._window(view, window_draws) if left else view
            counts = density(system, seen, size, points, stream)
            if counts.max() > 0:
                break
        mask = 0
        if options.patch:
            mask = pattern(Draws.of(address, "patch"))
            counts = stamp(counts, mask)
        where = [*seen.low, *seen.high]
        return Drawing(
            counts, {"jitter": facts, "view": where, "points": points, "patch": mask, "key": f"{stream:016x}"}
        )

    def _jittered(self, number: int, address: int) -> tuple[System, View, dict[str, Any]]:
        """The system of this image, its bounds and what was changed."""
        options, system = self._ifs, self.system(number)
        (low_x, low_y), (high_x, high_y) = self._low[number].tolist(), self._high[number].tolist()
        view = View((low_x, low_y), (high_x, high_y))
        if options.jitter.kind == "none":
            return system, view, {}
        maps, facts = jittered(
            system.maps, options.jitter, Draws.of(address, "jitter"), options.sigma or window(system.n)
        )
        if maps is system.maps:  # nothing changed
            return system, view, facts
        p = system.p
        if options.jitter.kind != "fractaldb":  # the published jitter of FractalDB keeps the probabilities of the class
            p = quantised(probabilities(maps, options.probability, options.floor))
        moved = System(maps, p)
        bounds = view_of(moved)
        if bounds is None:
            return system, view, {**facts, "undone": "the jittered system has no bounds"}
        return moved, bounds, facts

    def _window(self, view: View, draws: Draws) -> View:
        """The view moved by up to `centre` of its extent and zoomed, on each axis independently."""
        options = self._ifs
        shift, zoom = options.centre, options.zoom
        move_x, move_y = draws.one(-shift, shift), draws.one(-shift, shift)
        wide_x, wide_y = draws.one(*zoom), draws.one(*zoom)
        low_x, high_x = _moved(view.low[0], view.high[0], move_x, wide_x)
        low_y, high_y = _moved(view.low[1], view.high[1], move_y, wide_y)
        return View((low_x, low_y), (high_x, high_y))


def _moved(low: float, high: float, move: float, wide: float) -> tuple[float, float]:
    extent = high - low
    centre, half = low + extent * (0.5 + move), extent * wide / 2.0
    return centre - half, centre + half


def _flat(column: pl.Series) -> NDArray[np.float64]:
    """All numbers of a column of lists, one list after the other."""
    return np.ascontiguousarray(column.explode().to_numpy(), dtype=np.float64)
