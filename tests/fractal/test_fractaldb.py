from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError, SpecError
from curate.fractal.fractaldb import categories, fill, orbit, read_csv, write_csv
from curate.fractal.systems import System, probabilities, window


def test_the_search_finds_the_published_categories() -> None:
    """The first three published files are candidates 24, 29 and 68 of seed 1, with these fills."""
    found = list(islice(categories(1), 3))
    assert [number for number, _, _ in found] == [24, 29, 68]
    assert [f"{covered:.5f}" for _, _, covered in found] == ["0.22374", "0.21945", "0.22122"]
    assert [len(maps) for _, maps, _ in found] == [5, 3, 2]


@pytest.mark.slow
def test_the_search_finds_all_thousand() -> None:
    """What is known of the 1,000 published files: numbers of maps, how many expand, how many lie in `window`."""
    found = list(islice(categories(1), 1000))
    assert np.bincount([len(maps) for _, maps, _ in found], minlength=8)[2:].tolist() == [231, 294, 218, 146, 77, 34]
    systems = [System(maps, probabilities(maps)) for _, maps, _ in found]
    assert sum(system.singular_values[:, 0].max() > 1.0 for system in systems) == 866
    assert sum(window(s.n)[0] <= s.sigma_factor <= window(s.n)[1] for s in systems) == 32
    assert min(covered for _, _, covered in found) >= 0.2


def by_hand(seed: int, candidates: int, points: int, size: int, pad: int) -> tuple[list[tuple[int, float]], int]:
    """Fill of every candidate from the description, in Python floats and numpy's own cut to uint16, and how many orbits
    ended before their time.
    """
    rng, found, short = np.random.RandomState(seed), [], 0
    for number in range(1, candidates + 1):
        maps = [rng.uniform(-1.0, 1.0, 6).tolist() for _ in range(rng.randint(2, 8))]
        area = np.array([abs(a * d - b * c) for a, b, c, d, _, _ in maps])
        cumulative = np.cumsum(area / area.sum()).tolist()
        uniforms, x, y = rng.random_sample(points).tolist(), 0.0, 0.0
        path = [(0.0, 0.0)]
        for r in uniforms[:-1]:
            a, b, c, d, e, f = maps[next((i for i, bound in enumerate(cumulative) if r < bound), len(maps) - 1)]
            x, y = a * x + b * y + e, c * x + d * y + f
            path.append((x, y))
        made = np.array(path)
        bad = np.flatnonzero(np.isnan(made).any(axis=1))
        made = made[: max(0, bad[0] - 100)] if len(bad) else made
        short += len(made) < points
        span = made.max(axis=0) - made.min(axis=0) if len(made) else np.array([np.inf])
        covered = 0.0
        if np.isfinite(span).all():
            pixels = ((made - made.min(axis=0)) / span * (size - 2 * pad) + pad).astype(np.uint16)
            covered = len({tuple(p) for p in pixels.tolist()}) / size**2
        found.append((number, covered))
    return found, short


@pytest.mark.filterwarnings("error")
def test_the_search_is_its_description() -> None:
    """Every fill of many short orbits, and of a few long ones, one of which becomes NaN; nothing warns."""
    with np.errstate(all="ignore"):
        wanted, short = by_hand(2, 7, 20_000, 60, 3)
    assert short == 1
    found = [(k, covered) for k, _, covered in islice(categories(2, points=20_000, size=60, pad=3, threshold=0.0), 7)]
    assert found == wanted
    wanted, _ = by_hand(3, 120, 1000, 40, 2)
    found = [
        (number, covered)
        for number, _, covered in islice(categories(3, points=1000, size=40, pad=2, threshold=0.0), 120)
    ]
    assert found == wanted
    few = [row for row in wanted if row[1] >= 0.3]
    some = islice(categories(3, points=1000, size=40, pad=2, threshold=0.3), len(few))
    assert [(number, covered) for number, _, covered in some] == few


@pytest.mark.filterwarnings("error")
def test_an_orbit_starts_at_the_origin_and_ends_before_it_is_no_number() -> None:
    maps = np.zeros((2, 2, 3))
    maps[0] = (0.5, 0.0, 1.0), (0.0, 0.5, 2.0)
    still = orbit(System(maps, np.array([1.0, 0.0])), np.zeros(5))
    np.testing.assert_array_equal(still[:3], [(0.0, 0.0), (1.0, 2.0), (1.5, 3.0)])
    assert len(still) == 5
    maps[0] = (30.0, -40.0, 1.0), (40.0, 30.0, 1.0)  # turns and grows 50-fold a step
    away = orbit(System(maps, np.array([1.0, 0.0])), np.zeros(1000))
    steps = int(np.ceil(308.25 / np.log10(50)))  # until it is infinite; infinite minus infinite is no number
    assert abs(len(away) - (steps + 1 - 100)) <= 2
    assert np.isfinite(away).all()
    maps[0] = (3e200, -4e200, 1.0), (4e200, 3e200, 1.0)
    assert len(orbit(System(maps, np.array([1.0, 0.0])), np.zeros(1000))) == 0
    maps[0] = (30.0, 40.0, 1.0), (40.0, 30.0, 1.0)  # infinite, but never infinity minus infinity
    huge = orbit(System(maps, np.array([1.0, 0.0])), np.zeros(1000))
    assert len(huge) == 1000
    assert fill(huge) == 0.0


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(5, 60), st.integers(0, 2), st.floats(1e-9, 1e9))
def test_fill_counts_pixels(seed: int, n: int, size: int, pad: int, scale: float) -> None:
    points = np.random.RandomState(seed).uniform(-1, 1, (n, 2)) * scale
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    span[span == 0.0] = 1.0
    pixels = np.minimum(((points - low) / span * (size - 2 * pad) + pad).astype(np.uint16), size - 1)
    assert fill(points, size, pad) == len({tuple(p) for p in pixels.tolist()}) / size**2


def test_fill_of_no_picture_is_zero() -> None:
    assert fill(np.empty((0, 2))) == 0.0
    assert fill(np.array([(0.0, 0.0), (np.inf, 1.0)])) == 0.0
    assert fill(np.array([(0.0, np.nan)])) == 0.0
    assert fill(np.array([(-1.7e308, 0.0), (1.7e308, 1.0)])) == 0.0
    assert fill(np.zeros((5, 2)), 10, 2) == 0.01


def test_a_category_is_read_back_bit_for_bit() -> None:
    maps = np.random.RandomState(5).uniform(-1, 1, (4, 2, 3))
    text = write_csv(maps)
    assert len(text.splitlines()) == 4
    a, b, c, d, e, f, p = (float(cell) for cell in text.splitlines()[2].split(","))
    np.testing.assert_array_equal(maps[2], [(a, b, e), (c, d, f)])
    np.testing.assert_allclose(p, probabilities(maps)[2], rtol=1e-12)
    back = read_csv("\n" + text.replace("\n", "\r\n"))
    np.testing.assert_array_equal(back.maps, maps)
    np.testing.assert_allclose(back.p, probabilities(maps), rtol=1e-12)
    assert read_csv(write_csv(np.zeros((4, 2, 3)))).p.tolist() == [0.25] * 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1,2,3,4,5,6,1\n1,2,3\n", "line 2"),
        ("1,2,3,4,5,x,1\n", "line 1"),
        ("1,2,3,4,5,nan,1\n", "line 1"),
        ("1,2,3,4,5,6,-1\n", "line 1"),
        ("1,2,3,4,5,6,0.5\n", "sum to 1"),
        ("", "sum to 1"),
    ],
)
def test_a_damaged_file_is_a_sentence(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        read_csv(text)


def test_impossible_settings_are_sentences() -> None:
    for settings_ in ({"points": 0}, {"threshold": 2.0}):
        with pytest.raises(SpecError, match="search needs"):
            next(categories(**settings_))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="no room"):
        next(categories(size=12))
    with pytest.raises(SpecError, match="smaller seed"):
        next(categories(2**32))
    with pytest.raises(SpecError, match="no room"):
        fill(np.zeros((1, 2)), 8, 4)
