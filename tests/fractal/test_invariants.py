from __future__ import annotations

import numpy as np
import pytest
from known_sets import SETS, SIERPINSKI, orbit

from curate.errors import SpecError
from curate.fractal.invariants import box_dimension, moments, multifractal, similarity_dimension
from curate.fractal.randomness import Draws
from curate.fractal.systems import System, probabilities, sample


@pytest.mark.parametrize("name", SETS)
def test_moments_of_known_sets(name: str) -> None:
    system, _, mean, (xx, xy, yy) = SETS[name]
    exact = moments(system)
    np.testing.assert_allclose(exact.mean, mean, atol=1e-5)
    np.testing.assert_allclose(exact.covariance, [[xx, xy], [xy, yy]], atol=1e-5)


@pytest.mark.parametrize("name", ["sierpinski", "koch", "dragon", "carpet"])
def test_similarity_dimension_of_known_sets(name: str) -> None:
    system, dimension, _, _ = SETS[name]
    assert dimension is not None
    assert similarity_dimension(system) == pytest.approx(dimension, abs=1e-12)


def test_orbits_agree_with_the_exact_mean_and_its_variance() -> None:
    """z^T (V / n)^-1 z is chi-squared with two degrees of freedom: over 24 systems its mean is 2 (s.e. 0.41)."""
    values = []
    for i in range(24):
        maps = sample(2 + i % 3, Draws.of(3, "orbits", i))
        system = System(maps, probabilities(maps))
        exact, points = moments(system), orbit(system, 20_000, i)
        off = points.mean(axis=0) - exact.mean
        values.append(off @ np.linalg.solve(exact.of_mean / len(points), off))
    assert 0.6 < np.mean(values) < 3.6
    assert np.mean(np.array(values) > 5.99) <= 0.21


def test_box_dimension_of_the_triangle() -> None:
    assert box_dimension(orbit(SIERPINSKI, 200_000, 1), (3, 7)) == pytest.approx(1.585, abs=0.06)
    assert box_dimension(np.zeros((5, 2))) == 0.0


def test_multifractal_dimensions() -> None:
    third = np.full(3, 1 / 3)
    for q in (-1.0, 0.0, 0.5, 1.0, 2.0):  # equal weights: one dimension
        assert multifractal(np.full(3, 0.5), third, q) == pytest.approx(np.log(3) / np.log(2), abs=1e-9)
    p = np.array([0.2, 0.3, 0.5])
    expected = {q: np.log((p**q).sum()) / np.log(0.5) / (q - 1) for q in (0.0, 2.0, 3.0)}  # one ratio: closed form
    for q, value in expected.items():
        assert multifractal(np.full(3, 0.5), p, q) == pytest.approx(value, abs=1e-9)
    near = multifractal(np.full(3, 0.5), p, 1.0 + 1e-6)
    assert multifractal(np.full(3, 0.5), p, 1.0) == pytest.approx(near, abs=1e-4)


def test_a_system_that_does_not_contract() -> None:
    maps = np.tile(np.array([[[1.2, 0, 0], [0, 1.2, 1]]]), (2, 1, 1))
    system = System(maps, np.array([0.5, 0.5]))
    with pytest.raises(SpecError, match="does not contract"):
        moments(system)
    with pytest.raises(SpecError, match="does not contract"):
        similarity_dimension(system)
