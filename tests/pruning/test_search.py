import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.pruning.search import restored, start
from curate.pruning.select import best_first, select, ssp_select


def columns(rng, n, k):
    concept = rng.integers(0, k, n).astype(np.int32)
    score = rng.integers(-5, 6, n) * int(rng.choice([1, 10**9, 2**59])) + int(rng.choice([0, 7]))
    hi = rng.integers(0, 3, n).astype(np.uint64) * np.uint64(2**63 - 1)
    return concept, score, hi, rng.permutation(n).astype(np.uint64)


def run(search, cols, rng, store=True):
    """The search to its end over three parts, written and read between passes; every part's answer."""
    parts = np.array_split(rng.permutation(len(cols[0])), 3)
    passes = 0
    while not search.done:
        sums = {name: np.zeros(search.shape(name), dtype=np.int64) for name in search.open}
        for part in parts:
            for name, (at, n) in search.count(*(c[part] for c in cols)).items():
                sums[name].reshape(-1)[at] += n
        search = search.narrowed(sums)
        if store:
            search = restored(search.arrays("s.") | {"other": np.zeros(1)}, "s.")
        passes += 1
        assert passes < 400
    keep = np.zeros(len(cols[0]), dtype=bool)
    for part in parts:
        keep[part] = search.keep(*(c[part] for c in cols))
    return search, keep, passes


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    which=st.sampled_from(["hard", "easy", "middle", "random"]),
    bits=st.sampled_from([None, 1, 4, 11]),
    floors=st.booleans(),
    limits=st.booleans(),
)
def test_part_by_part_equals_ssp_select(seed, which, bits, floors, limits):
    """bits: 1 is a bucket of two counters a concept; the answer never depends on it."""
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 200)), int(rng.integers(1, 7))
    cols = columns(rng, n, k)
    sizes = np.bincount(cols[0], minlength=k)
    limit = rng.integers(0, sizes + 1) if limits else sizes
    floor = rng.integers(0, limit + 1) if floors else np.zeros(k, int)
    total = int(rng.integers(floor.sum(), limit.sum() + 1))
    draw = rng.permutation(2 * n)[:n].astype(np.uint64) * np.uint64(2**55) if which == "random" else None
    key = best_first(cols[1], "random", draw) if which == "random" else cols[1]
    search = start(
        sizes,
        int(key.min()),
        int(key.max()),
        total,
        floor=floor,
        limit=limit if limits else None,
        which=which,
        bits=bits,
    )
    search, keep, _ = run(search, (cols[0], key, *cols[2:]), rng)
    expected = ssp_select(*cols, total, floor, which, draw, limit)
    assert np.array_equal(keep, expected)
    assert np.array_equal(search.quotas(), np.bincount(cols[0][keep], minlength=k))


@pytest.mark.parametrize("which", ["hard", "easy", "middle"])
def test_quotas_as_floor_and_limit_are_select(which):
    rng = np.random.default_rng(1)
    for _ in range(60):
        k = int(rng.integers(1, 6))
        cols = columns(rng, int(rng.integers(1, 120)), k)
        sizes = np.bincount(cols[0], minlength=k)
        quota = rng.integers(0, sizes + 1)
        ends = int(cols[1].min()), int(cols[1].max())
        search = start(sizes, *ends, int(quota.sum()), floor=quota, limit=quota, which=which)
        _, keep, _ = run(search, cols, rng)
        assert np.array_equal(keep, select(*cols, quota, which))


def test_a_concept_far_larger_than_its_counters():
    """One concept of 400,000 rows, two counters a pass: as with 65,536, in more passes."""
    rng = np.random.default_rng(2)
    n = 400_000
    cols = (
        np.zeros(n, dtype=np.int32),
        rng.integers(0, 2**33, n),
        rng.integers(0, 2**63, n).astype(np.uint64),
        np.arange(n, dtype=np.uint64),
    )
    quota = np.array([123_456])
    found = []
    for bits in (None, 4):
        search = start(np.array([n]), 0, 2**33, 123_456, floor=quota, limit=quota, which="middle", bits=bits)
        _, keep, passes = run(search, cols, rng, store=False)
        found.append(keep)
        assert passes <= (3 if bits is None else 9)
    assert np.array_equal(*found)
    assert np.array_equal(found[0], select(*cols, quota, "middle"))


def test_nothing_and_everything():
    rng = np.random.default_rng(3)
    cols = columns(rng, 50, 3)
    sizes = np.bincount(cols[0], minlength=3)
    for total in (0, 50):
        search, keep, _ = run(start(sizes, int(cols[1].min()), int(cols[1].max()), total), cols, rng)
        assert keep.sum() == total == search.quotas().sum()
    with pytest.raises(SpecError, match="only 50 are there"):
        start(sizes, 0, 1, 51)
    with pytest.raises(SpecError, match="keep at least 3"):
        start(sizes, 0, 1, 2, floor=np.array([1, 1, 1]))
