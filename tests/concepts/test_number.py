from __future__ import annotations

import numpy as np
import pytest

from curate.concepts.number import GAIN, TRAINING_MEMBERS, for_dedup, for_prune
from curate.errors import SpecError


def blobs(n: int, groups: int, spread: float, d: int = 32) -> np.ndarray:
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((groups, d))
    x = centre[rng.integers(0, groups, n)] + spread * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("n", [20_000, 1_000_000, 12_345_678])
def test_dedup_takes_the_cheapest_number(n):
    def cost(k: int) -> float:
        return n * k + n * n / (2 * k)

    k = for_dedup(n, n).concepts
    assert cost(k) <= min(cost(k - 5), cost(k + 5)) * (1 + 1e-9)
    assert min(cost(j) for j in range(1, 4 * k)) == pytest.approx(cost(k), rel=1e-3)


def test_dedup_leaves_enough_rows_and_says_which_bound_it_was():
    small = for_dedup(1000, 1000)
    assert (small.concepts, "50 rows a concept" in small.why) == (20, True)
    assert "22 would balance" in small.why
    sampled = for_dedup(12_800_000_000, 1_000_000)
    assert (sampled.concepts, "training sample" in sampled.why) == (25_000, True)
    assert for_dedup(1, 1).concepts == 1


def test_prune_finds_the_groups_that_there_are():
    choice = for_prune(blobs(6000, 16, 0.05, 64), seed=0)
    assert choice.concepts == 16
    assert [row["concepts"] for row in choice.ladder] == [1, 2, 4, 8, 16, 32]
    gains = [row["gain"] for row in choice.ladder]
    assert gains[0] is None
    assert min(gains[1:-1]) >= GAIN > gains[-1]
    assert "32 concepts" in choice.why


def test_prune_stops_where_the_sample_ends():
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 2000)
    choice = for_prune(np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float16), seed=0)
    assert choice.concepts == 16  # of 1,000 rows to train on, at least 40 each; a circle gains by every doubling
    assert f"{TRAINING_MEMBERS} a concept" in choice.why


@pytest.mark.parametrize("n", [1, 2, 3, 100, 158])
def test_few_rows_are_one_concept(n):
    choice = for_prune(blobs(n, 3, 0.1), seed=0)
    assert (choice.concepts, choice.ladder) == (1, [])
    assert "two concepts need 159" in choice.why


def test_equal_rows_are_one_concept():
    assert for_prune(np.repeat(np.eye(4, dtype=np.float16)[:1], 400, axis=0), seed=0).concepts == 1


def test_no_rows():
    with pytest.raises(SpecError, match="nothing is alive"):
        for_prune(np.zeros((0, 4), dtype=np.float16), seed=0)
    with pytest.raises(SpecError, match="nothing is alive"):
        for_dedup(0, 0)
