from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from curate.stages.sample import SampleConfig, SampleStage
from curate.store.uids import hash64


def kept(bench: Callable[..., Any], fraction: float, sizes: list[int], seed: int = 0) -> np.ndarray[Any, Any]:
    made = bench(len(sizes), seed)
    made.index(sizes)
    return made.stage(SampleStage, fraction=fraction)["keep"].to_numpy()  # type: ignore[no-any-return]


def test_the_same_rows_for_any_cut_into_parts(bench: Callable[..., Any]) -> None:
    one = kept(bench, 0.3, [4000])
    np.testing.assert_array_equal(one, kept(bench, 0.3, [1, 1999, 0, 2000]))
    # 0.3 of 4000 within five standard deviations of a binomial
    assert abs(int(one.sum()) - 1200) < 5 * (4000 * 0.3 * 0.7) ** 0.5


def test_a_larger_fraction_keeps_all_that_a_smaller_one_does(bench: Callable[..., Any]) -> None:
    before = np.zeros(3000, dtype=bool)
    for fraction in (1e-9, 0.01, 0.2, 0.5, 0.999, 1.0):
        now = kept(bench, fraction, [3000])
        assert not (before & ~now).any()
        before = now
    assert before.all()


def test_another_seed_keeps_others(bench: Callable[..., Any]) -> None:
    one, other = (kept(bench, 0.5, [2000], seed) for seed in (1, 2))
    assert 800 < int((one != other).sum()) < 1200


def test_by_a_hash_of_seed_and_uid(bench: Callable[..., Any]) -> None:
    made = bench(1, 5)
    index = made.index([500])
    frame = made.stage(SampleStage, fraction=0.25)
    draw = hash64(index["uid_hi"].to_numpy(), index["uid_lo"].to_numpy(), 5, "sample")
    np.testing.assert_array_equal(frame["keep"].to_numpy(), draw < np.uint64(2**62))
    assert set(frame["reason"].unique()) == {None, "not_sampled"}


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_impossible_fractions_are_refused(fraction: float) -> None:
    with pytest.raises(ValidationError):
        SampleConfig(name=None, fraction=fraction)
