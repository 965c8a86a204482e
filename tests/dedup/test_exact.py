import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.dedup.exact import first_of_group
from curate.errors import SpecError

words = st.integers(0, 2) | st.sampled_from([2**63, 2**64 - 1])


@given(st.lists(st.tuples(words, words)))
def test_keeper_is_the_first_of_equals(pairs):
    first = {}
    for i, pair in enumerate(pairs):
        first.setdefault(pair, i)
    keep, keeper = first_of_group(np.array(pairs, dtype=np.uint64).reshape(-1, 2))
    assert keeper.tolist() == [first[p] for p in pairs]
    assert keep.tolist() == [first[p] == i for i, p in enumerate(pairs)]


def test_one_word_keys():
    keep, keeper = first_of_group(np.array([7, 3, 7, 2**64 - 1, 3, 7], dtype=np.uint64))
    assert keep.tolist() == [True, True, False, True, False, False]
    assert keeper.tolist() == [0, 1, 0, 3, 1, 0]


def test_wrong_shape():
    with pytest.raises(SpecError, match="shape"):
        first_of_group(np.zeros((2, 2, 2), dtype=np.uint64))
