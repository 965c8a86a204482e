"""Balanced quotas over a tree: the published oracles, max-min fairness against brute force, nesting, speed."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.pruning.hierarchical import hierarchical_quotas, split


def leaves(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def level(*values: int) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32)


@pytest.mark.parametrize(
    ("sizes", "total", "expected"),
    [
        ((5, 3, 10), 9, [3, 3, 3]),
        ((1, 1, 10), 9, [1, 1, 7]),
        ((5, 3, 10), 100, [5, 3, 10]),
        ((0, 4), 2, [0, 2]),
        ((0, 0), 5, [0, 0]),
        ((4,), 0, [0]),
        ((), 3, []),
    ],
)
def test_one_level(sizes: tuple[int, ...], total: int, expected: list[int]) -> None:
    assert hierarchical_quotas(leaves(*sizes), [], total).tolist() == expected


def test_repeats_cut_at_six_and_give_the_rest_to_unfilled_children() -> None:
    for seed in range(20):
        quota = hierarchical_quotas(leaves(5, 3, 10), [], 20, repeats=2, seed=seed)
        assert quota.tolist() == [7, 6, 7]
    copies, extra = split(quota, leaves(5, 3, 10))
    assert copies.tolist() == [1, 2, 0]
    assert extra.tolist() == [2, 0, 7]


def test_a_tree_shares_by_branch_before_it_shares_by_leaf() -> None:
    # one branch of three rich leaves, one branch of one: half each, not a quarter each
    sizes, parents = leaves(100, 100, 100, 100), [level(0, 0, 0, 1)]
    assert hierarchical_quotas(sizes, parents, 60).tolist() == [10, 10, 10, 30]
    assert hierarchical_quotas(sizes, [], 60).tolist() == [15, 15, 15, 15]
    # what a poor branch cannot use goes to the others
    assert hierarchical_quotas(leaves(4, 100, 100), [level(0, 1, 1)], 24).tolist() == [4, 10, 10]


def test_empty_nodes_at_every_level() -> None:
    # level 2 has 4 concepts, of which 1 and 3 have no leaf; level 3 has 3, of which 1 has none of level 2 with leaves
    parents = [level(0, 0, 2), level(0, 1, 2, 2)]
    assert hierarchical_quotas(leaves(0, 9, 9), parents, 8).tolist() == [0, 4, 4]
    assert hierarchical_quotas(leaves(0, 0, 9), parents, 8).tolist() == [0, 0, 8]


def fairest(capacity: list[int], total: int) -> list[int]:
    """Sorted max-min fair integer shares by brute force: the largest ascending vector in lexicographic order."""
    total = min(total, sum(capacity))
    options = product(*(range(c + 1) for c in capacity))
    return max(sorted(option) for option in options if sum(option) == total)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=6),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.integers(0, 40),
    st.integers(1, 2),
    st.integers(0, 5),
)
def test_every_node_is_shared_as_brute_force_would(
    sizes: list[int], branch: list[int], total: int, repeats: int, seed: int
) -> None:
    parent = np.array(branch[: len(sizes)], dtype=np.int32)
    quota = hierarchical_quotas(np.array(sizes), [parent], total, repeats=repeats, seed=seed)
    capacity = np.array(sizes) * repeats
    assert quota.sum() == min(total, capacity.sum())
    assert (quota >= 0).all()
    assert (quota <= capacity).all()
    nodes = range(int(parent.max()) + 1)
    assert sorted(int(quota[parent == node].sum()) for node in nodes) == fairest(
        [int(capacity[parent == node].sum()) for node in nodes], total
    )
    for node in nodes:
        mine = parent == node
        if mine.sum() > 4:
            continue  # too many combinations
        assert sorted(quota[mine].tolist()) == fairest(capacity[mine].tolist(), int(quota[mine].sum()))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=30),
    st.lists(st.integers(0, 4), min_size=30, max_size=30),
    st.lists(st.integers(0, 1), min_size=5, max_size=5),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_smaller_budgets_lie_inside_larger_ones(
    sizes: list[int], two: list[int], three: list[int], repeats: int, seed: int
) -> None:
    parents = [np.array(two[: len(sizes)], dtype=np.int32), np.array(three, dtype=np.int32)]
    most = sum(sizes) * repeats
    before = np.zeros(len(sizes), dtype=np.int64)
    for total in range(0, most + 2, max(1, most // 40)):
        quota = hierarchical_quotas(np.array(sizes), parents, total, repeats=repeats, seed=seed)
        assert quota.sum() == min(total, most)
        assert (quota >= before).all()
        before = quota


def test_the_seed_decides_who_gets_the_rest_and_is_fair_on_average() -> None:
    sizes = np.full(10, 100)
    taken = sum(hierarchical_quotas(sizes, [], 3, seed=seed) for seed in range(4000))
    assert taken.sum() == 12_000
    assert (np.abs(taken - 1200) < 5 * np.sqrt(4000 * 0.3 * 0.7)).all()
    assert np.array_equal(hierarchical_quotas(sizes, [], 3, seed=1), hierarchical_quotas(sizes, [], 3, seed=1))


def test_a_million_leaves() -> None:
    rng = np.random.default_rng(0)
    sizes = (rng.pareto(1.0, 1_000_000) * 100).astype(np.int64)
    parents = [rng.integers(0, n, m).astype(np.int32) for m, n in ((1_000_000, 10_000), (10_000, 100))]
    total = int(sizes.sum()) // 3
    quota = hierarchical_quotas(sizes, parents, total, repeats=2)
    assert quota.sum() == total
    assert (quota <= 2 * sizes).all()
    # within every node, an unfilled leaf never has more than one less than another leaf
    unfilled = quota < 2 * sizes
    highest = np.zeros(10_000, dtype=np.int64)
    np.maximum.at(highest, parents[0], quota)
    assert (quota[unfilled] >= highest[parents[0][unfilled]] - 1).all()


@pytest.mark.parametrize(
    ("sizes", "parents", "total", "repeats", "sentence"),
    [
        ([3, -1], [], 1, 1, "concept 1 has -1 samples"),
        ([3, 1], [], -1, 1, "the budget is -1"),
        ([3, 1], [], 1, 0, "repeats is 0"),
        ([3, 1], [[0]], 1, 1, "the parents of level 2 must be 2 numbers"),
        ([3, 1], [[0, -1]], 1, 1, "the parents of level 2 must be 2 numbers"),
        ([3, 1], [[0, 2], [0, 0]], 1, 1, "a parent of level 2 is 2, but that level has 2 concepts"),
        ([2**62, 2**62], [], 1, 1, "are too many"),
        ([0.5], [], 1, 1, "sizes are whole numbers"),
    ],
)
def test_sentences(sizes: list[int], parents: list[list[int]], total: int, repeats: int, sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        hierarchical_quotas(np.array(sizes), [np.array(p, dtype=np.int32) for p in parents], total, repeats=repeats)


def test_split_refuses_what_an_empty_concept_cannot_give() -> None:
    with pytest.raises(SpecError, match="concept 1 has 0 samples, it cannot give 2"):
        split(leaves(1, 2), leaves(1, 0))
    copies, extra = split(leaves(0, 0), leaves(0, 3))
    assert copies.tolist() == extra.tolist() == [0, 0]
