"""Trees of label maps, one torch-saved tensor an image, as ReLabel and TokenLabeling publish them: `<wnid>/<stem>.pt`.

A tensor is [2, K, H, W]: plane 0 scores (logits), plane 1 class numbers as floats. ReLabel's is float32 [2, 5, 15, 15],
TokenLabeling's float16 with rows first. Whether ReLabel's files have rows or columns first is not written anywhere:
`layout` says it when reading and writing, and `detect_layout` finds it from boxes of the labelled object.

    one = read_label("labels/n02099601/n02099601_1.pt", layout="hw")     # scores, classes [K, H, W], rows first
    data = write_label(one.scores, one.classes, layout="hw")             # the same tensor again, to the bit

Nothing in a file is ever run. What never lives here: what a label map is good for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.row_orders import read_bytes
from curate.formats.torch_files import Container, array, container_of, load, save
from curate.store import urls

Layout = Literal["hw", "wh"]

SUFFIX = ".pt"
EXACT = {"float16": 1 << 11, "float32": 1 << 24}
"""The highest class number up to which every whole number can be stored."""


@dataclass(frozen=True, slots=True, eq=False)
class LabelFile:
    """What a file says: scores float16 or float32 [K, H, W] as stored, classes uint16 or uint32; rows first."""

    scores: NDArray[np.floating[Any]]
    classes: NDArray[np.unsignedinteger[Any]]
    container: Container


# --- files ------------------------------------------------------------------------------------------------------------


def label_path(image: str) -> str:
    """Where the labels of an image lie in the tree: the image's path with its last ending replaced by .pt.

    ReLabel's own loader cuts the name at its first dot instead; it finds no labels of images with several.
    """
    path = PurePosixPath(image)
    return str(path.with_name(path.stem + SUFFIX)) if path.suffix else f"{path}{SUFFIX}"


def list_labels(root: str) -> Iterator[tuple[str, str]]:
    """(path below the root without .pt, URL) of every label file of a tree, sorted. Raises InputError if there is none.

    Memory: the names, about 200 bytes each.
    """
    fs, path = urls.resolve(root)
    try:
        found = fs.find(path)
    except OSError as err:
        raise urls.unreadable(root, err) from err
    base = path.rstrip("/") + "/"
    names = sorted(name.removeprefix(base) for name in found if name.endswith(SUFFIX))
    if not names:
        raise InputError(f"{root}: holds no {SUFFIX} files; give the folder that the folders of the classes lie in.")
    for name in names:
        yield name.removesuffix(SUFFIX), urls.join(root, *name.split("/"))


def read_label(url: str, layout: Layout, classes: int | None = None) -> LabelFile:
    """The label map of one file. Raises InputError; see `parse_label`."""
    return parse_label(read_bytes(url), url, layout, classes)


def parse_label(data: bytes, url: str, layout: Layout, classes: int | None = None) -> LabelFile:
    """The label map that the bytes of a file hold; `layout`: whether its axis 2 is rows ("hw") or columns ("wh").

    Any K, H and W; ranks in the order of the file. Class numbers are rounded when within 0.01 of a whole number.
    classes: how many there are, if known. Memory: three times the file.
    Raises InputError for what is no such tensor, scores that are not finite, numbers that are no classes or too high to
    be exact in the type of the file, or a class twice in a cell (of which ReLabel's loader silently keeps one).
    """
    _layout(layout)
    stored = array(load(data, url), ("float32", "float16"), "[2, K, rows, columns]", 4, url)
    if stored.shape[0] != 2 or not stored.size:
        raise InputError(f"{url}: holds {list(stored.shape)}; wanted [2, K, rows, columns].")
    if layout == "wh":
        stored = stored.swapaxes(2, 3)
    scores = np.ascontiguousarray(stored[0])
    numbers = class_numbers(stored[1], classes, url, f"; is plane 0 the classes, as in FKD's files, or {url} damaged?")
    if not np.isfinite(scores).all():
        raise InputError(f"{url}: has a score that is not finite at {_first(~np.isfinite(scores))}.")
    ordered = np.sort(numbers, axis=0)
    twice = ordered[1:] == ordered[:-1]
    if twice.any():
        row, column = np.argwhere(twice)[0, 1:]
        raise InputError(f"{url}: names a class twice in cell ({row}, {column}); classes of a cell must be distinct.")
    return LabelFile(scores, numbers, container_of(data))


def write_label(
    scores: NDArray[Any],
    classes: NDArray[Any],
    layout: Layout,
    *,
    container: Container = "zip",
    dtype: Literal["float32", "float16"] | None = None,
) -> bytes:
    """The bytes of one file: the tensor [2, K, H, W] (or [2, K, W, H]) of scores and classes [K, H, W], contiguous.

    dtype: of both planes; default that of the scores. ReLabel's loader needs float32. Ranks are written in the order
    given. layout "wh" is what ReLabel's loader pools right as it is written; its crops of "hw" files are transposed.
    Raises InputError when a class number or score is not exact in the type.
    """
    _layout(layout)
    kind = str(scores.dtype) if dtype is None else dtype
    if kind not in EXACT or scores.ndim != 3 or scores.shape != classes.shape:
        raise InputError(
            f"Scores {scores.dtype} {list(scores.shape)} and classes {list(classes.shape)} cannot be written; wanted "
            "float16 or float32 of one shape K x rows x columns."
        )
    if int(classes.max()) > EXACT[kind]:
        raise InputError(
            f"Class {int(classes.max())} cannot be written: {kind} is exact up to {EXACT[kind]:,} only"
            + ("; write float32." if kind == "float16" else ".")
        )
    planes = np.stack([scores.astype(kind), classes.astype(kind)])
    if not np.array_equal(planes[0].astype(scores.dtype), scores):
        raise InputError(f"Scores of {scores.dtype} are not exact in {kind}; write {scores.dtype}.")
    return save(_tensor(planes if layout == "hw" else planes.swapaxes(2, 3)), container)


def class_numbers(
    values: NDArray[Any], classes: int | None, place: str, hint: str = "."
) -> NDArray[np.unsignedinteger[Any]]:
    """Class numbers that a file stores as floats. Raises InputError when they are none, or too high to be exact."""
    kind = str(values.dtype)
    wide = values.astype(np.float64)
    rounded = np.rint(wide)
    odd = ~((np.abs(wide - rounded) <= 0.01) & (rounded >= 0))  # a NaN is odd
    if odd.any():
        raise InputError(f"{place}: has {values[odd].flat[0]:g} for a class number{hint}")
    highest = int(rounded.max(initial=0))
    if classes is not None and highest >= classes:
        raise InputError(f"{place}: names class {highest}; there are {classes:,} classes.")
    if highest > EXACT[kind]:
        raise InputError(f"{place}: names class {highest} in {kind}, which is exact up to {EXACT[kind]:,} only.")
    return rounded.astype(np.uint16 if highest < 1 << 16 else np.uint32)


def _tensor(values: NDArray[Any]) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))


def _layout(layout: str) -> None:
    if layout not in ("hw", "wh"):
        raise InputError(f'layout is {layout!r}; say "hw" when rows come first in the files, "wh" when columns do.')


def _first(marked: NDArray[np.bool_]) -> str:
    return str(tuple(int(at) for at in np.argwhere(marked)[0]))


# --- rows or columns first --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Orientation:
    """Which layout puts the labelled class into the boxes of its objects.

    ``hw``, ``wh``: mean score of the labelled class inside the boxes if the files had that layout, 0 where it is not
    stored. ``z``: mean difference of the two over its standard error, over `images`; `sure` when beyond 4.
    """

    layout: Layout
    hw: float
    wh: float
    z: float
    images: int

    @property
    def sure(self) -> bool:
        """Whether the boxes decide; more images help, boxes that look the same transposed do not."""
        return abs(self.z) > 4


def detect_layout(
    files: Iterable[tuple[LabelFile, int, NDArray[np.floating[Any]]]],
) -> Orientation:
    """The layout of a tree, from about 1,000 images with known boxes.

    files: of each image its file read with layout "hw", the number of its class, and the boxes of that class, [n, 4] of
    (top, left, height, width) as shares of the image. A box weighs each cell by the part of it that it covers.
    Memory: two numbers an image. Raises InputError when there are no boxes.
    """
    found = []
    for one, label, boxes in files:
        score = np.where(one.classes == label, one.scores.astype(np.float64), 0.0).sum(axis=0)
        for top, left, height, width in np.asarray(boxes, dtype=np.float64).reshape(-1, 4):
            pair = []
            for grid in (score, score.T):
                rows = _cover(top, height, grid.shape[0])
                columns = _cover(left, width, grid.shape[1])
                area = rows.sum() * columns.sum()
                pair.append(rows @ grid @ columns / area if area > 0 else math.nan)
            found.append(pair)
    means = np.array(found).reshape(-1, 2)
    means = means[np.isfinite(means).all(axis=1)]
    if not len(means):
        raise InputError("No box lies inside its image, so rows and columns cannot be told apart; give other images.")
    hw, wh = (float(value) for value in means.mean(axis=0))
    difference = means[:, 0] - means[:, 1]
    difference[np.abs(difference) <= 1e-9 * np.abs(means).max()] = 0.0  # a box that looks the same transposed
    error = float(difference.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else 0.0
    z = float(difference.mean()) / error if error > 0 else 0.0
    return Orientation("hw" if hw >= wh else "wh", hw, wh, z, len(means))


def _cover(start: float, side: float, cells: int) -> NDArray[np.float64]:
    """The part of each cell of an axis that the stretch from `start` to `start + side` covers."""
    edges = np.arange(cells + 1) / cells
    covered: NDArray[np.float64] = np.minimum(edges[1:], start + side) - np.maximum(edges[:-1], start)
    return np.maximum(covered, 0.0) * cells
