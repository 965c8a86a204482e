import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.pruning.select import select, ssp_select

row = st.tuples(st.integers(0, 3), st.integers(-2, 2) | st.sampled_from([-(2**63), 2**63 - 1]), st.integers(0, 2))
rows = st.lists(row, min_size=1, max_size=24)


def columns(data):
    concept = np.array([r[0] for r in data], dtype=np.int32)
    score = np.array([r[1] for r in data], dtype=np.int64)
    hi = np.array([r[2] * 2**62 for r in data], dtype=np.uint64)
    lo = np.random.default_rng(len(data)).permutation(len(data)).astype(np.uint64)
    return concept, score, hi, lo


def preference(cols, which):
    """Rows from best to worst, by plain sorting of tuples."""
    sign = -1 if which == "hard" else 1
    _, score, hi, lo = cols
    return sorted(range(len(score)), key=lambda i: (sign * int(score[i]), int(hi[i]), int(lo[i])))


@given(rows, st.lists(st.integers(0, 8), min_size=4, max_size=4), st.sampled_from(["hard", "easy"]))
def test_select_is_the_top_of_each_concept(data, quota, which):
    cols = columns(data)
    left = list(quota)
    expected = np.zeros(len(data), dtype=bool)
    for i in preference(cols, which):
        expected[i] = left[cols[0][i]] > 0
        left[cols[0][i]] -= 1
    keep = select(*cols, np.array(quota), which)
    assert np.array_equal(keep, expected)
    assert np.bincount(cols[0][keep], minlength=4).tolist() == [
        min(q, n) for q, n in zip(quota, np.bincount(cols[0], minlength=4), strict=True)
    ]
    shuffle = np.random.default_rng(0).permutation(len(data))
    assert np.array_equal(select(*(c[shuffle] for c in cols), np.array(quota), which), keep[shuffle])


@given(rows, st.lists(st.integers(0, 8), min_size=4, max_size=4), st.floats(0, 1), st.sampled_from(["hard", "easy"]))
def test_ssp_select_is_floors_then_the_best(data, floor, where, which):
    cols = columns(data)
    sizes = np.bincount(cols[0], minlength=4)
    least = int(np.minimum(floor, sizes).sum())
    total = least + int(where * (len(data) - least))
    ranked = preference(cols, which)
    kept = []
    for j in range(4):
        kept += [i for i in ranked if cols[0][i] == j][: floor[j]]
    kept += [i for i in ranked if i not in kept][: total - len(kept)]
    keep = ssp_select(*cols, total, np.array(floor), which)
    assert sorted(kept) == np.flatnonzero(keep).tolist()
    shuffle = np.random.default_rng(0).permutation(len(data))
    assert np.array_equal(ssp_select(*(c[shuffle] for c in cols), total, np.array(floor), which), keep[shuffle])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.just(0)), min_size=1, max_size=9), st.data())
@settings(max_examples=40, deadline=None)
def test_ssp_select_has_the_best_scores_of_all_choices(data, draw):
    cols = columns(data)
    sizes = np.bincount(cols[0], minlength=3)
    floor = np.array([draw.draw(st.integers(0, int(n))) for n in sizes])
    total = draw.draw(st.integers(int(floor.sum()), len(data)))
    best = max(
        sum(int(cols[1][i]) for i in choice)
        for choice in itertools.combinations(range(len(data)), total)
        if (np.bincount(cols[0][list(choice)], minlength=3) >= floor).all()
    )
    assert int(cols[1][ssp_select(*cols, total, floor)].sum()) == best


def test_errors_are_sentences():
    cols = columns([(0, 1, 0), (3, 1, 0)])
    with pytest.raises(SpecError, match=r"0\.\.3"):
        select(*cols, np.array([1, 1]))
    with pytest.raises(SpecError, match="only 2 are there"):
        ssp_select(*cols, 3, np.zeros(4, int))
    with pytest.raises(SpecError, match="keep at least 2"):
        ssp_select(*cols, 1, np.ones(4, int))
    with pytest.raises(SpecError, match="best"):
        select(*cols, np.ones(4, int), "best")


def test_no_rows():
    cols = (np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint64), np.zeros(0, np.uint64))
    assert select(*cols, np.array([3])).shape == (0,)
    assert ssp_select(*cols, 0, np.array([3])).shape == (0,)


@given(rows, st.lists(st.integers(0, 8), min_size=4, max_size=4))
def test_middle_is_closest_to_the_median_rank(data, quota):
    """Ties between two ranks that are equally close go to the harder sample."""
    cols = columns(data)
    ranked = preference(cols, "hard")
    kept = []
    for j in range(4):
        mine = [i for i in ranked if cols[0][i] == j]
        closest = sorted(range(len(mine)), key=lambda r: (abs(2 * r - (len(mine) - 1)), r))
        kept += [mine[r] for r in closest[: quota[j]]]
    assert sorted(kept) == np.flatnonzero(select(*cols, np.array(quota), "middle")).tolist()


@given(rows, st.lists(st.integers(0, 8), min_size=4, max_size=4), st.integers(0, 9))
def test_random_follows_the_draw_alone(data, quota, seed):
    cols = columns(data)
    draw = np.random.default_rng(seed).permutation(len(data)).astype(np.uint64) * np.uint64(2**58)
    keep = select(*cols, np.array(quota), "random", draw)
    for j in range(4):
        mine = np.flatnonzero(cols[0] == j)
        assert sorted(mine[np.argsort(draw[mine])][: quota[j]]) == np.flatnonzero(keep & (cols[0] == j)).tolist()
    with pytest.raises(SpecError, match="needs a draw"):
        select(*cols, np.array(quota), "random")


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), st.just(0)), min_size=1, max_size=9), st.data())
@settings(max_examples=40, deadline=None)
def test_a_limit_leaves_the_best_of_all_choices_within_it(data, draw):
    cols = columns(data)
    sizes = np.bincount(cols[0], minlength=3)
    limit = np.array([draw.draw(st.integers(0, int(n))) for n in sizes])
    floor = np.array([draw.draw(st.integers(0, int(n))) for n in limit])
    total = draw.draw(st.integers(int(floor.sum()), int(limit.sum())))
    best = max(
        sum(int(cols[1][i]) for i in choice)
        for choice in itertools.combinations(range(len(data)), total)
        if (np.bincount(cols[0][list(choice)], minlength=3) >= floor).all()
        and (np.bincount(cols[0][list(choice)], minlength=3) <= limit).all()
    )
    assert int(cols[1][ssp_select(*cols, total, floor, limit=limit)].sum()) == best


@given(rows, st.lists(st.integers(0, 8), min_size=4, max_size=4), st.floats(0, 1))
def test_middle_with_floors_is_their_medians_then_that_of_the_others(data, floor, where):
    cols = columns(data)
    sizes = np.bincount(cols[0], minlength=4)
    least = int(np.minimum(floor, sizes).sum())
    total = least + int(where * (len(data) - least))
    keep = ssp_select(*cols, total, np.array(floor), "middle")
    reserved = select(*cols, np.array(floor), "middle")
    assert keep.sum() == total
    assert not (reserved & ~keep).any()
    others = [i for i in preference(cols, "hard") if not reserved[i]]
    closest = sorted(range(len(others)), key=lambda r: (abs(2 * r - (len(others) - 1)), r))
    assert {others[r] for r in closest[: total - least]} == set(np.flatnonzero(keep & ~reserved).tolist())
