import numpy as np
import pytest
from dedup_rows import concept, similarities, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.concepts.assign import assign, on_grid
from curate.dedup.bisector import near, probes
from curate.dedup.forest import forest
from curate.errors import SpecError


def centroids_of(rng, rows, k):
    x = rows[rng.choice(len(rows), k, replace=False)].astype(np.float64) + 0.05 * rng.standard_normal(
        (k, rows.shape[1])
    )
    return on_grid(x / np.linalg.norm(x, axis=1, keepdims=True))


def pairs_met(found, label):
    """Pairs (i, j), i probing, that comparing every row with the whole of the probed concepts would look at."""
    return {(int(i), int(j)) for i, c in zip(found.row, found.concept, strict=True) for j in np.flatnonzero(label == c)}


@given(st.integers(0, 2**32), st.integers(2, 30), st.integers(1, 9), st.sampled_from([0.0, 0.001, 0.03, 0.2, 0.7, 1.0]))
@settings(max_examples=80, deadline=None)
def test_every_similar_pair_is_met_exactly_once(seed, d, k, epsilon):
    rng = np.random.default_rng(seed)
    v = concept(seed, 70, d)
    table = centroids_of(rng, v, k)
    label, _ = assign(v, table)
    found = probes(v, label, table, epsilon=epsilon)
    met = pairs_met(found, label)
    assert len(met) == sum(int((label == c).sum()) for c in found.concept)
    assert not any((j, i) in met for i, j in met)
    assert (label[found.row] != found.concept).all()
    similar = similarities(v, v) >= 1.0 - epsilon
    across = label[:, None] != label[None, :]
    wanted = {(int(min(i, j)), int(max(i, j))) for i, j in np.argwhere(similar & across)}
    assert wanted <= {(min(i, j), max(i, j)) for i, j in met}
    assert not found.beyond.any()
    x, g = v.astype(np.float64), table.astype(np.float64)
    apart = g[label[found.row]] - g[found.concept]
    gap = (x[found.row] * apart).sum(axis=1)
    loose = np.sqrt(2 * epsilon) * np.linalg.norm(apart, axis=1) * np.linalg.norm(x[found.row], axis=1)
    assert (gap <= loose + 1e-9).all()  # never more than the rule of the paper's triangle
    for own in range(k):  # the rule as seen from the other row of a pair
        for other in range(k):
            rows = np.flatnonzero(label == own)
            may = set(rows[near(v[rows], table[own], table[other], epsilon=epsilon)].tolist())
            for i, j in wanted:
                if {label[i], label[j]} == {own, other} and own != other:
                    assert (i if label[i] == own else j) in may


def test_a_budget_keeps_the_nearest_and_counts_the_rest():
    rng = np.random.default_rng(5)
    v = concept(5, 400, 16)
    table = centroids_of(rng, v, 12)
    label, _ = assign(v, table)
    every = probes(v, label, table, epsilon=0.5)
    count = np.bincount(every.row, minlength=400)
    x, g = v.astype(np.float64), table.astype(np.float64)
    for budget in (0, 1, 3, 20):
        some = probes(v, label, table, epsilon=0.5, budget=budget)
        assert np.array_equal(some.beyond, np.maximum(count - budget, 0))
        for i in range(400):
            own = g[label[i]]
            all_of_row = every.concept[every.row == i]
            away = [x[i] @ (own - g[c]) / np.linalg.norm(own - g[c]) for c in all_of_row]
            expected = [int(c) for _, c in sorted(zip(np.rint(np.array(away) * 2**32), all_of_row, strict=True))]
            assert some.concept[some.row == i].tolist() == expected[:budget]


def test_the_answer_does_not_depend_on_the_rows_beside(tmp_path):
    rng = np.random.default_rng(6)
    v = concept(6, 3000, 24)
    table = centroids_of(rng, v, 40)
    label, _ = assign(v, table)
    np.save(tmp_path / "v.npy", v)
    whole = probes(np.load(tmp_path / "v.npy", mmap_mode="r"), label, table, epsilon=0.1, budget=4)
    for part in np.array_split(rng.permutation(3000), 7):
        mine = probes(v[part], label[part], table, epsilon=0.1, budget=4)
        for at, i in enumerate(part[:40]):
            assert mine.concept[mine.row == at].tolist() == whole.concept[whole.row == i].tolist()
        assert np.array_equal(mine.beyond, whole.beyond[part])


def clustered(n, d, k, seed=0):
    """Rows as embeddings are: a common direction, overlapping concepts of Zipf sizes, a fifth near copies."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(d)
    centre = 0.6 * common + rng.standard_normal((k, d))
    size = 1.0 / np.arange(1, k + 1)
    x = centre[rng.choice(k, n, p=size / size.sum())] + 1.2 * rng.standard_normal((n, d))
    copies = np.flatnonzero(rng.random(n) < 0.2)
    x[copies] = x[rng.integers(0, n, len(copies))] + 0.25 * rng.random((len(copies), 1)) * rng.standard_normal(
        (len(copies), d)
    )
    return unit(x)


@pytest.mark.parametrize("n", [4000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_brute_force_finds_no_more_at_half_the_pairs(n):
    d, k, epsilon = 48, 30, 0.03
    v = clustered(n, d, k)
    rng = np.random.default_rng(1)
    table = centroids_of(rng, v, k)
    label, _ = assign(v, table)
    found = probes(v, label, table, epsilon=epsilon)
    probed = np.zeros((n, k), dtype=bool)
    probed[found.row, found.concept] = True
    crossing = inside = 0
    for start in range(0, n, 500):
        s = similarities(v[start : start + 500], v)
        i, j = np.nonzero(s > 1.0 - epsilon)
        i += start
        i, j = i[i > j], j[i > j]
        across = label[i] != label[j]
        inside += int((~across).sum())
        crossing += int(across.sum())
        assert (probed[i, label[j]] | probed[j, label[i]])[across].all()
    assert crossing > 20
    assert inside > 100
    size = np.bincount(label, minlength=k)
    compared = int((size * (size - 1) // 2).sum() + size[found.concept].sum())
    assert compared <= n * (n - 1) // 4, compared / (n * (n - 1) / 2)
    if n <= 4000:
        assert len(forest(v, epsilon=epsilon)) > 0


def test_errors_are_sentences():
    v = concept(9, 10, 4)
    table = on_grid(v[:2])
    label = np.zeros(10, dtype=np.int32)
    with pytest.raises(SpecError, match="epsilon is -1"):
        probes(v, label, table, epsilon=-1.0)
    with pytest.raises(SpecError, match="budget is -1"):
        probes(v, label, table, epsilon=0.1, budget=-1)
    with pytest.raises(SpecError, match="do not fit"):
        probes(v, label[:3], table, epsilon=0.1)
    assert probes(v[:0], label[:0], table, epsilon=0.1).row.shape == (0,)
