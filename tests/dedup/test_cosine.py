from fractions import Fraction

import numpy as np
import pytest
from dedup_rows import concept, similarities, unit

from curate.dedup import cosine
from curate.dedup.cosine import Rows, product, to_float32
from curate.errors import InputError, SpecError


def test_every_finite_float16_value():
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert len(finite) == 2**16 - 2**11
    assert np.array_equal(to_float32(finite).view(np.uint32), finite.astype(np.float32).view(np.uint32))
    strided = finite[: 2 * 1000].reshape(1000, 2)[::3, ::-1]
    assert np.array_equal(to_float32(strided), strided.astype(np.float32))


def test_exact_pairs_and_products_agree_to_the_bit():
    v = concept(1, 90, 700)
    rows = Rows(v, 40)
    assert np.array_equal(rows.norm2, (v.astype(np.float64) ** 2).sum(axis=1))
    for i in (3, 77):
        assert Fraction(rows.norm2[i]) == sum(Fraction(float(a)) ** 2 for a in v[i])
    every = np.arange(90)
    dense = similarities(v, v)
    assert np.array_equal(product(rows, every, rows, every), dense)
    i, j = np.divmod(np.arange(90 * 90), 90)
    assert np.array_equal(cosine.similarities(rows, i, rows, j), dense.ravel())
    shown = rows.unit(every)
    assert np.abs(shown @ shown.T - dense).max() <= rows.error


def test_distinct_rows():
    rng = np.random.default_rng(0)
    v = unit(rng.standard_normal((50, 9)))[rng.integers(0, 50, 400)]
    first, of = Rows(v, 64).distinct(30)
    seen: dict[bytes, int] = {}
    expected = [seen.setdefault(row.tobytes(), i) for i, row in enumerate(v)]
    assert of.tolist() == expected
    assert first.tolist() == sorted(set(expected))
    turned = np.array([[0.6, 0.8], [0.8, 0.6], [0.6, 0.8]], dtype=np.float16)  # equal norms, other rows
    assert Rows(turned).distinct()[1].tolist() == [0, 1, 0]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_rows_that_have_no_cosine(value):
    v = concept(2, 6, 5)
    v[4, 2] = value
    with pytest.raises(InputError, match="vector 4"):
        Rows(v, 4)
    with pytest.raises(SpecError, match="float16"):
        Rows(v.astype(np.float32))
