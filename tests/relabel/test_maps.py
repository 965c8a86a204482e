from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.relabel.maps import (
    LabelMap,
    best_first,
    check,
    class_dtype,
    dense,
    dense_probabilities,
    probabilities,
    stack,
    top_k,
    top_k_batch,
)


def logits(seed: int, *shape: int, scale: float = 4.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.integers(1, 6), st.data())
def test_it_keeps_what_a_full_sort_puts_first(seed: int, c: int, h: int, w: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, c))
    x = logits(seed, c, h, w).round(data.draw(st.sampled_from([0, 3])))  # rounded to whole numbers: many ties
    kept = top_k(x, k)
    order = np.argsort(-x, axis=0, kind="stable")[:k]
    assert np.array_equal(kept.classes, order)
    assert np.array_equal(kept.scores, np.take_along_axis(x, order, axis=0).astype(np.float16))
    check(kept, c)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_probabilities_are_right_to_the_rounding_of_the_score(temperature: float) -> None:
    x = logits(1, 1000, 15, 15, scale=3.0)
    kept = top_k(x, 5, temperature)
    true = torch.softmax(torch.from_numpy(x).double() / temperature, dim=0).numpy()
    true = np.take_along_axis(true, kept.classes.astype(np.int64), axis=0)
    off = np.abs(np.log(probabilities(kept) / true))
    assert (off <= np.abs(kept.scores.astype(np.float64)) / 2048 + 2e-6).all()
    assert np.abs(kept.lse - torch.logsumexp(torch.from_numpy(x).double() / temperature, 0).numpy()).max() < 2e-6


def test_a_batch_is_its_images() -> None:
    x = logits(2, 3, 20, 4, 5)
    whole = top_k_batch(x, 4, 2.0)
    assert len(whole) == 3
    for image in range(3):
        one, alone = whole[image], top_k(x[image], 4, 2.0)
        assert one.shape == (4, 4, 5)
        for a, b in ((one.scores, alone.scores), (one.classes, alone.classes), (one.lse, alone.lse)):
            assert np.array_equal(a, b)
    again = stack([whole[0], whole[2]])
    assert np.array_equal(again.scores, whole.scores[[0, 2]])
    assert np.array_equal(again.lse, whole.lse[[0, 2]])
    assert stack([whole[0], LabelMap(whole[1].scores, whole[1].classes)]).lse is None


def test_bytes_and_types() -> None:
    kept = top_k(logits(3, 1000, 15, 15))
    assert (kept.scores.dtype, kept.classes.dtype, kept.lse.dtype) == (np.float16, np.uint16, np.float32)
    assert kept.nbytes == 225 * (5 * 4 + 4)
    assert class_dtype(65_536) is np.uint16
    assert class_dtype(65_537) is np.uint32


def test_dense_has_zeros_and_dense_probabilities_a_distribution() -> None:
    x = logits(4, 12, 3, 4)
    kept = top_k(x, 3)
    full = dense(kept, 12)
    assert (np.count_nonzero(full, axis=0) == 3).all()
    assert np.allclose(full[full != 0], x[full != 0], rtol=1e-3)
    p = dense_probabilities(kept, 12)
    assert np.allclose(p.sum(axis=0), 1, atol=1e-6)
    true = torch.softmax(torch.from_numpy(x), 0).numpy()
    stored = full != 0
    assert np.allclose(p[stored], true[stored], rtol=5e-3)
    assert np.allclose(np.where(stored, 0, p).sum(axis=0), np.where(stored, 0, true).sum(axis=0), atol=5e-3)
    assert np.allclose(dense_probabilities(top_k(x, 12), 12), true, rtol=5e-3)


def test_best_first_sorts_files_of_others() -> None:
    kept = top_k(logits(5, 30, 4, 4), 5)
    mixed = LabelMap(kept.scores[[3, 0, 4, 1, 2]], kept.classes[[3, 0, 4, 1, 2]], kept.lse)
    again = best_first(mixed)
    assert np.array_equal(again.scores, kept.scores)
    assert np.array_equal(np.take_along_axis(dense(again, 30), kept.classes.astype(int), 0), again.scores)


def test_wrong_maps_are_refused_with_their_place() -> None:
    kept = top_k(logits(6, 30, 4, 5), 5)

    def refused(
        what: str, scores: object = kept.scores, classes: object = kept.classes, lse: object = kept.lse
    ) -> None:
        with pytest.raises(InputError, match=what):
            check(LabelMap(scores, classes, lse), 30)  # type: ignore[arg-type]

    doubled = kept.classes.copy()
    doubled[4, 2, 3] = doubled[0, 2, 3]
    beyond = kept.classes.copy()
    beyond[1, 0, 1] = 30
    endless = kept.scores.copy()
    endless[0, 3, 4] = np.inf
    refused(r"twice in cell \(2, 3\)", classes=doubled)
    refused(r"class 30 in cell \(0, 1\); there are 30", classes=beyond)
    refused(r"not finite in cell \(3, 4\)", scores=endless)
    refused("wanted float16 or float32", scores=kept.scores.astype(np.float64))
    refused("wanted uint16 or uint32", classes=kept.classes.astype(np.int64))
    refused("lse below the best score", lse=kept.lse - 9)
    refused("wanted finite float32", lse=kept.lse[:2])
    check(LabelMap(kept.scores.astype(np.float32), kept.classes), 30)


def test_wrong_logits_are_refused() -> None:
    x = logits(7, 10, 2, 2)
    for bad, what in (
        (lambda: top_k(x, 11), "of 10"),
        (lambda: top_k(x, 0), "from 1 to 10"),
        (lambda: top_k(x, 3, 0.0), "temperature is 0"),
        (lambda: top_k(np.where(x > 3, np.nan, x), 3), "not finite"),
        (lambda: top_k(x * 1e5, 3), "beyond float16"),
        (lambda: top_k(x[0], 3), "shape"),
        (lambda: probabilities(LabelMap(np.zeros((1, 1, 1), np.float16), np.zeros((1, 1, 1), np.uint16))), "log-sum"),
        (lambda: dense(top_k(x, 3), 5), "there are 5 classes"),
        (lambda: stack([]), "empty"),
        (lambda: stack([top_k(x, 2), top_k(x, 3)]), "different shapes"),
    ):
        with pytest.raises(InputError, match=what):
            bad()
