"""Label maps: of every cell of a grid over an image the best classes with their scores, and how much all classes weigh.

    kept = top_k(logits, k=5, temperature=1.0)      # logits float32 [C, H, W]
    probabilities(kept)                              # float32 [K, H, W]: exp(score - lse)

Cell (r, c) of H x W cells covers rows r/H to (r+1)/H and columns c/W to (c+1)/W of the whole image, whatever its aspect
ratio: the annotator saw the image resized without a crop. What never lives here: pooling over boxes (pooling.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.errors import InputError

Scores = NDArray[np.floating[Any]]
Classes = NDArray[np.unsignedinteger[Any]]

FLOAT16_MAX = 65504.0
UINT16_CLASSES = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class LabelMap:
    """The label map of one image; H (rows) always comes before W (columns).

    ``scores``: [K, H, W], logits divided by the temperature, float16 when made here (then best class first), float32
    where a file of others holds that. ``classes``: [K, H, W], uint16, or uint32 beyond 65,536 classes; distinct in a
    cell. ``lse``: float32 [H, W], log of the sum of exp over ALL classes after temperature, so that a probability is
    exp(score - lse); None where a file does not say it (ReLabel's do not).
    """

    scores: Scores
    classes: Classes
    lse: NDArray[np.float32] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """K, H, W."""
        k, height, width = self.scores.shape
        return k, height, width

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.scores.nbytes + self.classes.nbytes + (0 if self.lse is None else self.lse.nbytes)


@dataclass(frozen=True, slots=True, eq=False)
class LabelMaps:
    """Label maps of B images of one shape: `scores` and `classes` [B, K, H, W], `lse` [B, H, W] or None."""

    scores: Scores
    classes: Classes
    lse: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, image: int) -> LabelMap:
        return LabelMap(self.scores[image], self.classes[image], None if self.lse is None else self.lse[image])


def class_dtype(classes: int) -> type[np.uint16] | type[np.uint32]:
    """The smallest of the two types that holds every number below `classes`."""
    return np.uint16 if classes <= UINT16_CLASSES else np.uint32


def top_k(logits: NDArray[np.float32], k: int = 5, temperature: float = 1.0) -> LabelMap:
    """The k best classes of each cell of `logits` [C, H, W], best first, equal ones by class number.

    Scores are rounded to float16 after they were ordered: a probability of the map is off by a factor of at most
    exp(|score| / 2048), the rounding of the score. The lse is summed in float64. Memory: two arrays of the size of
    logits. Raises InputError for logits that are not finite, a k beyond C, or scores beyond float16.
    """
    whole = top_k_batch(np.asarray(logits)[None], k, temperature)
    return whole[0]


def top_k_batch(logits: NDArray[np.float32], k: int = 5, temperature: float = 1.0) -> LabelMaps:
    """`top_k` of each image of logits [B, C, H, W]."""
    if logits.ndim != 4 or not logits.size:
        raise InputError(f"Logits have the shape {list(logits.shape)}; wanted classes x rows x columns of each image.")
    images, classes, height, width = logits.shape
    if not 1 <= k <= classes:
        raise InputError(f"{k} classes a cell were asked for, of {classes}; give a number from 1 to {classes}.")
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"The temperature is {temperature:g}; it must be a number above 0.")
    scores = np.empty((images, k, height, width), dtype=np.float16)
    numbers = np.empty((images, k, height, width), dtype=class_dtype(classes))
    lse = np.empty((images, height, width), dtype=np.float32)
    for image in range(images):
        flat = logits[image].reshape(classes, -1).astype(np.float32) / np.float32(temperature)
        peak = flat.max(axis=0)
        low = float(flat.min())
        if not (np.isfinite(low) and np.isfinite(peak).all()):
            raise InputError(
                f"Logits of image {image} of the batch are not finite; look at the model and its precision."
            )
        best, which = _best(flat, k)
        if np.abs(best).max() > FLOAT16_MAX:
            raise InputError(
                f"A score of image {image} of the batch is {np.abs(best).max():g}, beyond float16; raise the "
                "temperature."
            )
        scores[image] = best.reshape(k, height, width)
        numbers[image] = which.reshape(k, height, width)
        total = np.exp(flat - peak).sum(axis=0, dtype=np.float64)
        lse[image] = (peak + np.log(total)).reshape(height, width)
    return LabelMaps(scores, numbers, lse)


@njit(cache=True, nogil=True)
def _best(x: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    """Values and rows of the k greatest of each column of [C, n], greatest first, equal ones by row."""
    rows, columns = x.shape
    values = np.empty((k, columns), dtype=np.float32)
    places = np.empty((k, columns), dtype=np.uint32)
    for row in range(rows):
        for column in range(columns):
            value = x[row, column]
            if row >= k:
                if value <= values[k - 1, column]:
                    continue
                at = k - 1
            else:
                at = row
            while at > 0 and value > values[at - 1, column]:
                values[at, column] = values[at - 1, column]
                places[at, column] = places[at - 1, column]
                at -= 1
            values[at, column] = value
            places[at, column] = row
    return values, places


def stack(maps: Sequence[LabelMap]) -> LabelMaps:
    """One batch of maps of one shape; lse is kept when all have it. Raises InputError when shapes differ."""
    if not maps:
        raise InputError("A batch of label maps is empty; give at least one.")
    shapes = {one.shape for one in maps}
    if len(shapes) > 1:
        raise InputError(f"Label maps of a batch have different shapes: {', '.join(map(str, sorted(shapes)))}.")
    known = [one.lse for one in maps if one.lse is not None]
    return LabelMaps(
        np.stack([one.scores for one in maps]),
        np.stack([one.classes for one in maps]),
        np.stack(known) if len(known) == len(maps) else None,
    )


def best_first(one: LabelMap) -> LabelMap:
    """The same map with the classes of each cell by falling score, equal ones by number: files of others may differ."""
    order = np.lexsort((one.classes, -one.scores.astype(np.float32)), axis=0)
    return LabelMap(
        np.take_along_axis(one.scores, order, axis=0), np.take_along_axis(one.classes, order, axis=0), one.lse
    )


def check(one: LabelMap, classes: int | None = None, what: str = "The label map") -> None:
    """Refuse a map that cannot be right; `what` opens the sentence.

    Raises InputError: shapes or types that do not fit, scores that are not finite, a class number that `classes`
    classes do not have, one class twice in a cell, a stored class more probable than 1.
    """
    if one.scores.ndim != 3 or not one.scores.size or one.scores.dtype not in (np.float16, np.float32):
        raise InputError(
            f"{what} has scores {_said(one.scores)}; wanted float16 or float32 of classes x rows x columns."
        )
    if one.classes.shape != one.scores.shape or one.classes.dtype not in (np.uint16, np.uint32):
        raise InputError(
            f"{what} has classes {_said(one.classes)} for scores {_said(one.scores)}; wanted uint16 or uint32."
        )
    if not np.isfinite(one.scores).all():
        raise InputError(f"{what} has a score that is not finite in {_cell(~np.isfinite(one.scores).all(axis=0))}.")
    if classes is not None and int(one.classes.max()) >= classes:
        at = _cell((one.classes >= classes).any(axis=0))
        raise InputError(f"{what} names class {int(one.classes.max())} in {at}; there are {classes:,} classes.")
    ordered = np.sort(one.classes, axis=0)
    twice = (ordered[1:] == ordered[:-1]).any(axis=0)
    if twice.any():
        raise InputError(f"{what} names a class twice in {_cell(twice)}; classes of a cell must be distinct.")
    if one.lse is not None:
        if one.lse.shape != one.shape[1:] or one.lse.dtype != np.float32 or not np.isfinite(one.lse).all():
            raise InputError(
                f"{what} has lse {_said(one.lse)}; wanted finite float32 of {one.shape[1]} x {one.shape[2]}."
            )
        best = one.scores.astype(np.float32).max(axis=0)
        over = best > one.lse + np.maximum(np.abs(best), 1) / 1024  # float16 may round a score up past the lse
        if over.any():
            raise InputError(f"{what} has an lse below the best score in {_cell(over)}; it must weigh all classes.")


def probabilities(one: LabelMap) -> NDArray[np.float32]:
    """exp(score - lse) of the stored classes, [K, H, W]. Raises InputError when the map has no lse."""
    if one.lse is None:
        raise InputError("The label map has no log-sum-exp, so its scores have no probabilities; make it with curate.")
    out: NDArray[np.float32] = np.exp(one.scores.astype(np.float32) - one.lse)
    return out


def dense(one: LabelMap, classes: int) -> NDArray[np.float32]:
    """Scores of all classes, float32 [classes, H, W]: 0 (not minus infinity) where a class is not stored.

    ReLabel's densified map. Memory: what is returned; 900 kB an image of 1,000 classes and 15 x 15 cells.
    """
    _within(one.classes, classes)
    out = np.zeros((classes, *one.shape[1:]), dtype=np.float32)
    np.put_along_axis(out, one.classes.astype(np.int64), one.scores.astype(np.float32), axis=0)
    return out


def dense_probabilities(one: LabelMap, classes: int) -> NDArray[np.float32]:
    """A distribution over all classes in each cell, float32 [classes, H, W].

    Stored classes have exp(score - lse); what is left of 1 is spread evenly over the others. Where rounding lifts the
    stored ones above 1, or every class is stored, they are divided by their sum instead.
    """
    p = probabilities(one).astype(np.float64)
    _within(one.classes, classes)
    total, others = p.sum(axis=0), classes - len(p)
    over = (total > 1) | (others == 0)
    rest = np.where(over, 0.0, (1 - total) / max(others, 1))
    out = np.broadcast_to(rest, (classes, *one.shape[1:])).copy()
    np.put_along_axis(out, one.classes.astype(np.int64), np.where(over, p / total, p), axis=0)
    return out.astype(np.float32)


def _within(numbers: Classes, classes: int) -> None:
    if int(numbers.max()) >= classes:
        raise InputError(f"A label map names class {int(numbers.max())}; there are {classes:,} classes.")


def _said(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _cell(marked: Any) -> str:
    row, column = np.argwhere(marked)[0]
    return f"cell ({row}, {column})"
