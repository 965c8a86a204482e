"""LabelPooling: the soft target of a crop, from the cells of the image's label map that lie under it.

    targets = pool(maps, boxes, classes=1000)                  # float32 [B, 1000], each row sums to 1
    targets = pool(maps, boxes, classes=1000, tail="lse")      # probabilities instead of the paper's zero logits

ReLabel (Yun et al. 2021, section 3): RoI-align of the box on the dense map, then softmax. A map of all classes is never
made here: weights of the cells come from the box, only the stored classes are summed, and the classes that no cell of
the box stores share one value. What never lives here: random crops and batches of a trainer (collate.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from curate.errors import InputError
from curate.relabel.maps import LabelMap, LabelMaps, stack

Tail = Literal["zero", "lse"]
Order = Literal["xyxy", "reference"]

_OVER = 1e-4
"""How far a box may reach over the edge of the image: float32 sums of normalised numbers do, by rounding."""


def pool(
    maps: LabelMaps | Sequence[LabelMap],
    boxes: ArrayLike,
    classes: int,
    *,
    tail: Tail = "zero",
    order: Order = "xyxy",
) -> NDArray[np.float32]:
    """Soft targets [B, classes], one for each map and its box; rows sum to 1.

    boxes: [B, 4] of (top, left, height, width), each a share of the image's height or width. The region is that of
    torchvision.ops.roi_align with output 1 x 1, spatial_scale 1, sampling_ratio -1 and aligned=False at
    (left * W - 0.5, top * H - 0.5, right * W - 0.5, bottom * H - 0.5): a side is at least one cell, ceil(side) samples
    an axis, each bilinear between four cells. Corners are worked out in float32, in the order of the reference's own
    operations, so that the number of samples is the same.

    tail: "zero" is the paper's: a class that a cell does not store has logit 0 there; logits are averaged over the
    region, then softmax over all classes. So 0 must be less than what stored classes have, as it is in a classifier's
    logits and in what `annotate.Ensemble` makes; logarithms of probabilities are all below it. "lse" averages
    probabilities: in each cell exp(score - lse) for stored classes, what is left of 1 spread evenly over all others
    (`maps.dense_probabilities`), no softmax afterwards; it does not depend on the scale of logits, and needs maps with
    lse.

    order: "xyxy" pools the box. "reference" pools it with rows and columns exchanged, as ReLabel's published loader
    does with maps whose rows come first: to reproduce what was trained with it, on square maps only.

    Memory: the result, the scores of the batch as float32, and 9 bytes a class. Raises InputError for boxes outside the
    image, a class number beyond `classes`, or maps that do not fit the choice.
    """
    if tail not in ("zero", "lse") or order not in ("xyxy", "reference"):
        raise InputError(f'tail is {tail!r} and order {order!r}; choose of "zero", "lse" and of "xyxy", "reference".')
    places = _checked(boxes, len(maps))
    if not isinstance(maps, LabelMaps):
        if len({one.shape for one in maps}) > 1:
            one_by_one = [
                pool(stack([one]), places[n : n + 1], classes, tail=tail, order=order) for n, one in enumerate(maps)
            ]
            return np.concatenate(one_by_one)
        maps = stack(maps)
    _, k, height, width = maps.scores.shape
    last = int(maps.classes.max(initial=0))
    if last >= classes or k > classes:
        raise InputError(f"A label map stores {k} classes a cell, up to number {last}; there are {classes:,}.")
    if tail == "lse" and maps.lse is None:
        raise InputError(
            'The label maps have no log-sum-exp, which tail "lse" needs; use tail "zero", as ReLabel does.'
        )
    if order == "reference" and height != width:
        raise InputError(f"The reference's axis order has a meaning on square maps only; these are {height} x {width}.")
    starts, sides = regions(places, height, width, order)
    lse = maps.lse if tail == "lse" and maps.lse is not None else np.zeros((0, 0, 0), dtype=np.float32)
    out = np.empty((len(maps), classes), dtype=np.float32)
    _pool(maps.scores.astype(np.float32, copy=False), maps.classes, lse, starts, sides, tail == "lse", out)
    return out


def regions(
    boxes: NDArray[np.float32], height: int, width: int, order: Order = "xyxy"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """First coordinate and side of each region along rows and along columns, in cells: two float32 [B, 2]."""
    size = np.array([height, width], dtype=np.float32)
    low = boxes[:, :2] * size - np.float32(0.5)
    high = (boxes[:, :2] + boxes[:, 2:]) * size - np.float32(0.5)
    if order == "reference":
        low, high = low[:, ::-1], high[:, ::-1]
    return np.ascontiguousarray(low), np.maximum(high - low, np.float32(1))


def _checked(boxes: ArrayLike, images: int) -> NDArray[np.float32]:
    places = np.ascontiguousarray(boxes, dtype=np.float32)
    if places.shape != (images, 4):
        raise InputError(
            f"Boxes have the shape {list(places.shape)} for {images} label maps; wanted (top, left, height, width) "
            "of each."
        )
    low, high = places[:, :2], places[:, :2] + places[:, 2:]
    good = (low >= 0) & (places[:, 2:] > 0) & (high <= 1 + _OVER)  # a NaN is none of it
    if not good.all():
        row = int(np.argmin(good.all(axis=1)))
        raise InputError(
            f"Box {row} is (top, left, height, width) = {', '.join(f'{x:g}' for x in places[row])}; it must lie inside "
            "the image, in shares of its height and width from 0 to 1."
        )
    return places


@njit(cache=True, nogil=True)
def _weigh(start: float, side: float, weight: NDArray[np.float64]) -> None:
    """Shares of the cells of one axis in the mean over ceil(side) bilinear samples; they sum to 1."""
    weight[:] = 0.0
    last = len(weight) - 1
    samples = int(np.ceil(side))
    step = side / samples
    for n in range(samples):
        at = max(start + (n + 0.5) * step, 0.0)
        cell = int(at)
        if cell >= last:
            weight[last] += 1.0
        else:
            beyond = at - cell
            weight[cell] += 1.0 - beyond
            weight[cell + 1] += beyond
    weight /= samples


@njit(cache=True, nogil=True)
def _pool(
    scores: NDArray[np.float32],
    classes: NDArray[Any],
    lse: NDArray[np.float32],
    starts: NDArray[np.float32],
    sides: NDArray[np.float32],
    tail_lse: bool,
    out: NDArray[np.float32],
) -> None:
    images, k, height, width = scores.shape
    total = out.shape[1]
    rows, columns = np.empty(height), np.empty(width)
    sums, seen = np.zeros(total), np.zeros(total, dtype=np.bool_)
    touched = np.empty(total, dtype=np.int64)
    p = np.empty(k)
    for image in range(images):
        _weigh(starts[image, 0], sides[image, 0], rows)
        _weigh(starts[image, 1], sides[image, 1], columns)
        found, rest = 0, 0.0
        for y in range(height):
            if rows[y] == 0.0:
                continue
            for x in range(width):
                share = rows[y] * columns[x]
                if share == 0.0:
                    continue
                even, scale = 0.0, 1.0
                for rank in range(k):
                    p[rank] = scores[image, rank, y, x]
                if tail_lse:
                    known = 0.0
                    for rank in range(k):
                        p[rank] = np.exp(p[rank] - lse[image, y, x])
                        known += p[rank]
                    if known > 1.0 or k == total:
                        scale = 1.0 / known
                    else:
                        even = (1.0 - known) / (total - k)
                    rest += share * even
                for rank in range(k):
                    c = classes[image, rank, y, x]
                    if not seen[c]:
                        seen[c] = True
                        touched[found] = c
                        found += 1
                    sums[c] += share * (p[rank] * scale - even)
        if not tail_lse:  # softmax: the classes that were not touched have logit 0, all of them one value
            peak = 0.0 if found < total else -np.inf
            for n in range(found):
                peak = max(peak, sums[touched[n]])
            rest = np.exp(-peak) if found < total else 0.0  # infinite where nothing is left and all scores are low
            whole = (total - found) * rest
            for n in range(found):
                sums[touched[n]] = np.exp(sums[touched[n]] - peak)
                whole += sums[touched[n]]
            rest /= whole
            for n in range(found):
                sums[touched[n]] = sums[touched[n]] / whole - rest
        out[image, :] = rest
        for n in range(found):
            c = touched[n]
            out[image, c] = sums[c] + rest
            sums[c] = 0.0
            seen[c] = False


def spread(numbers: NDArray[Any], probabilities: NDArray[np.floating[Any]], classes: int) -> NDArray[np.float32]:
    """Targets [n, classes] from the best probabilities of n crops, as FKD (Shen and Xing 2022) restores them.

    numbers, probabilities: [n, K]. What is left of 1 is spread evenly over the other classes ("marginal smoothing");
    where the stored ones sum to more than 1 by rounding, they are divided by their sum.
    Raises InputError for a class number beyond `classes`.
    """
    n, k = numbers.shape
    if numbers.size and (int(numbers.max()) >= classes or int(numbers.min()) < 0):
        raise InputError(
            f"Labels name the classes {int(numbers.min())} to {int(numbers.max())}; there are {classes:,}."
        )
    p = probabilities.astype(np.float64)
    total = p.sum(axis=1, keepdims=True)
    over = (total > 1) | (k >= classes)
    out = np.repeat(np.where(over, 0.0, (1 - total) / max(classes - k, 1)), classes, axis=1).reshape(n, classes)
    np.put_along_axis(out, numbers.astype(np.int64), np.where(over, p / total, p), axis=1)
    return out.astype(np.float32)
