import numpy as np
import pytest

from curate.errors import SpecError
from curate.pruning.metrics import METRICS, by_distance, by_random, metric
from curate.pruning.select import select


def test_farthest_sample_is_kept_when_hard():
    distance = np.array([5, 90, 7], dtype=np.int64)
    uid = np.arange(3, dtype=np.uint64)
    for name in ("dbp", "ssp"):
        score = metric(name).score(distance)
        keep = select(np.zeros(3, np.int32), score, uid, uid, np.array([1]), "hard")
        assert keep.tolist() == [False, True, False]
    assert by_distance(distance).dtype == np.int64


def test_random_scores_keep_the_order_of_the_draw_and_are_never_negative():
    draw = np.array([0, 2, 2**63, 2**64 - 1], dtype=np.uint64)
    assert by_random(draw).tolist() == [0, 1, 2**62, 2**63 - 1]


def test_registry():
    assert set(METRICS) == {"dbp", "ssp", "random"}
    assert {m.name: m.budget for m in METRICS.values()} == {"dbp": "complexity", "ssp": "global", "random": "global"}
    with pytest.raises(SpecError, match=r'no metric "el2n"; known are dbp, random, ssp'):
        metric("el2n")
