"""Kinds of disagreement and confused classes, by hand and by counting."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.evaluate.disagreement import Confusion, companions, compare, confusions
from curate.evaluate.sets import from_lists

SETS = [[1], [2], [1, 2], [2, 3], []]
ORIGINAL = np.ones(5, dtype=np.int32)


def test_every_kind() -> None:
    found = compare(ORIGINAL, from_lists(SETS))
    assert found.counts == {"same": 1, "other": 1, "multi_with": 1, "multi_without": 1, "none": 1}
    assert found.by_class == {1: (4, 2)}
    assert found.agreement == 0.5
    assert found.weak_classes(least=1) == [(1, 4, 0.5)]
    assert found.weak_classes() == []


def test_confusions_tell_how_classes_are_related() -> None:
    related = {(2, 1): "synonym"}
    sets = from_lists(SETS)
    assert confusions(ORIGINAL, sets, related) == [Confusion(1, 2, 2, "synonym"), Confusion(1, 3, 1, "")]
    assert companions(ORIGINAL, sets, related) == [Confusion(1, 2, 1, "synonym")]
    assert compare(ORIGINAL, from_lists([[]] * 5)).agreement is None


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-1, 4), st.lists(st.integers(0, 4), unique=True, max_size=3)), min_size=1))
def test_confusions_are_counted_right(rows: list[tuple[int, list[int]]]) -> None:
    given_, sets = np.array([row[0] for row in rows], dtype=np.int32), from_lists([row[1] for row in rows])
    without = Counter((g, c) for g, held in rows if g >= 0 and g not in held for c in held)
    beside = Counter((g, c) for g, held in rows if g in held for c in held if c != g)
    assert {(c.first, c.second): c.images for c in confusions(given_, sets, limit=99)} == without
    assert {(c.first, c.second): c.images for c in companions(given_, sets, limit=99)} == beside
