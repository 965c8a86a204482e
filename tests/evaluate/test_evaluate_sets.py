"""Sets in flat arrays against Python's own."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.evaluate.sets import from_lists, from_pairs

LISTS = st.lists(st.lists(st.integers(0, 6), unique=True, max_size=5), min_size=1, max_size=8)


@settings(max_examples=40)
@given(LISTS, st.data())
def test_membership_and_taking_are_those_of_lists(lists: list[list[int]], data: st.DataObject) -> None:
    sets = from_lists(lists)
    assert sets.lists() == lists
    assert sets.sizes.tolist() == [len(one) for one in lists]
    n = len(lists)
    every, classes = np.repeat(np.arange(n), 10), np.tile(np.arange(-2, 8, dtype=np.int32), n)
    expected = [c in lists[i] for i, c in zip(every.tolist(), classes.tolist(), strict=True)]
    assert sets.contain(every, classes).tolist() == expected
    rows = data.draw(st.lists(st.integers(0, n - 1), max_size=10))
    assert sets.take(np.array(rows, dtype=np.int64)).lists() == [lists[row] for row in rows]


@settings(max_examples=40)
@given(LISTS, st.randoms())
def test_pairs_in_any_order_make_the_same_sets(lists: list[list[int]], random: object) -> None:
    pairs = [(i, c) for i, one in enumerate(lists) for c in one]
    random.shuffle(pairs)  # type: ignore[attr-defined]
    images = np.array([i for i, _ in pairs], dtype=np.int64)
    made = from_pairs(images, np.array([c for _, c in pairs], dtype=np.int32), len(lists))
    assert [sorted(one) for one in made.lists()] == [sorted(one) for one in lists]
