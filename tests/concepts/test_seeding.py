from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from curate.concepts.assign import assign, to_float
from curate.concepts.kmeans import train, unit_on_grid
from curate.concepts.seeding import parallel, plus_plus, seed_rows, starting_rows, taken
from curate.errors import SpecError

WORDS = ["random", "kmeans++", "kmeans||"]


def circle(*degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float16)


def blobs(n: int, groups: int, d: int = 24, spread: float = 0.05, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, groups, n)
    label[:groups] = np.arange(groups)
    centre = rng.standard_normal((groups, d))
    x = centre[label] / np.linalg.norm(centre[label], axis=1, keepdims=True) + spread * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16), label


@pytest.mark.parametrize("word", WORDS)
def test_rows_are_different_and_fixed_by_the_seed(word):
    x, _ = blobs(300, 10, spread=1.0)
    one, again, other = (seed_rows(x, 12, seeding=word, seed=s) for s in (1, 1, 2))
    assert one.dtype == np.int64
    assert len(set(one.tolist())) == 12
    assert one.tolist() == again.tolist()
    assert one.tolist() != other.tolist()


def test_random_is_what_train_always_did():
    x, _ = blobs(300, 10, spread=1.0)
    assert seed_rows(x, 7, seeding="random", seed=5).tolist() == starting_rows(300, 7, 5).tolist()


@pytest.mark.parametrize("word", WORDS[1:])
def test_every_separated_blob_gets_a_seed(word):
    for seed in range(5):
        x, label = blobs(1500, 20, seed=seed, spread=0.001)
        chosen = seed_rows(x, 20, seeding=word, seed=seed)
        assert sorted(label[chosen].tolist()) == list(range(20))


def test_the_second_seed_is_drawn_in_proportion_to_its_squared_distance():
    """Chi-squared over 3,000 seeds, given the first: four rows on a circle, weights 1 - cos."""
    x = circle(0.0, 20.0, 75.0, 160.0)
    cosine = x.astype(np.float64) @ unit_on_grid(x).astype(np.float64).T
    weight = np.maximum(1 - cosine, 0)
    np.fill_diagonal(weight, 0)
    counts = np.zeros((4, 4))
    for seed in range(3000):
        first, second = plus_plus(x, 2, seed=seed)
        counts[first, second] += 1
    assert chisquare(counts.sum(axis=1)).pvalue > 0.001
    for first in range(4):
        others = [j for j in range(4) if j != first]
        share = weight[others, first] / weight[others, first].sum()
        assert chisquare(counts[first, others], counts[first].sum() * share).pvalue > 0.001


def test_a_weight_counts_as_that_many_rows():
    x = circle(0.0, 90.0, 180.0)
    weight = np.array([1, 2, 5])
    first = np.bincount([int(plus_plus(x, 1, seed=s, weight=weight)[0]) for s in range(3000)], minlength=3)
    assert chisquare(first, 3000 * weight / 8).pvalue > 0.001
    # weights so large that products would overflow
    huge = np.bincount([int(plus_plus(x, 2, seed=s, weight=weight * 2**50)[1]) for s in range(300)], minlength=3)
    small = np.bincount([int(plus_plus(x, 2, seed=s, weight=weight)[1]) for s in range(300)], minlength=3)
    assert np.abs(huge - small).max() < 60


def test_a_round_takes_each_row_by_its_weight():
    """Over 4,000 seeds: binomial counts of min(1, share x weight / sum)."""
    weights = np.array([0, 1, 2, 3, 10, 30, 54]) * 10**9
    chance = np.minimum(1, 2 * weights / weights.sum())
    counts = np.zeros(7)
    for seed in range(4000):
        counts[taken(weights, 2, seed)] += 1
    assert counts[0] == 0
    assert counts[6] == 4000
    assert np.abs(counts - 4000 * chance).max() <= 4 * np.sqrt(4000 * 0.25)
    inner = slice(1, 6)
    z = (counts - 4000 * chance)[inner] / np.sqrt(4000 * chance * (1 - chance))[inner]
    assert np.abs(z).max() < 4


def test_the_parallel_one_covers_what_k_means_plus_plus_covers():
    x, _ = blobs(3000, 30, spread=0.3)
    cost = {
        word: np.mean([assign(x, unit_on_grid(x[seed_rows(x, 30, seeding=word, seed=s)]))[1].sum() for s in range(6)])
        for word in WORDS
    }
    assert cost["kmeans||"] <= 1.05 * cost["kmeans++"]
    assert len(set(parallel(x, 25, seed=0, rounds=1).tolist())) == 25  # fewer rounds do as well


def test_better_starts_than_random_on_separated_groups():
    x, _ = blobs(4000, 60, spread=0.03)
    final = {
        word: np.mean([train(x, 60, niter=10, seed=s, seeding=word).objective[-1] for s in range(3)]) for word in WORDS
    }
    assert final["kmeans||"] < 0.9 * final["random"]
    assert final["kmeans++"] < 0.9 * final["random"]


@pytest.mark.parametrize("word", WORDS)
def test_equal_rows_and_as_many_seeds_as_rows(word):
    x = np.repeat(circle(0.0, 90.0), [6, 4], axis=0)
    assert sorted(seed_rows(x, 10, seeding=word, seed=0).tolist()) == list(range(10))
    three = seed_rows(x, 3, seeding=word, seed=0)
    assert len(set(three.tolist())) == 3
    if word != "random":
        _, distance = assign(x, unit_on_grid(x[three]))
        assert to_float(distance).max() < 1e-3  # both places are taken before a third row


@pytest.mark.parametrize("word", WORDS)
def test_float32_rows_count_as_the_grid(word):
    x, _ = blobs(200, 5, spread=0.5)
    rows = [seed_rows(y, 9, seeding=word, seed=3).tolist() for y in (x, x.astype(np.float32))]
    assert rows[0] == rows[1]


def test_too_many_seeds_and_other_words():
    with pytest.raises(SpecError, match="4 starting rows cannot be chosen of 3"):
        seed_rows(np.eye(3, dtype=np.float16), 4, seeding="random", seed=0)
    with pytest.raises(SpecError, match='not "best"'):
        seed_rows(np.eye(3, dtype=np.float16), 1, seeding="best", seed=0)
