from __future__ import annotations

import io
import itertools
import threading
import tracemalloc
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from curate.engine import exchange
from curate.engine.exchange import (
    Buckets,
    Records,
    _ahead,
    part_groups,
    read_back,
    read_bucket,
    read_rows,
    run_marker,
    write_back,
    write_runs,
)
from curate.errors import StorageError
from curate.store.workspace import Workspace

DTYPE = np.dtype([("key", "u4"), ("part", "u4"), ("row", "u4"), ("value", "i8")])
BACK = np.dtype([("part", "u4"), ("row", "u4"), ("value", "i8")])
DIM = 3


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(str(tmp_path))


@pytest.fixture(scope="module")
def memory() -> Iterator[Workspace]:
    workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
    yield workspace
    workspace.remove("")


def vectors_of(rows: NDArray[Any]) -> NDArray[np.float16]:
    """A vector that tells whose it is."""
    return np.stack([rows["part"], rows["row"], rows["key"]], axis=1).astype(np.float16)


def records(keys: list[list[int]]) -> list[Records]:
    """One Records a part; keys[part][row]."""
    made = []
    for part, mine in enumerate(keys):
        rows = np.zeros(len(mine), dtype=DTYPE)
        rows["key"], rows["part"], rows["row"] = mine, part, np.arange(len(mine))
        rows["value"] = 1000 * part + np.arange(len(mine))
        made.append(Records(rows, vectors_of(rows)))
    return made


KEYS = 12
parts_of_keys = st.lists(st.lists(st.integers(0, KEYS - 1), max_size=9), min_size=1, max_size=6)


@st.composite
def cuts(draw: st.DrawFn, n: int) -> list[int]:
    """0, some cuts, n."""
    return [0, *sorted(draw(st.sets(st.integers(1, n - 1), max_size=4)) if n > 1 else []), n]


@settings(deadline=None, max_examples=60)
@given(data=st.data(), keys=parts_of_keys, flush=st.sampled_from([1, 60, 1 << 30]), carry=st.booleans())
def test_every_record_arrives_once_in_its_bucket_and_goes_back_to_its_part(
    memory: Workspace, data: st.DataObject, keys: list[list[int]], flush: int, carry: bool
) -> None:
    scratch = uuid.uuid4().hex
    made = records(keys)
    buckets = Buckets(tuple(data.draw(cuts(KEYS))))
    groups = data.draw(cuts(len(keys)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "RUN_BYTES", flush)
        for run, (start, stop) in enumerate(itertools.pairwise(groups)):
            sent = [r if carry else Records(r.rows) for r in made[start:stop]]
            assert write_runs(memory, scratch, run, sent, buckets) == sum(len(k) for k in keys[start:stop])
    everything = np.concatenate([r.rows for r in made])
    for number in range(buckets.n):
        bucket = read_bucket(memory, scratch, len(groups) - 1, number)
        inside = (everything["key"] >= buckets.bounds[number]) & (everything["key"] < buckets.bounds[number + 1])
        expected = np.sort(everything[inside], order=["key", "part", "row"])
        if len(expected):
            np.testing.assert_array_equal(bucket.rows, expected)
        else:
            assert len(bucket.rows) == 0
        if carry:
            order = np.asarray(data.draw(st.permutations(range(len(expected)))), dtype=np.int64)
            some = order[: data.draw(st.integers(0, len(order)))]
            if len(some):
                np.testing.assert_array_equal(bucket.vectors(some), vectors_of(expected[some]))
        back = np.zeros(len(expected), dtype=BACK)
        for name in ("part", "row", "value"):
            back[name] = expected[name] if len(expected) else 0
        write_back(memory, scratch, number, back[np.random.default_rng(0).permutation(len(back))])
    for start, stop in itertools.pairwise(data.draw(cuts(len(keys)))):
        came = list(read_back(memory, scratch, buckets.n, range(start, stop)))
        assert [part for part, _ in came] == list(range(start, stop))
        for part, rows in came:
            np.testing.assert_array_equal(rows["row"], np.arange(len(keys[part])))
            np.testing.assert_array_equal(rows["part"], part)
            np.testing.assert_array_equal(rows["value"], made[part].rows["value"])


@settings(deadline=None)
@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=30), limit=st.integers(1, 100))
def test_by_weight_covers_all_keys_within_the_limit(weights: list[int], limit: int) -> None:
    buckets = Buckets.by_weight(np.asarray(weights, dtype=np.int64), limit)
    assert buckets.bounds[0] == 0
    assert buckets.bounds[-1] == len(weights)
    assert all(a < b for a, b in itertools.pairwise(buckets.bounds))
    sums = [sum(weights[a:b]) for a, b in itertools.pairwise(buckets.bounds)]
    for total, (start, stop) in zip(sums, itertools.pairwise(buckets.bounds), strict=True):
        assert total <= limit or sum(1 for w in weights[start:stop] if w) == 1
    # greedy: a bucket and the first key of the next do not fit together
    for total, (start, _) in zip(sums, list(itertools.pairwise(buckets.bounds))[1:], strict=False):
        assert total + weights[start] > limit


@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=200), most=st.integers(1, 20))
def test_by_weight_makes_larger_buckets_rather_than_very_many(weights: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "MAX_BUCKETS", most)
        buckets = Buckets.by_weight(np.asarray(weights, dtype=np.int64), limit=1)
    # two neighbours together are fuller than one may be
    assert buckets.n <= 2 * most + 1
    assert (buckets.bounds[0], buckets.bounds[-1]) == (0, len(weights))


def test_by_weight_without_keys_is_one_bucket() -> None:
    assert Buckets.by_weight(np.zeros(0, dtype=np.int64)).n == 1


@given(keys=st.integers(1, 1 << 16), n=st.integers(-3, 200))
def test_uniform_covers_all_keys_in_ranges_of_equal_width(keys: int, n: int) -> None:
    bounds = Buckets.uniform(keys, n).bounds
    widths = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, keys)
    assert len(widths) == max(1, min(n, keys))
    assert widths.max() - widths.min() <= 1


@given(n=st.integers(0, 50_000))
def test_part_groups_cover_all_parts_in_order(n: int) -> None:
    groups = part_groups(n)
    assert [i for group in groups for i in group] == list(range(n))
    assert all(len(group) <= exchange.MAX_PARTS for group in groups)
    assert n > 64 * exchange.MAX_PARTS or len(groups) <= 64


def test_runs_are_flushed_at_the_limit(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    made = records([[0] * 10, [1] * 10, [0] * 10, [1] * 10])
    monkeypatch.setattr(exchange, "RUN_BYTES", 2 * made[0].nbytes)
    write_runs(place, "s", 0, made, Buckets((0, 1, 2)))
    assert sorted(place.listing("s")) == [
        "run-00000.000.rows.npy", "run-00000.000.vectors.npy", "run-00000.001.rows.npy", "run-00000.001.vectors.npy",
        "run-00000.json", "run-00000.offsets.npy",
    ]  # fmt: skip
    np.testing.assert_array_equal(np.unique(read_bucket(place, "s", 1, 1).rows["part"]), [1, 3])


def test_writing_a_run_holds_its_vectors_once(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "RUN_BYTES", 8 << 20)
    monkeypatch.setattr(exchange, "_BLOCK_BYTES", 256 << 10)
    rng = np.random.default_rng(0)

    def part(number: int) -> Records:
        rows = np.zeros(2048, dtype=DTYPE)
        rows["key"], rows["part"], rows["row"] = rng.integers(0, 50, 2048), number, np.arange(2048)
        return Records(rows, np.full((2048, 128), number, dtype=np.float16))

    one = part(0).nbytes
    tracemalloc.start()
    write_runs(place, "s", 0, (part(number) for number in range(40)), Buckets((0, 50)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 8 << 20 <= peak <= (8 << 20) + 3 * one
    bucket = read_bucket(place, "s", 1, 0)
    assert len(bucket.rows) == 40 * 2048
    vectors = bucket.vectors(np.arange(len(bucket.rows)))
    np.testing.assert_array_equal(vectors, np.repeat(bucket.rows["part"], 128).reshape(-1, 128).astype(np.float16))


def test_a_part_beyond_the_last_that_got_something_back_is_empty(place: Workspace) -> None:
    back = np.zeros(2, dtype=BACK)
    back["part"], back["row"] = [1, 4], [3, 5]
    write_back(place, "s", 0, back)
    write_back(place, "s", 1, back[:1])
    came = {part: rows["row"].tolist() for part, rows in read_back(place, "s", 2, range(3, 9))}
    assert came == {3: [], 4: [5], 5: [], 6: [], 7: [], 8: []}
    assert [rows["row"].tolist() for _, rows in read_back(place, "s", 2, [0, 1])] == [[], [3, 3]]
    assert [rows.dtype for _, rows in read_back(place, "s", 2, range(5, 7))] == [BACK, BACK]


def test_large_vectors_lie_on_scratch_disk(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write_runs(place, "s", 0, records([[0, 1, 0], [1, 0, 1]]), Buckets((0, 2)))
    bucket = read_bucket(place, "s", 1, 0)
    order = np.asarray([5, 0, 3], dtype=np.int64)
    small = bucket.vectors(order)
    monkeypatch.setattr(exchange, "BUCKET_BYTES", 8)
    large = bucket.vectors(order)
    assert isinstance(large, np.memmap)
    assert not isinstance(small, np.memmap)
    np.testing.assert_array_equal(large, small)
    np.testing.assert_array_equal(small, vectors_of(bucket.rows[order]))


def test_writing_again_gives_the_same_bytes(place: Workspace) -> None:
    for scratch in ("a", "b"):
        write_runs(place, scratch, 0, records([[3, 1], [2, 1]]), Buckets((0, 2, 4)))
    names = {n for n in place.listing("a") if n.endswith(".npy")}
    assert all(place.read(f"a/{name}") == place.read(f"b/{name}") for name in names)


def test_an_exchange_without_records(place: Workspace) -> None:
    write_runs(place, "s", 0, [Records(np.zeros(0, dtype=DTYPE))], Buckets((0, 4)))
    assert len(read_bucket(place, "s", 1, 0).rows) == 0
    write_back(place, "s", 0, np.zeros(0, dtype=BACK))
    (part, rows), *rest = read_back(place, "s", 1, [0])
    assert (part, len(rows), rows.dtype, rest) == (0, 0, BACK, [])


def test_vectors_that_were_never_sent_are_a_sentence(place: Workspace) -> None:
    made = records([[0]])
    write_runs(place, "s", 0, [Records(made[0].rows)], Buckets((0, 1)))
    with pytest.raises(StorageError, match="carries no vectors"):
        read_bucket(place, "s", 1, 0).vectors(np.zeros(1, dtype=np.int64))


@pytest.mark.parametrize("keep", [0, 6, 30, -1])
def test_a_cut_run_is_a_sentence(place: Workspace, keep: int) -> None:
    write_runs(place, "s", 0, records([[0, 0, 0]]), Buckets((0, 1)))
    name = "s/run-00000.000.rows.npy"
    place.put(name, place.read(name)[:keep])
    with pytest.raises(StorageError, match=r"rows\.npy is damaged .*; delete .*/s and run the same command again"):
        read_bucket(place, "s", 1, 0)


def test_a_missing_run_or_cut_marker_is_a_sentence(place: Workspace) -> None:
    write_runs(place, "s", 0, records([[0, 0, 0]]), Buckets((0, 1)))
    with pytest.raises(StorageError, match=r"run-00001\.json: no such file"):
        read_bucket(place, "s", 2, 0)
    place.put(f"s/{run_marker(0)}", place.read(f"s/{run_marker(0)}")[:20])
    with pytest.raises(StorageError, match=r"run-00000\.json is damaged"):
        read_bucket(place, "s", 1, 0)


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 40), max_size=30), most=st.integers(1, 60), readers=st.integers(1, 5))
def test_remote_reads_run_ahead_in_order_and_within_bounds(sizes: list[int], most: int, readers: int) -> None:
    lock, begun, seen = threading.Lock(), set[int](), list[int]()

    def read(item: int) -> int:
        with lock:
            begun.add(item)
            under_way = [i for i in begun if i >= len(seen)]
            assert len(under_way) <= readers + 1
            # what the caller holds has been given to it already
            assert sum(sizes[i] for i in under_way[1:]) <= max(most, max(sizes)) + sizes[under_way[0]]
        return item * item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "READERS", readers)
        patch.setattr(exchange, "AHEAD_BYTES", most)
        for given_back in _ahead(Workspace("memory://x"), read, range(len(sizes)), sizes.__getitem__):
            with lock:
                seen.append(given_back)
    assert seen == [item * item for item in range(len(sizes))]


def test_an_error_of_a_remote_read_reaches_the_caller() -> None:
    def read(item: int) -> int:
        if item == 3:
            raise StorageError("the third")
        return item

    came: list[int] = []
    with pytest.raises(StorageError, match="the third"):
        came.extend(_ahead(Workspace("memory://x"), read, range(9)))
    assert came == [0, 1, 2]


def test_read_rows_reads_a_range_of_any_shape(place: Workspace, tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.float32).reshape(10, 3, 2)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_rows(place, "a.npy", 4, 7), array[4:7])
    assert read_rows(place, "a.npy", 5, 5).shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("start", "stop"), [(0, 5), (1, 1), (0, 20_000), (7, 3_000), (15_000, 15_003), (19_999, 20_000)]
)
def test_read_rows_from_remote_storage_near_the_header_and_far_from_it(
    memory: Workspace, start: int, stop: int
) -> None:
    array = np.arange(40_000, dtype=np.int32).reshape(20_000, 2)
    buffer = io.BytesIO()
    np.save(buffer, array)
    memory.put("far.npy", buffer.getvalue())
    np.testing.assert_array_equal(read_rows(memory, "far.npy", start, stop), array[start:stop])
    memory.put("far.npy", buffer.getvalue()[:-1])
    if stop == len(array):
        with pytest.raises(StorageError, match="it ends early"):
            read_rows(memory, "far.npy", start, stop)
