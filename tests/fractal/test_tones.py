import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from curate.errors import SpecError
from curate.fractal.tones import tone

COUNTS = hnp.arrays(np.uint32, (4, 5), elements=st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)))


@settings(deadline=None)  # the first call compiles
@given(COUNTS)
def test_density_is_the_share_of_the_most(counts: np.ndarray) -> None:
    most = int(counts.max())
    expected = [0 if c == 0 else min(255, max(1, (510 * c + most) // (2 * most))) for c in counts.ravel().tolist()]
    assert tone(counts, "density").ravel().tolist() == expected


@settings(deadline=None)  # the first call compiles
@given(COUNTS)
def test_log_is_the_share_of_logarithms(counts: np.ndarray) -> None:
    most = int(counts.max())
    for c, said in zip(counts.ravel().tolist(), tone(counts, "log").ravel().tolist(), strict=True):
        if c == 0:
            assert said == 0
            continue
        exact = 255.0 * math.log1p(c) / math.log1p(most)
        assert said == max(1, math.floor(exact + 0.5)) or abs(exact + 0.5 - round(exact + 0.5)) < 1e-9


@settings(deadline=None)  # the first call compiles
@given(COUNTS)
def test_binary_says_where_ink_is(counts: np.ndarray) -> None:
    assert np.array_equal(tone(counts, "binary"), np.where(counts > 0, 255, 0))


@pytest.mark.parametrize("most", [1, 2, 3, 87, 4095, 65_535, 65_536, 100_000, 2**32 - 1])
def test_log_by_whole_numbers(most: int) -> None:
    """Tone t begins where (1 + count)^510 >= (1 + most)^(2 t - 1): exact in whole numbers, ties apart."""
    counts = np.unique(np.geomspace(1, most, 300).astype(np.uint64)).astype(np.uint32)
    said = tone(np.append(counts, most)[None].astype(np.uint32), "log")[0, :-1]
    for c, t in zip(counts.tolist(), said.tolist(), strict=True):
        power = (1 + c) ** 510
        assert t == 1 or power >= (1 + most) ** (2 * t - 1)
        assert t == 255 or power <= (1 + most) ** (2 * t + 1)


def test_known_values() -> None:
    counts = np.array([[0, 1, 3], [7, 15, 255]], dtype=np.uint32)
    assert tone(counts, "density").tolist() == [[0, 1, 3], [7, 15, 255]]
    # log2 of 2, 4, 8, 16 over log2 of 256: 1, 2, 3 and 4 eighths of 255
    assert tone(counts, "log").tolist() == [[0, 32, 64], [96, 128, 255]]


def test_an_unknown_tone_is_refused() -> None:
    with pytest.raises(SpecError, match='density, log or binary, not "bright"'):
        tone(np.zeros((2, 2), dtype=np.uint32), "bright")  # type: ignore[arg-type]
