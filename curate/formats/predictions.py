"""Predictions of a model for many images: class numbers, best first, or scores of all classes; npy, npz, csv, parquet.

Rows of `.npy` carry no names: which image a row is must be said by a list (row_orders.py). Other files may name theirs.
Nothing is ever unpickled. What never lives here: whether predictions are right.
"""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.arrow import one_line
from curate.formats.row_orders import NAME_COLUMNS, RowOrder, pick, read_bytes, read_table, some_of, texts, unique

CLASS_NAMES = ("predictions", "classes", "prediction", "top", "topk", "labels")
SCORE_NAMES = ("scores", "logits", "probabilities", "probs")
_NUMBERED = re.compile(r"(.*?)_?(\d+)\Z")


@dataclass(frozen=True, slots=True)
class Predictions:
    """Class numbers of each row, best first: int32 [n, k], -1 = none (at the end of a row only).

    ``names``: image of each row, None when the file does not say it. ``known``: number of classes the model tells
    apart, None when the file holds no scores.
    """

    classes: NDArray[np.int32]
    names: tuple[str, ...] | None
    url: str
    known: int | None = None


def read_predictions(url: str, top: int = 10) -> Predictions:
    """Read predictions; of scores of all classes the `top` best (of equal ones the lower number first).

    npy: integers [n, k] or [n] are classes, floats [n, classes] scores. npz: an array `predictions` or `classes`, or
    one of `scores` or `logits`, and `names`. csv and parquet: a column of names, and classes as numbered columns
    (top1, top2, ...), as one column of numbers parted by blanks or commas, or as a column of lists.
    Memory: the file and [n, top]. Raises InputError naming row and value.
    """
    data = read_bytes(url)
    kind = PurePosixPath(url).suffix.lower()
    names: list[str] | None = None
    known: int | None = None
    if kind == ".npy":
        classes, known = _classes(_npy(data, url), url, top)
    elif kind == ".npz":
        classes, known, names = _of_npz(data, url, top)
    elif kind in (".csv", ".tsv", ".parquet"):
        classes, names = _of_table(read_table(data, url), url)
    else:
        raise InputError(f"{url}: predictions end in .npy, .npz, .csv, .tsv or .parquet.")
    if not len(classes):
        raise InputError(f"{url}: holds no predictions.")
    _checked(classes, url)
    if names is not None:
        unique(names, url, "row")
    return Predictions(classes, None if names is None else tuple(names), url, known)


def with_order(predictions: Predictions, order: RowOrder | None) -> Predictions:
    """The same with a name for every row. Raises InputError when none is known, two are, or the numbers differ."""
    if order is None:
        if predictions.names is None:
            raise InputError(
                f"{predictions.url}: its rows name no images and no order is assumed; say with --order which list its "
                "rows follow (the file list they were computed from), or by-name when they are sorted by file name."
            )
        return predictions
    if predictions.names is not None:
        if predictions.names != order.names:
            raise InputError(
                f"{predictions.url}: its rows name their images, and not as {order.url} does; leave out --order."
            )
        return predictions
    if len(order.names) != len(predictions.classes):
        raise InputError(
            f"{predictions.url}: has {len(predictions.classes):,} rows, {order.url} lists {len(order.names):,} images; "
            "give the list that the rows follow."
        )
    return replace(predictions, names=order.names)


def _npy(data: bytes, url: str) -> NDArray[Any]:
    try:
        return np.asarray(np.load(io.BytesIO(data)))
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as err:
        raise InputError(f"{url}: is no numpy array of numbers ({one_line(err)}).") from err


def _of_npz(data: bytes, url: str, top: int) -> tuple[NDArray[np.int32], int | None, list[str] | None]:
    arrays = npz_arrays(data, url)
    found = next((name for name in (*CLASS_NAMES, *SCORE_NAMES) if name in arrays), None)
    if found is None:
        if len(arrays) != 1:
            raise InputError(
                f"{url}: has the arrays {', '.join(arrays)}; predictions belong in one called "
                f"{' or '.join(CLASS_NAMES[:2] + SCORE_NAMES[:2])}."
            )
        found = next(iter(arrays))
    classes, known = _classes(arrays[found], url, top)
    column = next((name for name in (*NAME_COLUMNS, "names", "image_filenames") if name in arrays), None)
    if column is None:
        return classes, known, None
    names = arrays[column]
    if names.dtype.kind != "U" or names.shape != (len(classes),):
        raise InputError(
            f"{url}: array {column} is {names.dtype} {list(names.shape)}; wanted {len(classes):,} texts, one a row."
        )
    return classes, known, names.tolist()


def npz_arrays(data: bytes, url: str) -> dict[str, NDArray[Any]]:
    """All arrays of a .npz file; objects are refused. Raises InputError."""
    try:
        with np.load(io.BytesIO(data)) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, KeyError, AttributeError, zipfile.BadZipFile) as err:
        raise InputError(f"{url}: is no .npz file of numbers and texts ({one_line(err)}).") from err


def _classes(array: NDArray[Any], url: str, top: int) -> tuple[NDArray[np.int32], int | None]:
    """Class numbers of an array of them, or of one of scores with the number of its classes."""
    if array.dtype.kind in "iu" and array.ndim in (1, 2):
        wide = array.reshape(len(array), -1) if len(array) else array.reshape(0, 1)
        if wide.size and (int(wide.max()) > np.iinfo(np.int32).max or int(wide.min()) < -1):
            raise InputError(f"{url}: holds {int(wide.min())} to {int(wide.max())}, which are no class numbers.")
        return wide.astype(np.int32), None
    if array.dtype.kind == "f" and array.ndim == 2:
        if not np.isfinite(array).all():
            row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
            raise InputError(f"{url}, row {row + 1}: a score is not a finite number.")
        if array.shape[1] < 2 or bool((array[:100] == np.round(array[:100])).all() and array.shape[1] <= top):
            raise InputError(
                f"{url}: holds floats [{len(array):,}, {array.shape[1]}]; scores need a column for each class, "
                "and class numbers are integers."
            )
        return _best(array, top), array.shape[1]
    raise InputError(
        f"{url}: holds {array.dtype} {list(array.shape)}; wanted class numbers (integers, [rows, k]) or scores "
        "(floats, [rows, classes])."
    )


def _best(scores: NDArray[Any], top: int) -> NDArray[np.int32]:
    k = min(top, scores.shape[1])
    out = np.empty((len(scores), k), dtype=np.int32)
    for first in range(0, len(scores), 8192):
        out[first : first + 8192] = np.argsort(-scores[first : first + 8192], axis=1, kind="stable")[:, :k]
    return out


def _of_table(table: pl.DataFrame, url: str) -> tuple[NDArray[np.int32], list[str]]:
    column = pick(table.columns, NAME_COLUMNS, url, "names of images")
    names = texts(table, column, url)
    rest = [name for name in table.columns if name != column]
    single = next((name for name in rest if name.lower() in CLASS_NAMES), None)
    if single is not None:
        held = table[single]
        lists = [one.to_list() if one is not None else [] for one in held] if held.dtype == pl.List else None
        if lists is None:
            lists = [value.replace(",", " ").split() for value in texts(table, single, url)]
        return _padded(lists, url), names
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in rest:
        if match := _NUMBERED.match(name):
            numbered.setdefault(match[1], []).append((int(match[2]), name))
    if len(numbered) != 1:
        raise InputError(
            f"{url}: has the columns {', '.join(table.columns)}; predictions belong in one called "
            f"{' or '.join(CLASS_NAMES[:2])}, or in numbered ones (top1, top2, ...)."
        )
    places = sorted(next(iter(numbered.values())))
    first = places[0][0]
    if [number for number, _ in places] != list(range(first, first + len(places))) or first not in (0, 1):
        raise InputError(f"{url}: its columns {some_of([name for _, name in places])} are not numbered from 0 or 1 on.")
    rows = zip(*(texts(table, name, url) for _, name in places), strict=True)
    return _padded([list(row) for row in rows], url), names


def _padded(lists: list[list[Any]], url: str) -> NDArray[np.int32]:
    out = np.full((len(lists), max(map(len, lists), default=0)), -1, dtype=np.int32)
    for row, values in enumerate(lists):
        for place, value in enumerate(values):
            text = str(value)
            if not (text.isascii() and text.isdigit() and len(text) < 10):
                raise InputError(f"{url}, row {row + 1}: {text} is no class number.")
            out[row, place] = int(text)
    return out


def _checked(classes: NDArray[np.int32], url: str) -> None:
    if not classes.shape[1]:
        raise InputError(f"{url}: holds no predictions.")
    gap = (classes[:, :-1] < 0) & (classes[:, 1:] >= 0)
    if gap.any():
        row = int(np.flatnonzero(gap.any(axis=1))[0])
        raise InputError(f"{url}, row {row + 1}: a -1 (no prediction) stands before a class; -1 belongs at the end.")
    held = np.sort(classes, axis=1)
    twice = (held[:, 1:] == held[:, :-1]) & (held[:, 1:] >= 0)
    if twice.any():
        row = int(np.flatnonzero(twice.any(axis=1))[0])
        raise InputError(
            f"{url}, row {row + 1}: names a class twice ({' '.join(map(str, classes[row].tolist()))}); the "
            "predictions of an image are different classes, best first."
        )
