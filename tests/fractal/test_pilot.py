from __future__ import annotations

import numpy as np
import pytest
from known_sets import DRAGON, KOCH, MCMULLEN, SIERPINSKI

from curate.fractal.chaos import orbit, quantised
from curate.fractal.invariants import box_dimension, moments
from curate.fractal.pilot import CELLS, PILOT, POINTS, REACH, SIDE, survey, view_of
from curate.fractal.systems import System

SQUARE = System(np.array([[[0.5, 0, x], [0, 0.5, y]] for x in (0, 0.5) for y in (0, 0.5)]), np.full(4, 0.25))


def shares(system: System) -> System:
    return System(system.maps, quantised(system.p))


def test_bounds_of_the_triangle() -> None:
    seen = survey(shares(SIERPINSKI), moments(SIERPINSKI))
    assert seen is not None
    np.testing.assert_allclose(seen.view.low, (0.0, 0.0), atol=3e-3)
    np.testing.assert_allclose(seen.view.high, (1.0, np.sqrt(3) / 2), atol=3e-3)
    points = orbit(shares(SIERPINSKI), POINTS, PILOT)
    assert (points > seen.view.low).all()
    assert (points < seen.view.high).all()


def test_fill_of_a_square_is_that_of_independent_points() -> None:
    """Uniform on a square, so a pixel stays empty with probability (1 - 1 / pixels)^points."""
    seen = survey(SQUARE, moments(SQUARE))
    assert seen is not None
    assert seen.fill == pytest.approx(1.0 - (1.0 - 1.0 / SIDE**2) ** POINTS, abs=0.004)
    assert seen.dimension == pytest.approx(2.0, abs=0.02)


@pytest.mark.parametrize(
    ("system", "dimension"), [(SIERPINSKI, 1.585), (KOCH, 1.262), (MCMULLEN, 1.369), (DRAGON, None)]
)
def test_dimension_is_that_of_the_points(system: System, dimension: float | None) -> None:
    seen = survey(shares(system), moments(system))
    assert seen is not None
    points = orbit(shares(system), POINTS, PILOT)
    assert seen.dimension == pytest.approx(box_dimension(points, (3, 7)), abs=0.02)  # the grids differ by a hair
    if dimension is not None:
        assert seen.dimension == pytest.approx(dimension, abs=0.08)


def test_cells_are_counts_around_the_mean() -> None:
    for system in (SIERPINSKI, DRAGON, KOCH):
        system = shares(system)
        exact = moments(system)
        seen, points = survey(system, exact), orbit(system, POINTS, PILOT)
        assert seen is not None
        deviation = np.sqrt(np.diag(exact.covariance))
        edges = [
            np.linspace(m - REACH * d, m + REACH * d, CELLS + 1) for m, d in zip(exact.mean, deviation, strict=True)
        ]
        expected = np.histogram2d(points[:, 0], points[:, 1], bins=edges)[0]
        assert np.abs(seen.cells - expected).sum() <= 2 * POINTS / 5_000  # float32 moves few points to another cell


def test_without_exact_moments_the_pilots_own_serve() -> None:
    for system in (SIERPINSKI, DRAGON):
        system = shares(system)
        exact, without = moments(system), survey(system, None)
        assert without is not None
        np.testing.assert_allclose(without.covariance, exact.covariance, atol=0.01 * exact.covariance.max())


def test_points_and_runaways_have_no_bounds() -> None:
    half = np.full(2, 0.5)
    point = np.tile(np.array([[[0.5, 0, 1.0], [0, 0.5, 2.0]]]), (2, 1, 1))
    assert view_of(System(point, half)) is None
    away = np.tile(np.array([[[3.0, 0, 1.0], [0, 2.0, 1.0]]]), (2, 1, 1))
    assert survey(System(away, half), None) is None
    line = np.array([[[0.5, 0, 0.0], [0, 0.5, 0.0]], [[0.5, 0, 0.5], [0, 0.5, 0.0]]])
    assert survey(System(line, half), moments(System(line, half))) is not None
