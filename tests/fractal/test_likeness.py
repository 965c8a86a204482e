from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.fractal.chaos import quantised
from curate.fractal.invariants import moments
from curate.fractal.likeness import Likeness, distance
from curate.fractal.pilot import CELLS, POINTS, survey
from curate.fractal.randomness import Draws
from curate.fractal.systems import System, probabilities, sample


def drawn(i: int) -> System:
    maps = sample(2 + i % 3, Draws.of(8, "likeness", i))
    return System(maps, quantised(probabilities(maps)))


def cells(system: System) -> np.ndarray:
    seen = survey(system, moments(system))
    assert seen is not None
    return seen.cells


def noise(seed: int, count: int) -> list[np.ndarray]:
    """Cells that resemble each other in part, some with points outside."""
    rng = np.random.default_rng(seed)
    out: list[np.ndarray] = []
    for _ in range(count):
        weights = rng.random(CELLS**2) ** rng.integers(1, 9)
        share = rng.multinomial(int(rng.integers(POINTS // 2, POINTS + 1)), weights / weights.sum())
        out.append(share.reshape(CELLS, CELLS).astype(np.int32))
        if rng.random() < 0.3:
            copy = np.rot90(out[int(rng.integers(len(out)))], int(rng.integers(4))).copy()
            copy[0, 0] += rng.integers(0, 200)
            out.append(copy.T if rng.random() < 0.5 else copy)
    return out


def by_hand(a: np.ndarray, b: np.ndarray) -> float:
    """Total variation with the points outside, the least over rotations and a transpose."""
    full = [
        np.append(t, POINTS - t.sum())
        for turned in (a, a.T)
        for t in (np.rot90(turned, k) for k in range(4))
        for t in [t.reshape(-1).astype(np.int64)]
    ]
    other = np.append(b.reshape(-1).astype(np.int64), POINTS - b.sum())
    return min(int(np.abs(t - other).sum()) for t in full) / (2 * POINTS)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1.0, 0.4, 0.1, 0.01]))
def test_nearest_is_the_least_of_all_distances(seed: int, limit: float) -> None:
    known = noise(seed, 60)
    gallery = Likeness()
    for one in known:
        gallery.add(one)
    for asked in (*known[:3], *noise(seed + 1, 2)):
        expected = np.array([by_hand(asked, one) for one in known])
        found = gallery.nearest(asked, limit)
        if expected.min() < limit:
            assert found == (int(expected.argmin()), expected.min())
        else:
            assert found is None
    without = gallery.nearest(known[3], 2.0, but=3)
    assert without is not None
    assert without[1] == min(by_hand(known[3], one) for i, one in enumerate(known) if i != 3)


def test_distance_is_symmetric_and_zero_for_flips() -> None:
    for i in range(12):
        system, other = drawn(i), drawn(i + 100)
        a, b = cells(system), cells(other)
        assert distance(a, b) == distance(b, a) == by_hand(a, b)
        assert distance(a, a) == 0.0
        for turn in ([[0, 1], [1, 0]], [[-1, 0], [0, 1]], [[0, -1], [1, 0]]):
            matrix = np.array(turn, dtype=float)
            maps = system.maps.copy()
            maps[:, :, :2] = matrix @ maps[:, :, :2] @ matrix.T
            maps[:, :, 2] = maps[:, :, 2] @ matrix.T
            assert distance(a, cells(System(maps, system.p))) < 2e-4  # single points at the edges of cells


def test_place_size_and_aspect_do_not_count() -> None:
    for i in range(6):
        system = drawn(i)
        scale, move = np.diag([3.0, 0.5]), np.array([10.0, -2.0])
        maps = system.maps.copy()
        maps[:, :, :2] = scale @ maps[:, :, :2] @ np.linalg.inv(scale)
        maps[:, :, 2] = maps[:, :, 2] @ scale + move - maps[:, :, :2] @ move
        assert distance(cells(system), cells(System(maps, system.p))) < 2e-3  # far from the origin float32 is coarser


def test_the_same_measure_with_other_symbols_is_near() -> None:
    apart = []
    for i in range(20):
        system = drawn(i)
        apart.append(distance(cells(system), cells(System(system.maps[::-1].copy(), system.p[::-1].copy()))))
    assert max(apart) < 0.035


def test_distance_grows_with_the_perturbation() -> None:
    medians = []
    for deviation in (0.001, 0.01, 0.05, 0.1):
        apart = []
        for i in range(30):
            maps = drawn(i).maps
            moved = maps * Draws.of(4, i).uniform(maps.size, 1 - deviation, 1 + deviation).reshape(maps.shape)
            apart.append(distance(cells(drawn(i)), cells(System(moved, quantised(probabilities(moved))))))
        medians.append(float(np.median(apart)))
    assert medians == sorted(medians)
    assert 0.01 < medians[1] < 0.035
    assert 0.12 < medians[3] < 0.25
    unrelated = np.median([distance(cells(drawn(i)), cells(drawn(i + 1))) for i in range(30)])
    assert unrelated > 0.45
