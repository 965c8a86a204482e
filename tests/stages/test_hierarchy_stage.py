"""`hierarchy` over hand-made parts: columns follow parents, any cut gives the same, odd options get a sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import cut
from numpy.typing import NDArray
from pydantic import ValidationError

from curate.concepts.hierarchy import evenness, hierarchy
from curate.errors import SpecError
from curate.pruning.hierarchical import hierarchical_quotas
from curate.stages.cluster import ClusterStage
from curate.stages.hierarchy import HierarchyConfig, HierarchyStage
from curate.store.artifacts import read_artifacts

N = 400


def uneven(n: int = N) -> NDArray[np.float16]:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(n, 6)) * 0.3
    raw[np.arange(n), (np.arange(n) % 10 == 0).astype(int)] += 1  # nine tenths around one axis
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float16)


def run(bench: Callable[..., Any], sizes: list[int], **options: Any) -> tuple[pl.DataFrame, dict[str, Any], Any]:
    made = bench(len(sizes), 3)
    made.index(sizes)
    made.embed(uneven(sum(sizes)), sizes)
    keep = [row % 7 != 0 for row in range(sum(sizes))]
    made.given("out", cut(pl.DataFrame({"keep": keep, "reason": ["x"] * len(keep)}), sizes))
    made.stage(ClusterStage, concepts=40, iterations=10)
    frame = made.stage(HierarchyStage, **({"levels": [12, 4], "resamplings": 2} | options))
    step = made.plan.step("hierarchy")
    return frame, dict(read_artifacts(made.workspace, step.folder, step.whole)), made


def test_columns_follow_the_parents_of_alive_rows(bench: Callable[..., Any]) -> None:
    frame, artifacts, made = run(bench, [150, 0, 250])
    assert frame.schema == {"concept_2": pl.Int32(), "concept_3": pl.Int32()}
    concept = made.frame("cluster")["concept"]
    two, three = artifacts["parents_2"], artifacts["parents_3"]
    assert (two.dtype, two.shape, three.dtype, three.shape) == (np.int32, (40,), np.int32, (12,))
    assert artifacts["centroids_2"].shape == (12, 6)
    assert artifacts["centroids_3"].shape == (4, 6)
    expected = [None if c is None else int(two[c]) for c in concept]
    assert frame["concept_2"].to_list() == expected
    assert frame["concept_3"].to_list() == [None if c is None else int(three[c]) for c in expected]
    assert frame["concept_2"].null_count() == len(range(0, N, 7))


def test_the_artifacts_are_those_of_the_pure_function(bench: Callable[..., Any]) -> None:
    frame, artifacts, made = run(bench, [400], nearest=[2, 1], resamplings=[3, 1], iterations=7)
    step = made.plan.step("cluster")
    centroids = read_artifacts(made.workspace, step.folder, step.whole)["centroids"]
    levels = hierarchy(centroids, [12, 4], iterations=7, resamplings=[3, 1], nearest=[2, 1], seed=3)
    for number, level in enumerate(levels, 2):
        np.testing.assert_array_equal(artifacts[f"parents_{number}"], level.parents)
        np.testing.assert_array_equal(artifacts[f"centroids_{number}"], level.centroids)
    told = artifacts["levels"]["levels"]
    assert [one["concepts"] for one in told] == [40, 12, 4]
    assert told[1]["objective"] == levels[0].objective
    sizes = np.bincount(frame["concept_3"].drop_nulls().to_numpy(), minlength=4)
    assert told[2]["smallest"] == sizes.min()
    assert told[2]["largest"] == sizes.max()
    assert told[2]["even"] == evenness(sizes)


def test_the_cut_into_parts_changes_nothing(bench: Callable[..., Any]) -> None:
    one, ones, _ = run(bench, [400])
    many, manys, _ = run(bench, [1, 99, 0, 300])
    assert one.equals(many)
    assert ones["parents_2"].tobytes() == manys["parents_2"].tobytes()
    assert ones["levels"] == manys["levels"]


def test_its_artifacts_feed_the_quotas(bench: Callable[..., Any]) -> None:
    frame, artifacts, made = run(bench, [400])
    sizes = np.bincount(made.frame("cluster")["concept"].drop_nulls().to_numpy(), minlength=40)
    quota = hierarchical_quotas(sizes, [artifacts["parents_2"], artifacts["parents_3"]], 100)
    assert quota.sum() == 100
    top = np.bincount(artifacts["parents_3"][artifacts["parents_2"]], weights=quota, minlength=4)
    full = np.bincount(frame["concept_3"].drop_nulls().to_numpy(), minlength=4)
    open_ = top < full
    assert top[open_].max() - top[open_].min() <= 1


def test_level_1_must_be_larger(bench: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match="asks for 40 concepts at level 2, but cluster has only 40"):
        run(bench, [400], levels=[40])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"levels": []}, "at least 1 item"),
        ({"levels": [5, 5]}, "level 3 has 5 concepts and level 2 5; lower it"),
        ({"levels": [5, 0]}, "a level has 0 concepts"),
        ({"levels": [5, 2], "resamplings": [1]}, "there are 1 numbers for 2 levels; give one each"),
        ({"levels": [5], "resamplings": -1}, "resamplings: -1 is too low; it must be 0 or more"),
        ({"levels": [5, 2], "nearest": [3, 0]}, "nearest: 0 is too low; it must be 1 or more"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        HierarchyConfig.model_validate(options)
