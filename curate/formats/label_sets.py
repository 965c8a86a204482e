"""Sets of labels in the three shapes that people exchange: real.json, the multi-label CSV, multi-hot npz.

Each is read and written; what was written by the published tools or by this module comes back byte for byte. Nothing is
ever unpickled. What never lives here: whether labels are right.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.class_lists import ClassList
from curate.formats.predictions import npz_arrays
from curate.formats.row_orders import RowOrder, decoded, parse_json, read_bytes, read_table, texts, unique

VALIDATION_IMAGES = 50_000
CSV_COLUMNS = (
    "id", "category", "original_label", "proposed_labels", "unclear_multi_labels", "wrong_multi_labels",
    "is_problematic",
)  # fmt: skip
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False, "": False}


@dataclass(frozen=True, slots=True)
class LabelSets:
    """Labels of images, in the order of the file.

    ``labels``: class numbers an image, as the file orders them. ``original``: one label an image. ``unclear`` and
    ``wrong``: labels that were looked at and not accepted; ``problematic``: images that cannot be used.
    ``categories``: A, B, M, Z or X of each image, as the CSV says. None = the file does not say it.
    """

    names: tuple[str, ...]
    labels: list[list[int]]
    url: str
    original: list[int] | None = None
    unclear: list[list[int]] | None = None
    wrong: list[list[int]] | None = None
    problematic: list[bool] | None = None
    categories: list[str] | None = None
    classes: int | None = None
    """Number of classes, where the file says it."""


def validation_names(n: int = VALIDATION_IMAGES) -> tuple[str, ...]:
    """Names of ImageNet's validation images in the order of real.json."""
    return tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, n + 1))


def read_label_sets(url: str, order: RowOrder | None = None, classes: ClassList | None = None) -> LabelSets:
    """A file of label sets of any of the three shapes, by its ending and content. Raises InputError.

    order: images of the rows where the file does not name them; a real.json of 50,000 lists needs none.
    Memory: the file, and about 200 bytes an image; of multi-hot files one byte an image and class.
    """
    data = read_bytes(url)
    if data[:4] == b"PK\x03\x04":
        return _of_npz(npz_arrays(data, url), url, order)
    if url.lower().endswith((".csv", ".tsv")):
        return _of_csv(data, url, classes or ClassList({}))
    if url.lower().endswith(".json"):
        return _of_real(parse_json(data, url), url, order)
    raise InputError(f"{url}: label sets end in .json (one list an image), .csv or .npz.")


# --- real.json --------------------------------------------------------------------------------------------------------


def is_real(value: Any) -> bool:
    """Whether a JSON value has the shape of real.json: a list of lists of whole numbers."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, list) and all(type(c) is int and c >= 0 for c in one) for one in value)
    )


def _of_real(value: Any, url: str, order: RowOrder | None) -> LabelSets:
    if not is_real(value):
        raise InputError(f"{url}: has not the shape of real.json, a list of one list of class numbers an image.")
    if order is None and len(value) != VALIDATION_IMAGES:
        raise InputError(
            f"{url}: has {len(value):,} lists and names no images; ImageNet's validation set has "
            f"{VALIDATION_IMAGES:,}. Say with --labels-order which images they belong to."
        )
    names = validation_names() if order is None else order.names
    if len(names) != len(value):
        raise InputError(f"{url}: has {len(value):,} lists, {order.url if order else ''} lists {len(names):,} images.")
    _distinct(value, names, url)
    return LabelSets(tuple(names), value, url)


def write_real(sets: LabelSets) -> bytes:
    """The bytes of real.json: one list an image, without names: the order of the images says which is which."""
    return json.dumps(sets.labels).encode()


# --- multi-label CSV --------------------------------------------------------------------------------------------------


def _of_csv(data: bytes, url: str, classes: ClassList) -> LabelSets:
    table = read_table(data, url)
    missing = [name for name in ("id", "proposed_labels") if name not in table.columns]
    if missing:
        raise InputError(f"{url}: has no column {' or '.join(missing)}; it has {', '.join(table.columns)}.")
    names = texts(table, "id", url)
    unique(names, url, "row")

    def lists(column: str) -> list[list[int]] | None:
        if column not in table.columns:
            return None
        return [[_number(text, classes, url, row) for text in _parts(cell)] for row, cell in enumerate(table[column])]

    labels = lists("proposed_labels") or []
    _distinct(labels, names, url)
    original = None
    if "original_label" in table.columns:
        given = texts(table, "original_label", url)
        original = [_number(text, classes, url, row) for row, text in enumerate(given)]
    problematic = None
    if "is_problematic" in table.columns:
        cells = [(cell or "").strip().lower() for cell in table["is_problematic"]]
        row = next((n for n, cell in enumerate(cells) if cell not in _TRUTH), -1)
        if row >= 0:
            raise InputError(f"{url}, row {row + 1}: is_problematic is {cells[row]}; wanted True or False.")
        problematic = [_TRUTH[cell] for cell in cells]
    categories = [cell or "" for cell in table["category"]] if "category" in table.columns else None
    return LabelSets(
        tuple(names), labels, url, original, lists("unclear_multi_labels"), lists("wrong_multi_labels"), problematic,
        categories,
    )  # fmt: skip


def _parts(cell: str | None) -> list[str]:
    return [text for part in (cell or "").split(",") if (text := part.strip())]


def _number(text: str, classes: ClassList, url: str, row: int) -> int:
    """A class of a cell; 12.0 is what pandas makes of a sparse column of numbers."""
    return classes.number(text.removesuffix(".0"), f"{url}, row {row + 1}")


def write_csv(sets: LabelSets) -> bytes:
    """The bytes of the multi-label CSV: seven columns, lists parted by comma and blank, classes as numbers.

    Raises InputError when the original labels are not known: the CSV has a column for them.
    """
    if sets.original is None:
        raise InputError(f"{sets.url}: has no original labels, which the multi-label CSV has a column for.")
    n = len(sets.names)
    empty: list[list[int]] = [[]] * n
    categories = sets.categories or [category(a, b) for a, b in zip(sets.original, sets.labels, strict=True)]
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in zip(
        sets.names, categories, sets.original, sets.labels, sets.unclear or empty, sets.wrong or empty,
        sets.problematic or [False] * n, strict=True,
    ):  # fmt: skip
        writer.writerow([", ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in row])
    return out.getvalue().encode()


def category(original: int, labels: list[int]) -> str:
    """A = the original label alone, B = another one alone, M = several, Z = none."""
    if not labels:
        return "Z"
    if len(labels) > 1:
        return "M"
    return "A" if labels[0] == original else "B"


# --- multi-hot --------------------------------------------------------------------------------------------------------


def is_multi_hot(arrays: dict[str, NDArray[Any]]) -> bool:
    """Whether the arrays of a .npz are labels [images, classes] of zeros and ones."""
    held = arrays.get("labels")
    return held is not None and held.ndim == 2 and held.dtype.kind in "biu"


def _of_npz(arrays: dict[str, NDArray[Any]], url: str, order: RowOrder | None) -> LabelSets:
    if not is_multi_hot(arrays):
        raise InputError(f"{url}: has the arrays {', '.join(arrays)}; multi-hot files have labels [images, classes].")
    hot = arrays["labels"]
    if hot.size and (int(hot.max()) > 1 or int(hot.min()) < 0):
        row = int(np.flatnonzero(((hot != 0) & (hot != 1)).any(axis=1))[0])
        raise InputError(f"{url}, row {row + 1}: holds a number that is neither 0 nor 1.")
    if "names" in arrays:
        if arrays["names"].dtype.kind != "U" or arrays["names"].shape != (len(hot),):
            raise InputError(f"{url}: array names is not one text an image, of which there are {len(hot):,}.")
        names = tuple(arrays["names"].tolist())
    elif order is not None:
        names = order.names
    else:
        raise InputError(f"{url}: has no array names; say with --labels-order which images its rows belong to.")
    if len(names) != len(hot):
        raise InputError(f"{url}: has {len(hot):,} rows for {len(names):,} names.")
    unique(names, url, "row")
    images, found = np.nonzero(hot)
    ends = np.searchsorted(images, np.arange(len(hot) + 1)).tolist()
    flat = found.tolist()
    labels = [flat[a:b] for a, b in pairwise(ends)]
    original = arrays.get("original")
    if original is not None and (original.dtype.kind not in "iu" or original.shape != (len(hot),)):
        raise InputError(f"{url}: array original is not one class number an image, of which there are {len(hot):,}.")
    known = None if original is None else original.tolist()
    return LabelSets(names, labels, url, known, classes=hot.shape[1])


def write_multi_hot(sets: LabelSets, classes: int | None = None) -> bytes:
    """The bytes of a compressed .npz: names (text [n]), labels (uint8 [n, classes]), original (int32 [n]) if known.

    The order of labels within an image is not kept. classes: how many there are; default what the file said, else the
    highest number and one. Memory: one byte an image and class. Raises InputError for a label beyond classes.
    """
    highest = max((max(one) for one in sets.labels if one), default=-1)
    width = classes or sets.classes or highest + 1
    if highest >= width:
        raise InputError(f"{sets.url}: holds the class {highest}, which {width:,} classes do not have.")
    hot = np.zeros((len(sets.names), width), dtype=np.uint8)
    images = np.repeat(np.arange(len(sets.names)), [len(one) for one in sets.labels])
    hot[images, np.fromiter((c for one in sets.labels for c in one), np.int64, len(images))] = 1
    arrays: dict[str, Any] = {"names": np.array(sets.names, dtype=np.str_), "labels": hot}
    if sets.original is not None:
        arrays["original"] = np.array(sets.original, dtype=np.int32)
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def _distinct(lists: list[list[int]], names: Any, url: str) -> None:
    for name, one in zip(names, lists, strict=True):
        if len(set(one)) < len(one):
            raise InputError(f"{url}: gives {name} a label twice ({', '.join(map(str, one))}).")


def csv_columns(data: bytes, url: str) -> list[str]:
    """The heading of a text table, to tell one kind from another."""
    head = decoded(data, url).partition("\n")[0]
    return [cell.strip() for cell in next(csv.reader([head]), [])]
