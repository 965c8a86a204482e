from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
from figures import apart, connected

from curate.errors import SpecError
from curate.fractal.families.parameters import table_of
from curate.fractal.families.sinusoids import SinusoidsFamily, pairs, search
from curate.fractal.outlines import MARGIN, around, nested, noise, star
from curate.fractal.randomness import Draws
from curate.fractal.specification import Contours, FractalOptions, Sinusoids


def family(classes: int, seed: int = 0, **options: Any) -> SinusoidsFamily:
    chosen = Sinusoids(**options)
    return SinusoidsFamily(FractalOptions(sinusoids=chosen, classes=classes), search(chosen, classes, seed))


def plain(first: int, second: int, amplitude: float, lines: int = 1, vertices: int = 1000) -> SinusoidsFamily:
    """One class without noise."""
    row = {
        "frequency_1": first,
        "frequency_2": second,
        "amplitude_1": amplitude if first else 0.0,
        "amplitude_2": amplitude if second else 0.0,
        "noise": 0.0,
        "cells": 0,
        "vertices": vertices,
        "lines": lines,
    }
    table = table_of("sinusoids", {name: np.array([value]) for name, value in row.items()})
    return SinusoidsFamily(FractalOptions(sinusoids=Sinusoids(), classes=1), table)


def test_frequencies_differ_unless_both_are_none() -> None:
    every = pairs(0, 20)
    assert len(every) == len(set(every)) == 211 == 1 + math.comb(21, 2)
    assert (0, 0) in every
    assert all(low < high for low, high in every if (low, high) != (0, 0))
    assert pairs(4, 5) == [(4, 5)]
    assert pairs(0, 0) == [(0, 0)]


def test_classes_take_every_pair_before_any_again() -> None:
    table = search(Sinusoids(), 1000, 3)
    assert table["system"].n_unique() == 1000
    assert not table.drop("class", "system").is_duplicated().any()
    chosen = list(zip(table["frequency_1"], table["frequency_2"], strict=True))
    assert set(chosen[:211]) == set(chosen[211:422]) == set(pairs(0, 20))
    assert set(Counter(chosen).values()) == {4, 5}
    assert table.head(300).equals(search(Sinusoids(), 300, 3))
    other = search(Sinusoids(), 1000, 4)
    assert not set(table["system"]) & set(other["system"])
    assert chosen[:211] != list(zip(other["frequency_1"], other["frequency_2"], strict=True))[:211]


def test_parameters_fill_their_ranges() -> None:
    table = search(Sinusoids(), 2000, 1)
    for number in ("1", "2"):
        none = table[f"frequency_{number}"] == 0
        assert (table[f"amplitude_{number}"].filter(none) == 0.0).all()
        waves = table[f"amplitude_{number}"].filter(~none)
        assert 0.05 <= waves.min() < 0.06  # type: ignore[operator]
        assert 0.29 < waves.max() < 0.3  # type: ignore[operator]
        assert waves.mean() == pytest.approx(0.175, abs=0.01)
    assert table["vertices"].min() == 200
    assert table["vertices"].max() == 1000
    assert table["lines"].min() == 1
    assert table["lines"].max() == 200
    assert table["noise"].max() < 0.3  # type: ignore[operator]


@pytest.mark.parametrize("size", [16, 64, 256])
def test_without_waves_and_noise_it_is_a_circle(size: int) -> None:
    counts = plain(0, 0, 0.0).draw(0, size, Draws.of(1)).counts
    rows, columns = np.nonzero(counts)
    far = np.hypot(rows + 0.5 - size / 2, columns + 0.5 - size / 2)
    assert np.abs(far - size * (0.5 - MARGIN)).max() < 1.0


@pytest.mark.parametrize("frequency", [2, 3, 7, 20])
def test_one_wave_has_the_radius_of_its_formula(frequency: int) -> None:
    """Every pixel with ink lies within a pixel of the radius at its angle, in proportion; so the period is 1 / n."""
    size = 512
    made = plain(0, frequency, 0.1).draw(0, size, Draws.of(frequency))
    turns = around(200_000)
    x, y = star(1.0 + 0.1 * np.sin(2.0 * np.pi * frequency * turns), turns, 1.0, made.facts["turn"])
    scale = size * (1.0 - 2.0 * MARGIN) / max(np.ptp(x), np.ptp(y))
    middle = size / 2 - scale * np.array([x.max() + x.min(), y.max() + y.min()]) / 2
    rows, columns = np.nonzero(made.counts)
    angle = (np.arctan2(columns + 0.5 - middle[1], rows + 0.5 - middle[0]) / (2.0 * np.pi) - made.facts["turn"]) % 1.0
    radius = scale * (1.0 + 0.1 * np.sin(2.0 * np.pi * frequency * angle))
    far = np.hypot(rows + 0.5 - middle[0], columns + 0.5 - middle[1])
    slope = 1.0 + np.abs(0.1 * frequency * np.cos(2.0 * np.pi * frequency * angle) / (radius / scale))
    assert (np.abs(far - radius) <= slope).all()
    assert len(rows) > 4 * size / 2


def test_as_many_lines_as_the_class_has() -> None:
    for lines in (1, 5, 11):
        counts = plain(2, 5, 0.1, lines).draw(0, 300, Draws.of(lines)).counts
        assert connected(counts > 0, corners=True)[1] == lines


def test_a_class_is_what_its_row_says() -> None:
    """Drawn again from the row and the facts alone."""
    drawn = family(30)
    for number in (0, 3, 29):
        row = drawn.table.row(number, named=True)
        made = drawn.draw(number, 100, Draws.of("x", number))
        stream, turns = Draws(int(made.facts["key"], 16)), around(row["vertices"])
        phase = stream.one()
        radius = np.ones(len(turns))
        for wave in ("1", "2"):
            radius += row[f"amplitude_{wave}"] * np.sin(turns * (2.0 * np.pi * row[f"frequency_{wave}"]))
        radius += row["noise"] * noise(stream.uniform(row["cells"], -1.0, 1.0), turns, phase)
        again = nested(*star(radius, turns, 1.0, made.facts["turn"]), row["lines"], 100)
        np.testing.assert_array_equal(again, made.counts)


@pytest.mark.parametrize("size", [8, 16, 33, 256, 1024])
def test_all_of_a_figure_is_on_its_canvas(size: int) -> None:
    drawn = family(12)
    for number in range(12):
        counts = drawn.draw(number, size, Draws.of(size, number)).counts
        assert counts.dtype == np.uint32
        assert counts.shape == (size, size)
        rows, columns = np.nonzero(counts)
        edge = math.floor(size * MARGIN)
        assert min(rows.min(), columns.min()) >= edge
        assert max(rows.max(), columns.max()) <= size - 1 - edge


def test_the_address_decides_the_drawing() -> None:
    one, other = family(8), family(8)
    for number in range(8):
        a, b = one.draw(number, 64, Draws.of(3, number)), other.draw(number, 64, Draws.of(3, number))
        np.testing.assert_array_equal(a.counts, b.counts)
        assert a.facts == b.facts
        assert (a.counts != one.draw(number, 64, Draws.of(4, number)).counts).any()


def test_images_of_a_class_differ_less_than_classes() -> None:
    ratio, found = apart(family(20), 20, 4, 128)
    assert 0.01 < ratio < 0.6
    assert found > 0.9  # by chance 3 of 79


def test_what_is_refused() -> None:
    with pytest.raises(SpecError, match="different classes, not 50: widen"):
        search(Sinusoids(frequencies=(0, 0), noise=0.0, vertices=(200, 201), lines=(1, 3)), 50, 0)
    drawn = family(3)
    with pytest.raises(SpecError, match="classes 0 to 2, not -1"):
        drawn.draw(-1, 16, Draws.of(0))
    with pytest.raises(SpecError, match="no sinusoids"):
        SinusoidsFamily(FractalOptions(contours=Contours(), classes=3), drawn.table)
    with pytest.raises(SpecError, match="damaged"):
        SinusoidsFamily(
            FractalOptions(sinusoids=Sinusoids(), classes=3), drawn.table.with_columns(lines=pl.lit(5, pl.Int64))
        )
    wrongs: list[dict[str, Any]] = [{"frequencies": (4, 4)}, {"amplitude": (0.1, 0.4)}, {"lines": (9, 2)}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Sinusoids(**wrong)
