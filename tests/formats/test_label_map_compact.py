"""The compact form: how far scores move, that nothing else does, and that damage is told."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats.label_map_compact import STEP, compress, expand
from curate.formats.label_maps import faults, pack
from curate.relabel.maps import top_k_batch


def made(n: int, k: int, height: int, width: int, classes: int, scale: float, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).standard_normal((n, classes, height, width)).astype(np.float32)
    best = top_k_batch(logits * np.float32(scale), k)
    assert best.lse is not None
    return pack(best.scores, best.classes, best.lse)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 4),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([5, 300, 70_000]),
    st.sampled_from([0.01, 3.0, 40.0, 9000.0]),
    st.integers(0, 99),
)
def test_scores_move_by_half_a_step_and_classes_not_at_all(
    n: int, k: int, height: int, width: int, classes: int, scale: float, seed: int
) -> None:
    records = made(max(n, 1), k, height, width, min(classes, 400), scale, seed)[:n]
    back = expand(compress(records))
    assert back.dtype == records.dtype
    assert len(back) == n
    assert np.array_equal(back["classes"], records["classes"])
    for field in ("scores", "lse"):
        moved = np.abs(back[field].astype(np.float64) - records[field].astype(np.float64))
        assert moved.max(initial=0) <= 0.5 / STEP
    if n:
        assert faults(back, 400) == {}
    assert compress(back) == compress(records)


def test_class_numbers_of_four_bytes() -> None:
    records = made(2, 2, 3, 3, 9, 3.0, 3)
    wide = pack(records["scores"], records["classes"].astype(np.uint32) + 70_000, records["lse"])
    back = expand(compress(wide))
    assert back.dtype == wide.dtype
    assert np.array_equal(back["classes"], wide["classes"])


def test_damage_is_told_and_other_records_are_refused() -> None:
    records = made(2, 3, 4, 4, 20, 3.0, 0)
    data = compress(records)
    more = bytearray(data)
    more[8:12] = struct.pack("<I", 1 << 31)  # claims two thousand million maps
    for bad in (b"", data[:10], data[:-4], b"x" + data[1:], data[:40] + b"\0\0\0" + data[43:], bytes(more)):
        with pytest.raises(InputError, match=r"x\.clm: is"):
            expand(bad, "x.clm")
    with pytest.raises(InputError, match="these are others"):
        compress(pack(records["scores"], records["classes"], None))
    with pytest.raises(InputError, match="these are float32"):
        compress(pack(records["scores"].astype(np.float32), records["classes"], records["lse"]))
    records["lse"][0, 0, 0] = np.inf
    with pytest.raises(InputError, match="not finite"):
        compress(records)
