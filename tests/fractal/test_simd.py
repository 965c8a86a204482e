from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import uint64

from curate.fractal import simd
from curate.fractal.chaos import View, bounds, density, kernel_name, pixel_game, quantised
from curate.fractal.kernels import LANES, PER_WORD, count_scalar
from curate.fractal.randomness import Draws, key
from curate.fractal.systems import System, probabilities, sample

here = pytest.mark.skipif(bool(simd.trouble()), reason=f"no AVX2 loop here: {simd.trouble()}")


def drawn(n: int, seed: int) -> System:
    """A system of n maps; seven and eight are drawn with a sigma-factor that is found quickly."""
    if n == 1:
        return System(np.array([[[0.6, -0.7, 0.3], [0.5, 0.6, -1.0]]]), np.ones(1))
    maps = sample(n, Draws.of(31, seed, n), alpha=(1.2 * n, 1.3 * n) if n > 5 else None)
    return System(maps, quantised(probabilities(maps)))


def both(system: System, view: View, size: int, number: int, words: int) -> tuple[np.ndarray, np.ndarray]:
    game = pixel_game(system, view, size, number)
    one, other = (np.zeros(size * size + simd.SPARE, dtype=np.uint32) for _ in range(2))
    for count, flat in ((count_scalar, one), (simd.count_avx2, other)):
        count(game.table, game.symbols, game.starts, uint64(number), words, size, flat)
    assert int(other.sum()) == words * LANES * PER_WORD  # what falls outside is in the spare cells
    return one[: size * size], other[: size * size]


@here
@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 8), st.integers(0, 10**6), st.integers(1, 300), st.integers(0, 2**64 - 1), st.integers(0, 100),
    st.floats(0.2, 1.5), st.floats(-0.5, 0.5),
)  # fmt: skip
def test_the_canvas_is_that_of_the_scalar_loop(
    n: int, seed: int, size: int, number: int, words: int, zoom: float, shift: float
) -> None:
    """Bit for bit: every number of maps, zoomed in and out, any length."""
    system = drawn(n, seed)
    view = bounds(system, key("view", seed))
    middle, half = (np.add(view.high, view.low) / 2, np.subtract(view.high, view.low) / 2)
    low, high = middle + half * (shift - zoom), middle + half * (shift + zoom)
    one, other = both(system, View((low[0], low[1]), (high[0], high[1])), size, number, words)
    np.testing.assert_array_equal(one, other)


@here
@pytest.mark.parametrize("n", range(2, 9))
def test_long_orbits_stay_equal(n: int) -> None:
    """A joined multiplication and addition would part them: coordinates differ in the last bit within a few steps."""
    one, other = both(drawn(n, 5), bounds(drawn(n, 5), 2), 1000, 77, 5000)
    assert (one > 0).sum() > 1000
    np.testing.assert_array_equal(one, other)


@here
def test_coordinates_beyond_integers_and_maps_without_a_share() -> None:
    wild = System(np.array([[[2.0, 0, 1], [0, -3, 1]], [[0.5, 0, 0], [0, 0.5, 0]]]), np.full(2, 0.5))
    one, other = both(wild, View((-1, -1), (1, 1)), 16, 3, 200)
    np.testing.assert_array_equal(one, other)
    some = drawn(4, 9)
    for p in ([0, 0.5, 0, 0.5], [0.5, 0.5, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]):
        one, other = both(System(some.maps, np.array(p)), bounds(some, 1), 64, 3, 50)
        np.testing.assert_array_equal(one, other)


def test_more_maps_than_a_register_holds_take_the_scalar_loop() -> None:
    maps = np.array([[[0.2, 0, 0.1 * i], [0, 0.2, 0.1 * (i * i % 7)]] for i in range(20)])
    system = System(maps, quantised(np.ones(20)))
    view = bounds(system, 4, 16_000)
    game = pixel_game(system, view, 64, 4)
    flat = np.zeros(64 * 64, dtype=np.uint32)
    count_scalar(game.table, game.symbols, game.starts, uint64(4), 100, 64, flat)
    np.testing.assert_array_equal(density(system, view, 64, 100 * LANES * PER_WORD, 4).reshape(-1), flat)


@here
def test_it_refuses_what_it_has_no_room_for() -> None:
    game = pixel_game(drawn(3, 1), View((0, 0), (1, 1)), 8, 1)
    nine = (np.zeros((9, 6), dtype=np.float32), np.zeros(64 + simd.SPARE, dtype=np.uint32))
    for table, flat in ((nine[0], nine[1]), (game.table, nine[1][:64])):
        with pytest.raises(ValueError, match="too"):
            simd.count_avx2(table, game.symbols, game.starts, uint64(1), 1, 8, flat)


SCRIPT = """
import hashlib
from curate.fractal import chaos
from curate.fractal.randomness import Draws
from curate.fractal.systems import System, probabilities, sample
maps = sample(3, Draws.of(31, 1, 3))
system = chaos.System(maps, chaos.quantised(probabilities(maps)))
print(hashlib.sha256(chaos.density(system, chaos.bounds(system, 1), 200, 50_000, 8)).hexdigest())
print(chaos.kernel_name())
"""


@here
@pytest.mark.slow
def test_a_processor_without_avx2_draws_the_same_and_says_why() -> None:
    system = drawn(3, 1)
    mine = hashlib.sha256(density(system, bounds(system, 1), 200, 50_000, 8)).hexdigest()
    assert kernel_name() == "avx2"
    plain = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+sse2"}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=plain, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [mine, "scalar: numba does not compile for AVX2 here"]
