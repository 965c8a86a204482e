"""Questions for people, against the change that true answers make, counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.relabel.queue import mixed, priorities, ranked

PAIR = st.tuples(st.floats(0, 1), st.booleans(), st.integers(0, 4), st.integers(0, 9))


def test_the_priority_is_the_share_of_true_answers_that_change_the_sets() -> None:
    rng = np.random.default_rng(4)
    p, kept = rng.uniform(0.05, 0.95, 40), rng.random(40) < 0.5
    truth = rng.random((20_000, 40)) < p
    changed = (truth != kept).mean(axis=0)
    np.testing.assert_allclose(priorities(p, kept, np.zeros(40, dtype=int)), changed, atol=0.015)


def test_what_is_settled_is_not_asked_unless_its_image_is_suspect() -> None:
    p = np.array([0.01, 0.05, 0.5, 0.95, 0.99, 0.99, 0.01])
    kept = np.array([False, False, False, True, True, True, False])
    suspect = np.array([False, False, False, False, False, True, True])
    found = priorities(p, kept, np.zeros(7, dtype=int), suspect=suspect)
    np.testing.assert_allclose(found, [0, 0.05, 0.5, 0.05, 0, 0.05, 0])


def test_weights_of_classes() -> None:
    p, kept = np.array([0.5, 0.5]), np.zeros(2, dtype=bool)
    found = priorities(p, kept, np.array([1, 0]), weight=np.array([2.0, 0.1]))
    np.testing.assert_allclose(found, [0.05, 1.0])


@settings(deadline=None)
@given(st.lists(PAIR, max_size=40), st.integers(0, 10), st.integers(1, 4))
def test_the_order_is_that_of_brute_force(
    pairs: list[tuple[float, bool, int, int]], limit: int, per_class: int
) -> None:
    p = np.array([pair[0] for pair in pairs])
    kept = np.array([pair[1] for pair in pairs], dtype=bool)
    classes, images = (np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (2, 3))
    value = priorities(p, kept, classes, least=0.0, most=1.0)
    wanted, of_class = [], dict[int, int]()
    for i in sorted(range(len(pairs)), key=lambda i: (-value[i], images[i], classes[i], i)):
        number = int(classes[i])
        if value[i] > 0 and of_class.get(number, 0) < per_class:
            of_class[number] = of_class.get(number, 0) + 1
            wanted.append(i)
    assert ranked(value, classes, images, limit=limit, per_class=per_class).tolist() == wanted[:limit]


@given(st.integers(0, 60), st.integers(0, 12), st.integers(2, 9), st.integers(0, 5))
def test_known_questions_are_spread_and_no_question_is_lost(questions: int, golden: int, every: int, seed: int) -> None:
    order = mixed(questions, golden, every, seed)
    assert [number for known, number in order if not known] == list(range(questions))
    known = [number for is_known, number in order if is_known]
    assert known == list(range(len(known)))
    assert len(known) <= golden
    for start in range(0, len(order) - every + 1, every):
        here = sum(is_known for is_known, _ in order[start : start + every])
        assert here == (1 if sum(k for k, _ in order[:start]) < golden else 0)
    assert mixed(questions, golden, every, seed) == order


def test_limits_that_cross_are_refused() -> None:
    with pytest.raises(InputError, match="wanted 0 <= least"):
        priorities(np.array([0.5]), np.array([True]), np.array([0]), least=0.9, most=0.1)
    with pytest.raises(InputError, match="lies outside"):
        priorities(np.array([1.5]), np.array([True]), np.array([0]))
    with pytest.raises(InputError, match="wanted 2 or more"):
        mixed(3, 1, 1, 0)
