from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest
from bench import Bench, cut
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.stages.exact import ExactStage
from curate.store.uids import format_uid


@settings(deadline=None, max_examples=15)
@given(data=st.data(), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_against_brute_force(data: st.DataObject, sizes: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = sum(sizes)
    images = data.draw(st.lists(st.integers(0, 3), min_size=rows, max_size=rows))
    alive = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    made = Bench(str(tmp_path_factory.mktemp("exact")), len(sizes))
    index = made.index(sizes, sha256=[hashlib.sha256(bytes([i])).hexdigest() for i in images])
    made.given("before", cut(pl.DataFrame({"keep": alive, "reason": ["x"] * rows}), sizes))
    out = made.stage(ExactStage)
    first: dict[int, str] = {}
    for row, (image, judged) in enumerate(zip(images, alive, strict=True)):
        uid = format_uid(int(index["uid_hi"][row]), int(index["uid_lo"][row]))
        stays = judged and image not in first
        assert out["alive"][row] == stays
        assert out["keep"][row] == (stays if judged else None)
        assert out["keeper"][row] == (first[image] if judged and not stays else None)
        assert out["reason"][row] == ("same_bytes" if judged and not stays else None)
        if judged:
            first.setdefault(image, uid)


def test_hashes_that_share_a_prefix_are_different(bench: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one bit apart, at each of the four words; and many buckets give the same answer as one."""
    base = bytes(32)
    hashes = [base] + [base[:i] + b"\1" + base[i + 1 :] for i in (0, 7, 8, 15, 16, 24, 31)]
    texts = [h.hex() for h in hashes * 2]
    for limit in (1 << 28, 100):
        monkeypatch.setattr("curate.stages.exact.BUCKET_BYTES", limit)
        made = bench(2)
        made.index([8, 8], sha256=texts)
        assert made.stage(ExactStage)["keep"].to_list() == [True] * 8 + [False] * 8


def test_bad_samples_without_a_hash_do_not_matter(bench: Callable[..., Any]) -> None:
    made = bench(1)
    made.index([3], sha256=[None, hashlib.sha256(b"").hexdigest(), None])
    made.given("before", [pl.DataFrame({"keep": [False, True, False], "reason": ["bad_image"] * 3})])
    assert made.stage(ExactStage)["alive"].to_list() == [False, True, False]
    assert np.sum(made.executor.alive["dedup-exact"]) == 1
