from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from curate.concepts.assign import assign, to_float
from curate.concepts.kmeans import start, train
from curate.concepts.number import for_prune
from curate.engine.base import InlineEngine, Need
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


def test_a_training_sample_that_is_too_small_is_named_as_such(bench: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match=r"its training sample has only \d+ of the 90 samples alive there; raise train"):
        run(bench, [90], concepts=60, training_sample=20)


def test_when_nothing_is_alive_it_says_so(bench: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="no sample is alive before stage cluster: the stages before it dropped all 3"):
        run(bench, [2, 1], drop=[True] * 3, concepts=2)


# --- over all rows ----------------------------------------------------------------------------------------------------


def in_process(n: int, sample: NDArray[np.bool_] | None = None, **options: Any) -> Any:
    """What one process makes of all rows, from the same start."""
    rows = unit(n) if sample is None else unit(n)[sample]
    concepts = options.pop("concepts")
    begin = start(rows, concepts, seeding=options.pop("seeding", "random"), seed=3)
    return train(unit(n), concepts, seed=3, init=begin, niter=options.pop("iterations", 100), **options)


@pytest.mark.parametrize("seeding", ["random", "kmeans++", "kmeans||"])
def test_full_training_is_that_of_one_process_to_the_byte(bench: Callable[..., Any], seeding: str) -> None:
    options: dict[str, Any] = {"concepts": 9, "iterations": 6, "seeding": seeding}
    frame, artifacts, _ = run(bench, [130, 0, 1, 269], train="full", **options)
    alone = in_process(400, **options)
    assert artifacts["centroids"].tobytes() == alone.centroids.tobytes()
    report = artifacts["training"]
    assert report["objective"] == alone.objective
    assert report["empty"] == alone.empty
    assert (report["iterated_rows"], report["training_rows"], report["alive_rows"]) == (400, 400, 400)
    concept, distance = assign(unit(400), alone.centroids)
    assert frame["concept"].to_list() == concept.tolist()
    np.testing.assert_array_equal(frame["distance"].to_numpy(), to_float(distance))


def test_full_training_starts_from_the_sample_and_iterates_over_everything(bench: Callable[..., Any]) -> None:
    drop = [i % 5 == 0 for i in range(1000)]
    options: dict[str, Any] = {"concepts": 5, "iterations": 4}
    _, artifacts, index = run(bench, [300, 700], drop=drop, train="full", training_sample=200, **options)
    draw = hash64(index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy(), 3, "cluster")
    keep = ~np.asarray(drop)
    chosen = keep & (draw < np.uint64(2**62))
    alone = train(unit(1000)[keep], 5, niter=4, seed=3, init=start(unit(1000)[chosen], 5, seed=3))
    assert artifacts["centroids"].tobytes() == alone.centroids.tobytes()
    assert artifacts["training"]["objective"] == alone.objective
    assert artifacts["training"]["training_rows"] == int(chosen.sum())
    assert artifacts["training"]["iterated_rows"] == 800


class Shares(InlineEngine):
    """An engine in this process that says it has several workers, so that a pass is cut into as many shares."""

    def __init__(self, workers: int) -> None:
        self.shares = workers

    def workers(self, need: Need) -> int:
        return self.shares


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("sizes", [[100] * 6, [5, 395, 1, 0, 70, 129]])
@pytest.mark.parametrize("way", ["sample", "full"])
def test_neither_shares_nor_parts_matter(bench: Callable[..., Any], workers: int, sizes: list[int], way: str) -> None:
    made = bench(len(sizes), 3)
    made.executor.engine = Shares(workers)
    made.index(sizes)
    made.embed(unit(600), sizes)
    made.stage(ClusterStage, concepts=7, iterations=5, train=way)
    step = made.plan.step("cluster")
    artifacts = read_artifacts(made.workspace, step.folder, step.whole)
    alone = in_process(600, concepts=7, iterations=5)
    assert artifacts["centroids"].tobytes() == alone.centroids.tobytes()  # type: ignore[union-attr]
    assert artifacts["training"]["objective"] == alone.objective  # type: ignore[index, call-overload]


def test_full_training_stops_when_nothing_moves_or_little_is_gained(bench: Callable[..., Any]) -> None:
    options: dict[str, Any] = {"concepts": 3, "iterations": 80}
    _, artifacts, _ = run(bench, [60, 60], train="full", **options)
    alone = in_process(120, **options)
    assert artifacts["training"]["objective"] == alone.objective
    assert len(alone.objective) == 80
    assert alone.objective[-1] == alone.objective[-2]
    for way in ("full", "sample"):
        _, artifacts, _ = run(bench, [60, 60], train=way, tolerance=0.01, **options)
        objective = artifacts["training"]["objective"]
        assert objective == in_process(120, tolerance=0.01, **options).objective
        gains = -np.diff(objective) / objective[:-1]
        assert (gains[:-1] >= 0.01).all()
        assert gains[-1] < 0.01


def test_full_training_splits_the_largest_concept_where_one_is_empty(bench: Callable[..., Any]) -> None:
    made = bench(2, 3)
    rows = np.repeat(np.eye(DIM, dtype=np.float16)[:2], [6, 4], axis=0)
    made.index([5, 5])
    made.embed(rows, [5, 5])
    frame = made.stage(ClusterStage, concepts=4, iterations=3, train="full")
    step = made.plan.step("cluster")
    artifacts = read_artifacts(made.workspace, step.folder, step.whole)
    assert artifacts["training"]["empty"] == 2  # type: ignore[index, call-overload]
    assert frame["concept"].n_unique() == 2
    alone = train(rows, 4, niter=3, seed=3)
    np.testing.assert_array_equal(artifacts["centroids"], alone.centroids)  # type: ignore[arg-type]


def test_faiss_trains_on_a_sample_only(bench: Callable[..., Any]) -> None:
    with pytest.raises(SpecError, match="leave engine: faiss out"):
        run(bench, [20], concepts=2, train="full", engine="faiss")
    with pytest.raises(SpecError, match="faiss knows no tolerance"):
        run(bench, [20], concepts=2, tolerance=0.1, engine="faiss")


# --- auto -------------------------------------------------------------------------------------------------------------


def test_auto_for_dedup_balances_the_cost_and_says_why(bench: Callable[..., Any]) -> None:
    _, artifacts, _ = run(bench, [900, 900], concepts="auto", purpose="dedup", iterations=1)
    assert len(artifacts["centroids"]) == 30  # sqrt(1800 / 2)
    report = artifacts["training"]
    assert report["concepts"] == report["auto"]["concepts"] == 30
    assert report["auto"]["purpose"] == "dedup"
    assert "sqrt(n / 2) for n = 1,800" in report["auto"]["why"]


@pytest.mark.parametrize("way", ["sample", "full"])
def test_auto_for_prune_climbs_until_it_gains_little(bench: Callable[..., Any], way: str) -> None:
    _, artifacts, _ = run(bench, [900, 900], concepts="auto", iterations=1, train=way)
    choice = for_prune(unit(1800), seed=3)
    assert len(artifacts["centroids"]) == choice.concepts
    assert artifacts["training"]["auto"] == {"purpose": "prune", "concepts": choice.concepts} | {
        "why": choice.why,
        "ladder": choice.ladder,
    }
    assert len(choice.ladder) > 2


def test_auto_of_a_few_samples_is_one_concept(bench: Callable[..., Any]) -> None:
    for purpose in ("prune", "dedup"):
        frame, _, _ = run(bench, [2, 1], concepts="auto", purpose=purpose)
        assert frame["concept"].to_list() == [0, 0, 0]
    with pytest.raises(InputError, match="no sample is alive"):
        run(bench, [2, 1], drop=[True] * 3, concepts="auto")
