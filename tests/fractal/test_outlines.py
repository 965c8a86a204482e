from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from figures import connected
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.outlines import GRID, LONGEST, MARGIN, UNIT, around, nested, noise, star
from curate.fractal.randomness import Draws

Points = list[tuple[float, float]]


def figure(seed: int, vertices: int = 60, oval: float = 1.3) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A polygon of random radii."""
    draws = Draws.of("outlines", seed)
    return star(draws.uniform(vertices, 0.4, 1.0), around(vertices), oval, draws.one())


def waves(
    vertices: int, *parts: tuple[int, float], oval: float = 1.0, turn: float = 0.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A circle with waves of these frequencies and amplitudes."""
    turns = around(vertices)
    radius = np.ones(vertices)
    for frequency, amplitude in parts:
        radius += amplitude * np.sin(2.0 * np.pi * frequency * turns)
    return star(radius, turns, oval, turn)


def fitted(x: NDArray[np.float64], y: NDArray[np.float64], size: int) -> tuple[Points, tuple[float, float]]:
    """Where the vertices come to lie around the centre, and the centre: the rule in the words of `nested`."""
    extent = max(np.ptp(x), np.ptp(y))
    scale = size * (1.0 - 2.0 * MARGIN) / extent
    at = [(round(a * scale * GRID) / GRID, round(b * scale * GRID) / GRID) for a, b in zip(x, y, strict=True)]
    rows, columns = [a for a, _ in at], [b for _, b in at]
    return at, (size / 2 - (min(rows) + max(rows)) / 2, size / 2 - (min(columns) + max(columns)) / 2)


def plain(x: NDArray[np.float64], y: NDArray[np.float64], lines: int, size: int) -> tuple[NDArray[np.float64], ...]:
    """Length of line in each pixel, edge by edge, and how many pieces of edges are in it."""
    at, centre = fitted(x, y, size)
    lengths, visits = np.zeros((size, size)), np.zeros((size, size))
    for line in range(1, lines + 1):
        share = line / lines
        ends = [(centre[0] + share * a, centre[1] + share * b) for a, b in at]
        for start, end in zip(ends, ends[1:] + ends[:1], strict=True):
            cuts = {0.0, 1.0}
            for a, b in zip(start, end, strict=True):
                if a != b:
                    borders = range(math.floor(min(a, b)), math.ceil(max(a, b)) + 1)
                    cuts |= {t for border in borders if 0.0 < (t := (border - a) / (b - a)) < 1.0}
            ordered = sorted(cuts)
            for t, u in itertools.pairwise(ordered):
                row, column = (int(p + 0.5 * (t + u) * (q - p)) for p, q in zip(start, end, strict=True))
                lengths[row, column] += (u - t) * math.dist(start, end)
                visits[row, column] += 1
    return lengths, visits


@pytest.mark.parametrize(
    ("vertices", "lines", "size"), [(3, 1, 64), (4, 7, 40), (60, 1, 64), (60, 9, 64), (300, 5, 32), (17, 30, 16)]
)
def test_ink_is_the_length_of_line_in_a_pixel(vertices: int, lines: int, size: int) -> None:
    """Against a plain loop over edges and the borders they cross. Rounding down costs less than a unit a visit."""
    for seed in range(3):
        x, y = figure(seed, vertices)
        ink = nested(x, y, lines, size)
        lengths, visits = plain(x, y, lines, size)
        off = np.abs(ink - lengths * UNIT)
        assert (off <= visits + 1e-6).all()
        assert (ink[visits == 0] == 0).all()
        assert off.sum() < 0.02 * ink.sum()


@pytest.mark.parametrize(("lines", "size"), [(1, 16), (1, 256), (13, 200), (200, 64), (64, 1024)])
def test_a_line_loses_less_than_a_unit(lines: int, size: int) -> None:
    for seed in range(3):
        x, y = figure(seed)
        at, _ = fitted(x, y, size)
        whole = sum(math.dist(a, b) for a, b in zip(at, at[1:] + at[:1], strict=True))
        exact = sum(whole * line / lines * UNIT for line in range(1, lines + 1))
        assert -lines <= int(nested(x, y, lines, size).sum()) - exact <= 1e-3


@pytest.mark.parametrize(("lines", "size"), [(1, 16), (1, 256), (4, 256), (3, 1024)])
def test_no_noise_is_circles(lines: int, size: int) -> None:
    """All ink is within a pixel of a radius, and so much of it that the circles are closed and evenly strong."""
    x, y = star(np.ones(2000), around(2000), 1.0, 0.0)
    ink = nested(x, y, lines, size)
    rows, columns = np.nonzero(ink)
    far = np.hypot(rows + 0.5 - size / 2, columns + 0.5 - size / 2)
    radii = size * (0.5 - MARGIN) * np.arange(1, lines + 1) / lines
    assert np.abs(far[:, None] - radii).min(axis=1).max() < 1.0
    for radius in radii:
        near = np.abs(far - radius) < 1.0
        assert abs(ink[rows[near], columns[near]].sum() / UNIT / (2 * np.pi * radius) - 1.0) < 0.01
        spokes = np.floor(np.arctan2(rows[near] - (size - 1) / 2, columns[near] - (size - 1) / 2) / (2 * np.pi) * 16)
        assert len(np.unique(spokes)) == 16


def test_a_square_by_hand() -> None:
    """Sides of 15 pixels from half a pixel inside: 14 whole pixels and two halves each, corners with two halves."""
    ink = nested(np.array([-1.0, 1.0, 1.0, -1.0]), np.array([-1.0, -1.0, 1.0, 1.0]), 1, 16)
    expected = np.zeros((16, 16))
    expected[0, :] = expected[-1, :] = expected[:, 0] = expected[:, -1] = UNIT
    np.testing.assert_allclose(ink, expected, atol=3)
    assert ink.sum() == 4 * 15 * UNIT


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(3, 80), st.floats(1.0, 4.0), st.integers(1, 60), st.integers(16, 128))
def test_all_of_it_is_inside_and_spans_the_longer_side(
    seed: int, vertices: int, oval: float, lines: int, size: int
) -> None:
    x, y = figure(seed, vertices, oval)
    ink = nested(x, y, lines, size)
    rows, columns = np.nonzero(ink.any(axis=1))[0], np.nonzero(ink.any(axis=0))[0]
    margin = size * MARGIN - 2.0 / GRID
    for seen in (rows, columns):
        assert margin - 1.0 < seen.min()
        assert seen.max() < size - margin
    spans = [seen.max() + 1 - seen.min() for seen in (rows, columns)]
    assert abs(max(spans) - size * (1.0 - 2.0 * MARGIN)) <= 2.0
    assert max(abs(seen.min() + seen.max() + 1 - size) for seen in (rows, columns)) <= 2


@pytest.mark.parametrize("lines", [1, 3])
@pytest.mark.parametrize("size", [32, 64])
def test_borders_and_corners_of_pixels_are_met_once(size: int, lines: int) -> None:
    """Squares along the grid, and their diagonals through its corners: where rounding has most to spoil. The margin is
    a whole number of pixels here."""
    box = np.array([1.0, 1.0, -1.0, -1.0]), np.array([-1.0, 1.0, 1.0, -1.0])
    for x, y in (box, waves(4), waves(360), waves(3000)):
        lengths, visits = plain(x, y, lines, size)
        # along a border either side may have the ink: compare what both have
        ink = nested(x, y, lines, size)
        for axis in (0, 1):
            both = np.abs(ink.sum(axis=axis) - lengths.sum(axis=axis) * UNIT)
            assert (both <= visits.sum(axis=axis) + lines).all()
        assert abs(ink.sum() - lengths.sum() * UNIT) <= lines
    diamond = nested(np.array([1.0, 0.0, -1.0, 0.0]), np.array([0.0, 1.0, 0.0, -1.0]), 1, 32)
    assert set(np.unique(diamond)) <= {0, 362, 363}  # sqrt(2) x 256: only pixels on the diagonals have ink
    assert np.count_nonzero(diamond) == 60


@pytest.mark.parametrize("frequency", [2, 3, 5, 20])
def test_a_wave_comes_again_after_its_period(frequency: int) -> None:
    """Turned by a period, the figure is the same but for rounding to the grid; turned by half of one it is not."""
    vertices = 100 * frequency
    still = nested(*waves(vertices, (frequency, 0.3)), 3, 128).astype(float)
    again = nested(*waves(vertices, (frequency, 0.3), turn=1.0 / frequency), 3, 128).astype(float)
    half = nested(*waves(vertices, (frequency, 0.3), turn=0.5 / frequency), 3, 128).astype(float)
    assert np.abs(still - again).sum() < 0.01 * still.sum()
    assert np.abs(still - half).sum() > 0.5 * still.sum()


@pytest.mark.parametrize("lines", [1, 2, 7, 12])
def test_lines_are_closed_and_apart(lines: int) -> None:
    """As many connected lines as were asked for, and one more part that is empty: inside, between and outside."""
    for x, y in (waves(300, (3, 0.1), (5, 0.1)), waves(7, oval=1.7, turn=0.3), waves(1000)):
        counts = nested(x, y, lines, 256)
        assert connected(counts > 0, corners=True)[1] == lines
        assert connected(counts == 0, corners=False)[1] == lines + 1


@pytest.mark.parametrize("size", range(1, 16))
def test_the_smallest_canvases_have_ink(size: int) -> None:
    counts = nested(*waves(50, (3, 0.2)), 5, size)
    assert counts.shape == (size, size)
    assert counts.any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(16, 100))
def test_a_mirror_or_a_quarter_turn_only_moves_the_ink(seed: int, lines: int, size: int) -> None:
    x, y = figure(seed)
    ink = nested(x, y, lines, size).astype(np.int64)
    for other, back in (
        (nested(y, x, lines, size), np.transpose),
        (nested(-x, y, lines, size), np.flipud),
        (nested(-y, x, lines, size), lambda turned: np.rot90(turned, -1)),
    ):
        assert np.abs(back(other.astype(np.int64)) - ink).sum() < 0.02 * ink.sum()


def test_the_last_bits_of_sines_do_not_matter() -> None:
    """Vertices off by a few units in the last place, as between machines, give the same bytes."""
    for seed in range(20):
        x, y = figure(seed, 400)
        ink = nested(x, y, 20, 128)
        nudge = 1.0 + Draws.of("nudge", seed).uniform(400, -4.0, 4.0) * 2.0**-53
        np.testing.assert_array_equal(nested(x * nudge, y * nudge[::-1], 20, 128), ink)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(0.0, 60.0), st.floats(-2.0, 2.0))
def test_noise_is_gradient_noise(seed: int, cells: int, phase: float, at: float) -> None:
    """Against its formula for one point; 0 at the steps; at most 1; of period 1; continuous over the seam."""
    gradients = Draws.of("noise", seed).uniform(cells, -1.0, 1.0)
    place = at * cells + phase
    left = math.floor(place)
    t = place - left
    weight = 6 * t**5 - 15 * t**4 + 10 * t**3
    near, far = gradients[left % cells] * t, gradients[(left + 1) % cells] * (t - 1.0)
    expected = 2.0 * ((1.0 - weight) * near + weight * far)
    got = noise(gradients, np.array([at, at + 1.0]), phase)
    np.testing.assert_allclose(got, expected, atol=1e-9)
    np.testing.assert_allclose(noise(gradients, np.arange(cells) / cells), 0.0, atol=1e-9)
    many = noise(gradients, np.linspace(0.0, 1.0, 40 * cells + 1), phase)
    assert np.abs(many).max() <= 1.0
    assert np.abs(np.diff(many)).max() < 0.2
    assert abs(many[0] - many[-1]) < 1e-9


def test_noise_reaches_one_between_opposite_slopes() -> None:
    assert noise(np.array([1.0, -1.0]), np.array([0.25]))[0] == 1.0
    assert noise(np.array([1.0, 1.0]), np.array([0.25]))[0] == 0.0


@given(st.floats(1.0, 3.0), st.floats(0.0, 1.0))
@settings(max_examples=30, deadline=None)
def test_a_star_is_an_ellipse_turned(oval: float, turn: float) -> None:
    x, y = star(np.full(50, 2.0), around(50), oval, turn)
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    along, across = (x * cos + y * sin) / oval, y * cos - x * sin
    np.testing.assert_allclose(np.hypot(along, across), 2.0, rtol=1e-12)
    np.testing.assert_allclose(np.unwrap(np.arctan2(across, along)), 2.0 * np.pi * np.arange(50) / 50, atol=1e-9)


@pytest.mark.parametrize(("size", "lines", "says"), [(0, 1, "not 0"), (16385, 1, "not 16385"), (16, 0, "at least one")])
def test_sizes_that_cannot_be_are_refused(size: int, lines: int, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        nested(*figure(0), lines, size)


def test_polygons_that_cannot_be_are_refused() -> None:
    ones = np.ones(3)
    with pytest.raises(SpecError, match="extent"):
        nested(0.0 * ones, 0.0 * ones, 1, 16)
    with pytest.raises(SpecError, match="within"):
        nested(ones + np.arange(3), ones, 1, 16)
    with pytest.raises(SpecError, match="finite"):
        nested(np.array([-1.0, np.inf, 1.0]), ones * 0.0, 1, 16)
    n = 2 * (LONGEST // 16384) + 4  # back and forth across the largest canvas
    there = np.where(np.arange(n) % 2 == 0, -1.0, 1.0)
    with pytest.raises(SpecError, match="smaller canvas or fewer vertices"):
        nested(there, 0.0 * there, 1, 16384)
