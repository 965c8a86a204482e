"""Soft labels of crops as FKD publishes them (Shen and Xing 2022): one torch-saved list an image, in files named .tar.

The list is [coords float32 [n, 4], flips bool [n], labels [n, 2, K]]: a crop is (top, left, height, width) as shares of
the image, mirrored or not; plane 0 of its labels is class numbers, plane 1 their probabilities: the other way round
than ReLabel's, and no logits. Published files have n = 500 and K = 5.

Nothing in a file is ever run. What never lives here: targets of all classes (curate/relabel/pooling.py, `spread`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.label_trees import EXACT, class_numbers
from curate.formats.row_orders import read_bytes
from curate.formats.torch_files import Container, array, container_of, load, save

_OVER = 1e-4
_TOO_MUCH = 2e-2
"""How far five float16 probabilities may sum above 1 by rounding, with room."""


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """The crops of one image: boxes float32 [n, 4] (top, left, height, width), mirrored bool [n], classes uint16 or
    uint32 [n, K], probabilities float16 or float32 [n, K] as stored."""

    boxes: NDArray[np.float32]
    mirrored: NDArray[np.bool_]
    classes: NDArray[np.unsignedinteger[Any]]
    probabilities: NDArray[np.floating[Any]]
    container: Container


def read_crops(url: str, classes: int | None = None) -> Crops:
    """The crops of one file. Raises InputError; see `parse_crops`."""
    return parse_crops(read_bytes(url), url, classes)


def parse_crops(data: bytes, url: str, classes: int | None = None) -> Crops:
    """The crops that the bytes of a file hold; any number of crops and of classes a crop.

    Raises InputError for what is no such list, boxes outside the image, probabilities outside 0 to 1 or that sum to
    more, numbers that are no classes or too high to be exact in the type of the file, a class twice in a crop.
    """
    value = load(data, url)
    if not isinstance(value, list | tuple) or len(value) != 3:
        raise InputError(f"{url}: is no list of coordinates, flips and labels, as FKD writes them.")
    boxes = array(value[0], ("float32",), "[crops, 4]", 2, f"{url}: element 0")
    mirrored = array(value[1], ("bool",), "[crops]", 1, f"{url}: element 1")
    labels = array(value[2], ("float32", "float16"), "[crops, 2, K]", 3, f"{url}: element 2")
    n = len(boxes)
    if boxes.shape[1] != 4 or len(mirrored) != n or labels.shape[:2] != (n, 2) or not labels.size:
        raise InputError(
            f"{url}: holds {list(boxes.shape)}, {list(mirrored.shape)} and {list(labels.shape)}; wanted [n, 4], [n] "
            "and [n, 2, K]."
        )
    good = ((boxes >= 0).all(axis=1)) & ((boxes[:, :2] + boxes[:, 2:] <= 1 + _OVER).all(axis=1))
    if not good.all():
        row = int(np.argmin(good))
        raise InputError(f"{url}, crop {row}: its box ({', '.join(f'{x:g}' for x in boxes[row])}) leaves the image.")
    hint = "; is plane 1 the classes, as in ReLabel's files?"
    numbers = class_numbers(labels[:, 0], classes, url, hint)
    p = np.ascontiguousarray(labels[:, 1])
    fine = ((p >= 0) & (p <= 1)).all(axis=1) & (p.sum(axis=1, dtype=np.float64) <= 1 + _TOO_MUCH)
    if not fine.all():
        row = int(np.argmin(fine))
        raise InputError(f"{url}, crop {row}: its probabilities ({', '.join(f'{x:g}' for x in p[row])}) are none.")
    ordered = np.sort(numbers, axis=1)
    twice = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if twice.any():
        raise InputError(f"{url}, crop {int(np.argmax(twice))}: names a class twice.")
    return Crops(boxes, mirrored, numbers, p, container_of(data))


def write_crops(
    boxes: NDArray[np.float32],
    mirrored: NDArray[np.bool_],
    classes: NDArray[Any],
    probabilities: NDArray[Any],
    container: Container = "zip",
) -> bytes:
    """The bytes of one file; labels have the type of the probabilities. Raises InputError for what does not fit."""
    import torch

    kind = str(probabilities.dtype)
    n = len(boxes)
    if (
        kind not in EXACT or boxes.shape != (n, 4) or mirrored.shape != (n,) or probabilities.ndim != 2
        or classes.shape != probabilities.shape or len(classes) != n or not classes.size
    ):  # fmt: skip
        raise InputError(
            f"Boxes {list(boxes.shape)}, flips {list(mirrored.shape)}, classes {list(classes.shape)} and probabilities "
            f"{kind} {list(probabilities.shape)} do not fit; wanted [n, 4], [n], [n, K] and float16 or float32 [n, K]."
        )
    if int(classes.max()) > EXACT[kind]:
        raise InputError(f"Class {int(classes.max())} cannot be written: {kind} is exact up to {EXACT[kind]:,} only.")
    labels = np.stack([classes.astype(kind), probabilities], axis=1)
    parts = (boxes.astype(np.float32), mirrored.astype(np.bool_), labels)
    return save([torch.from_numpy(np.ascontiguousarray(part)) for part in parts], container)
