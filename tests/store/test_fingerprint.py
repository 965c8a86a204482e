from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.store.fingerprint import LENGTH, combine, fingerprint

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


def test_a_known_answer() -> None:
    """Written out once by hand: a change of it would make every stored run unusable."""
    text = '["embed",1,{"model":"ä"}]'
    assert fingerprint("embed", 1, {"model": "ä"}) == hashlib.blake2b(text.encode(), digest_size=32).hexdigest()[:12]
    assert combine(["a", "b"]) == hashlib.blake2b(b"a\nb\n", digest_size=32).hexdigest()[:12]


@given(st.dictionaries(st.text(max_size=4), json_values, min_size=2, max_size=5))
def test_order_of_keys_does_not_matter(value: dict[str, object]) -> None:
    assert fingerprint(value) == fingerprint(dict(reversed(value.items())))
    assert len(fingerprint(value)) == LENGTH


@given(json_values, json_values)
def test_equal_exactly_when_the_values_are(one: object, two: object) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
    assert (fingerprint(one) == fingerprint(two)) == same


def test_types_and_nesting_matter() -> None:
    different = [fingerprint(x) for x in (1, "1", 1.0, True, None, [1], [[1]], {"1": 1})]
    assert len(set(different)) == len(different)
    assert fingerprint(1, 2) != fingerprint([1, 2])


def test_combine_depends_on_order_and_cuts() -> None:
    assert len({combine(x) for x in (["ab"], ["a", "b"], ["b", "a"], [], [""], ["", ""])}) == 6
    assert combine(iter(["a", "b"])) == combine(["a", "b"])


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"epsilon": float("nan")})
