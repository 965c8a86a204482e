import numpy as np
import pytest

from curate.errors import InputError, SpecError
from curate.pruning.select import select, ssp_select
from curate.pruning.thresholds import count, inside, quotas, to_quota, to_total, whole


def random_columns(rng, n, k):
    concept = rng.integers(0, k, n).astype(np.int32)
    score = rng.integers(-5, 6, n) * int(rng.choice([1, 10**9, 2**59])) + int(rng.choice([0, 7]))
    hi = rng.integers(0, 3, n).astype(np.uint64) * np.uint64(2**63 - 1)
    lo = rng.permutation(n).astype(np.uint64) + np.uint64(int(rng.integers(2)) * (2**64 - n))
    return concept, score, hi, lo


def summed(window, cols, rng):
    parts = np.array_split(rng.permutation(len(cols[0])), 3)
    return sum(count(window, *(c[p] for c in cols)) for p in parts)


@pytest.mark.parametrize("which", ["hard", "easy"])
def test_quotas_part_by_part_equal_select(which):
    rng = np.random.default_rng(0)
    for _ in range(250):
        n, k = int(rng.integers(1, 300)), int(rng.integers(1, 8))
        cols = random_columns(rng, n, k)
        quota = rng.integers(0, np.bincount(cols[0], minlength=k) + 2)
        window = whole(
            k, int(cols[1].min()), int(cols[1].max()), per_concept=True, which=which, bits=int(rng.integers(1, 12))
        )
        while not window.done:
            window = to_quota(window, summed(window, cols, rng), quota)
        assert np.array_equal(inside(window, *cols), select(*cols, quota, which))


@pytest.mark.parametrize("which", ["hard", "easy"])
def test_total_part_by_part_equals_ssp_select(which):
    rng = np.random.default_rng(1)
    for _ in range(250):
        n, k = int(rng.integers(1, 300)), int(rng.integers(1, 8))
        cols = random_columns(rng, n, k)
        floor = rng.integers(0, np.bincount(cols[0], minlength=k) + 1)
        total = int(rng.integers(floor.sum(), n + 1))
        window = whole(
            k, int(cols[1].min()), int(cols[1].max()), per_concept=False, which=which, bits=int(rng.integers(1, 12))
        )
        while not window.done:
            window = to_total(window, summed(window, cols, rng), total, floor)
        quota = quotas(window, floor)
        keep = ssp_select(*cols, total, floor, which)
        assert quota.sum() == total
        assert np.array_equal(quota, np.bincount(cols[0][keep], minlength=k))
        assert np.array_equal(select(*cols, quota, which), keep)
        if not floor.any():
            assert np.array_equal(inside(window, *cols), keep)


def test_scores_at_the_ends_of_int64():
    ends = np.array([-(2**63), 2**63 - 1, 0, -1, 1, 2**63 - 1])
    uid = np.array([5, 4, 3, 2, 1, 2**64 - 1], dtype=np.uint64)
    cols = (np.zeros(6, np.int32), ends, uid, uid)
    for which in ("hard", "easy"):
        for quota in range(8):
            window = whole(1, -(2**63), 2**63 - 1, per_concept=True, which=which, bits=5)
            while not window.done:
                window = to_quota(window, count(window, *cols), np.array([quota]))
            assert np.array_equal(inside(window, *cols), select(*cols, np.array([quota]), which))


def test_few_passes_over_a_million_scores():
    rng = np.random.default_rng(2)
    n, k = 300_000, 50
    cols = (
        rng.integers(0, k, n).astype(np.int32),
        rng.integers(0, 2**33, n),
        rng.integers(0, 2**63, n).astype(np.uint64),
        np.arange(n, dtype=np.uint64),
    )
    quota = rng.integers(0, n // k, k)
    window = whole(k, 0, 2**33, per_concept=True)
    while not window.done:
        window = to_quota(window, count(window, *cols), quota)
    assert window.passes <= 3
    assert np.array_equal(inside(window, *cols), select(*cols, quota))
    floor = np.full(k, 1500)
    window = whole(k, 0, 2**33, per_concept=False)
    while not window.done:
        window = to_total(window, count(window, *cols), n // 2, floor)
    assert window.passes <= 4
    assert quotas(window, floor).sum() == n // 2


def test_counters_stay_bounded():
    assert whole(1, 0, 2**33, per_concept=True).step_bits == 16
    assert whole(500, 0, 2**33, per_concept=True).step_bits == 11
    assert whole(50_000, 0, 2**33, per_concept=True).step_bits == 4
    assert whole(10_000_000, 0, 2**33, per_concept=True).step_bits == 1


def test_errors_are_sentences():
    one = np.array([1], dtype=np.uint64)
    twin = (np.zeros(2, np.int32), np.zeros(2, np.int64), one.repeat(2), one.repeat(2))
    window = whole(1, 0, 0, per_concept=True)

    def search():
        last = window
        while not last.done:
            last = to_quota(last, count(last, *twin), np.array([1]))

    with pytest.raises(InputError, match="same uid and score"):
        search()
    window = whole(1, 0, 3, per_concept=False)
    with pytest.raises(SpecError, match="outside the range"):
        count(window, twin[0], twin[1] + 9, twin[2], twin[3])
    with pytest.raises(SpecError, match=r"0\.\.4"):
        count(window, twin[0] + np.array([0, 4], np.int32), *twin[1:])
    with pytest.raises(SpecError, match="only 2"):
        to_total(window, count(window, *twin), 3, np.array([0]))
    with pytest.raises(SpecError, match="floor exceeds"):
        to_total(window, count(window, *twin), 2, np.array([3]))
    with pytest.raises(SpecError, match="no samples"):
        whole(1, 3, 2, per_concept=True)
    with pytest.raises(SpecError, match="bits"):
        whole(1, 0, 2, per_concept=True, bits=0)
