import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.pruning.order import as_int64


@given(st.lists(st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, 5e-324, -5e-324]), min_size=2, max_size=20))
def test_floats_keep_their_order(values):
    x = np.array(values)
    number = as_int64(x)
    for name in ("less", "equal"):
        compare = getattr(np, name)
        assert np.array_equal(compare(number[:, None], number[None, :]), compare(x[:, None], x[None, :]))


@given(st.lists(st.floats(allow_nan=False, width=32), min_size=2, max_size=20))
def test_float32_is_ranked_as_the_float64_of_the_same_value(values):
    x = np.array(values, dtype=np.float32)
    assert np.array_equal(as_int64(x), as_int64(x.astype(np.float64)))


def test_integers_of_every_width():
    for dtype in (np.int8, np.int64, np.uint8, np.uint32, np.uint64, np.int16):
        ends = np.iinfo(dtype)
        x = np.array([ends.min, ends.min + 1, 0, 1, 100, ends.max - 1, ends.max], dtype=dtype)
        number = as_int64(x)
        assert number.dtype == np.int64
        assert np.array_equal(np.argsort(number, kind="stable"), np.argsort(x, kind="stable"))
    assert as_int64(np.array([-3, 7], dtype=np.int32)).tolist() == [-3, 7]


def test_what_has_no_rank():
    with pytest.raises(SpecError, match="NaN has no rank"):
        as_int64(np.array([0.5, np.nan]))
    with pytest.raises(SpecError, match="not by <U1"):
        as_int64(np.array(["a"]))
