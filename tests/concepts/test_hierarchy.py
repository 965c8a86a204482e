"""k-means with resampling: where the centroids end up, determinism, odd input."""

import numpy as np
import pytest
from numpy.typing import NDArray

from curate.concepts.assign import assign
from curate.concepts.hierarchy import (
    balanced_kmeans,
    evenness,
    hierarchy,
    nearest_rows,
    seeded_kmeans,
)
from curate.concepts.kmeans import unit_on_grid
from curate.errors import SpecError


def circle(n: int, dense: float, arc: float, seed: int) -> NDArray[np.float16]:
    """Points on the unit circle, the share `dense` of them uniform on the first `arc` of it, the rest on the rest."""
    rng = np.random.default_rng(seed)
    many = int(n * dense)
    turn = np.concatenate([rng.uniform(0, arc, many), rng.uniform(arc, 1, n - many)]) * 2 * np.pi
    return np.stack([np.cos(turn), np.sin(turn)], axis=1).astype(np.float16)


def share_within(centroids: NDArray[np.float32], arc: float) -> float:
    turn = np.arctan2(centroids[:, 1], centroids[:, 0]) / (2 * np.pi) % 1
    return float((turn < arc).mean())


def cap(n: int, dim: int, spread: float, axis: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Unit rows around one axis."""
    raw = rng.normal(size=(n, dim)) * spread
    raw[:, axis] += 1
    return unit_on_grid(raw)


def test_resampling_takes_the_density_out_of_the_centroids() -> None:
    # 90 % of the points on 10 % of a circle. k-means in one dimension: centroids follow density^(1/3), so a share of
    # .1 * 9^(1/3) / (.1 * 9^(1/3) + .9 * (1/9)^(1/3)) = .325 lies there; each resampling takes a third root more
    flat, once, often = [], [], []
    for seed in range(4):
        rows = circle(4000, 0.9, 0.1, seed)
        flat.append(share_within(balanced_kmeans(rows, 40, resamplings=0, seed=seed).centroids, 0.1))
        once.append(share_within(balanced_kmeans(rows, 40, resamplings=1, seed=seed).centroids, 0.1))
        often.append(share_within(balanced_kmeans(rows, 40, resamplings=10, nearest=25, seed=seed).centroids, 0.1))
    assert np.mean(flat) == pytest.approx(0.325, abs=0.06)
    assert np.mean(flat) > np.mean(once) > np.mean(often)
    assert np.mean(often) == pytest.approx(0.1, abs=0.04)  # 0.1 is uniform over the support


def test_levels_share_the_support_where_flat_k_means_follows_the_mass() -> None:
    # two caps of equal extent on a sphere in 6 dimensions, one with 30 times the points
    rng = np.random.default_rng(0)
    rows = np.concatenate([cap(6000, 6, 0.15, 0, rng), cap(200, 6, 0.15, 1, rng)])

    def in_the_sparse_cap(centroids: NDArray[np.float32]) -> float:
        return float((centroids[:, 1] > centroids[:, 0]).mean())

    flat, top = [], []
    for seed in range(4):
        flat.append(in_the_sparse_cap(seeded_kmeans(rows, 12, iterations=30, seed=seed)))
        fine = seeded_kmeans(rows, 300, iterations=10, seed=seed)
        made = hierarchy(fine, [60, 12], resamplings=[5, 5], nearest=[None, None], seed=seed)
        assert [len(level.centroids) for level in made] == [60, 12]
        assert [len(level.parents) for level in made] == [300, 60]
        top.append(in_the_sparse_cap(made[-1].centroids))
    assert np.mean(flat) < 0.15
    assert np.mean(top) > 0.25  # 0.5 is even


def test_parents_are_the_nearest_centroids_and_the_report_is_true() -> None:
    rows = unit_on_grid(np.random.default_rng(1).normal(size=(200, 5)))
    made = balanced_kmeans(rows, 8, resamplings=3, nearest=4, seed=5)
    concept, distance = assign(rows, made.centroids)
    np.testing.assert_array_equal(made.parents, concept)
    assert made.objective[-1] == distance.sum() / 2**32 / 200
    assert made.rows == [200, 32, 32, 32]
    assert len(made.objective) == 4
    assert made.nearest == 4
    assert balanced_kmeans(rows, 8, resamplings=1, seed=5).nearest == 12  # half of 200 / 8


def test_the_same_again_and_another_for_another_seed() -> None:
    rows = unit_on_grid(np.random.default_rng(2).normal(size=(300, 6)))
    one, two = (balanced_kmeans(rows, 10, resamplings=2, seed=9) for _ in range(2))
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.parents.tobytes() == two.parents.tobytes()
    other = balanced_kmeans(rows, 10, resamplings=2, seed=10)
    assert other.centroids.tobytes() != one.centroids.tobytes()


def test_nearest_rows_by_brute_force() -> None:
    rng = np.random.default_rng(3)
    concept = rng.integers(0, 7, 200).astype(np.int32)
    concept[concept == 4] = 3  # 4 is empty, 3 is larger
    distance = rng.integers(0, 20, 200)  # many ties
    expected = []
    for c in range(7):
        mine = np.flatnonzero(concept == c)
        expected += sorted(mine.tolist(), key=lambda row: (distance[row], row))[:9]
    assert nearest_rows(concept, distance, 9).tolist() == sorted(expected)


def test_fewer_distinct_rows_than_concepts() -> None:
    # copies, and concepts that stay empty: what made the reference stop
    rows = np.repeat(unit_on_grid(np.eye(4)), 5, axis=0)
    made = balanced_kmeans(rows, 6, resamplings=2, nearest=1, seed=0)
    assert made.empty == 2
    assert made.objective[0] == 0.0
    assert sorted(np.bincount(made.parents, minlength=6).tolist()) == [0, 0, 5, 5, 5, 5]
    assert made.rows == [20]  # a row from each of four concepts is too few for six: resampling ends
    assert np.isfinite(made.centroids).all()


def test_concepts_of_equal_size() -> None:
    rng = np.random.default_rng(4)
    rows = np.concatenate([cap(50, 4, 0.05, axis, rng) for axis in range(4)])
    made = hierarchy(rows, [8, 4], resamplings=[3, 3], nearest=[5, 1], seed=1)
    leaf = made[1].parents[made[0].parents]
    assert np.bincount(leaf).tolist() == [50, 50, 50, 50]
    assert all(len(set(leaf[start : start + 50].tolist())) == 1 for start in range(0, 200, 50))


def test_evenness() -> None:
    assert evenness(np.array([5, 5, 5, 5])) == 1.0
    assert evenness(np.array([20, 0, 0, 0])) == 0.25
    assert evenness(np.array([10, 10, 0, 0])) == 0.5
    assert evenness(np.array([0, 0])) == 0.0
    assert evenness(np.full(3, 2**61)) == 1.0


@pytest.mark.parametrize(
    ("levels", "again", "near", "sentence"),
    [
        ([], [], [], "needs at least one"),
        ([5], [1, 1], [1], "it has 2 and 1"),
        ([20], [1], [1], "level 2 asks for 20 concepts, but level 1 below it has 20"),
        ([9, 9], [1, 1], [1, 1], "level 3 asks for 9 concepts, but level 2 below it has 9"),
        ([5], [-1], [1], "asked for 1, -1 times"),
        ([5], [1], [0], "asked for 0, 1 times"),
    ],
)
def test_sentences(levels: list[int], again: list[int], near: list[int], sentence: str) -> None:
    rows = unit_on_grid(np.random.default_rng(0).normal(size=(20, 3)))
    with pytest.raises(SpecError, match=sentence):
        hierarchy(rows, levels, resamplings=again, nearest=near, seed=0)


def test_too_few_rows() -> None:
    with pytest.raises(SpecError, match="k-means of 5 concepts needs at least 5 rows"):
        seeded_kmeans(unit_on_grid(np.eye(3)), 5, iterations=1, seed=0)
