"""Groups, rankings, budgets and repeats of `prune`, against the whole-array functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench, cut
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.pruning.allocate import allocate, lower_bounds, targets
from curate.pruning.balance import class_balance
from curate.pruning.hierarchical import hierarchical_quotas
from curate.pruning.order import as_int64
from curate.pruning.select import select, ssp_select
from curate.stages.cluster import ClusterStage
from curate.stages.filter import FilterStage
from curate.stages.hierarchy import HierarchyStage
from curate.stages.prune import PruneStage
from curate.store.artifacts import read_artifacts
from curate.store.uids import hash64

N, K = 240, 6


class Table:
    """240 rows in parts of any sizes: concepts, distances, labels, a float score with gaps, a step named el2n."""

    def __init__(self, url: str, sizes: tuple[int, ...] = (100, 0, 140), cluster: bool = True) -> None:
        rng = np.random.default_rng(3)
        self.concept = (rng.random(N) ** 2 * K).astype(np.int32)
        self.distance = rng.integers(0, 9, N) * 2**28 + self.concept * 2**27
        kinds = np.minimum(4, (self.distance >> 28) // 2)
        self.label = [None if i % 40 == 7 else f"class {kind}" for i, kind in enumerate(kinds)]
        quality = np.rint(rng.normal(size=N) * 8) / 8
        self.quality = [None if i % 31 == 4 else float("nan") if i % 31 == 5 else q for i, q in enumerate(quality)]
        self.el2n = rng.integers(-4, 5, N)
        self.made = Bench(url, len(sizes), 11)
        index = self.made.index(sizes, label=self.label)
        self.hi, self.lo = index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy()
        frame = pl.DataFrame({"quality": pl.Series(self.quality, dtype=pl.Float32)})
        self.made.given("scored", cut(frame, sizes))
        self.made.given("el2n", cut(pl.DataFrame({"score": self.el2n, "epochs": [3] * N}), sizes), kind="score")
        if cluster:
            raw = rng.normal(size=(K, 4))
            unit = np.rint(raw / np.linalg.norm(raw, axis=1, keepdims=True) * 2**24) / 2**24
            frame = pl.DataFrame({"concept": self.concept, "distance": self.distance / 2**32})
            self.made.given("cluster", cut(frame, sizes), artifacts={"centroids": unit.astype(np.float32)})

    def run(self, **options: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
        """One prune stage over all rows; it is taken off the plan again."""
        frame = self.made.stage(PruneStage, **options)
        step = self.made.plan.steps.pop()
        self.made.executor.alive.clear()
        self.made.executor.alive_parts = self.made.executor.rows_parts
        return frame, dict(read_artifacts(self.made.workspace, step.folder, step.whole))

    def sizes(self) -> NDArray[np.int64]:
        return np.bincount(self.concept, minlength=K)


def test_the_exact_top_fraction_of_a_column_without_any_cluster_stage(tmp_path: Path) -> None:
    table = Table(str(tmp_path), cluster=False)
    frame, artifacts = table.run(keep=0.3, metric="quality")
    good = np.array([q is not None and q == q for q in table.quality])
    score = np.array([q if ok else 0.0 for q, ok in zip(table.quality, good, strict=True)])
    order = np.lexsort((table.lo, table.hi, -score))
    kept = [row for row in order if good[row]][: int(0.3 * N)]
    assert np.flatnonzero(frame["keep"].to_numpy()).tolist() == sorted(kept)
    assert frame["reason"].to_list() == [
        None if keep else "over_quota" if ok else "null: quality" for keep, ok in zip(frame["keep"], good, strict=True)
    ]
    assert frame["score"].drop_nulls().to_numpy().tolist() == as_int64(score[good]).tolist()
    assert artifacts["concepts"].select("concept", "size", "quota", "complexity").rows() == [(0, good.sum(), 72, None)]
    assert (artifacts["diagnostics"]["within"], artifacts["diagnostics"]["warnings"]) == ("all", [])


@pytest.mark.parametrize("which", ["hard", "easy", "middle", "random"])
@pytest.mark.parametrize("options", [{"metric": "el2n"}, {"metric": "el2n", "balance": 0.6}, {"metric": "dbp"}])
def test_every_choice_is_that_of_the_whole_arrays(which: str, options: dict[str, Any], tmp_path: Path) -> None:
    """In three parts and in one."""
    found = []
    for folder, sizes in (("a", (100, 0, 140)), ("b", (N,))):
        table = Table(str(tmp_path / folder), sizes)
        frame, artifacts = table.run(keep=0.35, which=which, **options)
        found.append(frame)
        draw = hash64(table.hi, table.lo, 11, "prune")
        quota = artifacts["concepts"]["quota"].to_numpy()
        uids = table.hi, table.lo
        if options["metric"] == "dbp":
            expected = select(table.concept, table.distance, *uids, quota, which, draw)  # type: ignore[arg-type]
        else:
            floor = lower_bounds(table.sizes(), 84, options.get("balance", 0.0))
            expected = ssp_select(table.concept, table.el2n, *uids, 84, floor, which, draw)  # type: ignore[arg-type]
        np.testing.assert_array_equal(frame["keep"].to_numpy(), expected)
        assert np.array_equal(np.bincount(table.concept[expected], minlength=K), quota)
        assert frame["keep"].sum() == 84
    assert found[0].equals(found[1])


def test_floors_over_classes_reduce_their_imbalance(tmp_path: Path) -> None:
    """Sorscher's rule with the labels of the index; ssp then takes the distances of the nearest cluster stage."""
    table = Table(str(tmp_path))
    numbers = np.array([-1 if name is None else int(name[-1]) for name in table.label])
    has, found = numbers >= 0, []
    for balance in (0.0, 0.5, 1.0):
        frame, artifacts = table.run(keep=0.3, metric="ssp", within="label", balance=balance)
        counts = np.bincount(numbers[has])
        floor = lower_bounds(counts, 72, balance)
        rows = numbers[has].astype(np.int32), table.distance[has], table.hi[has], table.lo[has]
        np.testing.assert_array_equal(frame["keep"].to_numpy()[has], ssp_select(*rows, 72, floor))
        assert set(frame["reason"].to_numpy()[~has]) == {"null: label"}
        assert artifacts["concepts"]["label"].to_list() == [f"class {i}" for i in range(5)]
        assert artifacts["concepts"]["floor"].to_list() == floor.tolist()
        facts = artifacts["diagnostics"]
        assert facts["balance_before"] == class_balance(counts)
        assert facts["balance_after"] == class_balance(np.bincount(numbers[frame["keep"].to_numpy()], minlength=5))
        found.append(facts["balance_after"])
    assert found[0] < found[1] < found[2]


def test_any_metric_with_the_quotas_of_dbp_and_dbp_in_one_ranking(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    _, dbp = table.run(keep=0.4)
    frame, mixed = table.run(keep=0.4, metric="el2n", share="complexity")
    assert mixed["concepts"].equals(dbp["concepts"])
    quota = dbp["concepts"]["quota"].to_numpy()
    expected = select(table.concept, table.el2n, table.hi, table.lo, quota)
    np.testing.assert_array_equal(frame["keep"].to_numpy(), expected)
    one, _ = table.run(keep=0.4, share="global")
    other, _ = table.run(keep=0.4, metric="ssp", balance=0.0)
    assert one.equals(other)


@pytest.mark.parametrize("mode", ["product", "sum", "intra", "inter"])
def test_complexities(mode: str, tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    made = table.run(keep=0.4, complexity=mode, allocation="proportional", balance=0.2, cap=0.3)[1]["concepts"]
    intra, inter = made["d_intra"].to_numpy(), made["d_inter"].to_numpy()
    value = {"product": intra * inter, "sum": intra + inter, "intra": intra, "inter": inter}[mode]
    np.testing.assert_array_equal(made["complexity"].to_numpy(), value)
    upper, lower = np.minimum(table.sizes(), 28), lower_bounds(table.sizes(), 96, 0.2)
    wish = targets(value, 0.1, 96, table.sizes())
    expected = allocate(wish, lower, upper, 96, rule="proportional").quota
    assert made["quota"].to_list() == expected.tolist()
    assert made["floor"].to_list() == lower.tolist()


def test_a_cap_in_one_ranking(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    frame, artifacts = table.run(keep=60, metric="el2n", cap=12)
    expected = ssp_select(
        table.concept, table.el2n, table.hi, table.lo, 60, np.zeros(K, int), limit=np.full(K, 12)
    )  # fmt: skip
    np.testing.assert_array_equal(frame["keep"].to_numpy(), expected)
    assert artifacts["diagnostics"]["at_cap_share"] > 0
    with pytest.raises(SpecError, match="no group gives more than 1, which is 6 together: raise cap"):
        table.run(keep=60, metric="el2n", cap=0.03)


@pytest.mark.parametrize(
    "options",
    [{}, {"balance": 1.0}, {"metric": "el2n", "balance": 0.9}, {"metric": "quality"}, {"which": "middle"},
     {"metric": "random", "which": "middle"}, {"which": "random", "balance": 0.5}],
)  # fmt: skip
def test_nested_budgets(options: dict[str, Any], tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    frame, _ = table.run(keep=0.5, nested=[0.25, 0.1, 72.0], **options)
    assert frame["budget"].is_null().to_list() == frame["keep"].not_().to_list()
    told = dict(frame.drop_nulls("budget")["budget"].value_counts().iter_rows())
    assert told == {0.1: 24, 0.25: 36, 72.0: 12, 0.5: 48}


def test_one_ranking_nests_around_the_median_too(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    options: dict[str, Any] = {"metric": "cluster.distance", "which": "middle"}
    frame, artifacts = table.run(keep=0.6, nested=[0.55], **options)
    assert int(frame["keep"].sum()) == 144 == int(artifacts["concepts"]["quota"].sum())
    assert frame["keep"].to_list() == table.run(keep=0.6, **options)[0]["keep"].to_list()
    small, _ = table.run(keep=0.55, **options)
    assert (frame["budget"] == 0.55).fill_null(False).to_list() == small["keep"].to_list()


def test_a_tree_stands_on_the_concepts_that_are_shared_out(bench: Callable[..., Any]) -> None:
    made = bench(1, 3)
    made.index([60])
    rows = np.random.default_rng(0).normal(size=(60, 5))
    made.embed((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16), [60])
    made.stage(ClusterStage, name="a", concepts=6, iterations=2)
    made.stage(ClusterStage, name="b", concepts=6, iterations=1)
    made.stage(HierarchyStage, levels=[2], within="a")
    with pytest.raises(SpecError, match="the tree hierarchy stands on the concepts of a, not on those of b"):
        made.stage(PruneStage, keep=20, allocation="hierarchical")
    made.plan.steps.pop()
    assert made.stage(PruneStage, keep=20, allocation="hierarchical", within="a")["keep"].sum() == 20


def test_what_cannot_be_ranked_is_not_called_dead(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    with pytest.raises(SpecError, match=r"\(keep 1 of 240 alive\) but 224 are alive there with a group and a score"):
        table.run(keep=1.0, metric="quality", within="all")


def test_budgets_of_one_size_are_refused_and_one_alone_is_the_same(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    for options in ({}, {"metric": "el2n", "balance": 0.9}):
        frame, artifacts = table.run(keep=0.5, nested=[0.1, 0.2], **options)
        small, _ = table.run(keep=0.1, **options)
        assert (frame["budget"] == 0.1).fill_null(False).to_list() == small["keep"].to_list()
        nested = artifacts["diagnostics"]["nested"]
        assert [(one["budget"], one["samples"]) for one in nested] == [(0.1, 24), (0.2, 48), (0.5, 120)]
        if not options:
            assert nested[0]["moved"] == 0
            assert all(one["objective"] >= one["free_objective"] for one in nested)
    table.made.stage(PruneStage, keep=0.5, nested=[0.1, 0.2])
    kept = table.made.stage(FilterStage, where="prune.budget <= 0.1")
    assert kept["alive"].sum() == 24
    with pytest.raises(SpecError, match=r"two budgets keep 60 samples \(one is 0.25"):
        Table(str(tmp_path / "b")).run(keep=0.5, nested=[60.0, 0.25])


def test_repeats_along_a_tree(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    parents = [np.array([0, 0, 0, 1, 1, 2], dtype=np.int32), np.array([0, 0, 1], dtype=np.int32)]
    made = {f"parents_{level}": array for level, array in enumerate(parents, 2)}
    empty = cut(pl.DataFrame({"x": [0] * N}), (100, 0, 140))
    table.made.given("tree", empty, kind="hierarchy", artifacts=made)  # type: ignore[arg-type]
    frame, artifacts = table.run(keep=200, allocation="hierarchical", repeats=5)
    quota = hierarchical_quotas(table.sizes(), parents, 200, repeats=5, seed=11)
    assert artifacts["concepts"]["quota"].to_list() == quota.tolist()
    assert (quota > table.sizes()).any()
    copies = frame["repeats"].fill_null(0).to_numpy()
    assert np.bincount(table.concept, weights=copies, minlength=K).tolist() == quota.tolist()
    assert copies.sum() == 200
    whole, extra = np.divmod(quota, table.sizes())
    more = select(table.concept, table.distance, table.hi, table.lo, extra)
    np.testing.assert_array_equal(copies, whole[table.concept] + more)
    assert frame["keep"].to_list() == (copies > 0).tolist()
    weight = frame.drop_nulls("weight")
    expected = np.maximum(quota / table.sizes(), 1.0)[table.concept[frame["keep"].to_numpy()]]
    assert weight["weight"].to_list() == expected.tolist()
    assert frame.schema["repeats"] == pl.UInt16
    plain, _ = table.run(keep=0.5, allocation="hierarchical", nested=[0.1, 0.3], within="cluster", tree="tree")
    assert plain["budget"].value_counts().drop_nulls().sort("budget")["count"].to_list() == [24, 48, 48]


def test_quotas_by_complexity_may_repeat_too(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    frame, artifacts = table.run(keep=300, repeats=4, temperature=0.01)
    quota = artifacts["concepts"]["quota"].to_numpy()
    assert quota.sum() == 300 == frame["repeats"].sum()
    assert (quota <= 4 * table.sizes()).all()
    assert (quota > table.sizes()).any()
    with pytest.raises(SpecError, match=r"to keep 1000 samples .* but 240 are alive there, 4 times at most"):
        table.run(keep=1000, repeats=4)


def test_a_warning_when_complexity_barely_acts(tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    facts = table.run(keep=0.95)[1]["diagnostics"]
    assert facts["warnings"] and facts["warnings"][0].startswith("complexity barely acts: ")  # noqa: PT018
    assert facts["saturated_share"] > 0.5
    assert table.run(keep=0.95, metric="ssp")[1]["diagnostics"]["warnings"] == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"metric": "qualty"}, "metric qualty is neither dbp, ssp nor random"),
        ({"metric": "index.key"}, "metric index.key is String; samples are ranked by numbers"),
        ({"within": "all"}, "quotas by complexity need the concepts of an earlier cluster stage"),
        ({"within": "label"}, "quotas by complexity need the concepts"),
        ({"allocation": "hierarchical"}, "needs an earlier hierarchy stage"),
        ({"repeats": 2, "metric": "ssp"}, "repeats goes with quotas"),
        ({"repeats": 2, "nested": [0.1]}, "repeats goes with quotas .* and without nested"),
        ({"nested": [0.9]}, "nested has 0.9, more than keep"),
        ({"nested": [2.5]}, "a whole number of samples, also in nested and cap"),
        ({"nested": [0.1], "which": "middle", "metric": "ssp"}, "nested with which: middle needs quotas"),
    ],
)
def test_what_cannot_be_is_a_sentence(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    table = Table(str(tmp_path))
    with pytest.raises(SpecError, match=text):
        table.run(keep=0.5, **options)


def test_a_distance_needs_a_cluster_stage(tmp_path: Path) -> None:
    for metric in ("dbp", "ssp"):
        with pytest.raises(SpecError, match="ranks by the distance to a centroid; add a cluster stage"):
            Table(str(tmp_path / metric), cluster=False).run(keep=0.5, metric=metric)
