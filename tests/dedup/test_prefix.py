import numpy as np
import pytest
from dedup_rows import concept, similarities, unit
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.dedup.cosine import Rows
from curate.dedup.prefix import Prefix, choose, fit
from curate.dedup.semantic import max_similarity
from curate.errors import SpecError


def decaying(seed, n, d, power=1.0):
    """Rows whose energy lies in few directions, rotated, with near copies; as real embeddings."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    x = rng.standard_normal((n, d)) * np.arange(1, d + 1) ** -power @ turn
    copies = np.flatnonzero(rng.random(n) < 0.2)
    x[copies] = x[rng.integers(0, n, len(copies))] + 0.02 * np.linalg.norm(x[0]) / d**0.5 * rng.standard_normal(
        (len(copies), d)
    )
    return unit(x)


@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_the_bound_lies_above_every_cosine(seed, d, columns):
    v = concept(seed, 80, d, noise=0.001)
    rows = Rows(v)
    prefix = Prefix(fit(rows, columns), 1 + seed % min(columns, d))
    for sketch in prefix.sketch(rows, np.arange(80)):
        bound = (sketch @ sketch.T).astype(np.float64)
        assert (bound + prefix.slack(sketch.shape[1]) >= similarities(v, v)).all()


def test_columns_are_orthonormal_and_hold_nearly_the_energy_of_pca():
    v = decaying(1, 1500, 200)
    x = v.astype(np.float64)
    rotation = fit(Rows(v), 40).astype(np.float64)
    assert np.abs(rotation.T @ rotation - np.eye(40)).max() < 1e-5
    best = np.linalg.eigvalsh(x.T @ x)[::-1][:40].sum()
    assert ((x @ rotation) ** 2).sum() > 0.97 * best


@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.01, 0.07, 0.2, 0.5]))
@settings(max_examples=25, deadline=None)
def test_results_are_the_same_to_the_bit_with_any_filter(seed, epsilon):
    v = decaying(seed, 300, 40, power=0.7)
    rows = Rows(v)
    block = 20 + seed % 300
    plain = max_similarity(v, epsilon_max=epsilon, block=block, prefix=0)
    rotation = fit(rows, 24)
    for prefix in (3, 200, Prefix(rotation, 6), Prefix(rotation, 24)):
        other = max_similarity(v, epsilon_max=epsilon, block=block, prefix=prefix)
        for name in ("similarity", "duplicate_of", "exact"):
            assert getattr(plain, name).tobytes() == getattr(other, name).tobytes()


def test_it_decides_by_what_survives():
    many = 4e8
    real = decaying(2, 1200, 600, power=0.7)
    chosen = choose(Rows(real), None, many, 0.93, None)
    assert chosen is not None
    assert chosen.short <= chosen.long < 600
    assert choose(Rows(real), None, 1e3, 0.93, None) is None  # too few pairs to pay for a rotation
    assert choose(Rows(real), None, many, 0.93, 0) is None
    crowd = unit(real[:1].astype(np.float64) + 0.002 * np.random.default_rng(3).standard_normal((1200, 600)))
    assert choose(Rows(crowd), None, many, 0.93, None) is None  # everything survives


def test_errors_are_sentences():
    v = concept(3, 30, 8)
    with pytest.raises(SpecError, match="has -1 columns"):
        max_similarity(v, epsilon_max=0.1, prefix=-1)
    with pytest.raises(SpecError, match="rows of 9 numbers, these have 8"):
        max_similarity(v, epsilon_max=0.1, prefix=Prefix(np.eye(9, 2, dtype=np.float32), 2))
    for bad in (np.ones((8, 2), dtype=np.float32), np.eye(8)):
        with pytest.raises(SpecError, match="does not work"):
            Prefix(bad, 1)
