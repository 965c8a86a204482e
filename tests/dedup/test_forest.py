import numpy as np
import pytest
from dedup_rows import angles, concept, similarity_matrix, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.dedup.forest import cross_forest, forest
from curate.dedup.semantic import semantic_duplicates
from curate.errors import SpecError

EPSILONS = [0.0, 1e-17, 0.001, 0.07, 0.3, 1.0]


def components(n, edges):
    """The smallest node of each node's component, by plain search."""
    near = [[] for _ in range(n)]
    for i, j in edges:
        near[i].append(j)
        near[j].append(i)
    label = [-1] * n
    for start in range(n):
        stack = [start] if label[start] < 0 else []
        while stack:
            i = stack.pop()
            if label[i] < 0:
                label[i] = start
                stack += near[i]
    return label


def is_forest_of(edges, similar):
    """Edges are similar pairs, close no cycle, and join what all similar pairs join."""
    n = len(similar)
    joined = components(n, edges.tolist())
    assert all(similar[i, j] for i, j in edges)
    assert joined == components(n, np.argwhere(similar).tolist())
    assert len(edges) == n - len(set(joined))


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(2, 40), st.sampled_from(EPSILONS))
@settings(max_examples=60, deadline=None)
def test_joins_exactly_what_similar_pairs_join(seed, n, d, epsilon):
    v = concept(seed, n, d)
    similar = similarity_matrix(v) > 1.0 - epsilon
    block = 1 + seed % 70
    edges = forest(v, epsilon=epsilon, block=block, prefix=[None, 0, d // 2][seed % 3])
    assert (edges[:, 0] > edges[:, 1]).all()
    is_forest_of(edges, similar)
    kept = n - len(edges)
    paper = semantic_duplicates(v, epsilon=epsilon, block=block).keep
    greedy = semantic_duplicates(v, epsilon=epsilon, rule="greedy", block=block).keep
    assert kept <= paper.sum() <= greedy.sum()
    roots = {i for i, label in enumerate(components(n, edges.tolist())) if label == i}
    assert roots <= set(np.flatnonzero(paper)) <= set(np.flatnonzero(greedy))


@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.sampled_from(EPSILONS))
@settings(max_examples=40, deadline=None)
def test_across_two_sides(seed, m, p, epsilon):
    v = concept(seed, m + p, 12)
    v = v[np.random.default_rng(seed).permutation(m + p)]
    similar = similarity_matrix(v) > 1.0 - epsilon
    similar |= similar.T
    similar[:m, :m] = similar[m:, m:] = False
    edges = cross_forest(v[:m], v[m:], epsilon=epsilon, block=1 + seed % 50, prefix=[0, 5][seed % 2])
    is_forest_of(edges + np.array([0, m]), similar)


def test_rule_of_components_on_angles():
    six = 1.0 - np.cos(np.radians(6.0))
    assert len(forest(angles(0, 5, 10), epsilon=six)) == 2
    assert len(forest(angles(0, 10, 5), epsilon=six)) == 2  # the third joins the first two
    assert len(forest(angles(0, 10, 20, 5), epsilon=six)) == 2


def test_two_crowds_and_their_neighbours():
    rng = np.random.default_rng(1)
    base = unit(rng.standard_normal((2, 24)))
    crowd = unit(base[rng.integers(0, 2, 600)] + 1e-3 * rng.standard_normal((600, 24)))
    v = np.concatenate([crowd, unit(rng.standard_normal((150, 24))), base, crowd[:100]])
    v = v[rng.permutation(len(v))]
    similar = similarity_matrix(v) > 0.93
    for block in (100, 4096):
        edges = forest(v, epsilon=0.07, block=block)
        is_forest_of(edges, similar)


def test_nothing_to_join_and_errors():
    v = concept(1, 5, 4)
    assert forest(v[:0], epsilon=0.1).shape == forest(v[:1], epsilon=0.1).shape == (0, 2)
    assert cross_forest(v, v[:0], epsilon=0.1).shape == cross_forest(v[:0], v, epsilon=0.1).shape == (0, 2)
    with pytest.raises(SpecError, match="epsilon is 2"):
        forest(v, epsilon=2.0)
