"""The most similar reference: against brute force in exact arithmetic, with and without concepts, at every boundary."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.concepts.assign import assign
from curate.concepts.hierarchy import seeded_kmeans
from curate.dedup.reference import most_similar, reach
from curate.errors import InputError, SpecError


def unit(raw: NDArray[np.float64]) -> NDArray[np.float16]:
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def planted(n: int, m: int, dim: int, seed: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Clumped rows and references; every fifth row lies near a reference, at all distances, and some are equal."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(20, dim))
    references = unit(middles[rng.integers(0, 20, m)] + rng.normal(size=(m, dim)) * 0.8)
    rows = unit(middles[rng.integers(0, 20, n)] + rng.normal(size=(n, dim)) * 0.8)
    near = np.arange(0, n, 5)
    to = rng.integers(0, m, len(near))
    amount = rng.uniform(0, 0.6, len(near)) / np.sqrt(dim)
    rows[near] = unit(references[to].astype(np.float64) + rng.normal(size=(len(near), dim)) * amount[:, None])
    rows[near[::7]] = references[to[::7]]
    return rows, references


def brute(rows: NDArray[np.float16], references: NDArray[np.float16], epsilon: float) -> tuple[list[float], list[int]]:
    """The definition, one float64 matrix at once; its products are exact."""
    x, y = rows.astype(np.float64), references.astype(np.float64)
    norms = np.einsum("nd,nd->n", x, x)[:, None] * np.einsum("md,md->m", y, y)[None, :]
    cosine = np.minimum((x @ y.T) / np.sqrt(norms), 1.0)
    best = cosine.argmax(axis=1)
    value = cosine[np.arange(len(x)), best]
    like = (value > 1 - epsilon) | (value == 1)
    return np.where(like, value, 0.0).tolist(), np.where(like, best, -1).tolist()


@pytest.mark.parametrize("epsilon", [0.0, 0.001, 0.03, 0.2, 1.0])
@pytest.mark.parametrize("dim", [4, 48])
def test_brute_force_finds_the_same_with_and_without_concepts(epsilon: float, dim: int) -> None:
    rows, references = planted(700, 501, dim, seed=dim)
    centroids = seeded_kmeans(rows, 30, iterations=10, seed=0)
    concept, _ = assign(rows, centroids)
    similarity, which = brute(rows, references, epsilon)
    assert sum(w >= 0 for w in which) >= 20  # the planted copies at the least
    for groups in (None, np.arange(30), np.arange(30) % 4, np.zeros(30, dtype=int)):
        within = None if groups is None else reach(references, centroids, groups.astype(np.int32), epsilon)
        for block in (8, 100, 4096):
            found = most_similar(
                rows, references, epsilon, concept=None if within is None else concept, within=within, block=block
            )
            assert found[0].tolist() == similarity
            assert found[1].tolist() == which


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(0, 40), st.integers(2, 6), st.sampled_from([0.0, 0.01, 0.1, 0.5]), st.integers())
def test_any_small_problem(n: int, m: int, dim: int, epsilon: float, seed: int) -> None:
    rng = np.random.default_rng(abs(seed))
    # few values, hence many ties and copies
    rows, references = (unit(rng.integers(1, 4, size=(size, dim)).astype(np.float64)) for size in (n, m))
    k = min(n, 5)
    centroids = seeded_kmeans(rows, k, iterations=3, seed=1)
    concept, _ = assign(rows, centroids)
    within = reach(references, centroids, np.arange(k, dtype=np.int32), epsilon)
    found = most_similar(rows, references, epsilon, concept=concept, within=within)
    expected = brute(rows, references, epsilon) if m else ([0.0] * n, [-1] * n)
    assert (found[0].tolist(), found[1].tolist()) == expected


def test_the_boundary_is_exact() -> None:
    # two rows whose cosine is a fraction that float64 holds: at epsilon = 1 - cosine they do not resemble each other
    rows = np.array([[1, 0]], dtype=np.float16)
    references = np.array([[0.75, 0.5]], dtype=np.float16)
    cosine = 0.75 / np.sqrt(float(Fraction(13, 16)))
    epsilon = 1 - cosine
    while 1 - epsilon < cosine:
        epsilon = np.nextafter(epsilon, 0)
    assert most_similar(rows, references, epsilon)[1].tolist() == [-1]
    while 1 - epsilon >= cosine:
        epsilon = np.nextafter(epsilon, 1)
    similarity, which = most_similar(rows, references, epsilon)
    assert which.tolist() == [0]
    assert similarity.tolist() == [cosine]


def test_equal_vectors_resemble_at_epsilon_zero_and_the_first_is_named() -> None:
    rng = np.random.default_rng(0)
    references = unit(rng.normal(size=(50, 16)))
    references[40] = references[7]
    rows = np.concatenate([references[40:41], unit(rng.normal(size=(3, 16))), references[7:8] * np.float16(0.5)])
    similarity, which = most_similar(rows, references, 0.0)
    assert which.tolist() == [7, -1, -1, -1, 7]
    assert similarity.tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]


def test_any_cut_of_the_rows_gives_the_same() -> None:
    rows, references = planted(500, 400, 24, seed=3)
    whole = most_similar(rows, references, 0.1)
    for cuts in ([1, 250], [100, 200, 300, 499]):
        pieces = [most_similar(piece, references, 0.1) for piece in np.split(rows, cuts)]
        assert np.concatenate([p[0] for p in pieces]).tobytes() == whole[0].tobytes()
        assert np.concatenate([p[1] for p in pieces]).tobytes() == whole[1].tobytes()


def test_concepts_spare_most_products_at_a_small_epsilon() -> None:
    rng = np.random.default_rng(1)
    middles = rng.normal(size=(64, 32))
    rows, references = (unit(middles[rng.integers(0, 64, 2000)] + rng.normal(size=(2000, 32)) * 0.4) for _ in range(2))
    centroids = seeded_kmeans(rows, 64, iterations=20, seed=0)
    share = reach(references, centroids, np.arange(64, dtype=np.int32), 0.01).share
    assert share < 0.15
    assert reach(references, centroids, np.arange(64, dtype=np.int32), 0.1).share > share


def test_no_rows_and_no_references() -> None:
    none, some = np.zeros((0, 4), dtype=np.float16), unit(np.ones((3, 4)))
    assert [a.tolist() for a in most_similar(none, some, 0.1)] == [[], []]
    assert [a.tolist() for a in most_similar(some, none, 0.1)] == [[0.0] * 3, [-1] * 3]
    centroids = np.eye(4, dtype=np.float32)
    within = reach(none, centroids, np.arange(4, dtype=np.int32), 0.1)
    concept = np.zeros(3, dtype=np.int32)
    assert most_similar(some, none, 0.1, concept=concept, within=within)[1].tolist() == [-1] * 3
    assert within.share == 0.0


def test_sentences() -> None:
    rows = unit(np.ones((2, 4)))
    with pytest.raises(SpecError, match="must be float16 vectors of one length"):
        most_similar(rows, unit(np.ones((2, 5))), 0.1)
    with pytest.raises(SpecError, match="epsilon is 2"):
        most_similar(rows, rows, 2.0)
    with pytest.raises(SpecError, match="belong together"):
        most_similar(rows, rows, 0.1, concept=np.zeros(2, dtype=np.int32))
    with pytest.raises(SpecError, match="do not fit together"):
        reach(rows, np.eye(3, dtype=np.float32), np.zeros(3, dtype=np.int32), 0.1)
    rows[1] = 0
    with pytest.raises(InputError, match="vector 1 of the part is zero or not finite"):
        most_similar(rows, rows[:1], 0.1)
