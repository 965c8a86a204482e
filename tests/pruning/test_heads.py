from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import ModelError, SpecError
from curate.pruning import heads
from curate.pruning.heads import apply_head, make_head


def unit(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    wide = np.random.default_rng(seed).normal(size=(rows, dim))
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)


def network(sizes: list[int], activation: str, output: str, seed: int = 0) -> torch.nn.Sequential:
    """The same head in torch, in double precision."""
    torch.manual_seed(seed)
    layers: list[torch.nn.Module] = []
    for n, (width, after) in enumerate(itertools.pairwise(sizes)):
        if n:
            layers.append(torch.nn.ReLU() if activation == "relu" else torch.nn.Dropout(0.2))
        layers.append(torch.nn.Linear(width, after))
    if output == "sigmoid":
        layers.append(torch.nn.Sigmoid())
    return torch.nn.Sequential(*layers).double().eval()


def entries(model: torch.nn.Module) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("output", ["none", "sigmoid"])
@pytest.mark.parametrize(
    ("sizes", "activation"),
    [([768, 1], "none"), ([16, 3], "none"), ([768, 1024, 128, 64, 16, 1], "none"), ([512, 64, 512, 256, 1], "relu")],
)
def test_scores_are_those_of_torch_in_double_precision(sizes: list[int], activation: Any, output: Any) -> None:
    model, rows = network(sizes, activation, output), unit(300, sizes[0])
    with torch.no_grad():
        true = model(torch.from_numpy(rows.astype(np.float64))).numpy()
        rounded = np.abs(model.float()(torch.from_numpy(rows.astype(np.float32))).numpy() - true).max()
    found = apply_head(make_head(entries(network(sizes, activation, output)), activation, output), rows)
    assert found.shape == true.shape
    assert np.abs(found - true).max() < 3e-7
    assert np.abs(found - true).max() < 30 * rounded


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 900), st.integers(1, 5), st.integers(1, 70), st.integers(0, 10**6))
def test_every_sum_is_exact_so_neither_order_nor_block_matters(dim: int, out: int, hidden: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.uniform(-6, 6, (hidden, 1))
    head = make_head(
        {
            "0.weight": rng.normal(size=(hidden, dim)) * scale,
            "0.bias": rng.normal(size=hidden),
            "1.weight": rng.normal(size=(out, hidden)),
        }
    )
    rows = unit(20, dim, seed)
    whole = apply_head(head, rows)
    shuffled, order = rng.permutation(dim), rng.permutation(20)
    first = heads.Layer(np.ascontiguousarray(head.layers[0].weight[:, shuffled]), head.layers[0].bias)
    turned = heads.Head((first, head.layers[1]), "none", "none")
    assert np.array_equal(apply_head(turned, rows[:, shuffled]), whole)
    assert np.array_equal(apply_head(head, rows[order]), whole[order])
    assert np.array_equal(np.concatenate([apply_head(head, rows[n : n + 1]) for n in range(20)]), whole)
    # the first layer's sums against Python's exact ones
    from fractions import Fraction

    weight = head.layers[0].weight[0]
    for row in rows[:3].astype(np.float64):
        exact = sum((Fraction(a) * Fraction(b) for a, b in zip(row, weight, strict=True)), Fraction(0))
        assert Fraction(float(row @ weight)) == exact


def test_weights_keep_28_bits_of_the_length_of_their_row() -> None:
    weight = np.random.default_rng(0).normal(size=(5, 768)) * 10.0 ** np.arange(-2, 3)[:, None]
    layer = make_head({"weight": weight}).layers[0]
    assert (np.abs(layer.weight - weight).max(axis=1) <= np.linalg.norm(weight, axis=1) * 2.0**-28).all()


def test_layers_count_in_order_of_their_numbers() -> None:
    rng = np.random.default_rng(0)
    sizes = {2: (4, 8), 10: (3, 4), 11: (1, 3)}
    made = {f"layers.{n}.weight": rng.normal(size=shape) for n, shape in reversed(sizes.items())}
    assert [layer.weight.shape for layer in make_head(made).layers] == list(sizes.values())


def test_one_vector_of_weights_is_one_output() -> None:
    head = make_head({"weight": np.asarray([0.5, -0.25]), "bias": np.asarray(1.0)})
    rows = np.asarray([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float16)
    true = rows.astype(np.float64) @ np.asarray([[0.5], [-0.25]]) + 1
    assert np.array_equal(apply_head(head, rows), true)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({}, "there is no entry"),
        ({"bias": np.zeros(2)}, "has no .weight beside it"),
        ({"weight": np.zeros((2, 3, 4))}, r"entry weight of shape \[2, 3, 4\]"),
        ({"weight": np.zeros((2, 3)), "running_mean": np.zeros(3)}, "entry running_mean"),
        ({"weight": np.zeros((2, 3)), "bias": np.zeros(3)}, r"weight \[2, 3\] but bias \[3\]"),
        ({"weight": np.asarray([[np.nan, 1]])}, "not finite"),
        ({"a.0.weight": np.ones((4, 3)), "a.1.weight": np.ones((2, 5))}, "takes 5 numbers, the one before it gives 4"),
        ({"weight": np.zeros((0, 3))}, r"weight \[0, 3\]"),
    ],
)
def test_what_is_no_head_is_refused(made: dict[str, Any], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        make_head(made)


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(SpecError, match="takes vectors of 768 numbers, those of the embedding have 512"):
        apply_head(make_head({"weight": np.zeros((1, 768))}), unit(2, 512))
    assert (apply_head(make_head({"weight": np.zeros((1, 4))}), unit(2, 4)) == 0).all()
