"""Classes that are two waves around a circle, after VisualAtom (Takashima et al., "Visual Atoms: Pre-Training Vision
Transformers with Sinusoidal Waves", CVPR 2023): radius 1 + a1 sin(n1 t) + a2 sin(n2 t) + noise, and smaller copies
nested in it.

A class is its two whole frequencies, the amplitudes, the strength and fineness of its noise, and its numbers of
vertices and lines. An image draws its own noise of that kind and its own turn. The published ranges are the defaults:
frequencies 0 to 20 that differ unless both are 0, 200 to 1,000 vertices, 1 to 200 lines. Ours, since we know no
published numbers: the amplitudes, how strong and fine the noise is, that all lines of an image share it (they are
copies, so they never cross), that their sizes are evenly spaced, the turn.
"""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl

from curate.errors import SpecError
from curate.fractal.families.base import Drawing
from curate.fractal.families.parameters import check, fineness, spread, table_of, whole
from curate.fractal.outlines import around, nested, noise, star
from curate.fractal.randomness import Draws, key, words
from curate.fractal.specification import FractalOptions, Sinusoids

SCHEMA: dict[str, pl.DataType] = {
    "frequency_1": pl.Int64(),
    "frequency_2": pl.Int64(),
    "amplitude_1": pl.Float64(),
    "amplitude_2": pl.Float64(),
    "noise": pl.Float64(),
    "cells": pl.Int64(),
    "vertices": pl.Int64(),
    "lines": pl.Int64(),
}
"""Parameters of a class. frequency_1 is below frequency_2 unless both are 0: a sum has no order. Amplitudes and noise
are shares of the mean radius; a wave of frequency 0 is none and has amplitude 0. cells: steps of the noise around the
circle, fewer than vertices; 0 without noise."""


def pairs(low: int, high: int) -> list[tuple[int, int]]:
    """All pairs of different frequencies, the lower first, and (0, 0) where 0 is one of them: 211 for 0 to 20."""
    both_none = [(0, 0)] if low == 0 else []
    return both_none + list(itertools.combinations(range(low, high + 1), 2))


def search(options: Sinusoids, classes: int, seed: int) -> pl.DataFrame:
    """Every pair of frequencies once, in an order of the seed, then every pair again; what classes of the same pair
    differ in is spread evenly. One row each: class, system, and the columns of SCHEMA.

    More classes of a seed begin with the fewer. Memory: some 300 bytes a class. Raises SpecError when the options
    leave fewer different ones.
    """
    choice = np.array(pairs(*options.frequencies), dtype=np.int64)
    order = Draws.of(seed, "sinusoids").permutation(len(choice))
    number = np.arange(classes, dtype=np.int64)
    chosen = order[number % len(choice)]
    starts = np.stack([words(key(seed, "sinusoids", pair), 6) for pair in range(len(choice))])
    at = spread(starts[chosen], (number // len(choice)).astype(np.uint64))
    first, second = choice[chosen, 0], choice[chosen, 1]
    low, high = options.amplitude
    strength, vertices = options.noise * at[:, 2], whole(at[:, 4], *options.vertices)
    return table_of(
        "sinusoids",
        {
            "frequency_1": first,
            "frequency_2": second,
            "amplitude_1": np.where(first > 0, low + (high - low) * at[:, 0], 0.0),
            "amplitude_2": np.where(second > 0, low + (high - low) * at[:, 1], 0.0),
            "noise": strength,
            "cells": fineness(at[:, 3], *options.cells, strength, vertices),
            "vertices": vertices,
            "lines": whole(at[:, 5], *options.lines),
        },
    )


class SinusoidsFamily:
    """The classes of `search`, drawn. Memory: some 300 bytes a class."""

    def __init__(self, options: FractalOptions, table: pl.DataFrame) -> None:
        """table: as `search` returns it, also after a round trip through Parquet.

        Raises SpecError when the options are of another family or the table is damaged or of another one.
        """
        if options.sinusoids is None:
            raise SpecError("these options have no sinusoids, so they do not say how to draw them.")
        check("sinusoids", table, SCHEMA)
        self.table = table
        self._rows = list(zip(*(table[name].to_list() for name in SCHEMA), strict=True))

    def draw(self, number: int, size: int, draws: Draws) -> Drawing:
        """Class `number` on a canvas of `size` pixels, as `outlines.nested` draws it: all of it, whatever the size.

        facts: turn (of the figure, in turns) and key (of its noise, 16 hex digits; its words are the phase and the
        gradients). Raises SpecError for a class that does not exist.
        """
        if not 0 <= number < len(self._rows):
            raise SpecError(f"there are classes 0 to {len(self._rows) - 1}, not {number}.")
        first, second, wave_1, wave_2, strength, cells, vertices, lines = self._rows[number]
        turn = Draws.of(draws.key, "turn").one()
        stream = Draws.of(draws.key, "noise")
        turns = around(vertices)
        radius = np.ones(vertices)
        for frequency, amplitude in ((first, wave_1), (second, wave_2)):
            if frequency:
                radius += amplitude * np.sin(turns * (2.0 * np.pi * frequency))
        if cells:
            phase = stream.one()
            radius += strength * noise(stream.uniform(cells, -1.0, 1.0), turns, phase)
        x, y = star(radius, turns, 1.0, turn)
        return Drawing(nested(x, y, lines, size), {"turn": turn, "key": f"{stream.key:016x}"})
