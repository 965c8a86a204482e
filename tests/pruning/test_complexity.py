import numpy as np
import pytest

from curate.concepts import assign as concepts_assign
from curate.concepts.kmeans import unit_on_grid
from curate.errors import SpecError
from curate.pruning.complexity import DISTANCE_SCALE, complexity, d_inter, d_intra, row_totals


def centroids(k, d, seed=0):
    return unit_on_grid(np.random.default_rng(seed).standard_normal((k, d)))


def test_scale_is_the_one_of_the_concept_columns():
    assert DISTANCE_SCALE == concepts_assign.DISTANCE_SCALE


def test_d_intra_known_answer():
    """Two concepts with distances 1.35, 1.25, .26 and .88; a third is empty."""
    total = np.array([round((1.35 + 1.25 + 0.26) * DISTANCE_SCALE), round(0.88 * DISTANCE_SCALE), 0])
    out = d_intra(total, np.array([3, 1, 0]))
    assert out == pytest.approx([0.9533333333, 0.88, 0.0], abs=1e-9)


def test_d_intra_of_a_huge_concept_does_not_overflow():
    n = 10**9
    assert d_intra(np.array([n * DISTANCE_SCALE]), np.array([n])).tolist() == [1.0]


@pytest.mark.parametrize(("k", "l"), [(25, 20), (60, 3), (60, 59), (7, 20), (2, 20)])
def test_d_inter_brute_force(k, l):  # noqa: E741
    c = centroids(k, 12)
    full = 1.0 - c.astype(np.float64) @ c.astype(np.float64).T
    expected = [np.sort(np.delete(full[j], j))[: min(l, k - 1)].mean() for j in range(k)]
    assert d_inter(c, l) == pytest.approx(expected, abs=1e-14)


def test_d_inter_counts_a_twin_but_never_itself():
    c = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    assert d_inter(c, 1).tolist() == [0.0, 0.0, 1.0, 1.0]
    assert d_inter(c, 2).tolist() == [0.5, 0.5, 1.0, 1.0]


def test_d_inter_of_a_single_concept_is_zero():
    assert d_inter(centroids(1, 4)).tolist() == [0.0]
    assert d_inter(np.zeros((0, 4), dtype=np.float32)).tolist() == []


def test_d_inter_follows_a_permutation_bit_by_bit():
    c = centroids(200, 9)
    p = np.random.default_rng(1).permutation(200)
    assert np.array_equal(d_inter(c)[p], d_inter(c[p]))


def test_modes():
    a, b = np.array([0.5, 0.25]), np.array([0.5, 2.0])
    assert complexity(a, b).tolist() == [0.25, 0.5]
    assert complexity(a, b, "sum").tolist() == [1.0, 2.25]
    assert complexity(a, b, "intra").tolist() == [0.5, 0.25]
    assert complexity(a, b, "inter").tolist() == [0.5, 2.0]
    with pytest.raises(SpecError, match="density"):
        complexity(a, b, "density")
    with pytest.raises(SpecError, match="at least 1"):
        d_inter(centroids(3, 3), 0)


def test_totals_of_many_neighbours_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    units = np.concatenate([np.full((1, 40_000), 2**49), rng.integers(0, 2**49, (2, 40_000))])
    assert row_totals(units).tolist() == [float(sum(row)) for row in units.tolist()]
    assert row_totals(units[:, :8192]).tolist() == [sum(row) for row in units[:, :8192].tolist()]
