import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.dedup.curve import dropped, epsilon_for, grid
from curate.errors import SpecError


def parts_of(values, cuts):
    return np.split(values, sorted(cuts))


@given(st.lists(st.sampled_from([0.5, 0.75, 0.93, 0.99, 1.0, np.nextafter(1.0, 0.0)]) | st.floats(0.5, 1.0)),
       st.lists(st.integers(0, 20), max_size=3), st.integers(0, 30))  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_epsilon_for_a_number_is_an_order_statistic(values, cuts, drop):
    m = np.array(values, dtype=np.float64)
    parts = parts_of(m, [min(c, len(m)) for c in cuts])
    epsilon = epsilon_for(lambda: parts, drop)
    if drop >= len(m):
        assert epsilon is None
        return
    assert 1.0 - epsilon == np.sort(m)[::-1][drop]
    gone = int((m > 1.0 - epsilon).sum())
    assert gone <= drop
    wider = int((m > 1.0 - epsilon - 2.0**-52).sum())  # the next larger epsilon drops too many
    assert wider > drop
    assert sum(dropped(part, np.array([epsilon]))[0] for part in parts) == gone


def test_counts_add_up_and_are_strict():
    m = np.array([1.0, 0.93, 1.0 - 0.07, 0.9, 0.5])
    at = np.array([0.0, 0.07, 0.1, 0.5, 0.6])
    expected = [(m > 1.0 - e).sum() for e in at]
    assert dropped(m, at).tolist() == expected
    assert (dropped(m[:2], at) + dropped(m[2:], at)).tolist() == expected
    assert dropped(m[:0], at).tolist() == [0] * 5
    assert expected[0] == 0  # an exact copy stays at epsilon 0


def test_grid():
    g = grid(0.2)
    assert g[0] == 0.0
    assert g[-1] == 0.2
    assert len(g) == 65
    assert (np.diff(g) > 0).all()
    assert grid(0.0).tolist() == [0.0]


def test_errors_are_sentences():
    with pytest.raises(SpecError, match="cannot be negative"):
        epsilon_for(list, -1)
    with pytest.raises(SpecError, match="epsilon_max is 2"):
        grid(2.0)
