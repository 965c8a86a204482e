from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.pruning.portable import dots, exp, log, row_sums


@given(st.floats(-700, 0))
def test_exp_is_that_of_the_library_to_the_last_digits(x: float) -> None:
    assert exp(np.array([x]))[0] == pytest.approx(math.exp(x), rel=1e-14)


@given(st.floats(1e-300, 1e300))
def test_log_is_that_of_the_library_to_the_last_digits(x: float) -> None:
    assert log(np.array([x]))[0] == pytest.approx(math.log(x), rel=1e-14, abs=1e-300)


def test_log_near_one_keeps_its_digits() -> None:
    x = 1 + np.array([0.0, 2.0**-52, -(2.0**-53), 2.0**-30, -(2.0**-30), 1e-5])
    np.testing.assert_allclose(log(x), [math.log(v) for v in x], rtol=1e-15)


@pytest.mark.parametrize("width", [0, 1, 2, 3, 7, 8, 1000])
def test_row_sums_are_sums_and_do_not_depend_on_the_layout(width: int) -> None:
    rows = np.random.default_rng(width).normal(size=(5, width)) * 10.0 ** np.arange(width).clip(0, 12)
    expected = [float(sum(map(Fraction, row))) for row in rows]
    scale = np.abs(rows).sum(1)
    assert (np.abs(row_sums(rows) - expected) <= 1e-15 * scale * max(1, math.log2(width + 1))).all()
    assert np.array_equal(row_sums(rows), row_sums(np.asfortranarray(rows)))
    assert np.array_equal(row_sums(rows)[2:3], row_sums(rows[2:3]))


def test_dots() -> None:
    a, b = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    assert dots(a, b).tolist() == [3.0, 12.0]
