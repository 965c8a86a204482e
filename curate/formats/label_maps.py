"""Label maps on disk: one record an image, a plain `.npy` of records a shard, one record as a WebDataset member.

    records = pack(scores, classes, lse)          # [n] of dtype map_dtype(k, height, width, classes)
    np.save("00000.npy", records)                 # np.load(..., mmap_mode="r") gives them back, no pickle
    scores, classes, lse = unpack(records)        # views, nothing is copied; lse is None where it is not known

A record holds `scores` float16 [K, H, W] (logits divided by the temperature, best class first), `classes` uint16 or
uint32 [K, H, W] and `lse` float32 [H, W] (log-sum-exp of all classes): 5,400 bytes at K = 5 and 15 x 15 cells, where
ReLabel's tensor has 9,000. Format: docs/formats/label-maps.md. What never lives here: what training makes of them.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from curate.errors import InputError

MEMBER = "labelmap.npy"
"""Extension of the member that holds a sample's label map."""
FOLDER = "label_maps"
"""Folder of a release with one array a shard: row i belongs to row i of the shard's table."""
INFO = "label_maps.json"
"""What all maps of a release have in common."""
_FIELDS = ("scores", "classes", "lse")


class Preparation(BaseModel):
    """What an image was made before a teacher saw it: the whole image at `size`, then (pixel / 255 - mean) / std."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] = Field(description="height and width in pixels; the aspect ratio is not kept")
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


class Teacher(BaseModel):
    """One classifier that made the maps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    weights: str = Field(description="hash of the weights")
    temperature: float = Field(description="its logits were divided by this")
    preparation: Preparation


class MapsInfo(BaseModel):
    """label_maps.json: the shape of the maps and how they came about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    layout: Literal["hw"] = Field("hw", description="rows come before columns")
    k: int = Field(ge=1, description="classes stored of each cell")
    height: int = Field(ge=1, description="rows of cells; row r covers r/height to (r+1)/height of the whole image")
    width: int = Field(ge=1, description="columns of cells")
    classes: int = Field(ge=1, description="classes that the teachers know")
    scores: Literal["float16", "float32"] = Field("float16", description="float32: of a tree of others that holds it")
    lse: bool = Field(True, description="whether records have it; ReLabel's and TokenLabeling's files do not")
    flip: bool = Field(False, description="averaged with the map of the mirrored image")
    scales: tuple[float, ...] = Field((1.0,), description="averaged over the image at these sizes")
    teachers: tuple[Teacher, ...] = Field(
        description="several: scores are logs of their mean probability, less their mean over classes; none: not known"
    )

    @property
    def dtype(self) -> np.dtype[np.void]:
        """Dtype of a record."""
        return map_dtype(self.k, self.height, self.width, self.classes, self.scores, self.lse)


def map_dtype(
    k: int, height: int, width: int, classes: int, scores: Literal["float16", "float32"] = "float16", lse: bool = True
) -> np.dtype[np.void]:
    """Dtype of a record, little-endian and packed; class numbers take 2 bytes up to 65,536 classes, else 4.

    scores, lse: other than their defaults only for maps of others that hold float32 or no lse.
    """
    number = "<u2" if classes <= 1 << 16 else "<u4"
    cells = (height, width)
    fields: list[tuple[str, str, tuple[int, ...]]] = [
        ("scores", "<f2" if scores == "float16" else "<f4", (k, *cells)),
        ("classes", number, (k, *cells)),
    ]
    return np.dtype(fields + ([("lse", "<f4", cells)] if lse else []))


def pack(
    scores: NDArray[np.floating[Any]], classes: NDArray[np.unsignedinteger[Any]], lse: NDArray[np.float32] | None
) -> NDArray[np.void]:
    """Records [n] of scores float16 (or float32) [n, K, H, W], classes uint16 or uint32 of that shape, and lse float32
    [n, H, W] or None.

    Raises InputError for other dtypes or shapes. Memory: what is returned.
    """
    fits = scores.ndim == 4 and classes.shape == scores.shape and min(scores.shape[1:]) > 0
    fits = fits and (lse is None or lse.shape == (len(scores), *scores.shape[2:]))
    typed = scores.dtype in (np.float16, np.float32) and classes.dtype in (np.uint16, np.uint32)
    if not (fits and typed and (lse is None or lse.dtype == np.float32)):
        told = "none" if lse is None else f"{lse.dtype} {list(lse.shape)}"
        raise InputError(
            f"Label maps with scores {scores.dtype} {list(scores.shape)}, classes {classes.dtype} "
            f"{list(classes.shape)} and lse {told} cannot be stored; wanted float16 or float32 [n, K, H, W], uint16 or "
            "uint32 of the same shape, float32 [n, H, W]."
        )
    _, k, height, width = scores.shape
    held: Literal["float16", "float32"] = "float16" if scores.dtype == np.float16 else "float32"
    many = 1 << (16 if classes.dtype == np.uint16 else 32)
    records = np.empty(len(scores), map_dtype(k, height, width, many, held, lse is not None))
    records["scores"], records["classes"] = scores, classes
    if lse is not None:
        records["lse"] = lse
    return records


def unpack(
    records: NDArray[np.void],
) -> tuple[NDArray[np.floating[Any]], NDArray[np.unsignedinteger[Any]], NDArray[np.float32] | None]:
    """scores, classes and lse of records of any shape, as views; lse is None where the records have none.

    Raises InputError when they are no label maps.
    """
    if not is_map(records.dtype):
        raise InputError(f"An array of {records.dtype} holds no label maps; wanted records of scores, classes and lse.")
    return records["scores"], records["classes"], records["lse"] if "lse" in (records.dtype.names or ()) else None


def is_map(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is that of label maps of some shape."""
    if dtype.names not in (_FIELDS, _FIELDS[:2]):
        return False
    shape, lse = dtype["scores"].shape, len(dtype.names) == 3
    return len(shape) == 3 and any(
        dtype == map_dtype(*shape, classes, scores, lse)
        for classes in (1 << 16, 1 << 32)
        for scores in ("float16", "float32")
    )


def array_header(dtype: np.dtype[np.void], rows: int) -> bytes:
    """What stands before the records of a `.npy` of `rows` of them, for writers that stream."""
    out = io.BytesIO()
    told = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows,)}
    np.lib.format.write_array_header_1_0(out, told)
    return out.getvalue()


def member_bytes(record: NDArray[np.void]) -> bytes:
    """One record as a `.npy` file: a 0-d structured array, which webdataset's own decoder reads. About 5.6 kB."""
    out = io.BytesIO()
    np.lib.format.write_array(out, np.asarray(record).reshape(()), version=(1, 0), allow_pickle=False)
    return out.getvalue()


def open_shard(path: Path, info: MapsInfo | None = None) -> NDArray[np.void]:
    """The records [n] of a shard on local disk, read-only and memory-mapped.

    Raises InputError when the file is gone or damaged, holds something else, or maps of another shape than `info` says.
    """
    try:
        records = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise InputError(f"{path}: is no array of label maps: {error}") from error
    check_shard(records, str(path), info)
    return np.asarray(records).view(np.ndarray)


def check_shard(records: Any, where: str, info: MapsInfo | None) -> None:
    """Raises InputError, naming `where`, for what are no records of label maps, of the shape that `info` says."""
    if not isinstance(records, np.ndarray) or records.ndim != 1 or not is_map(records.dtype):
        raise InputError(f"{where}: is no array of label maps; wanted records of scores, classes and lse.")
    if info is not None and records.dtype != info.dtype:
        k, height, width = records.dtype["scores"].shape
        raise InputError(
            f"{where}: holds {k} classes in {height} x {width} cells, {_types(records.dtype)}; {INFO} says {info.k} in "
            f"{info.height} x {info.width}, {_types(info.dtype)}."
        )


def _types(dtype: np.dtype[np.void]) -> str:
    return ", ".join(f"{name} {dtype[name].base}" for name in dtype.names or ())


def read_info(folder: Path) -> MapsInfo:
    """label_maps.json of a release on local disk. Raises InputError when there is none or it cannot be understood."""
    path = folder / INFO
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a release with label maps.") from error
    return parse_info(data, str(path))


def parse_info(data: bytes, where: str) -> MapsInfo:
    """label_maps.json. Raises InputError, naming `where`, when it cannot be understood."""
    try:
        return MapsInfo.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{where}: cannot be understood: {place + ': ' if place else ''}{first['msg']}.") from error


def faults(records: NDArray[np.void], classes: int) -> dict[str, NDArray[np.bool_]]:
    """What is wrong with records [n]: sentence -> bool [n]; empty when nothing is. See relabel/maps.py, `check`.

    Memory: three times the records.
    """
    scores, numbers, lse = unpack(records)
    cells = (1, 2, 3)
    ordered = np.sort(numbers, axis=1)
    best = scores.astype(np.float32).max(axis=1)
    found = {
        "a score that is not finite": ~np.isfinite(scores).all(axis=cells),
        f"a class beyond the {classes:,}": (numbers >= classes).any(axis=cells),
        "a class twice in a cell": (ordered[:, 1:] == ordered[:, :-1]).any(axis=cells),
    }
    if lse is not None:
        found["an lse that is not finite"] = ~np.isfinite(lse).all(axis=(1, 2))
        # float16 may round a score up past the lse
        found["an lse below a score"] = (best > lse + np.maximum(np.abs(best), 1) / 1024).any(axis=(1, 2))
    return {what: rows for what, rows in found.items() if rows.any()}


def read_member(data: bytes, where: str = "labelmap.npy") -> NDArray[np.void]:
    """The record of a member, 0-d. Nothing in it is run. Raises InputError, naming `where`, when it is damaged."""
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError, SyntaxError) as error:
        raise InputError(f"{where} is no label map: {error}") from error
    if not isinstance(array, np.ndarray) or array.size != 1 or not is_map(array.dtype):
        raise InputError(f"{where} is no label map; wanted one record of scores, classes and lse.")
    return array.reshape(())
