from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_sets import CARPET, MCMULLEN, SETS, SIERPINSKI

from curate.errors import SpecError
from curate.fractal.chaos import (
    LANES,
    PER_WORD,
    RESOLUTION,
    View,
    density,
    orbit,
    points_drawn,
    quantised,
    start_of,
    symbols,
)
from curate.fractal.invariants import box_dimension, moments
from curate.fractal.randomness import Draws, key, words
from curate.fractal.systems import System, probabilities, sample


def with_shares(system: System) -> System:
    return System(system.maps, quantised(system.p))


def drawn(i: int) -> System:
    maps = sample(2 + i % 3, Draws.of(8, "drawn", i))
    return System(maps, quantised(probabilities(maps)))


def around(points: np.ndarray, margin: float = 0.01) -> View:
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    return View((float(low[0]), float(low[1])), (float(high[0]), float(high[1])))


def by_hand(system: System, view: View, size: int, points: int, number: int) -> np.ndarray:
    """The density by the definition: draw words, look up symbols, step in float64, floor."""
    low, high = np.array(view.low), np.array(view.high)
    table, canvas = symbols(system.p), np.zeros((size, size), dtype=np.uint32)
    count = points_drawn(points) // (LANES * PER_WORD)
    stream = words(number, count * LANES)
    for lane in range(LANES):
        x = start_of(system)
        for word in range(count):
            bits = int(stream[word * LANES + lane])
            for step in range(PER_WORD):
                m = system.maps[table[(bits >> (12 * step)) & 4095]]
                x = m[:, :2] @ x + m[:, 2]
                row, column = np.floor((x - low) / (high - low) * size).astype(int)
                if 0 <= row < size and 0 <= column < size:
                    canvas[row, column] += 1
    return canvas


@pytest.mark.parametrize("i", range(4))
def test_density_is_the_definition(i: int) -> None:
    system = drawn(i)
    view = around(orbit(system, 50_000, 1), 0.1)
    mine, plain = density(system, view, 64, 2000, key(5, i)), by_hand(system, view, 64, 2000, key(5, i))
    assert int(mine.sum()) == points_drawn(2000)
    assert np.abs(mine.astype(int) - plain.astype(int)).sum() <= 2 * 3  # float32 moves a point in 20,000 or so


def test_zoomed_in_nothing_is_added_at_the_edges() -> None:
    """Cutting toward zero would count points of (-1, 0) in row 0: twice as many there as next to it."""
    flat = System(np.array([[[0.5, 0, x], [0, 0.5, y]] for x in (0, 0.5) for y in (0, 0.5)]), np.full(4, 0.25))
    inner = density(flat, View((0.25, 0.25), (0.75, 0.75)), 32, 1_000_000, 3)
    assert abs(int(inner.sum()) - 250_000) < 4.5 * np.sqrt(250_000 * 0.75)
    expected = inner.sum() / 32
    for edge in (inner[0], inner[-1], inner[:, 0], inner[:, -1]):
        assert abs(int(edge.sum()) - expected) < 4.5 * np.sqrt(expected)


@pytest.mark.parametrize(("system", "cells"), [(SIERPINSKI, None), (CARPET, 27), (MCMULLEN, None)])
def test_moments_of_orbits(system: System, cells: int | None) -> None:
    """z^T (V / n)^-1 z of the mean, with V of one orbit: lanes are independent orbits of the same law."""
    made = with_shares(system)
    points, exact = orbit(made, 400_000, 11), moments(made)
    off = points.mean(axis=0) - exact.mean
    assert off @ np.linalg.solve(exact.of_mean / len(points), off) < 18.4  # chi-squared(2), one in 10,000
    np.testing.assert_allclose(np.cov(points.T), exact.covariance, atol=0.003)
    if cells:  # every cell of the carpet at level 3 has mass 8^-3
        at = np.floor(points * cells).astype(int).clip(0, cells - 1)
        counts = np.bincount(at[:, 0] * cells + at[:, 1], minlength=cells**2)
        filled = counts[counts > 0]
        assert len(filled) == 512


def test_cell_masses_of_the_triangle() -> None:
    """Level 5 has 243 cells of mass 3^-5 (up to the rounding of 1/3 to shares): chi-squared over them."""
    made = with_shares(SIERPINSKI)
    points = orbit(made, 300_000, 2)
    a = np.array([[1.0, 0.5], [0.0, np.sqrt(3) / 2]])
    u = np.linalg.solve(a, points.T).T  # coordinates along two sides
    mass, address = np.ones(len(u)), np.zeros(len(u), dtype=np.int64)
    for _ in range(5):
        third = np.where(u[:, 0] >= 0.5 - 1e-12, 1, np.where(u[:, 1] >= 0.5 - 1e-12, 2, 0))
        u = (u - np.array([[0, 0], [0.5, 0], [0, 0.5]])[third]) * 2
        address, mass = address * 3 + third, mass * made.p[third]
    counts = np.bincount(address, minlength=243)
    expected = np.zeros(243)
    expected[address] = mass * len(points)
    assert (expected > 0).all()
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 242 + 4.5 * np.sqrt(2 * 242)


@pytest.mark.parametrize("name", ["sierpinski", "koch", "carpet", "dragon"])
def test_dimensions_of_known_sets(name: str) -> None:
    system, dimension, _, _ = SETS[name]
    found = box_dimension(orbit(with_shares(system), 1_000_000, 4), (3, 8))
    assert dimension is not None
    assert 1.7 < found < 2.0 if name == "dragon" else found == pytest.approx(dimension, abs=0.06)


def test_a_conjugated_system_draws_the_same_picture() -> None:
    """Maps T f T^-1 give T(points): a transposed canvas, from the same symbols."""
    system = drawn(2)
    swap = np.array([[0.0, 1.0], [1.0, 0.0]])
    maps = np.concatenate([swap @ system.maps[:, :, :2] @ swap, (system.maps[:, :, 2] @ swap)[:, :, None]], axis=2)
    view = around(orbit(system, 50_000, 1), 0.1)
    turned = View((view.low[1], view.low[0]), (view.high[1], view.high[0]))
    mine = density(system, view, 128, 50_000, 9)
    other = density(System(maps, system.p), turned, 128, 50_000, 9)
    assert np.abs(mine.astype(int) - other.T.astype(int)).sum() <= 2 * 10


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40).filter(lambda p: sum(p) > 0.01))
def test_quantised_probabilities(p: list[float]) -> None:
    raw = np.array(p)
    shares = quantised(raw) * RESOLUTION
    assert shares.sum() == RESOLUTION
    assert (shares >= 1).all()
    wanted = raw / raw.sum() * RESOLUTION
    if (wanted >= 1).all():
        assert (np.abs(shares - wanted) < 1).all()
    assert np.array_equal(np.bincount(symbols(shares / RESOLUTION), minlength=len(p)), shares.astype(int))


def test_wrong_arguments_are_sentences() -> None:
    system = drawn(0)
    for size in (0, 20_000):
        with pytest.raises(SpecError, match="canvas"):
            density(system, View((0, 0), (1, 1)), size, 10, 1)
    for view in (View((0, 0), (0, 1)), View((0, 0), (1, float("inf")))):
        with pytest.raises(SpecError, match="shows nothing"):
            density(system, view, 8, 10, 1)
    with pytest.raises(SpecError, match="multiples"):
        symbols(np.array([1 / 3] * 3))
    with pytest.raises(SpecError, match="256"):
        quantised(np.ones(300))
