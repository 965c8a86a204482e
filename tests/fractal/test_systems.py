from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.fractal.randomness import Draws
from curate.fractal.systems import System, _tilted, probabilities, sample, sample_anderson2022, sample_values, window


def test_the_papers_law_gives_its_golden_system() -> None:
    """Reference values measured from the paper's own code with numpy's PCG64, seed 42."""
    maps = sample_anderson2022(3, np.random.default_rng(42))
    assert maps[0, 0, 0] == pytest.approx(-0.4281126832669697, abs=1e-15)
    assert maps.sum() == pytest.approx(-1.0889288535464021, abs=1e-14)
    system = System(maps, probabilities(maps))
    assert system.sigma_factor == pytest.approx(4.413815585996291, abs=1e-13)
    np.testing.assert_allclose(
        system.singular_values, [(0.63166, 0.47886), (0.35453, 0.34414), (0.63728, 0.57218)], atol=5e-6
    )


def test_a_choice_of_sizes_draws_first() -> None:
    rng = np.random.default_rng(1)
    n = (2, 3, 4)[int(np.random.default_rng(1).integers(3))]
    assert sample_anderson2022((2, 3, 4), rng).shape == (n, 2, 3)


def test_the_papers_law_is_not_exchangeable_and_ours_is() -> None:
    """Means of the singular values per map: the spec's figures of 20,000 draws; ours equal over the maps."""
    rng = np.random.default_rng(0)
    theirs = np.mean(
        [np.linalg.svd(sample_anderson2022(2, rng)[:, :, :2], compute_uv=False) for _ in range(4000)], axis=0
    )
    np.testing.assert_allclose(theirs, [(0.63, 0.36), (0.90, 0.75)], atol=0.02)
    draws = Draws.of(5, "test")
    for n, expected in [(2, (0.81, 0.53)), (3, (0.70, 0.36)), (4, (0.64, 0.28))]:
        ours = np.array([sample_values(draws.one(*window(n)), n, draws) for _ in range(4000)])
        spread = ours.std(axis=0) / np.sqrt(len(ours))
        mean = ours.mean(axis=0)
        assert (np.abs(mean - mean.mean(axis=0)) < 4.5 * spread).all()
        np.testing.assert_allclose(mean.mean(axis=0), expected, atol=0.01)


@pytest.mark.parametrize("alpha", [3.5, 5.5])
def test_many_maps_have_the_same_law(alpha: float) -> None:
    """The tilted rejection is tried where the plain one works too; both must give the same moments of both values."""
    draws = Draws.of(6, "test")
    plain = np.array([sample_values(alpha, 3, draws) for _ in range(1500)])
    tilted = np.array([_tilted(alpha, 3, draws) for _ in range(1500)])
    np.testing.assert_allclose(tilted[:, :, 0].sum(axis=1) + 2.0 * tilted[:, :, 1].sum(axis=1), alpha, atol=1e-12)
    both = [values.reshape(1500, 6) for values in (plain, tilted)]
    for power in (1, 2):
        one, other = (np.einsum("ki,kj->kij", values**power, values) for values in both)
        spread = np.sqrt((one.var(axis=0) + other.var(axis=0)) / 1500)
        assert (np.abs(one.mean(axis=0) - other.mean(axis=0)) < 4.5 * spread).all()
        first, second = (values**power for values in both)
        spread = np.sqrt((first.var(axis=0) + second.var(axis=0)) / 1500)
        assert (np.abs(first.mean(axis=0) - second.mean(axis=0)) < 4.5 * spread).all()


@pytest.mark.parametrize("n", [8, 16, 64])
def test_systems_of_many_maps(n: int) -> None:
    for i in range(3):
        system = System(maps := sample(n, Draws.of(3, "many", n, i)), probabilities(maps))
        assert window(n)[0] - 1e-9 <= system.sigma_factor <= window(n)[1] + 1e-9
        assert (system.singular_values[:, 0] <= 1.0 + 1e-12).all()


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 8), st.integers(0, 2**40))
def test_every_drawn_system_is_in_the_window(n: int, seed: int) -> None:
    maps = sample(n, Draws.of(seed, "systems", n))
    system = System(maps, probabilities(maps))
    low, high = window(n)
    assert low - 1e-9 <= system.sigma_factor <= high + 1e-9
    values = system.singular_values
    assert (values[:, 0] <= 1.0 + 1e-12).all()
    assert (values[:, 1] <= values[:, 0]).all()
    assert (np.abs(maps[:, :, 2]) <= 1.0).all()
    assert system.p.sum() == pytest.approx(1.0)


def test_orientation_is_a_fair_coin_on_each_map() -> None:
    turned = np.array([np.linalg.det(sample(3, Draws.of(1, "s", i))[:, :, :2]) > 0 for i in range(1500)])
    assert (np.abs(turned.mean(axis=0) - 0.5) < 4.5 * 0.5 / np.sqrt(1500)).all()


def test_probabilities_are_areas_with_a_floor_when_asked() -> None:
    maps = np.zeros((3, 2, 3))
    maps[0, :, :2], maps[1, :, :2], maps[2, :, :2] = np.eye(2) * 0.9, np.eye(2) * 0.3, np.diag([0.9, 1e-6])
    area = np.array([0.81, 0.09, 0.9e-6])
    np.testing.assert_allclose(probabilities(maps), area / area.sum(), rtol=1e-12)
    lifted = probabilities(maps, "floor", 0.05)
    assert lifted[2] == pytest.approx(0.05)
    np.testing.assert_allclose(lifted[:2], 0.95 * area[:2] / area[:2].sum(), rtol=1e-12)
    np.testing.assert_allclose(probabilities(maps, "floor", 0.2), [0.6, 0.2, 0.2], rtol=1e-12)  # the second falls below
    np.testing.assert_array_equal(probabilities(maps, "uniform"), [1 / 3] * 3)
    np.testing.assert_array_equal(probabilities(np.zeros((4, 2, 3))), [0.25] * 4)
    with pytest.raises(SpecError, match="more than the whole"):
        probabilities(maps, "floor", 0.4)


@pytest.mark.parametrize("alpha", [0.0, 9.0, -1.0])
def test_an_impossible_sigma_factor_is_a_sentence(alpha: float) -> None:
    with pytest.raises(SpecError, match="sigma-factor"):
        sample_values(alpha, 3, Draws.of(1))
