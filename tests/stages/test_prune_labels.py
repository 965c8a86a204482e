"""`prune` within the best labels of a label_sets step, against brute force and the whole-array functions."""

from __future__ import annotations

from collections.abc import Callable
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
from curate.pipeline.load import load
from curate.pipeline.plan import resolve_references
from curate.pruning.allocate import lower_bounds
from curate.pruning.select import ssp_select
from curate.stages.config import StageConfig
from curate.stages.prune import PruneConfig, PruneStage
from curate.stages.prune_rows import grouped_by
from curate.store.artifacts import read_artifacts
from curate.store.uids import hash64

N = 200
CLASSES = np.array([9, 134, 517, 70_000], dtype=np.uint32)
NAMES = {9: "ostrich", 134: "crane", 517: "crane", 70_000: "a spring"}
"""134 the bird and 517 the machine have one name, as in ImageNet; in the order of text 134 comes before 9."""


class Labelled:
    """200 rows in parts: best labels with nulls, how likely nothing is right, distances to concepts."""

    def __init__(self, url: str, sizes: tuple[int, ...] = (90, 0, 110), seed: int = 5) -> None:
        rng = np.random.default_rng(seed)
        self.best = CLASSES[(rng.random(N) ** 2 * 4).astype(int)]
        self.has = rng.random(N) >= 0.1
        self.nothing = (rng.integers(0, 40, N) / 64).astype(np.float32)
        self.distance = rng.integers(0, 7, N) * 2**28
        self.made = Bench(url, len(sizes), 11)
        index = self.made.index(sizes, label=["given"] * N)
        self.hi, self.lo = index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy()
        near = pl.DataFrame({"concept": np.arange(N, dtype=np.int32) % 3, "distance": self.distance / 2**32})
        self.made.given("cluster", cut(near, sizes), artifacts={"centroids": np.eye(3, dtype=np.float32)})
        self.made.given("label_sets", cut(self.frame(), sizes))

    def frame(self) -> pl.DataFrame:
        """The columns of a label_sets step."""
        best = [int(one) if ok else None for one, ok in zip(self.best, self.has, strict=True)]
        one = {"class": 3, "probability": 0.9, "score": 7.0, "decision": "keep", "votes": 0, "peak": 8.0}
        one |= {"y0": 0.0, "x0": 0.0, "y1": 1.0, "x1": 0.5}
        return pl.DataFrame(
            {
                "labels": [[one | {"class": number}] if number is not None else [] for number in best],
                "best": pl.Series(best, dtype=pl.UInt32),
                "best_name": [None if number is None else NAMES[number] for number in best],
                "n_labels": pl.Series([int(ok) for ok in self.has], dtype=pl.UInt16),
                "outcome": ["labelled" if ok else "nothing" for ok in self.has],
                "nothing": self.nothing,
                "suspect": [False] * N,
            }
        )

    @property
    def group(self) -> NDArray[np.int32]:
        """Place of each row's class."""
        places: NDArray[np.int32] = np.searchsorted(CLASSES, self.best).astype(np.int32)
        return places

    def run(self, **options: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
        """One prune stage over all rows; it is taken off the plan again."""
        frame = self.made.stage(PruneStage, within="label_sets", **options)
        step = self.made.plan.steps.pop()
        self.made.executor.alive.clear()
        self.made.executor.alive_parts = self.made.executor.rows_parts
        return frame, dict(read_artifacts(self.made.workspace, step.folder, step.whole))


@settings(deadline=None, max_examples=6)
@given(
    seed=st.integers(0, 10_000),
    share=st.integers(5, 80),
    balance=st.sampled_from([None, 0.5, 1.0]),
    which=st.sampled_from(["hard", "easy"]),
    metric=st.sampled_from(["nothing", "ssp", "random"]),
    cap=st.sampled_from([None, 0.5]),
)
def test_floors_and_caps_hold_for_new_labels(
    seed: int, share: int, balance: float | None, which: str, metric: str, cap: float | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    data = Labelled(str(tmp_path_factory.mktemp("prune")), seed=seed)
    counts = np.bincount(data.group[data.has], minlength=4)
    keep = share * int(data.has.sum()) // 100
    limit = np.full(4, keep if cap is None else int(cap * keep))
    floor = lower_bounds(counts, keep, (0.5 if metric == "ssp" else 0.0) if balance is None else balance, limit=limit)
    if np.minimum(counts, limit).sum() < keep:
        return
    frame, artifacts = data.run(keep=float(keep), metric=metric, balance=balance, which=which, cap=cap)
    draw = (hash64(data.hi, data.lo, 11, "prune") >> np.uint64(1)).astype(np.int64)
    score = {"nothing": (data.nothing * 64).astype(np.int64), "ssp": data.distance, "random": draw}[metric]
    group, ranked, hi, lo = (array[data.has] for array in (data.group, score, data.hi, data.lo))
    expected = ssp_select(group, ranked, hi, lo, keep, floor, which, limit=limit)  # type: ignore[arg-type]
    kept = frame["keep"].to_numpy()
    np.testing.assert_array_equal(kept[data.has], expected)
    assert not kept[~data.has].any()
    quota = np.bincount(data.group[kept], minlength=4)
    there = counts > 0
    assert artifacts["concepts"].select("class", "label", "size", "floor", "quota").rows() == [
        (int(n), NAMES[int(n)], size, least, q)
        for n, size, least, q in zip(CLASSES[there], counts[there], floor[there], quota[there], strict=True)
    ]


def test_the_same_as_the_classes_of_the_index(tmp_path: Path) -> None:
    """Where the best label is the given one, `within: label` keeps the same samples, with every option that it has."""
    data = Labelled(str(tmp_path / "a"))
    other = Bench(str(tmp_path / "b"), 1, 11)
    # five digits, so that the order of text is that of numbers
    given = [f"{n:05d}" if ok else None for n, ok in zip(data.best, data.has, strict=True)]
    other.index([N], label=given, uid_hi=data.hi, uid_lo=data.lo)  # type: ignore[arg-type]
    other.given("cluster", [pl.DataFrame({"concept": [0] * N, "distance": data.distance / 2**32})],
                artifacts={"centroids": np.eye(1, 3, dtype=np.float32)})  # fmt: skip
    other.given("scored", [pl.DataFrame({"nothing": data.nothing})])
    for number, options in enumerate((
        {"metric": "nothing", "keep": 0.4, "balance": 0.7, "nested": [0.2], "of": "input"},
        {"metric": "ssp", "keep": 90.0, "which": "middle", "balance": 0.3},
        {"metric": "dbp", "share": "global", "keep": 0.25, "which": "random", "cap": 0.4},
    )):  # fmt: skip
        name = f"prune-{number}"
        mine, artifacts = data.run(name=name, **options)
        theirs = other.stage(PruneStage, name=name, within="label", **options)
        assert mine.drop("reason").equals(theirs.drop("reason"))
        assert mine["reason"].to_list() == [
            "null: best" if reason == "null: label" else reason for reason in theirs["reason"].to_list()
        ]
        step = other.plan.steps.pop()
        other.executor.alive.clear()
        other.executor.alive_parts = other.executor.rows_parts
        table = read_artifacts(other.workspace, step.folder, step.whole)["concepts"]
        assert isinstance(table, pl.DataFrame)
        assert table.drop("label").equals(artifacts["concepts"].drop("label", "class"))
        assert table["label"].to_list() == [f"{n:05d}" for n in artifacts["concepts"]["class"]]
        assert artifacts["diagnostics"]["within"] == "label_sets"


def test_parts_do_not_matter_and_a_class_is_its_number(tmp_path: Path) -> None:
    """Two classes of one name stay two, in any parts; each keeps a fair share of its own."""
    found = []
    for folder, sizes in (("a", (90, 0, 110)), ("b", (N,)), ("c", (1, 120, 79))):
        frame, artifacts = Labelled(str(tmp_path / folder), sizes).run(keep=40, metric="random", balance=1.0)
        found.append((frame, artifacts["concepts"]))
    assert all(frame.equals(found[0][0]) and table.equals(found[0][1]) for frame, table in found)
    table = found[0][1]
    assert table["class"].to_list() == CLASSES.tolist()
    assert table["label"].to_list() == ["ostrich", "crane", "crane", "a spring"]
    assert table["quota"].to_list() == [10, 10, 10, 10]
    assert grouped_by("label_sets", table, "index") == ("label_sets", "best", "class")
    assert grouped_by("label", table.drop("class"), "index") == ("index", "label", "label")
    assert grouped_by("cluster", table.drop("class"), "index") == ("cluster", "concept", "concept")
    assert grouped_by("all", table.drop("class"), "index")[0] is None


def test_an_image_without_a_kept_label_is_dropped_and_not_counted(tmp_path: Path) -> None:
    data = Labelled(str(tmp_path))
    frame, _ = data.run(keep=float(data.has.sum()), metric="nothing")
    assert frame["keep"].to_list() == data.has.tolist()
    assert set(frame["reason"].to_numpy()[~data.has]) == {"null: best"}
    assert frame["score"].is_null().to_list() == (~data.has).tolist()
    with pytest.raises(SpecError, match=r"to keep 200 samples .* are alive there with a group and a score"):
        data.run(keep=1.0, metric="nothing")


def test_new_labels_are_groups_only_when_they_are_named(tmp_path: Path) -> None:
    """The nearest step of a default is a cluster stage, also with a label_sets step after it."""
    steps = Labelled(str(tmp_path)).made.plan.steps
    for within, step in ((None, "cluster"), ("label_sets", "label_sets"), ("all", None), ("label", None)):
        config = PruneConfig.model_validate({"keep": 0.5, "within": within})
        assert resolve_references(steps, "prune", config)["within"] == step
    without = [step for step in steps if step.kind != "cluster"]
    assert resolve_references(without, "prune", PruneConfig.model_validate({"keep": 0.5}))["within"] is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "quotas by complexity need the concepts of an earlier cluster stage"),
        ({"metric": "label_sets.best_name"}, "is String; samples are ranked by numbers"),
        ({"metric": "labels"}, r"is List\(.*; samples are ranked by numbers"),
    ],
)
def test_what_new_labels_cannot_be(options: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=text):
        Labelled(str(tmp_path)).run(keep=0.5, **options)


def test_a_part_that_lost_its_rows_before(bench: Callable[..., Bench]) -> None:
    """Rows out before have null labels; a part without any other row has no group at all."""
    made = bench(2)
    made.index([2, 3])
    made.given("near", cut(pl.DataFrame({"keep": [False, False, True, True, True], "reason": ["x"] * 5}), [2, 3]))
    frame = pl.DataFrame(
        {"best": [None, None, 4, 4, 2], "best_name": [None, None, "four", "four", "two"], "x": [0.0, 0, 3, 2, 1]}
    ).with_columns(pl.col("best").cast(pl.UInt32))
    made.given("label_sets", cut(frame, [2, 3]))
    kept = made.stage(PruneStage, keep=2, within="label_sets", metric="x", balance=1.0)
    assert kept["keep"].to_list() == [None, None, True, False, True]


def test_the_file_may_name_such_a_stage_and_no_other() -> None:
    registry: dict[str, type[StageConfig]] = dict.fromkeys(("index", "label_sets", "filter"), StageConfig)
    registry["prune"] = PruneConfig

    def read(within: str) -> None:
        stages = ["index", {"label_sets": {"name": "new"}}, "filter", {"prune": {"keep": 0.5, "within": within}}]
        tree = {"name": "x", "input": {"folder": "photos"}, "workspace": "w", "stages": stages}
        load(tree, registry=registry, env={})

    read("new")
    with pytest.raises(SpecError, match="filter is not a cluster or label_sets stage; the earlier ones are new"):
        read("filter")
    with pytest.raises(SpecError, match="no cluster or label_sets stage has this name; the earlier ones are new"):
        read("label_sets")
