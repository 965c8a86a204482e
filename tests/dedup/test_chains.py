import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.dedup.chains import earliest, resolve, union
from curate.errors import InputError


def plain_components(n, edges):
    label = list(range(n))
    for _ in range(n):
        for i, j in edges:
            label[i] = label[j] = min(label[i], label[j])
    return label


@given(st.integers(1, 50), st.integers(0, 2**32))
@settings(max_examples=80, deadline=None)
def test_resolve_follows_every_chain(n, seed):
    rng = np.random.default_rng(seed)
    rank = rng.permutation(n)  # chains go to smaller ranks, in any direction of the array
    by_rank = np.argsort(rank)
    parent = np.full(n, -1, dtype=np.int64)
    for i, r in enumerate(rank):
        parent[i] = by_rank[rng.integers(0, r)] if r and rng.random() < 0.8 else [-1, i][r % 2]
    expected = []
    for i in range(n):
        while parent[i] not in (-1, i):
            i = parent[i]
        expected.append(i)
    resolve(parent, block=1 + seed % 20)
    assert parent.tolist() == expected


@pytest.mark.parametrize("step", [1, -1])
def test_a_long_chain_in_a_mapped_file(tmp_path, step):
    n = 200_000
    parent = np.lib.format.open_memmap(tmp_path / "p.npy", mode="w+", dtype=np.int64, shape=(n,))
    parent[:] = np.arange(n) - step
    end = 0 if step == 1 else n - 1
    parent[end] = -1
    resolve(parent, block=4096)
    assert (parent == end).all()


@given(st.integers(1, 40), st.integers(0, 80), st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_union_equals_plain_components(n, e, seed):
    rng = np.random.default_rng(seed)
    edges = rng.integers(0, n, (e, 2))
    parent = np.full(n, -1, dtype=np.int64)
    cut = e // 3
    union(parent, edges[cut:], block=1 + seed % 7)
    union(parent, edges[:cut], block=1 + seed % 13)
    resolve(parent)
    assert parent.tolist() == plain_components(n, edges.tolist())


def test_union_of_a_long_path_in_any_order():
    n = 50_000
    rng = np.random.default_rng(0)
    name = rng.permutation(n)
    edges = np.stack([name[:-1], name[1:]], axis=1)[rng.permutation(n - 1)]
    parent = np.full(n, -1, dtype=np.int64)
    union(parent, edges, block=5000)
    resolve(parent, block=5000)
    assert not parent.any()


@given(st.integers(1, 60), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_earliest_member_of_each_set(n, seed):
    rng = np.random.default_rng(seed)
    root = np.minimum(rng.integers(0, n, n), np.arange(n))
    resolve(root)
    key = rng.integers(-2, 2, n)
    hi, lo = rng.integers(0, 2, n).astype(np.uint64) << np.uint64(63), rng.permutation(n).astype(np.uint64)
    best = np.full(n, 77, dtype=np.int64)
    earliest(root, best, key, hi, lo, block=1 + seed % 25)
    order = sorted(range(n), key=lambda i: (key[i], hi[i], lo[i]))
    expected = [-1] * n
    for i in reversed(order):
        expected[root[i]] = i
    assert best.tolist() == expected


def test_errors_are_sentences():
    with pytest.raises(InputError, match="node 1 names node 7 of 2"):
        resolve(np.array([0, 7]))
    with pytest.raises(InputError, match=r"outside 0\.\.1"):
        union(np.array([-1, -1]), np.array([[0, 2]]))
    with pytest.raises(InputError, match="do not end"):
        resolve(np.array([1, 2, 0]), block=3)
    resolve(np.zeros(0, dtype=np.int64))
