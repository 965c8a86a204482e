from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench, cut
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.pruning.allocate import lower_bounds
from curate.pruning.select import select, ssp_select
from curate.stages.prune import PruneStage
from curate.store.artifacts import read_artifacts
from curate.store.uids import hash64


class Data:
    """Rows of concepts and distances with many ties, and the bench that holds them."""

    def __init__(self, url: str, sizes: list[int], k: int, seed: int, dead: float = 0.0) -> None:
        rng = np.random.default_rng(seed)
        n = sum(sizes)
        self.n, self.k, self.seed = n, k, seed
        self.concept = (rng.random(n) ** 2 * k).astype(np.int32)
        self.distance = rng.integers(0, 6, n).astype(np.int64) * 2**29
        self.alive = rng.random(n) >= dead
        raw = rng.normal(size=(k, 4))
        self.centroids = (np.rint(raw / np.linalg.norm(raw, axis=1, keepdims=True) * 2**24) / 2**24).astype(np.float32)
        self.made = Bench(url, len(sizes), seed)
        index = self.made.index(sizes)
        self.hi, self.lo = index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy()
        if dead:
            frame = pl.DataFrame({"keep": self.alive, "reason": ["copy"] * n})
            self.made.given("near", cut(frame.with_columns(duplicate_of=pl.lit("x")), sizes), kind="dedup")
        has = pl.Series(self.alive)
        frame = pl.DataFrame({"concept": self.concept, "distance": self.distance / 2**32})
        frame = frame.with_columns(pl.when(has).then(pl.col(name)).alias(name) for name in ("concept", "distance"))
        self.made.given("cluster", cut(frame, sizes), artifacts={"centroids": self.centroids})

    def run(self, **options: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
        name = f"prune-{len(self.made.plan.steps)}"
        frame = self.made.stage(PruneStage, name=name, **options)
        step = self.made.plan.step(name)
        return frame, dict(read_artifacts(self.made.workspace, step.folder, step.whole))

    def whole(self) -> tuple[NDArray[Any], ...]:
        a = self.alive
        return self.concept[a], self.distance[a], self.hi[a], self.lo[a]


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4).filter(lambda s: sum(s) > 3),
    k=st.integers(1, 6),
    share=st.integers(1, 100),
    name=st.sampled_from(["dbp", "ssp", "random"]),
    which=st.sampled_from(["hard", "easy"]),
    balance=st.sampled_from([None, 0.0, 0.3, 1.0]),
)
def test_exactly_the_number_asked_for_and_the_right_ones(
    seed: int, sizes: list[int], k: int, share: int, name: str, which: str, balance: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    data = Data(str(tmp_path_factory.mktemp("prune")), sizes, k, seed)
    keep = share / 100
    budget = int(Fraction(share, 100) * data.n)
    options = {"keep": keep, "metric": name, "which": which, "balance": balance}
    if budget == 0:
        with pytest.raises(SpecError, match="is to keep 0 samples"):
            data.run(**options)
        return
    frame, artifacts = data.run(**options)
    assert int(frame["keep"].sum()) == budget
    table = artifacts["concepts"]
    counts = np.bincount(data.concept, minlength=k)
    assert table["size"].to_list() == counts.tolist()
    assert int(table["quota"].sum()) == budget
    kept = np.bincount(data.concept[frame["keep"].to_numpy()], minlength=k)
    assert table["quota"].to_list() == kept.tolist()
    floor = lower_bounds(counts, budget, balance if balance is not None else 0.5 if name == "ssp" else 0.0)
    assert (kept >= floor).all()
    score = data.distance
    if name == "random":
        draw = hash64(data.hi, data.lo, seed, data.made.plan.steps[-1].name)
        score = (draw >> np.uint64(1)).astype(np.int64)
    if name == "dbp":
        expected = select(data.concept, score, data.hi, data.lo, table["quota"].to_numpy(), which)  # type: ignore[arg-type]
    else:
        expected = ssp_select(data.concept, score, data.hi, data.lo, budget, floor, which)  # type: ignore[arg-type]
    np.testing.assert_array_equal(frame["keep"].to_numpy(), expected)
    np.testing.assert_array_equal(frame["score"].to_numpy(), score)


def test_dbp_shares_the_budget_by_complexity(tmp_path: Path) -> None:
    """Two concepts of 50, equally far apart: with d_intra 0.1 and 0.3 the shares are a softmax over products."""
    made = Bench(str(tmp_path), 1)
    made.index([100])
    centroids = np.asarray([[1, 0], [0.5, 0.75**0.5]], dtype=np.float32)
    centroids = (np.rint(centroids * 2**24) / 2**24).astype(np.float32)
    frame = pl.DataFrame(
        {
            "concept": pl.Series([0] * 50 + [1] * 50, dtype=pl.Int32),
            "distance": [2**29 / 2**32] * 50 + [2**30 / 2**32] * 50,
        }
    )
    made.given("cluster", [frame], artifacts={"centroids": centroids})
    made.stage(PruneStage, keep=40, temperature=0.1)
    step = made.plan.step("prune")
    table = read_artifacts(made.workspace, step.folder, step.whole)["concepts"]
    assert isinstance(table, pl.DataFrame)
    assert table["d_intra"].to_list() == [0.125, 0.25]
    np.testing.assert_allclose(table["d_inter"].to_numpy(), 0.5, atol=1e-6)
    weights = np.exp(np.asarray([0.125, 0.25]) * 0.5 / 0.1)
    np.testing.assert_allclose(table["target"].to_numpy(), 40 * weights / weights.sum(), rtol=1e-5)
    assert table["quota"].to_list() == [14, 26]  # 13.94, 26.06


@pytest.mark.parametrize(("of", "base"), [("input", 60), ("deduplicated", 45), ("alive", 30)])
def test_the_base_of_a_share(of: str, base: int, tmp_path: Path) -> None:
    """60 samples, 45 after dedup, 30 after a later filter."""
    made = Bench(str(tmp_path), 2)
    sizes = [20, 40]
    made.index(sizes)
    rows = np.arange(60)
    for name, kind, keep in (("near", "dedup", rows % 4 > 0), ("later", "filter", rows % 4 > 1)):
        frame = pl.DataFrame(
            {"keep": keep, "reason": ["x"] * 60, "duplicate_of": pl.Series([None] * 60, dtype=pl.String)}
        )
        made.given(name, cut(frame if kind == "dedup" else frame.drop("duplicate_of"), sizes), kind=kind)
    frame = pl.DataFrame({"concept": pl.Series(rows % 3, dtype=pl.Int32), "distance": rows / 64})
    centroids = np.eye(3, dtype=np.float32)
    made.given("cluster", cut(frame, sizes), artifacts={"centroids": centroids})
    out = made.stage(PruneStage, keep=0.4, of=of)
    assert int(out["keep"].sum()) == int(0.4 * base)
    assert out["keep"].is_null().to_list() == (rows % 4 <= 1).tolist()
    assert set(out.filter(pl.col("keep").not_())["reason"]) == {"over_quota"}


def test_a_share_is_the_decimal_it_is_written_as(tmp_path: Path) -> None:
    """0.29 * 100 is 28.999999999999996 in binary; 29 are kept."""
    data = Data(str(tmp_path), [100], 3, 1)
    assert int(data.run(keep=0.29)[0]["keep"].sum()) == 29
    assert int(data.run(keep=1.0)[0]["alive"].sum()) == 29


@pytest.mark.parametrize("metric", ["dbp", "ssp", "random"])
def test_parts_decide_nothing(metric: str, tmp_path: Path) -> None:
    one = Data(str(tmp_path / "a"), [200], 5, 9, dead=0.2)
    many = Data(str(tmp_path / "b"), [3, 0, 96, 101], 5, 9, dead=0.2)
    options = {"keep": 0.37, "metric": metric, "of": "deduplicated"}
    (frame, made), (frames, mades) = one.run(**options), many.run(**options)
    assert frame.equals(frames)
    assert made["concepts"].equals(mades["concepts"])
    assert int(frame["keep"].sum()) == int(Fraction("0.37") * int(one.alive.sum()))


def test_a_control_of_the_same_size_depends_on_the_seed_only(tmp_path: Path) -> None:
    data = Data(str(tmp_path), [300], 4, 2)
    frame, _ = data.run(keep=100, metric="random")
    assert int(frame["keep"].sum()) == 100
    # all scores of the kept are above all of the rest: one ranking, no floor
    scores = frame.group_by("keep").agg(low=pl.col("score").min(), high=pl.col("score").max()).sort("keep")
    assert scores["high"][0] < scores["low"][1]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"keep": 31}, r"is to keep 31 samples \(keep 31 of 30 alive\) but 30 are alive there; lower keep"),
        ({"keep": 0.9, "of": "input"}, r"is to keep 36 samples \(keep 0.9 of 40 input\) but 30 are alive there"),
        ({"keep": 0.01}, "is to keep 0 samples"),
        ({"keep": 2.5}, "give a share up to 1 or a whole number of samples"),
        ({"keep": 0.5, "of": "deduplicated"}, "of: deduplicated needs a dedup stage before it"),
    ],
)
def test_what_cannot_be_is_a_sentence(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    made = Bench(str(tmp_path), 1)
    made.index([40])
    made.given("filter", [pl.DataFrame({"keep": [i < 30 for i in range(40)], "reason": ["false"] * 40})])
    frame = pl.DataFrame({"concept": pl.Series([0] * 40, dtype=pl.Int32), "distance": [0.5] * 40})
    made.given("cluster", [frame], artifacts={"centroids": np.eye(1, 4, dtype=np.float32)})
    with pytest.raises(SpecError, match=text):
        made.stage(PruneStage, **options)


def test_an_empty_concept_has_no_numbers(tmp_path: Path) -> None:
    made = Bench(str(tmp_path), 1)
    made.index([4])
    frame = pl.DataFrame({"concept": pl.Series([0, 0, 2, 2], dtype=pl.Int32), "distance": [0.5, 0.25, 0.5, 0.0]})
    made.given("cluster", [frame], artifacts={"centroids": np.eye(3, dtype=np.float32)})
    made.stage(PruneStage, keep=2)
    step = made.plan.step("prune")
    table = read_artifacts(made.workspace, step.folder, step.whole)["concepts"]
    assert isinstance(table, pl.DataFrame)
    row = table.row(1, named=True)
    assert (row["size"], row["quota"], row["d_intra"], row["complexity"]) == (0, 0, None, None)


def test_the_seed_enters_only_where_it_draws(tmp_path: Path) -> None:
    data = Data(str(tmp_path), [20], 2, 0)
    for metric, draws in (("dbp", False), ("ssp", False), ("random", True)):
        data.run(keep=0.9, metric=metric)
        assert data.made.plan.steps[-1].stage.uses_seed is draws


def test_kept_rows_are_the_hardest_of_their_concept(bench: Callable[..., Any], tmp_path: Path) -> None:
    data = Data(str(tmp_path), [150], 4, 5)
    frame, _ = data.run(keep=0.5)
    for concept in range(4):
        mine = frame.filter(pl.Series(data.concept == concept))
        kept, gone = (mine.filter(pl.col("keep") == value)["score"] for value in (True, False))
        if len(kept) and len(gone):
            assert kept.min() >= gone.max()  # type: ignore[operator]
