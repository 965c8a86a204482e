"""Scores from stored embeddings by a small network of linear layers: aesthetics, safety, watermarks.

The same bits for any block of rows, BLAS and machine: entries of rows are multiples of a power of two and weights are
rounded to such a grid, coarse enough that float64 sums every product exactly, in any order. The first layer keeps 28
bits of a weight relative to the length of its row, later ones at least 22; activations between layers keep 24 bits of
their largest entry. A float32 evaluation rounds more than that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import ModelError, SpecError
from curate.pruning.portable import dots, exp

Activation = Literal["none", "relu"]
Output = Literal["none", "sigmoid"]
_BLOCK = 4096
"""Rows worked on together."""
_ROW_BITS = 24
_WEIGHT_BITS = 28


@dataclass(frozen=True)
class Layer:
    """y = W x + b: weight float64 [out, in] on its grid, bias float64 [out]."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


@dataclass(frozen=True)
class Head:
    """Layers in order, what stands between them, and what is done to the numbers of the last one."""

    layers: tuple[Layer, ...]
    activation: Activation
    output: Output

    @property
    def dim(self) -> int:
        """Numbers of a row that goes in."""
        return int(self.layers[0].weight.shape[1])

    @property
    def outputs(self) -> int:
        """Numbers of a row that comes out."""
        return int(self.layers[-1].weight.shape[0])


def make_head(
    entries: Mapping[str, NDArray[np.floating]], activation: Activation = "none", output: Output = "none"
) -> Head:
    """The head of a state dict: `weight` [out, in] (or [in]) and perhaps `bias` [out] of each layer.

    Names of several layers have a prefix, such as `layers.0.weight`; they count in order of the numbers in them.
    Raises ModelError for entries that are something else, values that are not finite, and layers that do not fit.
    """
    named: dict[str, dict[str, NDArray[np.float64]]] = {}
    for name, values in entries.items():
        prefix, _, what = name.rpartition(".")
        if what not in ("weight", "bias") or values.ndim not in ((1, 2) if what == "weight" else (0, 1)):
            raise ModelError(
                f"entry {name} of shape {list(values.shape)} is no weight [out, in] or bias [out] of a linear layer; "
                "heads are linear layers only: fold a normalisation into the layer beside it"
            )
        if not np.isfinite(values).all():
            raise ModelError(f"entry {name} holds values that are not finite")
        named.setdefault(prefix, {})[what] = np.asarray(values, dtype=np.float64)
    if not named:
        raise ModelError("there is no entry; a head has at least weight [out, in]")
    layers: list[Layer] = []
    for prefix in sorted(named, key=_natural):
        if "weight" not in named[prefix]:
            raise ModelError(f"entry {prefix}.bias has no {prefix}.weight beside it")
        weight = np.atleast_2d(named[prefix]["weight"])
        bias = np.atleast_1d(named[prefix].get("bias", np.zeros(len(weight))))
        if bias.shape != (len(weight),) or not weight.size:
            raise ModelError(
                f"layer {prefix or 'of weight'} has weight {list(weight.shape)} but bias {list(bias.shape)}"
            )
        if layers and weight.shape[1] != len(layers[-1].bias):
            raise ModelError(
                f"layer {prefix} takes {weight.shape[1]} numbers, the one before it gives {len(layers[-1].bias)}"
            )
        # rows are of length 1 at first; later only their largest entry is known
        bits = _WEIGHT_BITS if not layers else 53 - _ROW_BITS - 1 - _half_log2(weight.shape[1])
        layers.append(Layer(_on_grid(weight, bits), bias))
    return Head(tuple(layers), activation, output)


def _natural(name: str) -> list[tuple[int, int, str]]:
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in re.split(r"(\d+)", name) if piece]


def _half_log2(n: int) -> int:
    """log2 of the square root of n, rounded up."""
    return ((n - 1).bit_length() + 1) // 2


def _on_grid(weight: NDArray[np.float64], bits: int) -> NDArray[np.float64]:
    """Rows rounded to multiples of 2^-bits of the power of two above their length."""
    longest = np.abs(weight).max(axis=1)
    shift = np.frexp(np.where(longest > 0, longest, 1.0))[1]
    scaled = np.ldexp(weight, -shift[:, None])  # below 1, so that squares neither vanish nor overflow
    shift = shift + np.frexp(np.sqrt(dots(scaled, scaled)) * (1 + 1e-12))[1]
    return np.asarray(np.ldexp(np.rint(np.ldexp(weight, bits - shift[:, None])), shift[:, None] - bits))


def apply_head(head: Head, rows: NDArray[np.float16]) -> NDArray[np.float64]:
    """Scores float64 [n, outputs] of unit rows float16 [n, d].

    Memory: 4,096 rows in float64 at the widest layer. Raises SpecError when the rows have another length than the head
    takes.
    """
    if rows.ndim != 2 or rows.shape[1] != head.dim:
        raise SpecError(
            f"the head takes vectors of {head.dim} numbers, those of the embedding have {rows.shape[-1]}; use the head "
            "of this encoder, or the embedding that the head was made for"
        )
    out = np.empty((len(rows), head.outputs), dtype=np.float64)
    for start in range(0, len(rows), _BLOCK):
        x = rows[start : start + _BLOCK].astype(np.float64)
        for number, layer in enumerate(head.layers):
            if number:
                x = _rounded(np.maximum(x, 0.0) if head.activation == "relu" else x)
            x = x @ layer.weight.T + layer.bias
        out[start : start + len(x)] = _sigmoid(x) if head.output == "sigmoid" else x
    return out


def _rounded(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each row rounded to multiples of 2^-24 of the power of two above its largest entry."""
    shift = np.frexp(np.abs(x).max(axis=1, keepdims=True))[1]
    return np.asarray(np.ldexp(np.rint(np.ldexp(x, _ROW_BITS - shift)), shift - _ROW_BITS))


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    small = exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1.0, small) / (1.0 + small))
