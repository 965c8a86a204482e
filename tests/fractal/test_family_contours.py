from __future__ import annotations

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from figures import apart, connected

from curate.errors import SpecError
from curate.fractal.families.contours import ContoursFamily, search
from curate.fractal.outlines import MARGIN, UNIT, around, nested, noise, star
from curate.fractal.randomness import Draws
from curate.fractal.specification import Contours, FractalOptions, Sinusoids


def family(classes: int, seed: int = 0, **options: Any) -> ContoursFamily:
    chosen = Contours(**options)
    return ContoursFamily(FractalOptions(contours=chosen, classes=classes), search(chosen, classes, seed))


def test_classes_follow_the_published_laws() -> None:
    classes = 4000
    table = search(Contours(), classes, 5)
    assert table["system"].n_unique() == classes
    assert not table.drop("class", "system").is_duplicated().any()
    vertices = np.sort(table["vertices"].to_numpy())
    assert (vertices.min(), vertices.max()) == (3, 200)
    counted = np.searchsorted(vertices, np.arange(3, 201), side="right") / classes
    law = np.cumsum(np.exp(-np.arange(3, 201) / 100.0))
    assert np.abs(counted - law / law[-1]).max() < 0.005
    lines = table["lines"].to_numpy()
    assert (lines.min(), lines.max()) == (1, 200)
    assert np.abs(np.bincount(lines, minlength=201)[1:] - classes / 200).max() <= 3
    ovals = table["oval"].to_numpy()  # longer by shorter of two U(1, 2), whose mean is a double integral
    grid = 1.0 + (np.arange(1000) + 0.5) / 1000.0
    exact = np.maximum(grid[:, None], grid) / np.minimum(grid[:, None], grid)
    assert (ovals >= 1.0).all()
    assert ovals.max() < 2.0
    assert ovals.mean() == pytest.approx(exact.mean(), abs=0.005)
    assert table["noise"].mean() == pytest.approx(0.25, abs=0.002)


def test_a_table_depends_on_the_seed_and_begins_as_a_smaller_one() -> None:
    table = search(Contours(), 50, 1)
    assert table.head(20).equals(search(Contours(), 20, 1))
    assert not set(table["system"]) & set(search(Contours(), 50, 2)["system"])


def test_a_class_is_what_its_row_says() -> None:
    """Drawn again from the row and the facts alone."""
    drawn = family(30)
    for number in (0, 3, 29):
        row = drawn.table.row(number, named=True)
        made = drawn.draw(number, 100, Draws.of("x", number))
        stream, turns = Draws(int(made.facts["key"], 16)), around(row["vertices"])
        phase = stream.one()
        radius = 1.0 + row["noise"] * noise(stream.uniform(row["cells"], -1.0, 1.0), turns, phase)
        again = nested(*star(radius, turns, row["oval"], made.facts["turn"]), row["lines"], 100)
        np.testing.assert_array_equal(again, made.counts)


def test_without_noise_contours_are_regular_polygons() -> None:
    """The ink of a regular polygon and its copies: perimeter x (lines + 1) / 2; as many lines as the class has."""
    drawn = family(6, vertices=(3, 9), lines=(1, 12), oval=(1.0, 1.0), noise=0.0)
    assert (drawn.table["cells"] == 0).all()
    for number in range(6):
        row, made = drawn.table.row(number, named=True), drawn.draw(number, 256, Draws.of(number))
        n, turn = row["vertices"], made.facts["turn"]
        angles = 2.0 * math.pi * (turn + np.arange(n) / n)
        extent = max(np.ptp(np.cos(angles)), np.ptp(np.sin(angles)))
        perimeter = 2.0 * n * math.sin(math.pi / n) * 256 * (1.0 - 2.0 * MARGIN) / extent
        assert made.counts.sum() / UNIT == pytest.approx(perimeter * (row["lines"] + 1) / 2, rel=1e-3)
        assert connected(made.counts > 0, corners=True)[1] == row["lines"]


def test_noise_is_about_as_strong_in_every_image() -> None:
    """Also where its steps are nearly as many as the vertices: the radii of polygons with one line, off a circle."""
    for vertices, cells in ((12, (3, 3)), (12, (60, 60)), (40, (39, 60)), (40, (20, 20))):
        drawn = family(1, vertices=(vertices, vertices), cells=cells, lines=(1, 1), oval=(1.0, 1.0), noise=0.9)
        rough = []
        for image in range(40):
            rows, columns = np.nonzero(drawn.draw(0, 128, Draws.of(image)).counts)
            far = np.hypot(rows - rows.mean(), columns - columns.mean())
            rough.append(far.std() / far.mean())
        bare = nested(*star(np.ones(vertices), around(vertices), 1.0, 0.1), 1, 128)
        rows, columns = np.nonzero(bare)
        far = np.hypot(rows - rows.mean(), columns - columns.mean())
        assert min(rough) > 1.5 * far.std() / far.mean()


def test_the_oval_is_that_of_the_class() -> None:
    """The axes of an ellipse from the second moments of what lies inside its outermost line."""
    drawn = family(5, vertices=(200, 200), lines=(1, 1), noise=0.0, oval=(1.0, 2.0))
    for number in range(4):
        counts = drawn.draw(number, 200, Draws.of(number)).counts
        rows, columns = np.nonzero(connected(counts == 0, corners=False)[0] != 1)
        small, large = np.linalg.eigvalsh(np.cov(rows, columns))
        assert math.sqrt(large / small) == pytest.approx(drawn.table["oval"][number], rel=0.01)


@pytest.mark.parametrize("size", [8, 16, 33, 256, 1024])
def test_all_of_a_contour_is_on_its_canvas(size: int) -> None:
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
    assert found > 0.5  # by chance 3 of 79


def test_what_is_refused() -> None:
    chosen = Contours(vertices=(3, 5), lines=(1, 2), oval=(1.0, 1.0), noise=0.0)
    with pytest.raises(SpecError, match="different classes, not 100: widen"):
        search(chosen, 100, 0)
    drawn = family(3)
    with pytest.raises(SpecError, match="classes 0 to 2, not 3"):
        drawn.draw(3, 16, Draws.of(0))
    with pytest.raises(SpecError, match="no contours"):
        ContoursFamily(FractalOptions(sinusoids=Sinusoids(), classes=3), drawn.table)
    with pytest.raises(SpecError, match="damaged"):
        ContoursFamily(
            FractalOptions(contours=Contours(), classes=3), drawn.table.with_columns(lines=pl.lit(5, pl.Int64))
        )
    for wrong in ({"lines": (5, 2)}, {"oval": (0.0, 1.0)}, {"noise": 1.0}, {"vertices": (2, 9)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Contours(**wrong)  # type: ignore[arg-type]
