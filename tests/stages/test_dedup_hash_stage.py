from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench, cut, index_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.stages.dedup_hash import DedupHashStage, HashPairsStage
from curate.store.uids import format_uid


def hashed(made: Bench, sizes: list[int], phash: list[int | None], dhash: list[int | None]) -> None:
    frame = pl.DataFrame({"dhash": dhash, "phash": phash}, schema={"dhash": pl.UInt64, "phash": pl.UInt64})
    made.given("hash", cut(frame, sizes))


def indexed(made: Bench, sizes: list[int], width: list[int], height: list[int]) -> pl.DataFrame:
    frame = index_frame(sum(sizes)).with_columns(width=pl.Series(width), height=pl.Series(height))
    made.given("index", cut(frame, sizes))
    return frame


def pairs_and_drops(made: Bench, **options: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    pairs = made.stage(HashPairsStage, "dedup_hash-pairs", **options)
    return pairs, made.stage(DedupHashStage, **options)


def uid(index: pl.DataFrame, row: int) -> str:
    return format_uid(int(index["uid_hi"][row]), int(index["uid_lo"][row]))


def some_hashes(rng: np.random.Generator, n: int) -> NDArray[np.uint64]:
    centres = rng.integers(0, 2**64, 3, dtype=np.uint64)
    table = centres[rng.integers(0, 3, n)]
    for _ in range(4):
        one = np.uint64(1) << rng.integers(0, 64, n, dtype=np.uint64)
        table = np.where(rng.random(n) < 0.4, table ^ one, table)
    return table


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    distance=st.integers(0, 5),
    by=st.sampled_from(["phash", "dhash", "both"]),
    crowd=st.sampled_from([0, 10**9]),
)
def test_against_brute_force(
    seed: int, sizes: list[int], distance: int, by: str, crowd: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    words = {name: [int(h) for h in some_hashes(rng, n)] for name in ("dhash", "phash")}
    has, alive = rng.random(n) < 0.9, rng.random(n) < 0.9
    width, height = (rng.integers(1, 4, n).tolist() for _ in range(2))
    made = Bench(str(tmp_path_factory.mktemp("hash")), len(sizes))
    index = indexed(made, sizes, width, height)
    hashed(made, sizes, *([h if ok else None for h, ok in zip(words[w], has, strict=True)] for w in ("phash", "dhash")))
    made.given("before", cut(pl.DataFrame({"keep": alive, "reason": ["x"] * n}), sizes))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("curate.dedup.hamming.CROWD", 256 if not crowd else 0)  # 0: three pieces a key
        pairs, out = pairs_and_drops(made, distance=distance, by=by)

    used = ["dhash", "phash"] if by == "both" else [by]
    rows = [row for row in range(n) if has[row] and alive[row]]
    rows.sort(key=lambda row: (-width[row] * height[row], uid(index, row)))
    of: dict[int, int] = {}
    for place, row in enumerate(rows):
        apart = [max((words[w][row] ^ words[w][other]).bit_count() for w in used) for other in rows[:place]]
        if apart and min(apart) <= distance:
            of[row] = rows[apart.index(min(apart))]
            assert pairs["distance"][row] == out["distance"][row] == min(apart)
            assert pairs["duplicate_of"][row] == out["duplicate_of"][row] == uid(index, of[row])
    starts = np.cumsum([0, *sizes])
    for row in range(n):
        assert (out["keep"][row], out["alive"][row]) == (
            (row not in of) if alive[row] else None,
            bool(alive[row]) and row not in of,
        )
        assert out["reason"][row] == ("same_hash" if row in of else None)
        if row not in of:
            assert (out["keeper"][row], out["duplicate_of"][row], out["distance"][row]) == (None, None, None)
            continue
        assert starts[pairs["of_part"][row]] + pairs["of_row"][row] == of[row]
        keeper = row
        while keeper in of:
            keeper = of[keeper]
        assert out["keeper"][row] == uid(index, keeper)
        assert out["keep"][keeper]


def test_the_largest_picture_stays_and_ties_go_to_the_smaller_uid(bench: Callable[..., Any]) -> None:
    made = bench(2)
    index = indexed(made, [2, 2], [10, 50, 50, 7], [10, 60, 60, 7])
    hashed(made, [2, 2], [5] * 4, [5] * 4)
    _, out = pairs_and_drops(made)
    best = min((1, 2), key=lambda row: uid(index, row))
    assert out["keep"].to_list() == [row == best for row in range(4)]
    assert set(out["keeper"].drop_nulls()) == {uid(index, best)}


def test_order_by_a_column(bench: Callable[..., Any]) -> None:
    for order, stays in (("score desc", 1), ("score asc", 0), ("given.score asc", 0)):
        made = bench(1)
        indexed(made, [3], [1, 1, 9], [1, 1, 9])
        made.given("given", [pl.DataFrame({"score": [0.25, 0.75, None]})])
        hashed(made, [3], [8] * 3, [8] * 3)
        _, out = pairs_and_drops(made, order=order)
        assert out["keep"].to_list() == [row == stays for row in range(3)]


def test_an_order_that_is_not_there_is_found_before_work(bench: Callable[..., Any]) -> None:
    made = bench(1)
    indexed(made, [1], [1], [1])
    hashed(made, [1], [8], [8])
    with pytest.raises(SpecError, match=r"stage dedup_hash: order is by sharpness, which no earlier step writes"):
        made.stage(HashPairsStage, "dedup_hash-pairs", order="sharpness desc")


def test_a_chain_leads_to_the_one_that_stays(bench: Callable[..., Any]) -> None:
    """Each is near the one before, the ends are far apart: all but the first go, and its uid is their keeper."""
    made = bench(3)
    chain = [(1 << (3 * i)) - 1 for i in range(6)]
    index = indexed(made, [2, 2, 2], list(range(6, 0, -1)), [1] * 6)
    hashed(made, [2, 2, 2], chain, chain)
    pairs, out = pairs_and_drops(made, distance=3)
    assert out["keep"].to_list() == [True] + [False] * 5
    assert out["keeper"].to_list() == [None] + [uid(index, 0)] * 5
    assert pairs["duplicate_of"].to_list() == [None] + [uid(index, row) for row in range(5)]


def test_many_copies_of_one_hash_send_one_record_a_part(bench: Callable[..., Any]) -> None:
    made = bench(2)
    index = indexed(made, [500, 500], [3] * 1000, [3] * 1000)
    hashed(made, [500, 500], [77] * 1000, [77] * 1000)
    _, out = pairs_and_drops(made)
    first = min(range(1000), key=lambda row: uid(index, row))
    assert out["keep"].sum() == 1
    assert out["keep"][first]
    assert set(out["keeper"].drop_nulls()) == {uid(index, first)}
    step = made.plan.step("dedup_hash-pairs")
    assert step.stage.reduce(iter([{"rows": np.asarray(1)}, {"rows": np.asarray(1)}]), None, {}) == {
        "search": {"rows": 2, "bands": 5}
    }
    part = made.plan.part(0, "dedup_hash-pairs")
    sent = [len(records.rows) for records in step.stage.emit(part, {"search": {"rows": 2, "bands": 5}})]
    assert sent == [1] * 5


def test_many_buckets_give_the_same_as_one(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    table = [int(h) for h in some_hashes(rng, 300)]
    frames = []
    for nbytes in (1 << 28, 500):
        monkeypatch.setattr("curate.stages.dedup_hash.BUCKET_BYTES", nbytes)
        made = bench(3)
        indexed(made, [100] * 3, [1] * 300, [1] * 300)
        hashed(made, [100] * 3, table, table)
        frames.append(pairs_and_drops(made)[1])
    assert frames[0].equals(frames[1])
    assert 100 < (~frames[0]["keep"]).sum() < 300
