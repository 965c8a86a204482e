from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.fractal.anderson2022 import binary, counts, graded, orbit, region
from curate.fractal.chaos import View
from curate.fractal.randomness import Draws
from curate.fractal.systems import System, probabilities, sample, sample_anderson2022


@pytest.fixture(scope="module")
def published() -> System:
    """The system of the golden values: numpy's PCG64, seed 42, three maps."""
    maps = sample_anderson2022(3, np.random.default_rng(42))
    return System(maps, probabilities(maps))


def test_the_published_picture(published: System) -> None:
    """Measured on the paper's own code with numba's generator seeded 123, whose uniforms are RandomState(123)'s."""
    points = orbit(published, np.random.RandomState(123).rand(100_000))
    box = region(points)
    np.testing.assert_allclose(box.low, (-1.250461, -1.39092282), rtol=0, atol=5e-9)
    np.testing.assert_allclose(box.high, (1.4555509, 1.1281829), rtol=0, atol=5e-9)
    canvas = counts(points, 256)
    shape = binary(canvas)
    assert int(shape.sum()) == 7221
    assert hashlib.sha256(shape.tobytes()).hexdigest()[:16] == "16910ab379026561"
    assert int(canvas.max()) == 87
    assert int(canvas.sum()) == 100_000  # the box is of these points, so none is outside
    shares = graded(canvas)
    assert shares.max() == 1.0
    np.testing.assert_allclose(shares * 87, canvas, rtol=1e-15)


def plain(system: System, uniforms: np.ndarray) -> np.ndarray:
    """The chaos game in Python floats, by the definition."""
    maps, total, cumulative = system.maps.tolist(), 0.0, []
    for share in system.p.tolist():
        total += share
        cumulative.append(total)
    x, y = np.linalg.solve(np.eye(2) - system.maps[0, :, :2], system.maps[0, :, 2]).tolist()
    out = []
    for r in uniforms.tolist():
        k = next((i for i, bound in enumerate(cumulative) if r < bound), len(maps) - 1)
        (a, b, e), (c, d, f) = maps[k]
        x, y = a * x + b * y + e, c * x + d * y + f
        out.append((x, y))
    return np.array(out)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**40), st.integers(4, 40))
def test_points_are_the_definition_bit_for_bit(n: int, seed: int, size: int) -> None:
    draws = Draws.of(seed, "parity")
    maps = sample(n, draws)
    system, uniforms = System(maps, probabilities(maps)), draws.uniform(200)
    points = orbit(system, uniforms)
    np.testing.assert_array_equal(points, plain(system, uniforms))
    view = View((-0.5, -0.6), (0.4, 0.7))  # inside the attractor: points on all sides are outside
    canvas = np.zeros((size, size), dtype=np.uint32)
    for x, y in points.tolist():
        at = int((x + 0.5) * (size - 1) / 0.9), int((y + 0.6) * (size - 1) / (0.7 + 0.6))
        if min(at) >= 0 and max(at) < size:
            canvas[at] += 1
    np.testing.assert_array_equal(counts(points, size, view), canvas)


def test_the_published_fault_doubles_the_first_row() -> None:
    """Uniform points on the unit square, the middle of it in view: cutting toward zero doubles row and column 0."""
    flat = System(np.array([[[0.5, 0, x], [0, 0.5, y]] for x in (0, 0.5) for y in (0, 0.5)]), np.full(4, 0.25))
    canvas = counts(orbit(flat, Draws.of(4).uniform(400_000)), 32, View((0.25, 0.25), (0.75, 0.75)))
    rows, columns = canvas[:, 1:].sum(axis=1), canvas[1:].sum(axis=0)
    for line in (rows, columns):
        assert line[0] / line[1:].mean() == pytest.approx(2.0, abs=0.1)


def test_degenerate_systems() -> None:
    point = System(np.zeros((2, 2, 3)), np.full(2, 0.5))  # all points at the origin: spans of 0 count as 1
    canvas = counts(orbit(point, Draws.of(1).uniform(10)), 8)
    assert int(canvas[0, 0]) == 10 == int(canvas.sum())
    assert graded(np.zeros((3, 3), dtype=np.uint32)).sum() == 0.0
    one = np.zeros((2, 2, 3))
    one[0, :, :2], one[1, :, 2] = np.eye(2), 1.0
    with pytest.raises(SpecError, match="fixed point"):
        orbit(System(one, np.full(2, 0.5)), np.zeros(4))
    with pytest.raises(SpecError, match="no points"):
        region(np.empty((0, 2)))


def test_probabilities_that_are_no_numbers_pick_the_last_map() -> None:
    maps = np.zeros((3, 2, 3))
    maps[:, 0, 2] = 1.0, 2.0, 3.0
    np.testing.assert_array_equal(orbit(System(maps, np.full(3, np.nan)), np.array([0.0, 0.9]))[:, 0], 3.0)


@pytest.mark.filterwarnings("error")
def test_an_orbit_that_leaves_the_numbers_stops_there() -> None:
    maps = np.zeros((2, 2, 3))
    maps[0, :, :2], maps[0, :, 2] = np.eye(2) * 1e10, 1.0
    points = orbit(System(maps, np.array([1.0, 0.0])), np.zeros(100))
    assert len(points) < 100
    away = maps.copy()
    away[1] = maps[0] * -1.0
    points = orbit(System(away, np.array([0.5, 0.5])), np.full(100, 0.7))
    assert 20 < len(points) < 40  # 10 digits a step
    assert np.isfinite(points).all()
