from __future__ import annotations

import numpy as np

from benchmarks.label_map_bytes import measure
from curate.formats.label_maps import pack
from curate.relabel.maps import top_k


def test_the_forms_are_measured_as_the_page_says() -> None:
    rng = np.random.default_rng(0)
    kept, exact = [], []
    for _ in range(3):
        logits = (rng.standard_normal((1000, 15, 15)) * 2).astype(np.float32)
        kept.append(top_k(logits))
        exact.append(np.take_along_axis(logits, kept[-1].classes.astype(np.int64), axis=0))
    lse = np.stack([one.lse for one in kept if one.lse is not None])
    records = pack(np.stack([one.scores for one in kept]), np.stack([one.classes for one in kept]), lse)
    found = measure(records, exact, boxes=3)
    assert found["raw"]["record"] == 5400
    assert found["raw"]["record/legacy"] <= 0.6
    assert found["deflate"]["compact"] < found["deflate"]["record"] < 5400
    assert 0 < found["difference_compact_zero"] < 1e-3
    assert 0 < found["difference_compact_lse"] < 1e-3
