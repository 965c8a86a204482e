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
    bounds,
    density,
    lane_starts,
    orbit,
    pixel_game,
    points_drawn,
    quantised,
    symbols,
    words_drawn,
)
from curate.fractal.invariants import box_dimension, moments
from curate.fractal.randomness import Draws, key, mix, words
from curate.fractal.systems import System, probabilities, sample


def with_shares(system: System) -> System:
    return System(system.maps, quantised(system.p))


def drawn(i: int) -> System:
    maps = sample(2 + i % 3, Draws.of(8, "drawn", i))
    return System(maps, quantised(probabilities(maps)))


def around(points: np.ndarray, margin: float = 0.01) -> View:
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    return View((float(low[0]), float(low[1])), (float(high[0]), float(high[1])))


def picked(system: System, bits: int, at: int) -> np.ndarray:
    return np.asarray(system.maps[symbols(system.p)[(bits >> (12 * at)) & 4095]])


def starts_by_hand(system: System, number: int) -> np.ndarray:
    """Lane l starts at step 16 (l + 1) of the warm-up orbit."""
    first = int(np.linalg.svd(system.maps[:, :, :2], compute_uv=False)[:, 0].argmin())
    x = np.linalg.solve(np.eye(2) - system.maps[first, :, :2], system.maps[first, :, 2])
    stream, out = words(mix(number ^ 0x5851F42D4C957F2D), 16 * LANES // PER_WORD + 1), []
    for at in range(16 * LANES):
        m = picked(system, int(stream[at // PER_WORD]), at % PER_WORD)
        x = m[:, :2] @ x + m[:, 2]
        if at % 16 == 15:
            out.append(x)
    return np.array(out)


def by_hand(system: System, view: View, size: int, points: int, number: int) -> np.ndarray:
    """The density by the definition: draw words, look up symbols, step in float64, floor."""
    low, high = np.array(view.low), np.array(view.high)
    canvas = np.zeros((size, size), dtype=np.uint32)
    count = points_drawn(points) // (LANES * PER_WORD)
    stream, starts = words(number, count * LANES), starts_by_hand(system, number)
    for lane in range(LANES):
        x = starts[lane]
        for word in range(count):
            for at in range(PER_WORD):
                m = picked(system, int(stream[word * LANES + lane]), at)
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


@pytest.mark.parametrize("i", range(4))
def test_lanes_start_on_the_warm_up_orbit(i: int) -> None:
    np.testing.assert_allclose(lane_starts(drawn(i), key(6, i)), starts_by_hand(drawn(i), key(6, i)), atol=1e-12)


def test_lanes_start_in_the_invariant_measure() -> None:
    """Mean and covariance of the starts over many keys; the variance of the mean is that of one orbit at most."""
    system = drawn(1)
    exact = moments(system)
    found = np.concatenate([lane_starts(system, key(7, i)) for i in range(500)])
    off = found.mean(axis=0) - exact.mean
    assert off @ np.linalg.solve(exact.of_mean / len(found), off) < 18.4  # chi-squared(2), one in 10,000
    np.testing.assert_allclose(np.cov(found.T), exact.covariance, rtol=0.1, atol=0.05 * np.trace(exact.covariance))


@pytest.mark.parametrize("i", range(4))
def test_the_pixel_game_played_with_arrays_is_the_density(i: int) -> None:
    """Another renderer needs nothing else: float32 arrays of lanes give the canvas bit for bit."""
    system, number, size = drawn(i), key(8, i), 50
    view = bounds(system, number)
    game = pixel_game(system, view, size, number)
    assert (game.table.dtype, game.starts.dtype, game.symbols.dtype) == (np.float32, np.float32, np.uint8)
    stream = words(game.key, words_drawn(3000) * LANES).reshape(-1, LANES)
    canvas, (x, y) = np.zeros((size, size), dtype=np.uint32), game.starts.T
    for word in stream:
        for at in range(PER_WORD):
            a, b, e, c, d, f = game.table[game.symbols[(word >> np.uint64(12 * at)) & np.uint64(4095)]].T
            x, y = a * x + (b * y + e), c * x + (d * y + f)
            inside = (x >= 1) & (x < size + 1) & (y >= 1) & (y < size + 1)
            np.add.at(canvas, (x[inside].astype(int) - 1, y[inside].astype(int) - 1), 1)
    np.testing.assert_array_equal(density(system, view, size, 3000, number), canvas)


@pytest.mark.parametrize("i", range(4))
def test_bounds_hold_the_pilot_and_are_tight(i: int) -> None:
    system = drawn(i)
    view, points = bounds(system, key(9, i), 5000), orbit(system, 5000, key(9, i))
    low, high = np.array(view.low), np.array(view.high)
    assert (points > low).all()
    assert (points < high).all()
    extent = points.max(axis=0) - points.min(axis=0)
    np.testing.assert_allclose(high - low, extent, rtol=1e-4)
    assert int(density(system, view, 300, 5000, key(9, i)).sum()) == points_drawn(5000)


def test_bounds_of_a_line_and_of_what_expands() -> None:
    line = System(np.array([[[0.5, 0, x], [0, 0.5, 3.0]] for x in (0.0, 0.5)]), np.full(2, 0.5))  # y is 6 everywhere
    view = bounds(line, 1, 5000)
    assert 0 < view.high[1] - view.low[1] < 1e-4
    assert int(density(line, view, 64, 5000, 1).sum()) == points_drawn(5000)
    with pytest.raises(SpecError, match="leaves every bound"):
        bounds(System(np.array([[[1.5, 0, x], [0, 1.5, 1]] for x in (0, 1)]), np.full(2, 0.5)), 1)


def test_a_map_without_a_fixed_point_starts_at_the_origin() -> None:
    slide = System(np.array([[[1.0, 0, 1], [0, 1, 0]]]), np.ones(1))
    np.testing.assert_array_equal(lane_starts(slide, 1)[:, 0], 16.0 * np.arange(1, LANES + 1))


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
    for p in ([1 / 3] * 3, [0.5, 0.25], [1.5, -0.5], [0.5, float("nan")]):
        with pytest.raises(SpecError, match="multiples"):
            symbols(np.array(p))
        with pytest.raises(SpecError, match="multiples"):
            orbit(System(np.zeros((len(p), 2, 3)), np.array(p)), 10, 1)
    for wrong, words_of in (([0.0, 0.0], "sum"), ([float("nan"), 1.0], "sum"), ([2.0, -1.0], "negative")):
        with pytest.raises(SpecError, match=words_of):
            quantised(np.array(wrong))
    with pytest.raises(SpecError, match="256"):
        quantised(np.ones(300))
