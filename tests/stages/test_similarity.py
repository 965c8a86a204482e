"""`dedup-similarity` and `dedup` against brute force over all pairs of a small collection of many concepts."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench, cut
from numpy.typing import NDArray

from curate.concepts.assign import assign, to_float
from curate.engine import exchange
from curate.errors import SpecError
from curate.stages.dedup import DedupStage, wilson
from curate.stages.similarity import SimilarityStage
from curate.store.artifacts import read_artifacts
from curate.store.rows import StoredRows
from curate.store.uids import format_uid

SIZES = [30, 0, 71, 99]
EPSILON = 0.05


class Pairs:
    """Rows in a few dimensions, many near duplicates of each other, in concepts whose borders run through them."""

    def __init__(self, seed: int = 3, n: int = 200, dim: int = 6, k: int = 40) -> None:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, dim))
        for i in range(n // 4, n):
            if rng.random() < 0.7:
                x[i] = x[rng.integers(0, i)] + 0.12 * rng.normal(size=dim)
        self.vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
        c = rng.normal(size=(k, dim))
        self.centroids = (np.rint(c / np.linalg.norm(c, axis=1, keepdims=True) * 2**24) / 2**24).astype(np.float32)
        self.concept, self.distance = assign(self.vectors, self.centroids)
        self.hi, self.lo = (rng.integers(0, 2**64, n, dtype=np.uint64) for _ in range(2))
        self.uid = [format_uid(int(h), int(lo)) for h, lo in zip(self.hi, self.lo, strict=True)]
        self.score = np.rint(rng.normal(size=n) * 4)  # with ties
        exact = self.vectors.astype(np.float64)
        norms = (exact * exact).sum(axis=1)
        self.cosine = np.minimum(exact @ exact.T / np.sqrt(norms[:, None] * norms[None, :]), 1.0)

    def made(self, url: str, sizes: list[int], seed: int = 0) -> Bench:
        made = Bench(url, len(sizes), seed)
        made.index(sizes, uid_hi=self.hi, uid_lo=self.lo)
        made.embed(self.vectors, sizes)
        scores = pl.DataFrame({"score": [None if s == 0 else s for s in self.score], "text": ["x"] * len(self.score)})
        made.given("scores", cut(scores, sizes))
        frame = pl.DataFrame({"concept": self.concept, "distance": to_float(self.distance)})
        made.given("cluster", cut(frame, sizes), artifacts={"centroids": self.centroids})
        return made

    def ranks(self, key: NDArray[Any] | None = None) -> NDArray[np.int64]:
        """Place of each row in the global order: farthest from its centroid first."""
        order = np.lexsort((self.lo, self.hi, -self.distance if key is None else key))
        rank = np.empty(len(order), dtype=np.int64)
        rank[order] = np.arange(len(order))
        return rank

    def earlier(self, rank: NDArray[np.int64], within: bool = False) -> NDArray[np.float64]:
        """[n, n]: similarity of row i to each earlier row j, -1 for others (within: also for other concepts)."""
        allowed = rank[None, :] < rank[:, None]
        if within:
            allowed &= self.concept[None, :] == self.concept[:, None]
        return np.where(allowed, self.cosine, -1.0)

    def paper(self, epsilon: float, rank: NDArray[np.int64], within: bool = False) -> pl.DataFrame:
        near = self.earlier(rank, within)
        best = near.max(axis=1)
        tied = np.where(near == best[:, None], rank[None, :], len(rank))
        of = tied.argmin(axis=1)
        gone = best > 1.0 - epsilon
        return self.table(gone, of, self.followed(gone, of), best)

    def greedy(self, epsilon: float, rank: NDArray[np.int64]) -> NDArray[np.bool_]:
        near, keep = self.earlier(rank, within=True), np.ones(len(rank), dtype=bool)
        for i in np.argsort(rank):
            keep[i] = not (near[i][keep] > 1.0 - epsilon).any()
        return keep

    def components(self, epsilon: float, rank: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first row of each row's component."""
        label = np.arange(len(rank))
        joined = self.cosine > 1.0 - epsilon
        for i in np.argsort(rank):
            todo, seen = [i], set()
            while todo:
                j = todo.pop()
                if j not in seen and label[j] == j:
                    seen.add(j)
                    todo += np.flatnonzero(joined[j]).tolist()
            if label[i] == i:
                label[list(seen)] = i
        return label

    def followed(self, gone: NDArray[np.bool_], of: NDArray[np.int64]) -> NDArray[np.int64]:
        end = np.where(gone, of, np.arange(len(of)))
        for _ in range(len(of)):
            end = end[end] if not np.array_equal(end[end], end) else end
        return end

    def table(
        self, gone: NDArray[np.bool_], of: NDArray[np.int64], keeper: NDArray[np.int64], best: NDArray[np.float64]
    ) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "keep": ~gone,
                "duplicate_of": [self.uid[j] if g else None for g, j in zip(gone, of, strict=True)],
                "keeper": [self.uid[j] if g else None for g, j in zip(gone, keeper, strict=True)],
                "similarity": [s if g else None for g, s in zip(gone, best.tolist(), strict=True)],
            }
        )


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs()


def told(out: pl.DataFrame) -> pl.DataFrame:
    return out.select("keep", "duplicate_of", "keeper", "similarity")


def artifacts_of(made: Bench, name: str = "dedup") -> dict[str, Any]:
    step = made.plan.step(name)
    return dict(read_artifacts(made.workspace, step.folder, step.whole))


@pytest.mark.parametrize(("sizes", "limit"), [([200], 1 << 28), (SIZES, 1 << 28), (SIZES, 400)])
def test_the_rule_of_the_paper_over_all_pairs(
    pairs: Pairs, sizes: list[int], limit: int, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """probes: all finds every pair of all concepts, however parts and buckets are cut."""
    monkeypatch.setattr(exchange, "BUCKET_BYTES", limit)
    monkeypatch.setattr(exchange.Buckets.by_weight, "__defaults__", (limit,))
    out = pairs.made(str(tmp_path), sizes).stages(DedupStage, epsilon=EPSILON, probes="all")
    expected = pairs.paper(EPSILON, pairs.ranks())
    assert told(out).equals(expected)
    within = pairs.paper(EPSILON, pairs.ranks(), within=True)
    assert within["keep"].sum() > expected["keep"].sum() > 50  # pairs lie across borders


def test_keepers_stay_across_concepts(pairs: Pairs, tmp_path: Any) -> None:
    out = pairs.made(str(tmp_path), SIZES).stages(DedupStage, epsilon=EPSILON, probes="all")
    stays = dict(zip(pairs.uid, out["keep"], strict=True))
    concept = dict(zip(pairs.uid, pairs.concept.tolist(), strict=True))
    gone = [(uid, keeper) for uid, keeper in zip(pairs.uid, out["keeper"], strict=True) if keeper]
    assert all(stays[keeper] for _, keeper in gone)
    assert sum(concept[uid] != concept[keeper] for uid, keeper in gone) > 10
    # and some chains have more than one link
    assert out.filter(pl.col("keeper") != pl.col("duplicate_of")).height > 5


@pytest.mark.parametrize("sizes", [[200], SIZES])
def test_components_over_all_pairs(pairs: Pairs, sizes: list[int], tmp_path: Any) -> None:
    out = pairs.made(str(tmp_path), sizes).stages(DedupStage, epsilon=EPSILON, rule="components", probes="all")
    first = pairs.components(EPSILON, pairs.ranks())
    gone = first != np.arange(200)
    assert out["keep"].to_list() == (~gone).tolist()
    assert out["keeper"].to_list() == [pairs.uid[f] if g else None for f, g in zip(first, gone, strict=True)]
    # each names a sample that it is similar to; the most similar earlier one where there is one
    paper = pairs.paper(EPSILON, pairs.ranks())
    number = {uid: i for i, uid in enumerate(pairs.uid)}
    later = 0
    for i in np.flatnonzero(gone):
        of, similarity = out["duplicate_of"][int(i)], out["similarity"][int(i)]
        assert similarity == pairs.cosine[i, number[of]]
        assert similarity > 1 - EPSILON
        if paper["keep"][int(i)]:
            later += 1
        else:
            assert (of, similarity) == (paper["duplicate_of"][int(i)], paper["similarity"][int(i)])
    assert later > 0
    assert out["keep"].sum() < paper["keep"].sum()


def test_greedy_within_concepts(pairs: Pairs, tmp_path: Any) -> None:
    made = pairs.made(str(tmp_path), SIZES)
    out = made.stages(DedupStage, epsilon=EPSILON, rule="greedy")
    assert out["keep"].to_list() == pairs.greedy(EPSILON, pairs.ranks()).tolist()
    assert out["keeper"].equals(out["duplicate_of"].rename("keeper"))
    assert artifacts_of(made)["curve"]["kept"].to_list() == [out["keep"].sum()]


@pytest.mark.parametrize("rule", ["paper", "components"])
@pytest.mark.parametrize("probes", [0, 1])
def test_reported_recall_is_the_true_one(pairs: Pairs, probes: int, rule: str, tmp_path: Any) -> None:
    """With every row audited, what is reported is what brute force finds."""
    made = pairs.made(str(tmp_path), SIZES)
    made.stages(DedupStage, epsilon=EPSILON, rule=rule, probes=probes, audit=1.0)
    true = pairs.earlier(pairs.ranks()).max(axis=1)
    compared = made.frame("dedup-similarity")
    np.testing.assert_array_equal(compared["audited"], np.where(true >= 1 - EPSILON, true, 0.0))
    has = true > 1 - EPSILON
    seen = compared["similarity"].fill_null(0.0).to_numpy() > 1 - EPSILON
    recall = artifacts_of(made)["recall"]
    assert (recall["audited"], recall["with_duplicate"], recall["found"]) == (200, has.sum(), (has & seen).sum())
    assert recall["recall"] == (has & seen).sum() / has.sum()
    assert 0 < recall["low"] < recall["recall"] < 1
    if probes == 0:
        within = pairs.earlier(pairs.ranks(), within=True).max(axis=1)
        assert seen.tolist() == (within > 1 - EPSILON).tolist()


def test_more_probes_find_more_and_all_find_all(pairs: Pairs, tmp_path: Any) -> None:
    made, found = pairs.made(str(tmp_path), SIZES), []
    for probes in (0, 1, 2, 4, "all"):
        name = f"near-{probes}"
        made.stages(DedupStage, name, epsilon=EPSILON, probes=probes, audit=1.0)
        made.plan.steps.pop()  # each begins with the same samples
        made.executor.alive.pop(name)
        step = made.results[name]
        assert step.group is not None
        found.append(200 - int(step.group.alive or 0))
    assert found == sorted(found)
    assert found[0] < found[-1] == int((~pairs.paper(EPSILON, pairs.ranks())["keep"]).sum())


def test_the_audit_decides_nothing(pairs: Pairs, tmp_path: Any) -> None:
    frames = []
    for audit in (0.0, 0.3, 1.0):
        made = pairs.made(str(tmp_path / str(audit)), SIZES, seed=5)
        frames.append(told(made.stages(DedupStage, epsilon=EPSILON, probes=1, audit=audit)))
        drawn = artifacts_of(made)["recall"]["audited"]
        assert drawn == {0.0: 0, 1.0: 200}.get(audit, drawn)
        assert audit != 0.3 or 30 < drawn < 90
    assert frames[0].equals(frames[1])
    assert frames[0].equals(frames[2])
    assert "audited" not in pairs.made(str(tmp_path / "x"), SIZES).stages(DedupStage, audit=0).columns


# --- the order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "sign"), [("score desc", -1), ("score asc", 1), ("scores.score desc", -1), ("easy", None)]
)
def test_the_order_can_be_a_column(pairs: Pairs, order: str, sign: int | None, tmp_path: Any) -> None:
    out = pairs.made(str(tmp_path), SIZES).stages(DedupStage, epsilon=EPSILON, probes="all", order=order)
    key = pairs.distance if sign is None else np.where(pairs.score == 0, np.inf, sign * pairs.score)
    assert told(out).equals(pairs.paper(EPSILON, pairs.ranks(key)))


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (
            "nothing desc",
            "stage dedup: order is by nothing, which no earlier step writes; columns of numbers so far are",
        ),
        ("text asc", "stage dedup: order is by text, which holds String; columns of numbers so far are concept, dist"),
        ("cluster.score asc", "order is by cluster.score, which no earlier step writes"),
    ],
)
def test_an_order_that_cannot_be_is_a_sentence(pairs: Pairs, order: str, text: str, tmp_path: Any) -> None:
    with pytest.raises(SpecError, match=text):
        pairs.made(str(tmp_path), SIZES).stages(DedupStage, order=order)


# --- epsilon or keep --------------------------------------------------------------------------------------------------


def test_keep_finds_the_epsilon_and_the_curve_agrees(pairs: Pairs, tmp_path: Any) -> None:
    made = pairs.made(str(tmp_path), SIZES)
    best = np.sort(pairs.earlier(pairs.ranks()).max(axis=1))[::-1]
    for keep in (0.9, 150, 1.0):
        name = f"to-{str(keep).replace('.', '-')}"
        out = made.stages(DedupStage, name, keep=keep, epsilon_max=0.1, probes="all")
        wanted = int(keep) if keep > 1 else round(keep * 200)
        decision, curve = artifacts_of(made, name)["decision"], artifacts_of(made, name)["curve"]
        assert int(out["keep"].sum()) == decision["kept"] == wanted  # no two similarities are equal there
        assert 1 - decision["epsilon"] == best[200 - wanted]
        for epsilon, kept, share in curve.iter_rows():
            assert kept == (best <= 1 - epsilon).sum()
            assert share == kept / 200
        assert curve.filter(pl.col("epsilon") == decision["epsilon"])["kept"].to_list() == [wanted]
        made.plan.steps.pop()
        made.executor.alive.pop(name)
        # the epsilon that was found, given, is the same decision
        again = made.stages(DedupStage, f"{name}-again", epsilon=decision["epsilon"], epsilon_max=0.1, probes="all")
        assert told(again).equals(told(out))
        made.plan.steps.pop()
        made.executor.alive.pop(f"{name}-again")


def test_equal_similarities_stay_together(tmp_path: Any) -> None:
    """Ten pairs of identical rows: to keep 15 of 20 would part equals, so all stay; 10 are there to be had."""
    pairs = Pairs(n=20, dim=8, k=3)
    x = np.random.default_rng(0).normal(size=(10, 8))
    pairs.vectors = np.repeat(x / np.linalg.norm(x, axis=1, keepdims=True), 2, axis=0).astype(np.float16)
    pairs.concept, pairs.distance = assign(pairs.vectors, pairs.centroids)
    made = pairs.made(str(tmp_path), [20])
    assert made.stages(DedupStage, "a", keep=15, epsilon_max=0.001)["keep"].sum() == 20
    assert artifacts_of(made, "a")["decision"]["epsilon"] == 0.0
    assert made.stages(DedupStage, "b", keep=10, epsilon_max=0.001)["keep"].sum() == 10


def test_what_cannot_be_reached_says_what_can(pairs: Pairs, tmp_path: Any) -> None:
    made = pairs.made(str(tmp_path), SIZES)
    least = int(pairs.paper(0.01, pairs.ranks())["keep"].sum())
    with pytest.raises(SpecError) as error:
        made.stages(DedupStage, keep=least - 1, epsilon_max=0.01, probes="all")
    assert f"is to keep {least - 1} of 200 samples, but with epsilon_max 0.01 {least} stay at the least" in str(
        error.value
    )
    assert f"({least / 200:.4f} of them); raise epsilon_max, or keep" in str(error.value)
    made = pairs.made(str(tmp_path / "b"), SIZES)
    assert made.stages(DedupStage, keep=least, epsilon_max=0.01, probes="all")["keep"].sum() == least


def test_another_epsilon_compares_nothing_again(pairs: Pairs, tmp_path: Any) -> None:
    made = pairs.made(str(tmp_path), SIZES)
    folders = set()
    for options in ({"epsilon": 0.01}, {"epsilon": 0.09}, {"keep": 0.9}, {}):
        made.stages(DedupStage, epsilon_max=0.1, **options)
        folders.add(made.plan.step("dedup-similarity").folder)
        assert len({step.folder for step in made.plan.steps if step.kind == "dedup"}) == 1
        reused = made.results["dedup-similarity"].reused_parts
        assert reused == (0 if len(made.workspace.folders()) and options == {"epsilon": 0.01} else len(SIZES))
        for _ in range(3):
            made.executor.alive.pop(made.plan.steps.pop().name, None)
    assert len(folders) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"epsilon": 0.1, "keep": 0.5}, "epsilon and keep are both given"),
        ({"keep": 1.5}, "give a share up to 1 or a whole number of samples"),
        ({"epsilon": 0.1, "epsilon_max": 0.05}, "epsilon_max is 0.05, below epsilon 0.1; raise it"),
        ({"epsilon_max": 0.05}, "epsilon_max is 0.05, below epsilon 0.07; raise it"),
        ({"rule": "greedy", "keep": 0.5}, "rule greedy is worked out for one epsilon only"),
        ({"rule": "components", "epsilon_max": 0.2}, "leave epsilon_max out"),
        ({"rule": "greedy", "probes": 2}, "rule greedy compares within a concept only"),
        ({"rule": "greedy", "probes": "all"}, "rule greedy compares within a concept only"),
        ({"order": "hardest"}, "should match pattern"),
        ({"probes": -1}, "greater than or equal to 0"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        DedupStage.Config.model_validate(options)


def test_a_number_above_what_is_there(pairs: Pairs, tmp_path: Any) -> None:
    with pytest.raises(SpecError, match="is to keep 201 samples but 200 are alive there"):
        pairs.made(str(tmp_path), SIZES).stages(DedupStage, keep=201)


# --- ends of the range ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["paper", "greedy", "components"])
def test_nothing_alive_and_rows_that_are_out(pairs: Pairs, rule: str, tmp_path: Any) -> None:
    made = pairs.made(str(tmp_path), SIZES)
    made.given("filter", cut(pl.DataFrame({"keep": [False] * 200, "reason": ["x"] * 200}), SIZES))
    out = made.stages(DedupStage, rule=rule)
    assert out["keep"].null_count() == 200
    assert artifacts_of(made)["recall"]["recall"] is None
    half = pairs.made(str(tmp_path / "half"), SIZES)
    alive = np.arange(200) % 2 == 0
    half.given("filter", cut(pl.DataFrame({"keep": alive, "reason": ["x"] * 200}), SIZES))
    out = half.stages(DedupStage, rule=rule, **({} if rule == "greedy" else {"probes": "all"}))
    assert out["keep"].is_null().to_list() == (~alive).tolist()
    keepers = out["keeper"].drop_nulls().to_list()
    assert keepers
    assert set(keepers) <= {uid for uid, keep in zip(pairs.uid, out["keep"], strict=True) if keep}


def test_keepers_are_as_many_as_dropped(pairs: Pairs, tmp_path: Any) -> None:
    made = pairs.made(str(tmp_path), SIZES)
    out = made.stages(DedupStage, epsilon=EPSILON)
    stored, starts = (artifacts_of(made)[name] for name in ("keepers", "starts"))
    assert isinstance(stored, StoredRows)
    assert starts.tolist() == np.cumsum([0, *(int((~p["keep"]).sum()) for p in cut(out, SIZES))]).tolist()


def test_wilson_interval() -> None:
    """Agrees with the closed form at both ends, and with the published example of 81 of 263 (Newcombe 1998)."""
    assert wilson(0, 0) == (None, None)
    low, high = wilson(81, 263)
    assert low is not None
    assert high is not None
    np.testing.assert_allclose([low, high], [0.2553, 0.3662], atol=5e-5)
    assert wilson(10, 10)[1] == 1.0
    assert wilson(0, 10)[0] == 0.0


def test_work_is_said_per_row(pairs: Pairs, tmp_path: Any) -> None:
    made = pairs.made(str(tmp_path), SIZES)
    made.stages(DedupStage, epsilon=EPSILON, probes=2, audit=0)
    facts = artifacts_of(made, "dedup-similarity")
    assert 0 < facts["work"]["probes_per_row"] <= 2
    assert int(facts["records"].sum()) == 200 + round(200 * facts["work"]["probes_per_row"])
    assert SimilarityStage.drops is False
