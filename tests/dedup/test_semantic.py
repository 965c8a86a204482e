import hashlib
import os
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from dedup_rows import angles, concept, similarities, similarity_matrix, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.dedup.semantic import cross_similarity, keep_order, keepers, max_similarity, semantic_duplicates
from curate.errors import InputError, SpecError


def greedy_brute(s, threshold):
    keep = np.ones(len(s), dtype=bool)
    for j in range(len(s)):
        keep[j] = not (keep[:j] & (s[j, :j] > threshold)).any()
    return keep


@given(
    st.integers(0, 2**32), st.integers(1, 60), st.integers(2, 40), st.sampled_from([0.0, 0.001, 0.01, 0.07, 0.3, 1.0])
)
@settings(max_examples=80, deadline=None)
def test_equals_the_dense_definition(seed, n, d, epsilon):
    v = concept(seed, n, d)
    s = similarity_matrix(v)
    top = s.max(axis=1)
    threshold = 1.0 - epsilon
    block = 1 + seed % 70
    m = max_similarity(v, epsilon_max=epsilon, block=block)
    assert np.array_equal(m.exact, top >= threshold)
    assert np.array_equal(m.similarity[m.exact], top[m.exact])
    assert np.array_equal(m.duplicate_of[m.exact], s.argmax(axis=1)[m.exact])
    assert not m.similarity[~m.exact].any()
    assert (m.duplicate_of[~m.exact] == -1).all()

    paper = semantic_duplicates(v, epsilon=epsilon, block=block)
    assert np.array_equal(paper.keep, ~(top > threshold))
    assert np.array_equal(paper.duplicate_of, np.where(paper.keep, -1, s.argmax(axis=1)))
    assert np.array_equal(paper.similarity, np.where(paper.keep, 0.0, top))
    greedy = semantic_duplicates(v, epsilon=epsilon, rule="greedy", block=block)
    assert np.array_equal(greedy.keep, greedy_brute(s, threshold))
    to_kept = np.where(greedy.keep[None, :], s, -1.0)
    assert np.array_equal(greedy.duplicate_of, np.where(greedy.keep, -1, to_kept.argmax(axis=1)))
    assert np.array_equal(greedy.similarity, np.where(greedy.keep, 0.0, to_kept.max(axis=1)))

    # one survivor a component at least, and the paper's rule keeps a subset of greedy's rows
    assert not (paper.keep & ~greedy.keep).any()
    linked = (s > threshold) | (s > threshold).T
    seen, components = set(), 0
    for start in range(n):
        components += start not in seen
        stack = [start]
        while stack:
            i = stack.pop()
            if i not in seen:
                seen.add(i)
                stack += np.flatnonzero(linked[i]).tolist()
    assert components <= paper.keep.sum() <= greedy.keep.sum()
    for result in (paper, greedy):
        assert result.keep[result.keeper].all()
        assert np.array_equal(result.keeper[result.keep], np.flatnonzero(result.keep))


SIX = 1.0 - np.cos(np.radians(6.0))


@pytest.mark.parametrize(
    ("degrees", "paper", "greedy"),
    [((0, 5, 10), [0], [0, 2]), ((0, 10, 5), [0, 1], [0, 1]), ((0, 10, 20, 5), [0, 1, 2], [0, 1, 2])],
)
def test_angles_in_the_plane(degrees, paper, greedy):
    v = angles(*degrees)
    assert np.flatnonzero(semantic_duplicates(v, epsilon=SIX).keep).tolist() == paper
    assert np.flatnonzero(semantic_duplicates(v, epsilon=SIX, rule="greedy").keep).tolist() == greedy


def test_chain_leads_to_a_kept_row():
    d = semantic_duplicates(angles(0, 5, 10, 15, 40), epsilon=SIX)
    assert d.duplicate_of.tolist() == [-1, 0, 1, 2, -1]
    assert d.keeper.tolist() == [0, 0, 0, 0, 4]
    assert keepers(np.array([-1, 0, -1, 1, 3, 2])).tolist() == [0, 0, 2, 0, 0, 2]


def test_identical_rows_have_similarity_one_whatever_their_norm():
    rng = np.random.default_rng(0)
    once = unit(rng.standard_normal((300, 50)))
    assert (np.abs((once.astype(np.float64) ** 2).sum(axis=1) - 1.0) > 1e-7).any()
    twice = np.concatenate([once, once])
    m = max_similarity(twice, epsilon_max=0.0, block=128)
    assert m.exact[300:].all()
    assert (m.similarity[300:] == 1.0).all()
    assert m.duplicate_of[300:].tolist() == list(range(300))
    assert semantic_duplicates(twice, epsilon=0.0).keep.all()  # strictly above 1 never happens
    assert semantic_duplicates(twice, epsilon=1e-9).keep.tolist() == [True] * 300 + [False] * 300


def test_threshold_agrees_with_rational_arithmetic():
    """dot^2 > (1 - eps)^2 |x|^2 |y|^2 in fractions, for eps chosen at the similarity of a pair."""
    v = concept(3, 40, 12)
    s = similarity_matrix(v)
    rows = [[Fraction(float(a)) for a in row] for row in v]
    for epsilon in [0.01, 0.07, *(1.0 - np.sort(s[s > 0.6])[-60::6] + 1e-13)]:
        limit = Fraction(1.0 - epsilon) ** 2
        drop = [False] * len(rows)
        for j, y in enumerate(rows):
            for x in rows[:j]:
                dot = sum(a * b for a, b in zip(x, y, strict=True))
                drop[j] |= dot > 0 and dot**2 > limit * sum(a * a for a in x) * sum(b * b for b in y)
        assert (~semantic_duplicates(v, epsilon=float(epsilon)).keep).tolist() == drop


def test_one_search_serves_every_smaller_epsilon():
    v = concept(4, 400, 24)
    m = max_similarity(v, epsilon_max=0.3, block=100)
    for epsilon in (0.0, 0.005, 0.07, 0.3):
        keep = semantic_duplicates(v, epsilon=epsilon, block=64).keep
        assert np.array_equal(keep, ~(m.exact & (m.similarity > 1.0 - epsilon)))


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_crowd_of_copies(noise):
    rng = np.random.default_rng(5)
    v = unit(rng.standard_normal((1, 30)) + noise * rng.standard_normal((700, 30)))
    s = similarity_matrix(v)
    m = max_similarity(v, epsilon_max=0.07, block=128)
    assert np.array_equal(m.similarity[1:], s.max(axis=1)[1:])
    assert np.array_equal(m.duplicate_of[1:], s.argmax(axis=1)[1:])
    assert semantic_duplicates(v, epsilon=0.07, rule="greedy", block=128).keep.sum() == 1


def test_memmap_and_no_rows(tmp_path):
    v = concept(6, 300, 20)
    np.save(tmp_path / "v.npy", v)
    a = semantic_duplicates(np.load(tmp_path / "v.npy", mmap_mode="r"), epsilon=0.07, block=64)
    assert np.array_equal(a.keeper, semantic_duplicates(v, epsilon=0.07).keeper)
    for rule in ("paper", "greedy"):
        empty = semantic_duplicates(v[:0], epsilon=0.07, rule=rule)
        assert empty.keep.shape == empty.keeper.shape == empty.similarity.shape == (0,)


def test_keep_order():
    distance = np.array([5, 9, 5, 5], dtype=np.int64)
    hi, lo = np.array([1, 0, 0, 1], dtype=np.uint64), np.array([2, 0, 2**64 - 1, 1], dtype=np.uint64)
    assert keep_order(distance, hi, lo).tolist() == [1, 2, 3, 0]
    assert keep_order(distance, hi, lo, "easy").tolist() == [2, 3, 0, 1]
    with pytest.raises(SpecError, match="hard"):
        keep_order(distance, hi, lo, "random")


def test_the_kept_set_does_not_depend_on_how_rows_arrive():
    rng = np.random.default_rng(7)
    v = concept(7, 200, 16)
    distance = rng.integers(0, 5, 200)
    hi, lo = rng.integers(0, 2, 200).astype(np.uint64), np.arange(200, dtype=np.uint64)

    def kept(shuffle):
        order = keep_order(distance[shuffle], hi[shuffle], lo[shuffle])
        d = semantic_duplicates(v[shuffle][order], epsilon=0.07)
        uid = lo[shuffle][order]
        return {int(u): int(uid[k]) for u, k in zip(uid, d.keeper, strict=True)}

    expected = kept(np.arange(200))
    assert all(kept(rng.permutation(200)) == expected for _ in range(5))


@given(st.integers(0, 2**32), st.integers(1, 50), st.integers(1, 50), st.sampled_from([0.0, 0.001, 0.07, 0.3, 1.0]))
@settings(max_examples=80, deadline=None)
def test_across_two_sides_equals_the_dense_definition(seed, m, p, epsilon):
    rng = np.random.default_rng(seed)
    v = concept(seed, m + p, 2 + seed % 20)
    place = rng.permutation(m + p)
    a, b = np.sort(place[:m]), np.sort(place[m:])
    members, probes = v[a], v[b]
    s = similarities(members, probes)
    kwargs = {"epsilon_max": epsilon, "block": 1 + seed % 60, "prefix": [None, 0, 3][seed % 3]}
    mine, theirs = cross_similarity(members, probes, a * 7, b * 7, **kwargs)
    for found, values in (
        (mine, np.where(b[None, :] < a[:, None], s, -1.0)),
        (theirs, np.where(a[:, None] < b[None, :], s, -1.0).T),
    ):
        top = values.max(axis=1)
        assert np.array_equal(found.exact, top >= 1.0 - epsilon)
        assert np.array_equal(found.similarity, np.where(found.exact, top, 0.0))
        assert np.array_equal(found.duplicate_of, np.where(found.exact, values.argmax(axis=1), -1))


def test_concepts_and_crossings_together_equal_one_search():
    """Two concepts searched alone and against each other give what one search over both gives, ties included."""
    rng = np.random.default_rng(11)
    v = concept(11, 900, 32, copies=0.6)
    side = rng.random(900) < 0.4
    a, b = np.flatnonzero(side), np.flatnonzero(~side)
    whole = max_similarity(v, epsilon_max=0.2, block=300)
    inside = {0: max_similarity(v[a], epsilon_max=0.2), 1: max_similarity(v[b], epsilon_max=0.2)}
    across = cross_similarity(v[a], v[b], a, b, epsilon_max=0.2, block=200)
    for mine, other, within, crossing in ((a, b, inside[0], across[0]), (b, a, inside[1], across[1])):
        best = np.maximum(within.similarity, crossing.similarity)
        assert np.array_equal(best, whole.similarity[mine])
        first = np.full(len(mine), 900)
        for found, names in ((within, mine), (crossing, other)):
            ties = found.exact & (found.similarity == best)
            first[ties] = np.minimum(first[ties], names[found.duplicate_of[ties]])
        assert np.array_equal(np.where(first < 900, first, -1), whole.duplicate_of[mine])


def test_copies_among_scaled_rows():
    """Rows in proportion have similarity 1 but are no copies; the earliest of them all is named."""
    v = np.array([[0.5, 0.25], [0.25, 0.125], [0.5, 0.25], [0.25, 0.125], [0.125, 0.0625]], dtype=np.float16)
    for block in (1, 2, 8):
        m = max_similarity(v, epsilon_max=0.1, block=block)
        assert m.duplicate_of.tolist() == [-1, 0, 0, 0, 0]
        assert m.similarity.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]


def test_errors_are_sentences():
    v = concept(8, 5, 4)
    rank = np.arange(5)
    with pytest.raises(SpecError, match="the 5 probes need as many ranks"):
        cross_similarity(v, v, rank, rank[::-1], epsilon_max=0.1)
    with pytest.raises(SpecError, match=r"epsilon is 1\.5"):
        semantic_duplicates(v, epsilon=1.5)
    with pytest.raises(SpecError, match="the duplicate rule"):
        semantic_duplicates(v, epsilon=0.1, rule="none")
    with pytest.raises(SpecError, match="float16"):
        max_similarity(v.astype(np.float32), epsilon_max=0.1)
    v[3] = 0
    with pytest.raises(InputError, match="vector 3"):
        max_similarity(v, epsilon_max=0.1)


SCRIPT = """
import hashlib
import numpy as np
from curate.dedup.semantic import semantic_duplicates
rng = np.random.default_rng(0)
x = rng.standard_normal((1500, 128))[rng.integers(0, 700, 1500)] + 0.05 * rng.standard_normal((1500, 128))
x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
d = semantic_duplicates(x, epsilon=0.005, block=300)
print(hashlib.sha256(b"".join(a.tobytes() for a in (d.keep, d.duplicate_of, d.keeper, d.similarity))).hexdigest())
"""


def test_same_bytes_for_any_thread_count_and_blas_kernel():
    def run(**extra):
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} | extra
        return subprocess.run(
            [sys.executable, "-c", SCRIPT], env=env, check=True, capture_output=True, text=True
        ).stdout

    first = run()
    assert len(first.strip()) == hashlib.sha256().digest_size * 2
    assert run(OMP_NUM_THREADS="3", OPENBLAS_NUM_THREADS="3") == first
    assert run(OPENBLAS_CORETYPE="Nehalem", NPY_DISABLE_CPU_FEATURES="AVX512F AVX512_SKX AVX512_ICL") == first
