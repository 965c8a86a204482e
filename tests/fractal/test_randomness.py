from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.fractal.randomness import Draws, key, mix, words


def test_words_are_splitmix64() -> None:
    """The first outputs of SplitMix64 with seed 1234567, published with xoshiro's reference."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert words(1234567, 5).tolist() == expected
    assert words(1234567, 2, first=3).tolist() == expected[3:]


@given(st.integers(0, 2**64 - 1))
def test_the_scalar_and_the_array_hash_are_one(start: int) -> None:
    assert int(words(start, 1)[0]) == mix((start + 0x9E3779B97F4A7C15) % 2**64)


def test_addresses_are_told_apart() -> None:
    addresses: list[tuple[int | str, ...]] = [
        (), (0,), (0, 0), (1,), (1, 0), (0, 1), ("a",), ("ab",), ("a", "b"), ("b", "a"), ("a", 0), (2**64 - 1,), ("",)
    ]  # fmt: skip
    assert len({key(*address) for address in addresses}) == len(addresses)
    assert key(-1) == key(2**64 - 1)
    assert len({key(7, "x", i) for i in range(10_000)}) == 10_000


def test_draws_go_on_and_start_again() -> None:
    one, two = Draws.of(1, "x"), Draws.of(1, "x")
    first = np.concatenate([one.uniform(3), one.uniform(2)])
    np.testing.assert_array_equal(first, two.uniform(5))
    assert one.one() == two.one()
    assert (first >= 0).all()
    assert (first < 1).all()


@given(st.integers(0, 2**64 - 1), st.integers(0, 30), st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_few_and_many_draws_are_one_stream(start: int, count: int, low: float, high: float) -> None:
    raw = words(start, 2 * count + 2)
    expected = low + (high - low) * ((raw >> np.uint64(11)) * 2.0**-53)
    draws = Draws(start)
    assert draws.one(low, high) == expected[0]
    np.testing.assert_array_equal(draws.uniform(count, low, high), expected[1 : count + 1])
    assert draws.below(1000) == (int(raw[count + 1]) * 1000) >> 64
    assert [draws.one(low, high) for _ in range(count)] == expected[count + 2 :].tolist()


def test_addresses_and_draws_stay_as_they_are() -> None:
    """A release can be made again only as long as no address changes its draws."""
    assert key() == 0
    assert key(7, "image", 123, "jitter") == 0x185D65F5202CF1C1
    assert key("é") == 0x45D94025D816C3D6
    assert key(-1, "") == 0xAF981EBFCDE82B5
    draws = Draws.of(3, "pinned")
    assert (draws.one(), draws.below(1000)) == (0.7305488023276268, 325)
    assert draws.uniform(2, -1, 1).tolist() == [-0.6354057442305958, -0.18125228759016765]


def test_draws_are_uniform() -> None:
    raw = np.histogram(Draws.of(9).uniform(100_000, -2.0, 3.0), bins=50, range=(-2, 3))[0]
    assert ((raw - 2000) ** 2 / 2000).sum() < 49 + 4.5 * np.sqrt(2 * 49)
    draws = Draws.of(10)
    counts = np.bincount([draws.below(7) for _ in range(21_000)], minlength=7)
    assert counts.sum() == 21_000
    assert ((counts - 3000) ** 2 / 3000).sum() < 6 + 4.5 * np.sqrt(12)


@pytest.mark.parametrize("n", [0, 1, 50])
def test_permutations(n: int) -> None:
    order = Draws.of(4, n).permutation(n)
    assert sorted(order.tolist()) == list(range(n))
