import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.concepts.assign import DISTANCE_SCALE, Nearest, _TorchScores, as_float32, assign, on_grid, to_float
from curate.concepts.kmeans import unit_on_grid
from curate.errors import InputError, SpecError


def unit_rows(rng, n, d, centre=0.0):
    x = rng.standard_normal((n, d)) + centre * rng.standard_normal((1, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def brute(rows, centroids):
    """All inner products as Python integers in units of 2**-48: no floating point at all."""
    a = [[int(v * 2**24) for v in row] for row in rows.astype(np.float64).tolist()]
    b = [[int(v * 2**24) for v in row] for row in centroids.astype(np.float64).tolist()]
    return [[sum(p * q for p, q in zip(x, c, strict=True)) for c in b] for x in a]


@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 9), st.integers(1, 24))
@settings(max_examples=60, deadline=None)
def test_equals_integer_arithmetic(seed, n, k, d):
    rng = np.random.default_rng(seed)
    rows, centroids = unit_rows(rng, n, d, 2.0), unit_on_grid(unit_rows(rng, k, d, 2.0))
    dots = brute(rows, centroids)
    concept, distance = assign(rows, centroids)
    assert concept.dtype == np.int32
    assert distance.dtype == np.int64
    assert concept.tolist() == [line.index(max(line)) for line in dots]
    units = [round(max(0, 2**48 - max(line)) * DISTANCE_SCALE / 2**48) for line in dots]
    assert distance.tolist() == units


def test_exact_ties_go_to_the_lowest_concept_and_last_bits_decide():
    rng = np.random.default_rng(1)
    rows = unit_rows(rng, 50, 256)
    base = unit_on_grid(rows[:20])
    better = base.copy()
    at = np.abs(rows[:20].astype(np.float32)).argmax(axis=1)
    better[np.arange(20), at] += np.sign(rows[np.arange(20), at]) * np.float32(2.0**-24)
    # three sets of nearly equal centroids: the last one wins by less than float32 can see
    concept, _ = assign(rows[:20], np.concatenate([base, base, better]))
    assert concept.tolist() == list(range(40, 60))
    concept, _ = assign(rows[:20], np.concatenate([base, base]))
    assert concept.tolist() == list(range(20))


def test_rows_may_come_in_any_block():
    rng = np.random.default_rng(2)
    rows, centroids = unit_rows(rng, 20_000, 16, 1.0), unit_on_grid(unit_rows(rng, 40, 16, 1.0))
    concept, distance = assign(rows, centroids)
    full = rows.astype(np.float64) @ centroids.astype(np.float64).T
    assert np.array_equal(concept, full.argmax(axis=1))
    for start in (1, 777, 19_999):
        tail = assign(rows[start:], centroids)
        assert np.array_equal(tail[0], concept[start:])
        assert np.array_equal(tail[1], distance[start:])


def test_distance_of_known_angles():
    angle = np.radians([0.0, 60.0, 90.0, 180.0])
    rows = on_grid(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    _, distance = assign(rows, np.array([[1.0, 0.0]], dtype=np.float32))
    assert to_float(distance) == pytest.approx([0.0, 0.5, 1.0, 2.0], abs=2e-7)


def test_a_row_longer_than_one_is_not_nearer_than_its_centroid():
    row = np.full((1, 3), 0.57763671875, dtype=np.float16)  # norm 1.0005
    _, distance = assign(row, unit_on_grid(row))
    assert distance.tolist() == [0]


def test_memmap(tmp_path):
    rng = np.random.default_rng(3)
    rows, centroids = unit_rows(rng, 100, 8), unit_on_grid(unit_rows(rng, 5, 8))
    np.save(tmp_path / "v.npy", rows)
    mapped = assign(np.load(tmp_path / "v.npy", mmap_mode="r"), centroids)
    assert all(np.array_equal(a, b) for a, b in zip(mapped, assign(rows, centroids), strict=True))


def test_no_rows():
    concept, distance = assign(np.zeros((0, 4), dtype=np.float16), np.eye(4, dtype=np.float32))
    assert concept.shape == distance.shape == (0,)


def test_errors_are_sentences():
    eye = np.eye(4, dtype=np.float32)
    with pytest.raises(SpecError, match="same number of columns"):
        assign(np.zeros((2, 3), dtype=np.float16), eye)
    with pytest.raises(SpecError, match="no centroids"):
        assign(np.zeros((2, 4), dtype=np.float16), eye[:0])
    bad = np.zeros((2, 4), dtype=np.float16)
    bad[1, 2] = np.nan
    with pytest.raises(InputError, match="not finite"):
        assign(bad, eye)


def hard_cases() -> tuple[np.ndarray, np.ndarray]:
    """Rows with exact ties, and with differences that float32 cannot see."""
    rng = np.random.default_rng(5)
    rows = unit_rows(rng, 3000, 96)
    base = unit_on_grid(rows[:40])
    better = base.copy()
    better[:, 0] += np.float32(2.0**-24)
    return rows, np.concatenate([base, base, better, unit_on_grid(unit_rows(rng, 60, 96))])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_proposals_of_torch_change_nothing(device):
    """The path of a GPU; also with torch on the CPU, whose products round in another order."""
    rows, centroids = hard_cases()
    concept, _ = assign(rows, centroids)
    nearest = Nearest(centroids)
    nearest._torch = _TorchScores(nearest.table, device)
    x = as_float32(rows)
    best, ceiling = nearest(x)
    assert np.array_equal(best, concept)
    exact = x.astype(np.float64) @ centroids.astype(np.float64).T
    exact[np.arange(len(x)), best] = -np.inf
    assert (exact.max(axis=1) <= ceiling).all()


@pytest.mark.gpu
def test_the_same_bytes_on_a_gpu():
    rows, centroids = hard_cases()
    assert all(map(np.array_equal, assign(rows, centroids, device="cuda"), assign(rows, centroids)))


def test_no_gpu_is_a_sentence():
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SpecError, match="torch sees no GPU here"):
        assign(*hard_cases(), device="cuda")


def test_no_other_product_exceeds_the_bound():
    rows, centroids = hard_cases()
    x = as_float32(rows[:500])
    best, ceiling = Nearest(centroids)(x)
    exact = x.astype(np.float64) @ centroids.astype(np.float64).T
    own = np.where(np.arange(500) % 3 == 0, -1, best)
    bound = Nearest(centroids).best_other(x, own)
    has = np.flatnonzero(own >= 0)
    others = exact.copy()
    others[has, own[has]] = -np.inf
    assert (others.max(axis=1) <= bound).all()
    assert (bound <= others.max(axis=1) + 1e-4).all()
    exact[np.arange(500), best] = -np.inf
    assert (exact.max(axis=1) <= ceiling).all()


def test_one_centroid_has_no_others():
    rows = unit_rows(np.random.default_rng(0), 5, 4)
    best, ceiling = Nearest(unit_on_grid(rows[:1]))(as_float32(rows))
    assert best.tolist() == [0] * 5
    assert (ceiling == -np.inf).all()


def test_every_float16_becomes_the_same_float32():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(-1, 64)
    finite = every[np.isfinite(every).all(axis=1)]
    assert as_float32(finite).tobytes() == finite.astype(np.float32).tobytes()
    assert len(finite) > 900
    # rows in any layout
    assert np.array_equal(as_float32(finite[::2, ::3]), finite[::2, ::3].astype(np.float32))
    infinite = np.array([[np.inf, 1.0], [np.nan, -np.inf]], dtype=np.float16)
    assert np.isfinite(as_float32(infinite)).tolist() == [[False, True], [False, False]]


SCRIPT = """
import hashlib, json, sys
import numpy as np
from curate.concepts.assign import assign
from curate.concepts.kmeans import train
rng = np.random.default_rng(0)
x = rng.standard_normal((6000, 96)) + 2 * rng.standard_normal((12, 96))[rng.integers(0, 12, 6000)]
x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
t = train(x, 40, niter=6, seed=3)
c, d = assign(x, t.centroids)
print(json.dumps([hashlib.sha256(a.tobytes()).hexdigest() for a in (t.centroids, c, d)] + t.objective))
"""


def test_same_bytes_for_any_thread_count_and_blas_kernel():
    def run(**extra):
        env = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1") | extra
        out = subprocess.run([sys.executable, "-c", SCRIPT], env=env, check=True, capture_output=True, text=True).stdout
        return json.loads(out)

    first = run()
    assert run(OMP_NUM_THREADS="3", OPENBLAS_NUM_THREADS="3", MKL_NUM_THREADS="3") == first
    # other kernels round float32 products differently (ignored where numpy uses another BLAS)
    assert run(OPENBLAS_CORETYPE="Nehalem", NPY_DISABLE_CPU_FEATURES="AVX512F AVX512_SKX AVX512_ICL") == first
