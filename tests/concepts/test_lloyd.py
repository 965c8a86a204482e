from __future__ import annotations

from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.concepts.assign import DISTANCE_SCALE, assign
from curate.concepts.lloyd import InMemory, Partial, ended, member_sums, moved, partial, total, unit_on_grid
from curate.errors import SpecError


def mixture(n: int, d: int, groups: int, spread: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, d))[rng.integers(0, groups, n)] + spread * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


@given(
    st.integers(0, 2**32), st.integers(1, 400), st.integers(1, 30), st.sampled_from([2, 3, 17]), st.floats(0.01, 3.0)
)
@settings(max_examples=60, deadline=None)
def test_what_it_remembers_changes_no_byte(seed, n, k, d, spread):
    """Every iteration in memory equals one that compares every row with every centroid."""
    x = mixture(n, d, 5, spread, seed)
    fast = InMemory(x, unit_on_grid(x[np.arange(k) % n]))
    for _ in range(12):
        plain = partial(x, fast.centroids)
        expected, empty = moved(fast.centroids, plain.sums, plain.counts)
        assert fast.iterate() == plain.objective
        assert fast.centroids.tobytes() == expected.tobytes()
        assert fast.empty == empty


def test_and_saves_most_of_the_work():
    x = mixture(3000, 24, 40, 0.6)
    fast = InMemory(x, unit_on_grid(x[:64]))
    for _ in range(25):
        plain = partial(x, fast.centroids)
        assert fast.iterate() == plain.objective
        concept, _ = assign(x, fast.centroids)
    assert fast.still
    assert np.array_equal(fast._concept, concept)
    assert np.count_nonzero(fast._dot <= fast._ceiling) < 30  # rows that another iteration would look at again


@given(st.integers(0, 2**32), st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_partials_of_any_cut_in_any_grouping_are_the_same_bytes(seed, sizes, k):
    x = mixture(sum(sizes) + 1, 8, 4, 1.0, seed)
    centroids = unit_on_grid(mixture(k, 8, 4, 1.0, seed + 1))
    whole = partial(x, centroids)
    cuts = [partial(rows, centroids) for rows in np.split(x, np.cumsum(sizes))]
    order = np.random.default_rng(seed).permutation(len(cuts))
    middle = len(cuts) // 2
    for made in (
        total(cuts),
        reduce(add, cuts),
        total(cuts[i] for i in order),
        total([total(cuts[: middle + 1]), *cuts[middle + 1 :]]),
    ):
        assert made.sums.tobytes() == whole.sums.tobytes()
        assert made.counts.tolist() == whole.counts.tolist()
        assert made.objective == whole.objective


def test_a_partial_is_what_the_formulas_say():
    x, centroids = mixture(200, 6, 3, 1.0), unit_on_grid(mixture(4, 6, 3, 1.0, 1))
    dots = x.astype(np.float64) @ centroids.astype(np.float64).T  # exact
    best = dots.argmax(axis=1)
    made = partial(x, centroids)
    assert made.counts.tolist() == np.bincount(best, minlength=4).tolist()
    for j in range(4):
        assert made.sums[j].tolist() == x[best == j].astype(np.float64).sum(axis=0).tolist()
    distances = np.maximum(1 - dots.max(axis=1), 0)
    assert made.objective == int(np.rint(distances * DISTANCE_SCALE).sum())


def test_arrays_hold_an_objective_beyond_64_bits():
    huge = Partial(np.zeros((1, 2)), np.array([5]), 2**70 + 12345)
    arrays = huge.arrays()
    assert all(value.dtype != object for value in arrays.values())
    assert Partial.of_arrays(arrays).objective == 2**70 + 12345
    # limbs may be added by hand as well
    twice = {name: value + value for name, value in arrays.items()}
    assert Partial.of_arrays(twice).objective == 2 * (2**70 + 12345)


def test_sums_of_many_more_concepts_than_rows_in_a_block():
    x = mixture(9000, 300, 10, 1.0)  # more than one block
    concept = np.random.default_rng(0).integers(0, 5000, 9000).astype(np.int32)
    sums, counts = member_sums(x, concept, 5001)
    expected = np.zeros((5001, 300))
    np.add.at(expected, concept, x.astype(np.float64))
    assert np.array_equal(sums, expected)
    assert np.array_equal(counts, np.bincount(concept, minlength=5001))


def test_when_iterations_end():
    assert not ended([0.5], False, 3, 0.0)
    assert ended([0.5, 0.4, 0.3], False, 3, 0.0)
    objective = [0.5, 0.4]
    assert ended(objective, True, 5, 0.0)
    assert objective == [0.5, 0.4, 0.4, 0.4, 0.4]
    objective = [0.5, 0.4]
    assert ended(objective, True, 5, 0.1)
    assert objective == [0.5, 0.4]
    assert not ended([0.5, 0.4], False, 9, 0.19)
    assert ended([0.5, 0.4], False, 9, 0.21)


def test_more_members_than_can_be_summed_is_a_sentence():
    with pytest.raises(SpecError, match="600,000,000 rows, more than the 536,870,912"):
        moved(np.ones((1, 1), dtype=np.float32), np.ones((1, 1)), np.array([600_000_000]))
    with pytest.raises(SpecError, match="at least one part"):
        total([])
