from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import SpecError
from curate.fractal.jitter import base_system, jittered, perturbed, replay, singular_values
from curate.fractal.randomness import Draws
from curate.fractal.specification import Jitter
from curate.fractal.systems import System, probabilities, sample, window

KINDS = ("basic", "svd", "sval", "fractaldb", "one_parameter")


def factor_of(maps: np.ndarray) -> float:
    return System(maps, probabilities(maps)).sigma_factor


def values_of(maps: np.ndarray) -> np.ndarray:
    return np.linalg.svd(maps[:, :, :2], compute_uv=False)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.integers(2, 7), st.integers(0, 2**40), st.floats(0.01, 4.0))
def test_every_kind_keeps_its_promise(kind: str, n: int, seed: int, strength: float) -> None:
    maps = sample(n, Draws.of(seed, "class"))
    before = maps.copy()
    out, facts = jittered(maps, Jitter(kind=kind, strength=strength), Draws.of(seed, "image"), window(n))
    np.testing.assert_array_equal(maps, before)  # the class itself is never written to
    again = replay(maps, json.loads(json.dumps(facts)))
    np.testing.assert_array_equal(out, again)
    low, high = window(n)
    changed = np.flatnonzero((out != maps).any(axis=(1, 2)))
    if kind in ("basic", "svd", "sval"):
        assert len(changed) <= 1
        assert values_of(out).max() <= 1.0 + 1e-9
    if kind == "basic" and facts:
        assert 1.0 - 0.2 * strength <= facts["factor"] <= 1.0 + 0.1 * strength
        np.testing.assert_allclose(out[facts["map"]], facts["factor"] * maps[facts["map"]], rtol=1e-15)
    if kind == "svd":
        np.testing.assert_allclose(values_of(out), values_of(maps), rtol=0, atol=1e-12)
        moved = np.abs(out - maps)[:, :, 2]
        assert moved.max() <= 0.5 * strength + 1e-12
    if kind == "sval":
        assert low - 1e-9 <= factor_of(out) <= high + 1e-9
        np.testing.assert_array_equal(out[:, :, 2], maps[:, :, 2])
    if kind == "fractaldb":
        assert ((out != maps).sum(axis=(1, 2)) <= 1).all()
        steps = np.linspace(1 - 0.2 * strength, 1 + 0.2 * strength, 5)
        assert np.abs((out / maps).reshape(-1)[:, None] - np.append(steps, 1.0)).min(axis=1).max() < 1e-9
    if kind == "one_parameter":
        assert (np.abs(out / maps - 1.0) <= 0.1 * strength + 1e-12).all()
        assert len(np.unique(out / maps)) > 1


@settings(max_examples=30, deadline=None)
@given(st.sampled_from((*KINDS, "none")), st.integers(0, 2**40))
def test_no_strength_changes_nothing(kind: str, seed: int) -> None:
    maps = sample(3, Draws.of(seed, "class"))
    strength = 1.0 if kind == "none" else 0.0
    out, facts = jittered(maps, Jitter(kind=kind, strength=strength), Draws.of(seed), window(3))
    assert facts == {}
    np.testing.assert_array_equal(out, maps)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_singular_values_are_numpys(entries: list[float]) -> None:
    maps = np.array(entries).reshape(1, 2, 3)
    np.testing.assert_allclose(singular_values(maps), values_of(maps), rtol=0, atol=1e-14)


def test_a_turn_is_a_turn_of_a_factor() -> None:
    """Turning U or V of A = U diag(s) V by an angle, with numpy's factors: same matrix, up to the sign of the angle."""
    sides = set()
    for i in range(60):
        maps = sample(3, Draws.of(i, "class"))
        out, facts = jittered(maps, Jitter(kind="svd"), Draws.of(i, "turn"), window(3))
        if "angle" not in facts:
            continue
        sides.add(facts["side"])
        u, s, v = np.linalg.svd(maps[facts["map"], :, :2])
        cos, sin = math.cos(facts["angle"]), math.sin(facts["angle"])
        turn = np.array([(cos, -sin), (sin, cos)])
        wanted = turn @ u @ np.diag(s) @ v if facts["side"] == "left" else u @ np.diag(s) @ v @ turn
        np.testing.assert_allclose(out[facts["map"], :, :2], wanted, atol=1e-14)
        assert abs(facts["angle"]) <= 0.5
    assert sides == {"left", "right"}


def shares(found: list[int], n: int) -> None:
    """A fair choice of n: chi-squared below its one-in-100,000 bound or so."""
    expected = len(found) / n
    assert ((np.bincount(found, minlength=n) - expected) ** 2 / expected).sum() < (n - 1) + 6.0 * math.sqrt(2 * (n - 1))


@pytest.mark.parametrize("kind", ["basic", "svd", "sval"])
def test_each_map_is_as_likely(kind: str) -> None:
    maps = sample(4, Draws.of(3, "class"))
    maps[:, :, :2] *= 0.9 / values_of(maps).max()  # so that basic never has to draw again
    facts = [jittered(maps, Jitter(kind=kind), Draws.of(9, i), (1.0, 9.0))[1] for i in range(3000)]
    shares([f["map"] for f in facts], 4)
    if kind == "svd":
        shares([2 if "shift" in f else ("left", "right").index(f["side"]) for f in facts], 3)
        x = np.array([f["shift"] for f in facts if "shift" in f])
        assert (np.abs(x.mean(axis=0)) < 4.5 * (1 / math.sqrt(12)) / math.sqrt(len(x))).all()
    if kind == "basic":
        factors = np.array([f["factor"] for f in facts])
        assert abs(factors.mean() - 0.95) < 4.5 * (0.3 / math.sqrt(12)) / math.sqrt(len(factors))
        assert 0.8 <= factors.min() < 0.802
        assert 1.098 < factors.max() <= 1.1


def test_entries_and_steps_of_fractaldb_are_as_likely() -> None:
    maps = sample(3, Draws.of(3, "class"))
    facts = [jittered(maps, Jitter(kind="fractaldb"), Draws.of(9, i), window(3))[1] for i in range(1500)]
    shares([entry for f in facts for entry in f["entries"]], 6)
    steps = [round((factor - 0.8) / 0.1) for f in facts for factor in f["factors"]]
    shares(steps, 5)
    assert {factor for f in facts for factor in f["factors"]} == {0.8, 0.9, 1.0, 1.1, 1.2}


def test_what_a_family_took_back_is_not_replayed() -> None:
    maps = sample(2, Draws.of(3))
    out, facts = jittered(maps, Jitter(kind="svd"), Draws.of(4), window(2))
    assert (out != maps).any()
    np.testing.assert_array_equal(replay(maps, {**facts, "undone": "no bounds"}), maps)


def test_one_map_that_fills_the_limit_is_left_alone() -> None:
    """Every enlargement of a map at 1 is drawn again, up to four times; factors below 1 always pass."""
    maps = np.zeros((1, 2, 3))
    maps[0, :, :2] = np.eye(2)
    facts = [jittered(maps, Jitter(kind="basic"), Draws.of(1, i), (0.0, 3.0))[1] for i in range(4000)]
    assert all(f["factor"] <= 1.0 for f in facts if f)
    left = sum(not f for f in facts) / len(facts)
    assert abs(left - 3.0**-4) < 4.5 * math.sqrt(3.0**-4 / len(facts))  # a third of the factors are above 1
    maps[0, :, :2] *= 2.0  # expands whatever the factor: unjittered, as published
    out, none = jittered(maps, Jitter(kind="basic"), Draws.of(1), (0.0, 3.0))
    assert none == {}
    np.testing.assert_array_equal(out, maps)


def test_sval_reaches_both_ends_and_strength_narrows_it() -> None:
    maps = sample(2, Draws.of(4, "class"), alpha=(3.7, 3.7))
    for strength, low, high in [(1.0, 3.5, 4.0), (4.0, 3.5, 4.0), (0.5, 3.6, 3.85)]:
        found = [
            factor_of(jittered(maps, Jitter(kind="sval", strength=strength), Draws.of(5, i), (3.5, 4.0))[0])
            for i in range(600)
        ]
        assert low - 1e-9 <= min(found) < low + 0.01
        large = min(high, factor_limit(maps, strength))
        assert large - 0.01 < max(found) <= high + 1e-9


def factor_limit(maps: np.ndarray, strength: float) -> float:
    """The most a sigma-factor can grow by one map reaching a singular value of 1, at a strength."""
    total = values_of(maps) @ (1.0, 2.0)
    grown = total * (1.0 / values_of(maps)[:, 0] - 1.0)
    return float(total.sum() + min(strength, 1.0) * grown.max())


def test_sval_moves_a_class_outside_only_toward_its_window() -> None:
    for alpha, compare in [(5.0, np.less_equal), (2.0, np.greater_equal)]:
        maps = sample(2, Draws.of(6, "class"), alpha=(alpha, alpha))
        found = [factor_of(jittered(maps, Jitter(kind="sval"), Draws.of(5, i), (3.5, 4.0))[0]) for i in range(100)]
        assert compare(found, alpha + (1e-9 if alpha > 4 else -1e-9)).all()
    flat = np.zeros((2, 2, 3))
    assert jittered(flat, Jitter(kind="sval"), Draws.of(5), (3.5, 4.0))[1] == {}


def test_perturbed_entries_are_independent_and_uniform() -> None:
    maps = np.ones((2, 2, 3))
    found = np.array([perturbed(maps, 0.2, Draws.of(2, i)) for i in range(3000)]).reshape(3000, 12)
    assert found.min() >= 0.8
    assert found.max() <= 1.2
    assert (np.abs(found.mean(axis=0) - 1.0) < 4.5 * (0.4 / math.sqrt(12)) / math.sqrt(3000)).all()
    assert np.abs(np.corrcoef(found.T) - np.eye(12)).max() < 4.5 / math.sqrt(3000)


@settings(max_examples=40, deadline=None)
@given(st.floats(1.0, 5.0), st.integers(0, 2**40))
def test_the_one_system_has_its_sigma_factor(sigma: float, seed: int) -> None:
    maps = base_system(sigma, Draws.of(seed), reach=0.5)
    assert maps.shape == (2, 2, 3)
    assert abs(factor_of(maps) - sigma) <= 0.1 + 1e-9
    assert np.abs(maps[:, :, 2]).max() <= 0.5


def test_what_cannot_be_is_a_sentence() -> None:
    for sigma in (0.0, 6.0, 7.0, math.inf):
        with pytest.raises(SpecError, match="sigma-factor"):
            base_system(sigma, Draws.of(1))
    with pytest.raises(SpecError, match="no jitter 'other'"):
        replay(np.zeros((2, 2, 3)), {"kind": "other"})
