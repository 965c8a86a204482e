"""Predictions in every format are the same predictions; what is doubtful is refused with row and value."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from reference_data import reference

from curate.errors import InputError
from curate.formats.predictions import Predictions, read_predictions, with_order
from curate.formats.row_orders import RowOrder

CLASSES = np.array([[3, 1, 2], [0, 2, 1]])
NAMES = ("a.jpg", "b.jpg")


def saved(path: Path, **arrays: object) -> str:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return str(path)


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    scores = np.full((2, 4), -5.0, dtype=np.float16)
    for rank in range(3):
        scores[[0, 1], CLASSES[:, rank]] = 3 - rank
    np.save(tmp_path / "ids.npy", CLASSES)
    np.save(tmp_path / "scores.npy", scores)
    (tmp_path / "wide.csv").write_text("file,top1,top2,top3\na.jpg,3,1,2\nb.jpg,0,2,1\n")
    (tmp_path / "one.csv").write_text("image,predictions\na.jpg,3 1 2\nb.jpg,0 2 1\n")
    (tmp_path / "quoted.csv").write_text('image,predictions\na.jpg,"3, 1, 2"\nb.jpg,"0, 2, 1"\n')
    pl.DataFrame({"name": NAMES, "classes": CLASSES.tolist()}).write_parquet(tmp_path / "lists.parquet")
    columns = {f"class_{k}": CLASSES[:, k] for k in range(3)}
    pl.DataFrame({"key": NAMES, **columns}).write_parquet(tmp_path / "columns.parquet")
    saved(tmp_path / "named.npz", predictions=CLASSES, names=np.array(NAMES))
    saved(tmp_path / "logits.npz", logits=scores)
    for path in sorted(tmp_path.iterdir()):
        read = read_predictions(str(path), top=3)
        assert read.classes.tolist() == CLASSES.tolist(), path.name
        assert read.names == (None if path.name in ("ids.npy", "scores.npy", "logits.npz") else NAMES), path.name
        assert read.known == (scores.shape[1] if path.name in ("scores.npy", "logits.npz") else None), path.name


def test_short_rows_end_in_nothing(tmp_path: Path) -> None:
    pl.DataFrame({"name": NAMES, "classes": [[1], [2, 0]]}).write_parquet(tmp_path / "p.parquet")
    assert read_predictions(str(tmp_path / "p.parquet")).classes.tolist() == [[1, -1], [2, 0]]
    np.save(tmp_path / "one.npy", np.array([4, 5]))
    assert read_predictions(str(tmp_path / "one.npy")).classes.tolist() == [[4], [5]]


def test_equal_scores_put_the_lower_class_first(tmp_path: Path) -> None:
    np.save(tmp_path / "s.npy", np.array([[0.5, 0.25, 0.5, 0.0]]))
    assert read_predictions(str(tmp_path / "s.npy"), top=3).classes.tolist() == [[0, 2, 1]]


def written(array: object) -> bytes:
    out = io.BytesIO()
    np.save(out, array)  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("p.npy", written(np.array([[1, 2], [3, 3]])), "row 2: names a class twice"),
        ("p.npy", written(np.array([[1, 2], [-1, 3]])), "row 2: a -1"),
        ("p.npy", written(np.array([[1, -2]])), "which are no class numbers"),
        ("p.npy", written(np.array([[1.0, 2.0], [3.0, 4.0]])), "class numbers are integers"),
        ("p.npy", written(np.array([[0.5, np.nan, 0.1]])), "row 1: a score is not a finite number"),
        ("p.npy", written(np.array([{"a": 1}], dtype=object)), "is no numpy array of numbers"),
        ("p.npy", written(np.zeros((2, 2, 2))), "wanted class numbers"),
        ("p.npy", written(np.zeros((0, 5), dtype=int)), "holds no predictions"),
        ("p.npy", b"\x93NUMPY\x01", "is no numpy array"),
        ("p.csv", b"image,predictions\na,1 x\n", "row 1: x is no class number"),
        ("p.csv", b"image,predictions\na,1 2\na,2 1\n", "rows 1 and 2 are both a"),
        ("p.csv", b"image,top1,best1\na,1,2\n", "or in numbered ones"),
        ("p.csv", b"image,top1,top3\na,1,2\n", "not numbered from 0 or 1 on"),
        ("p.csv", b"top1,top2\n1,2\n", "names of images belong in one called"),
        ("p.txt", b"1 2", "predictions end in"),
    ],
)
def test_what_is_doubtful_is_refused(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=said):
        read_predictions(str(tmp_path / name))


def test_rows_need_exactly_one_source_of_names(tmp_path: Path) -> None:
    order = RowOrder(NAMES, None, "list.txt")
    bare, named = Predictions(CLASSES.astype(np.int32), None, "p"), Predictions(CLASSES.astype(np.int32), NAMES, "p")
    assert with_order(bare, order).names == NAMES
    assert with_order(replace(bare, known=4), order) == replace(bare, names=NAMES, known=4)
    assert with_order(named, None).names == NAMES
    assert with_order(named, order).names == NAMES
    with pytest.raises(InputError, match="its rows name no images and no order is assumed"):
        with_order(bare, None)
    with pytest.raises(InputError, match=r"not as list\.txt does"):
        with_order(named, RowOrder(NAMES[::-1], None, "list.txt"))
    with pytest.raises(InputError, match=r"has 2 rows, list\.txt lists 1 images"):
        with_order(bare, RowOrder(NAMES[:1], None, "list.txt"))


@pytest.mark.parametrize(
    "name", ["alexnet", "densenet161", "inceptionv4", "resnet50", "se_resnext50_32x4d", "vgg19_bn"]
)
def test_published_arrays_are_read(name: str) -> None:
    read = read_predictions(reference(f"imagenet/predictions/{name}.npy"))
    assert read.classes.shape == (50_000, 5)
    assert read.names is None
