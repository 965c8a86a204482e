"""(image, label) pairs with a score, and votes of several people about pairs: npz, csv, parquet.

Nothing is ever unpickled. What never lives here: what scores mean, and thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.class_lists import ClassList
from curate.formats.predictions import npz_arrays
from curate.formats.row_orders import NAME_COLUMNS, pick, read_bytes, read_table, texts

CLASS_COLUMNS = ("class", "classes", "label", "labels", "class_id")
SCORE_COLUMNS = ("score", "scores", "probability", "probabilities", "posterior")


@dataclass(frozen=True, slots=True)
class ScoredPairs:
    """Pairs in the order of the file, each once: name of the image, class (int32 [m]), score (float64 [m])."""

    images: list[str]
    classes: NDArray[np.int32]
    scores: NDArray[np.float64]
    url: str


@dataclass(frozen=True, slots=True)
class Votes:
    """What people answered: int64 [m, 3] counts of no, maybe and yes of each pair, and their number."""

    images: list[str]
    classes: NDArray[np.int32]
    answers: NDArray[np.int64]
    raters: int
    url: str


def read_pairs(url: str, classes: ClassList | None = None) -> ScoredPairs | Votes:
    """Pairs of a file.

    npz as in reassessed-imagenet: `info` texts [m, 2] (image, class) and `tensor` floats [m] (scores) or [raters, m, 3]
    (one answer of no, maybe, yes each; all zeros = not asked). csv and parquet: a column of names, one of classes and
    one of scores, a row a pair; in parquet also lists of classes and scores, a row an image.
    Memory: the file, and about 150 bytes a pair. Raises InputError.
    """
    data = read_bytes(url)
    if data[:4] == b"PK\x03\x04":
        return _of_npz(npz_arrays(data, url), url)
    table = read_table(data, url)
    image = pick(table.columns, NAME_COLUMNS, url, "names of images")
    label = pick([c for c in table.columns if c != image], CLASS_COLUMNS, url, "classes")
    score = pick(table.columns, SCORE_COLUMNS, url, "scores")
    lists = [name for name in (label, score) if table[name].dtype == pl.List]
    if len(lists) == 1:
        raise InputError(f"{url}: column {lists[0]} holds lists, its partner does not.")
    try:
        rows = table.select(image, label, score)
        rows = rows.explode(label, score).drop_nulls(label) if lists else rows
        values = rows[score].cast(pl.Float64).to_numpy()
    except pl.exceptions.PolarsError as err:
        raise InputError(f"{url}: classes and scores do not go together ({str(err)[:150]}).") from err
    known = classes or ClassList({})
    numbers = [known.number(text, url) for text in texts(rows, label, url)]
    return _pairs(texts(rows, image, url), np.array(numbers, dtype=np.int32), values, url)


def _of_npz(arrays: dict[str, NDArray[Any]], url: str) -> ScoredPairs | Votes:
    info, tensor = arrays.get("info"), arrays.get("tensor")
    if info is None or tensor is None or info.ndim != 2 or info.shape[1] != 2 or info.dtype.kind != "U":
        raise InputError(f"{url}: has the arrays {', '.join(arrays)}; wanted info (texts [m, 2]) and tensor.")
    try:
        classes = info[:, 1].astype(np.int32)
    except ValueError as err:
        raise InputError(f"{url}: array info names a class that is no number ({err}).") from err
    images = info[:, 0].tolist()
    if tensor.shape == (len(info),) and tensor.dtype.kind == "f":
        return _pairs(images, classes, tensor.astype(np.float64), url)
    if tensor.ndim != 3 or tensor.shape[1:] != (len(info), 3):
        raise InputError(
            f"{url}: tensor is {list(tensor.shape)}; wanted [{len(info):,}] or [raters, {len(info):,}, 3]."
        )
    if not np.isin(tensor, (0, 1)).all() or (tensor.sum(axis=2) > 1).any():
        raise InputError(f"{url}: tensor holds something else than one answer (no, maybe or yes) a rater and pair.")
    _unique(images, classes, url)
    return Votes(images, classes, tensor.sum(axis=0).astype(np.int64), len(tensor), url)


def _pairs(images: list[str], classes: NDArray[np.int32], scores: NDArray[np.float64], url: str) -> ScoredPairs:
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"{url}: the score of {images[row]} and class {classes[row]} is {scores[row]}, no number.")
    _unique(images, classes, url)
    return ScoredPairs(images, classes, scores, url)


def _unique(images: list[str], classes: NDArray[np.int32], url: str) -> None:
    seen: set[tuple[str, int]] = set()
    for pair in zip(images, classes.tolist(), strict=True):
        if pair in seen:
            raise InputError(f"{url}: names the pair {pair[0]} and class {pair[1]} twice.")
        seen.add(pair)
