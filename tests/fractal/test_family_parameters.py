from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from curate.errors import SpecError
from curate.fractal.families.parameters import check, fineness, spread, steps, table_of, whole
from curate.fractal.randomness import words

SCHEMA = {"lines": pl.Int64(), "noise": pl.Float64()}


def table() -> pl.DataFrame:
    return table_of("family", {"lines": np.array([3, 3, 4]), "noise": np.array([0.1, 0.2, 0.1])})


def test_the_steps_are_powers_of_the_golden_ratio_and_its_kin() -> None:
    assert int(steps(1)[0]) / 2**64 == pytest.approx((math.sqrt(5.0) - 1.0) / 2.0, abs=1e-15)
    for dimensions in (2, 3, 6):
        share = [int(step) / 2**64 for step in steps(dimensions)]
        root = 1.0 / share[0]
        assert root ** (dimensions + 1) == pytest.approx(root + 1.0)
        assert share == pytest.approx([root**-i for i in range(1, dimensions + 1)])


@pytest.mark.parametrize("dimensions", [1, 2, 6])
def test_the_spread_is_even(dimensions: int) -> None:
    """Each number alone, and (the nearest two points) all together, far evener than independent draws."""
    n = 500
    at = spread(words(7, dimensions), np.arange(n, dtype=np.uint64))
    assert at.shape == (n, dimensions)
    assert ((at >= 0.0) & (at < 1.0)).all()
    for number in range(dimensions):
        off = np.abs(np.sort(at[:, number]) - (np.arange(n) + 0.5) / n).max()
        assert off < 0.03  # independent draws: 0.039 on average
    free = (words(8, n * dimensions) / 2.0**64).reshape(n, dimensions)
    assert nearest(at) > 2.0 * nearest(free)
    np.testing.assert_array_equal(spread(words(7, dimensions), np.array([499], dtype=np.uint64))[0], at[499])


def nearest(at: np.ndarray) -> float:
    apart = np.abs(at[:, None] - at[None])
    apart = np.minimum(apart, 1.0 - apart)
    distance = np.sqrt((apart**2).sum(axis=-1))
    np.fill_diagonal(distance, np.inf)
    return float(distance.min())


def test_whole_numbers_have_equal_parts() -> None:
    shares = np.arange(600) / 600.0
    np.testing.assert_array_equal(np.bincount(whole(shares, 2, 7)), [0, 0, 100, 100, 100, 100, 100, 100])
    assert whole(np.array([1.0 - 2.0**-53]), 0, 9).tolist() == [9]


def test_noise_is_never_as_fine_as_vertices_are() -> None:
    shares, some = np.arange(600) / 600.0, np.full(600, 0.2)
    plenty = fineness(shares, 3, 8, some, np.full(600, 500))
    np.testing.assert_array_equal(plenty, whole(shares, 3, 8))
    np.testing.assert_array_equal(np.unique(fineness(shares, 3, 60, some, np.full(600, 6))), [3, 4, 5])
    assert set(fineness(shares, 5, 60, some, np.full(600, 3)).tolist()) == {2}
    assert not fineness(shares, 3, 60, 0.0 * some, np.full(600, 9)).any()


def test_names_are_of_the_parameters_and_the_family() -> None:
    made = table()
    assert made.columns == ["class", "system", "lines", "noise"]
    assert made["class"].to_list() == [0, 1, 2]
    assert made["system"].n_unique() == 3
    alone = table_of("family", {"lines": np.array([4]), "noise": np.array([0.1])})
    assert alone["system"][0] == made["system"][2]
    assert table_of("other", {"lines": np.array([4]), "noise": np.array([0.1])})["system"][0] != alone["system"][0]
    check("family", made, SCHEMA)


def test_equal_classes_are_refused() -> None:
    with pytest.raises(SpecError, match="options of family give 2 different classes, not 3"):
        table_of("family", {"lines": np.array([3, 4, 3])})


def test_damage_is_found() -> None:
    made = table()
    with pytest.raises(SpecError, match="has no noise of the type that family needs"):
        check("family", made.drop("noise"), SCHEMA)
    with pytest.raises(SpecError, match="has no lines of the type"):
        check("family", made.cast({"lines": pl.Float64}), SCHEMA)
    with pytest.raises(SpecError, match="does not count from 0"):
        check("family", made.reverse(), SCHEMA)
    with pytest.raises(SpecError, match="noise is missing"):
        check("family", made.with_columns(noise=pl.Series([0.1, None, 0.1])), SCHEMA)
    with pytest.raises(SpecError, match=f"parameters of class 1 are not system {made['system'][1]}"):
        check("family", made.with_columns(noise=pl.Series([0.1, 0.3, 0.1])), SCHEMA)
    with pytest.raises(SpecError, match="class 0"):
        check("another", made, SCHEMA)
