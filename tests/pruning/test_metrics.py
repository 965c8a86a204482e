from __future__ import annotations

import inspect
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax as scipy_softmax
from scipy.stats import entropy as scipy_entropy

from curate.errors import InputError, SpecError
from curate.pruning.metrics import METRICS, by_distance, by_random, geometry, metric, predictions, training
from curate.pruning.select import select

ROOT = Path(__file__).resolve().parents[2]


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
    assert {m.name for m in METRICS.values() if m.in_prune} == {"dbp", "ssp", "random"}
    assert {m.name: m.budget for m in METRICS.values() if m.budget == "complexity"} == {"dbp": "complexity"}
    assert all(m.equation and m.source and m.inputs and inspect.getdoc(m.score) for m in METRICS.values())
    with pytest.raises(SpecError, match=r'no metric "el3n"; known are clip, dbp, ddd, el2n, .* random, ssp'):
        metric("el3n")


def test_the_page_of_metrics_is_the_registry():
    told = [line for line in (ROOT / "docs/metrics.md").read_text().splitlines() if line.startswith("| `")]
    inputs = {name: ", ".join(one if " or " in one else f"`{one}`" for one in m.inputs) for name, m in METRICS.items()}
    rows = [f"| `{m.name}` | {m.equation} | {m.needs}: {inputs[m.name]} | {m.source} |" for m in METRICS.values()]
    assert [row for row in rows if row not in told] == []
    assert len([line for line in told if line.count("|") == 5]) == len(rows)


# --- predictions ------------------------------------------------------------------------------------------------------


def made(n: int = 200, c: int = 7, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, c)) * 4
    return z, predictions.softmax(z), rng.integers(0, c, n)


def test_softmax_and_entropy_are_those_of_scipy():
    z, p, _ = made()
    np.testing.assert_allclose(p, scipy_softmax(z, axis=1), rtol=1e-13)
    np.testing.assert_allclose(predictions.entropy(p), scipy_entropy(p, axis=1), rtol=1e-12)
    assert predictions.entropy(np.array([[1.0, 0.0], [0.5, 0.5]])).tolist() == [0.0, pytest.approx(math.log(2))]


def test_el2n_is_the_length_of_the_error_and_at_most_sqrt_2():
    _, p, y = made()
    expected = [np.linalg.norm(row - np.eye(7)[label]) for row, label in zip(p, y, strict=True)]
    np.testing.assert_allclose(predictions.el2n(p, y), expected, rtol=1e-14)
    ends = predictions.el2n(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0, 0]))
    assert ends.tolist() == [0.0, math.sqrt(2)]


def test_grand_of_the_last_layer_is_what_autograd_finds():
    z = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(13, 7, dtype=torch.float64)
    h = torch.randn(40, 13, generator=z, dtype=torch.float64)
    y = torch.randint(0, 7, (40,), generator=z)
    found = []
    for row, label in zip(h, y, strict=True):
        layer.zero_grad()
        torch.nn.functional.cross_entropy(layer(row[None]), label[None]).backward()
        found.append(math.sqrt(sum(float((p.grad**2).sum()) for p in layer.parameters())))
    p = predictions.softmax(layer(h).detach().numpy())
    np.testing.assert_allclose(predictions.grand(p, y.numpy(), h.numpy()), found, rtol=1e-12)
    el2n = predictions.el2n(p, y.numpy())
    np.testing.assert_allclose(found, el2n * np.sqrt(1 + (h.numpy() ** 2).sum(1)), rtol=1e-12)


def test_a_small_margin_is_hard():
    p = np.array([[0.9, 0.06, 0.04], [0.5, 0.45, 0.05], [0.2, 0.7, 0.1]])
    score = predictions.margin(p, np.zeros(3, dtype=np.int64))
    np.testing.assert_allclose(score, [-0.84, -0.05, 0.5], atol=1e-15)
    assert predictions.margin(np.ones((1, 1)), np.array([0])).tolist() == [-2.0]


def test_ddd_counts_the_models_that_are_wrong():
    _, p, y = made(50)
    _, q, _ = made(50, seed=1)
    by_model = np.stack([predictions.wrong(p, y), predictions.wrong(q, y)])
    expected = [float(np.argmax(a) != k) + float(np.argmax(b) != k) for a, b, k in zip(p, q, y, strict=True)]
    assert predictions.ddd(by_model).tolist() == expected


def test_mean_over_models_is_added_in_order():
    values = [np.array([0.1]), np.array([0.2]), np.array([0.6])]
    assert predictions.mean(values).tolist() == [(0.1 + 0.2 + 0.6) / 3]


def test_what_is_no_probability_is_refused():
    for bad in ([[0.5, 0.6]], [[-0.1, 1.1]], [[np.nan, 1.0]], [[3.0, -2.0]]):
        with pytest.raises(InputError, match="if these are logits"):
            predictions.checked(np.array(bad))
    with pytest.raises(InputError, match="a label is class 2, but the predictions have 2 classes"):
        predictions.checked(np.array([[0.5, 0.5]]), np.array([2]))
    predictions.checked(np.array([[0.5, 0.5]], dtype=np.float16).astype(np.float64), np.array([1]))


# --- training runs ----------------------------------------------------------------------------------------------------


def test_forgetting_by_hand():
    looks = {0: "1111", 1: "0101", 2: "1010", 3: "0000", 4: "0111", 5: "1"}
    rows = [(who, at, c == "1") for who, line in looks.items() for at, c in enumerate(line)]
    rng = np.random.default_rng(0)
    who, at, right = (np.array(column) for column in zip(*[rows[i] for i in rng.permutation(len(rows))], strict=True))
    score = training.forgetting(who, at * 10, right, 7)
    assert score[:6].tolist() == [0, 1, 2, training.NEVER_LEARNED, 0, 0]
    assert np.isnan(score[6])


@given(st.integers(0, 10_000))
def test_memorization_is_what_a_loop_finds(seed: int):
    rng = np.random.default_rng(seed)
    mask, right = rng.random((9, 6)) < 0.7, rng.random((9, 6)) < 0.5
    score = training.memorization(training.subset_counts(mask, right))
    for i in range(6):
        inside = [bool(c) for m, c in zip(mask[:, i], right[:, i], strict=True) if m]
        outside = [bool(c) for m, c in zip(mask[:, i], right[:, i], strict=True) if not m]
        if not inside or not outside:
            assert np.isnan(score[i])
        else:
            exact = Fraction(sum(inside), len(inside)) - Fraction(sum(outside), len(outside))
            assert score[i] == pytest.approx(float(exact), abs=1e-15)


@pytest.mark.parametrize("tests", [5, 3000])
def test_influence_is_what_a_loop_finds(tests: int):
    rng = np.random.default_rng(tests)
    mask, right = rng.random((12, 4)) < 0.7, rng.random((12, tests)) < 0.5
    mask[:, 3] = True
    table = np.stack([right[mask[:, i]].mean(0) - right[~mask[:, i]].mean(0) for i in range(3)])
    most = training.influence(mask, right, "max")
    np.testing.assert_allclose(most[:3], table.max(1), atol=1e-15)
    total = training.influence(mask, right, "sum_abs")
    np.testing.assert_allclose(total[:3], np.abs(table).sum(1), rtol=1e-13)
    assert np.isnan(most[3])
    assert np.isnan(total[3])


# --- vectors ----------------------------------------------------------------------------------------------------------


def unit(n: int, d: int, seed: int = 0) -> NDArray[np.float16]:
    rows = np.random.default_rng(seed).normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_prototypes_are_one_minus_cosine_to_the_class_mean(leave_one_out: bool):
    rows = unit(300, 24)
    classes = np.random.default_rng(1).integers(0, 5, 300)
    classes[7] = 5
    sums, counts = geometry.class_sums(rows, classes, 7)
    assert counts.tolist() == np.bincount(classes, minlength=7).tolist()
    wide = rows.astype(np.float64)
    found = geometry.prototypes(rows, classes, sums, counts, leave_one_out=leave_one_out) / 2**32
    for i in range(300):
        others = (classes == classes[i]) & ((np.arange(300) != i) | (not leave_one_out))
        if not others.any():
            assert found[i] == -1 / 2**32
            continue
        mean = wide[others].mean(0)
        cosine = wide[i] @ mean / np.linalg.norm(mean) / np.linalg.norm(wide[i])
        assert found[i] == pytest.approx(max(1 - cosine, 0), abs=1e-9)
    if not leave_one_out:
        assert found[7] == 0


def test_class_sums_do_not_depend_on_the_cut_or_the_order():
    rows, classes = unit(500, 9), np.random.default_rng(2).integers(0, 4, 500)
    whole = geometry.class_sums(rows, classes, 4)[0]
    shuffle = np.random.default_rng(3).permutation(500)
    halves = [geometry.class_sums(rows[s], classes[s], 4)[0] for s in (shuffle[:123], shuffle[123:])]
    assert np.array_equal(whole, halves[0] + halves[1])
    exact = [sum((Fraction(float(v)) for v in rows[classes == 2][:, 0]), Fraction(0))]
    assert Fraction(whole[2, 0]) == exact[0]


@given(st.integers(1, 12), st.integers(0, 1000))
def test_knn_is_what_exact_sorting_finds(k: int, seed: int):
    reference = unit(10, 6, seed)
    reference[3] = reference[4]
    rows = np.concatenate([reference[2:7], unit(4, 6, seed + 1)])
    itself = np.array([2, 3, 4, 5, 6, -1, -1, -1, -1])
    found = geometry.knn(rows, reference, k, itself)
    for i, row in enumerate(rows.astype(np.float64)):
        others = [j for j in range(10) if j != itself[i]]
        distance = sorted(
            round(max(1 - Fraction(float(row @ reference[j].astype(np.float64))), 0) * 2**32) for j in others
        )
        near = distance[:k]
        assert found[i] == sum(near) // len(near)


def test_knn_with_nothing_to_compare():
    rows = unit(2, 3)
    assert geometry.knn(rows, rows[:0], 3).tolist() == [-1, -1]
    assert geometry.knn(rows[:1], rows[:1], 3, np.array([0])).tolist() == [-1]
    with pytest.raises(SpecError, match="must be at least 1"):
        geometry.knn(rows, rows, 0)


def test_clip_and_imported_scores():
    assert METRICS["clip"].score(np.array([0.25])).tolist() == [0.75]
    assert METRICS["imported"].score(np.array([3.0]), False).tolist() == [-3.0]
