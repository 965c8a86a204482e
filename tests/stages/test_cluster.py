from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from curate.concepts.kmeans import train
from curate.errors import InputError, SpecError
from curate.stages.cluster import ClusterStage
from curate.store.artifacts import read_artifacts
from curate.store.uids import hash64

DIM = 8


def unit(n: int, seed: int = 0) -> NDArray[np.float16]:
    raw = np.random.default_rng(seed).normal(size=(n, DIM))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def run(
    bench: Callable[..., Any], sizes: list[int], *, seed: int = 3, drop: list[bool] | None = None, **options: Any
) -> tuple[pl.DataFrame, dict[str, Any], pl.DataFrame]:
    made = bench(len(sizes), seed)
    index = made.index(sizes)
    made.embed(unit(sum(sizes)), sizes)
    if drop is not None:
        frames = [pl.DataFrame({"keep": [not d for d in drop], "reason": ["x"] * len(drop)})]
        ends = np.cumsum([0, *sizes])
        made.given("out", [frames[0][int(a) : int(b)] for a, b in itertools.pairwise(ends)])
    frame = made.stage(ClusterStage, **options)
    step = made.plan.step("cluster")
    return frame, dict(read_artifacts(made.workspace, step.folder, step.whole)), index


def test_each_row_is_in_its_nearest_concept_at_its_exact_distance(bench: Callable[..., Any]) -> None:
    frame, artifacts, _ = run(bench, [30, 1, 29], concepts=5)
    vectors, centroids = unit(60).astype(np.float64), artifacts["centroids"].astype(np.float64)
    dots = vectors @ centroids.T  # exact: multiples of 2^-48
    assert frame["concept"].to_list() == dots.argmax(axis=1).tolist()
    expected = np.maximum(np.rint((1 - dots.max(axis=1)) * 2**32), 0)
    np.testing.assert_array_equal(frame["distance"].to_numpy() * 2**32, expected)


def test_distances_are_multiples_of_two_to_the_minus_32(bench: Callable[..., Any]) -> None:
    frame, _, _ = run(bench, [200], concepts=7)
    scaled = frame["distance"].to_numpy() * 2.0**32
    np.testing.assert_array_equal(scaled, np.rint(scaled))
    assert scaled.min() >= 0
    assert scaled.max() <= 2**33


def test_the_cut_into_parts_changes_nothing(bench: Callable[..., Any]) -> None:
    one, ones, _ = run(bench, [300], concepts=6, training_sample=120)
    many, manys, _ = run(bench, [7, 100, 0, 1, 192], concepts=6, training_sample=120)
    assert one.equals(many)
    np.testing.assert_array_equal(ones["centroids"], manys["centroids"])
    assert ones["training"] == manys["training"]


def test_the_training_sample_is_drawn_by_uid(bench: Callable[..., Any]) -> None:
    _, artifacts, index = run(bench, [4000], concepts=4, iterations=3, training_sample=1000)
    draw = hash64(index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy(), 3, "cluster")
    chosen = draw < np.uint64(2**62)
    report = artifacts["training"]
    assert report["training_rows"] == int(chosen.sum())
    assert abs(report["training_rows"] - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5
    assert report["alive_rows"] == 4000
    alone = train(unit(4000)[chosen], 4, niter=3, seed=3)
    np.testing.assert_array_equal(artifacts["centroids"], alone.centroids)
    assert report["objective"] == alone.objective


def test_everything_is_used_when_there_are_few(bench: Callable[..., Any]) -> None:
    _, artifacts, _ = run(bench, [50, 50], concepts=3, training_sample=100)
    np.testing.assert_array_equal(artifacts["centroids"], train(unit(100), 3, niter=100, seed=3).centroids)


def test_another_seed_gives_other_centroids(bench: Callable[..., Any]) -> None:
    one, other = (run(bench, [200], seed=s, concepts=8, iterations=1)[1]["centroids"] for s in (1, 2))
    assert not np.array_equal(one, other)


def test_rows_that_are_out_have_no_concept_and_take_no_part(bench: Callable[..., Any]) -> None:
    drop = [i % 3 == 0 for i in range(90)]
    frame, artifacts, _ = run(bench, [40, 50], drop=drop, concepts=4)
    assert frame["concept"].is_null().to_list() == drop
    assert frame["distance"].is_null().to_list() == drop
    keep = ~np.asarray(drop)
    np.testing.assert_array_equal(artifacts["centroids"], train(unit(90)[keep], 4, niter=100, seed=3).centroids)


def test_too_few_samples_is_a_sentence_with_the_number(bench: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match="asks for 9 concepts but only 8 samples are alive there; set concepts to 8"):
        run(bench, [5, 3], concepts=9)


def test_when_nothing_is_alive_it_says_so(bench: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="no sample is alive before stage cluster: the stages before it dropped all 3"):
        run(bench, [2, 1], drop=[True] * 3, concepts=2)
