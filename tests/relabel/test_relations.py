"""Closed class relations: rules by hand, and against a plain fixed point over sets on random tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats.class_lists import ClassList, read_relations
from curate.relabel.relations import Relations

LAPTOP, NOTEBOOK, PORTABLE, COMPUTER, MACHINE, KEYBOARD, KEY, DESK, MOUSE, TENT = range(10)
TABLE = {
    (LAPTOP, NOTEBOOK): "synonym",
    (NOTEBOOK, PORTABLE): "Synonym",
    (LAPTOP, COMPUTER): "subclass",
    (MACHINE, COMPUTER): "superclass",
    (KEYBOARD, COMPUTER): "part-of",
    (KEYBOARD, KEY): "has part",
    (DESK, PORTABLE): "co-occurring",
    (DESK, MOUSE): "co_occurring",
}


def test_rules_by_hand() -> None:
    held = Relations.build(TABLE)
    assert held.relation(PORTABLE, LAPTOP) == "synonym"
    assert held.relation(PORTABLE, MACHINE) == "subclass"
    assert held.relation(MACHINE, NOTEBOOK) == "superclass"
    assert held.relation(KEY, COMPUTER) == "part_of"
    # a keyboard is part of a computer and a notebook is a laptop, which is a computer; not of every machine
    assert held.relation(KEY, NOTEBOOK) == "part_of"
    assert held.relation(NOTEBOOK, KEY) == "has_part"
    assert held.relation(KEYBOARD, MACHINE) is None
    # co-occurrence goes to synonyms, not on to what occurs with that, nor up to the computer
    assert held.relation(LAPTOP, DESK) == held.relation(DESK, NOTEBOOK) == "co_occurring"
    assert held.relation(MOUSE, LAPTOP) is None
    assert held.relation(DESK, COMPUTER) is None
    assert held.relation(LAPTOP, LAPTOP) is None


def test_conflicts_of_arrays() -> None:
    held = Relations.build(TABLE)
    a = np.array([[LAPTOP, LAPTOP, KEY], [MOUSE, TENT, 5000]])
    b = np.array([[NOTEBOOK, TENT, LAPTOP], [LAPTOP, TENT, LAPTOP]])
    assert held.conflicts(a, b).tolist() == [[False, True, False], [True, False, True]]
    assert held.conflict(LAPTOP, MOUSE)
    assert not held.conflict(5000, 5000)
    assert held.is_a(np.array([LAPTOP, COMPUTER, KEY]), np.array([MACHINE, LAPTOP, KEYBOARD])).tolist() == [
        True, False, False,
    ]  # fmt: skip
    assert held.representatives(np.array([PORTABLE, TENT, 77, -1])).tolist() == [LAPTOP, TENT, 77, -1]


def test_without_a_table_only_equal_classes_agree() -> None:
    held = Relations.build({})
    assert held.conflicts(np.array([1, 2]), np.array([1, 3])).tolist() == [False, True]
    assert held.relation(1, 2) is None


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({(1, 2): "cousin"}, "classes 1 and 2 are 'cousin'"),
        ({(-1, 2): "synonym"}, "a class is a number from 0"),
        ({(3, 3): "subclass"}, "class 3 is given as subclass of itself"),
        ({(1, 2): "subclass", (2, 3): "subclass", (3, 1): "subclass"}, "is subclass of itself by way of"),
        ({(1, 2): "synonym", (2, 1): "subclass"}, "class 1 is subclass of itself"),
        ({(1, 2): "part_of", (2, 1): "part of"}, "is part_of of itself"),
    ],
)
def test_what_makes_no_sense_is_refused(table: dict[tuple[int, int], str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Relations.build(table)


def test_a_file_of_relations(tmp_path: object) -> None:
    path = f"{tmp_path}/relations.csv"
    with open(path, "w", encoding="utf-8") as out:
        out.write("a,b,relation\nn00000001,n00000002,synonym\n2,0,subclass\n")
    held = Relations.build(read_relations(path, ClassList({"n00000001": 0, "n00000002": 1})))
    assert held.relation(2, 1) == "subclass"


def test_a_long_chain_is_no_trouble() -> None:
    held = Relations.build({(n, n + 1): "subclass" for n in range(300)})
    assert held.relation(0, 300) == "subclass"
    assert len(held.keys) == 301 * 300


def closed(table: dict[tuple[int, int], str], n: int) -> dict[tuple[int, int], str]:
    """The rules as a fixed point over sets of pairs, nothing else."""
    same = {(a, a) for a in range(n)}
    sub = {pair for pair, r in table.items() if r == "subclass"}
    part = {pair for pair, r in table.items() if r == "part_of"}
    beside = {pair for pair, r in table.items() if r == "co_occurring"}
    same |= {pair for pair, r in table.items() if r == "synonym"}
    while True:
        size = len(same) + len(sub) + len(part) + len(beside)
        same |= {(b, a) for a, b in same} | {(a, d) for a, b in same for c, d in same if b == c}
        beside |= {(b, a) for a, b in beside}
        for held in (sub, part, beside):
            held |= {(d, b) for a, b in held for c, d in same if a == c}
            held |= {(a, d) for a, b in held for c, d in same if b == c}
        for held in (sub, part):
            held |= {(a, d) for a, b in held for c, d in held if b == c}
        if size == len(same) + len(sub) + len(part) + len(beside):
            break
    down = sub | same
    part = {(d, e) for a, b in part for d, x in down if x == a for e, y in down if y == b}
    told: dict[tuple[int, int], str] = {}
    for pairs, name, back in (
        (same, "synonym", "synonym"),
        (sub, "subclass", "superclass"),
        (part, "part_of", "has_part"),
        (beside, "co_occurring", "co_occurring"),
    ):
        for a, b in sorted(pairs):
            if a != b and (a, b) not in told:
                told[a, b], told[b, a] = name, back
    return told


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.tuples(st.integers(0, 6), st.integers(0, 6)).filter(lambda pair: pair[0] < pair[1]),
        st.sampled_from(["synonym", "subclass", "part_of", "co_occurring"]),
        max_size=7,
    )
)
def test_closure_is_the_fixed_point(table: dict[tuple[int, int], str]) -> None:
    want = closed(table, 7)
    try:
        held = Relations.build(table)
    except InputError:
        # only synonyms can close a circle here, as every pair goes upward
        assert "synonym" in table.values()
        return
    for a in range(7):
        for b in range(7):
            told = held.relation(a, b)
            # inherited parts can go both ways; which of the two is said is left open
            assert told == want.get((a, b)) or {told, want.get((a, b))} == {"part_of", "has_part"}
            assert held.conflict(a, b) == held.conflict(b, a) == (a != b and (a, b) not in want)
