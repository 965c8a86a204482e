from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import cut
from numpy.typing import NDArray

from curate.engine import exchange
from curate.errors import SpecError
from curate.stages.cluster import ClusterStage
from curate.stages.dedup import DedupConfig, DedupStage
from curate.stages.exact import ExactStage
from curate.stages.similarity import SimilarityConfig, SimilarityStage
from curate.store.uids import format_uid

DIM = 6


def at(degrees: float, axis: int) -> NDArray[np.float64]:
    """A unit vector in the plane of `axis` and the next: cosines between two of them are known."""
    out = np.zeros(DIM)
    out[axis], out[axis + 1] = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return out


@pytest.fixture
def make(bench: Callable[..., Any]) -> Callable[..., Any]:
    """A bench with hand-made index, embed and cluster: rows of (concept, distance, vector)."""

    def build(
        rows: list[tuple[int | None, float, NDArray[np.float64]]], sizes: list[int], order: list[int] | None = None
    ) -> tuple[Any, list[str]]:
        rows = rows if order is None else [rows[i] for i in order]
        made = bench(len(sizes))
        hi = np.arange(len(rows), dtype=np.uint64) if order is None else np.asarray(order, dtype=np.uint64)
        made.index(sizes, uid_hi=hi, uid_lo=hi)
        made.embed(np.asarray([v for _, _, v in rows], dtype=np.float16), sizes)
        frame = pl.DataFrame(
            {
                "concept": pl.Series([c for c, _, _ in rows], dtype=pl.Int32),
                "distance": [None if c is None else d for c, d, _ in rows],
            }
        )
        k = 1 + max((c for c, _, _ in rows if c is not None), default=0)
        centroids = np.zeros((k, DIM), dtype=np.float32)
        made.given("cluster", cut(frame, sizes), artifacts={"centroids": centroids})
        return made, [format_uid(int(h), int(h)) for h in hi]

    return build


# In concept 0: a, b at 10 degrees, c at 20 degrees, d far away. cos 10 = 0.985, cos 20 = 0.940.
CHAIN = [(0, 0.5, at(0, 0)), (0, 0.25, at(10, 0)), (0, 0.125, at(20, 0)), (0, 0.75, at(90, 0))]


def test_a_chain_by_the_rule_of_the_paper(make: Callable[..., Any]) -> None:
    """hard: the farthest is first. b falls to a; c falls to b although b is gone, and its keeper is a."""
    made, uid = make(CHAIN, [2, 2])
    out = made.stages(DedupStage, epsilon=0.02)
    assert out["keep"].to_list() == [True, False, False, True]
    assert out["duplicate_of"].to_list() == [None, uid[0], uid[1], None]
    assert out["keeper"].to_list() == [None, uid[0], uid[0], None]
    assert out["reason"].to_list() == [None, "semantic_duplicate", "semantic_duplicate", None]
    np.testing.assert_allclose(out["similarity"][1], np.cos(np.radians(10)), atol=1e-3)
    np.testing.assert_allclose(out["similarity"][2], np.cos(np.radians(10)), atol=1e-3)
    assert made.results["dedup"].group.counts == {"semantic_duplicate": 2}


def test_greedy_keeps_what_only_a_dropped_one_resembles(make: Callable[..., Any]) -> None:
    made, uid = make(CHAIN, [2, 2])
    out = made.stages(DedupStage, epsilon=0.02, rule="greedy")
    assert out["keeper"].to_list() == [None, uid[0], None, None]
    assert out["duplicate_of"].to_list() == out["keeper"].to_list()


def test_easy_keeps_the_nearest_to_the_centroid(make: Callable[..., Any]) -> None:
    made, uid = make(CHAIN, [4])
    out = made.stages(DedupStage, epsilon=0.02, order="easy")
    assert out["keeper"].to_list() == [uid[2], uid[2], None, None]
    assert out["duplicate_of"].to_list() == [uid[1], uid[2], None, None]


def test_epsilon_says_what_is_alike(make: Callable[..., Any]) -> None:
    for epsilon, kept in ((0.0, 4), (0.01, 4), (0.02, 2), (0.07, 2), (1.0, 2)):
        made, _ = make(CHAIN, [4])
        assert made.stages(DedupStage, epsilon=epsilon)["keep"].sum() == kept, epsilon  # a right angle is never alike


def test_without_probes_pairs_are_compared_within_a_concept_only(make: Callable[..., Any]) -> None:
    twins = [(c, 0.1, at(0, 0)) for c in (0, 1, 0, 2, 1)]
    made, uid = make(twins, [3, 2])
    assert made.stages(DedupStage, probes=0)["keeper"].to_list() == [None, None, uid[0], None, uid[1]]


def test_of_equal_distance_the_smaller_uid_stays_wherever_it_lies(make: Callable[..., Any]) -> None:
    made, uid = make([(0, 0.5, at(0, 0))] * 3, [1, 1, 1], order=[2, 0, 1])
    assert made.stages(DedupStage)["keeper"].to_list() == [uid[1], None, uid[1]]


def test_input_order_parts_and_buckets_decide_nothing(
    make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    rows = [
        (int(rng.integers(0, 5)), float(rng.integers(0, 4)) / 8, at(float(rng.integers(0, 60)), 0)) for _ in range(120)
    ]
    found = []
    for sizes, order, limit in (
        ([120], list(range(120)), 1 << 28),
        (
            [50, 1, 0, 69],
            list(range(120)),
            300,
        ),  # every concept larger than a bucket should be: vectors on scratch disk
        ([60, 60], rng.permutation(120).tolist(), 3000),
    ):
        monkeypatch.setattr(exchange, "BUCKET_BYTES", limit)
        monkeypatch.setattr(exchange.Buckets.by_weight, "__defaults__", (limit,))
        made, uid = make(rows, sizes, order)
        out = made.stages(DedupStage, epsilon=0.01)
        found.append(dict(zip(uid, out.select("keep", "duplicate_of", "keeper", "similarity").rows(), strict=True)))
    assert found[0] == found[1] == found[2]
    assert 0 < sum(row[0] for row in found[0].values()) < 120


def test_rows_that_are_out_or_without_concept_take_no_part(make: Callable[..., Any]) -> None:
    made, uid = make([(0, 0.9, at(0, 0)), (None, 0, at(0, 0)), (0, 0.5, at(0, 0)), (0, 0.1, at(0, 0))], [4])
    made.given("filter", [pl.DataFrame({"keep": [False, True, True, True], "reason": ["false"] * 4})])
    out = made.stages(DedupStage)
    assert out["keep"].to_list() == [None, True, True, False]
    assert out["keeper"].to_list() == [None, None, None, uid[2]]


def test_identical_vectors_have_similarity_one(make: Callable[..., Any]) -> None:
    vector = np.random.default_rng(1).normal(size=DIM)
    made, _ = make([(0, 0.1, vector / np.linalg.norm(vector))] * 2, [2])
    assert made.stages(DedupStage)["similarity"].to_list() == [None, 1.0]


def test_byte_identical_copies_come_before_and_then_the_comparison() -> None:
    (exact, first), (similarity, second) = DedupStage.companions_before("near", DedupConfig(name="near", epsilon=0.1))
    assert (exact, first.name) == (ExactStage, "near-exact")
    assert (similarity, second.name) == (SimilarityStage, "near-similarity")
    assert isinstance(second, SimilarityConfig)
    assert second.epsilon_max == 0.1


def test_concepts_of_other_vectors_do_not_tell_where_duplicates_are(bench: Callable[..., Any]) -> None:
    made = bench(1)
    made.index([40])
    rows = np.random.default_rng(0).normal(size=(2, 40, DIM))
    first, second = (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float16)
    made.embed(first, [40])
    places = pl.DataFrame({"vec_row": pl.Series(range(40), dtype=pl.UInt32)})
    made.given("other", [places], kind="embed", vectors=[second])
    made.stage(ClusterStage, concepts=4, iterations=2, embedding="embed")
    for options in ({}, {"probes": "all"}, {"probes": 0}):
        with pytest.raises(SpecError, match="stage dedup compares vectors of other, but cluster clustered those of em"):
            made.stages(DedupStage, embedding="other", **options)
        del made.plan.steps[-2:]
    inside = made.stages(DedupStage, embedding="other", probes=0, audit=0, epsilon=0.3)
    same = made.frame("cluster")["concept"].to_numpy()
    cosine = second.astype(np.float64) @ second.astype(np.float64).T
    near = (cosine > 0.7 + 1e-3) & (same[:, None] == same[None, :]) & ~np.eye(40, dtype=bool)
    assert near.any()
    assert not near[np.ix_(inside["keep"].to_numpy(), inside["keep"].to_numpy())].any()
