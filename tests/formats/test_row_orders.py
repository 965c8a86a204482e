"""Lists of images in all their shapes, and how names of different files find each other."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from reference_data import reference

from curate.errors import InputError
from curate.formats.row_orders import places, read_order

NAMES, LABELS = ("b.jpg", "a.jpg"), ("n2", "n1")


def test_every_shape_is_read(tmp_path: Path) -> None:
    pairs = [list(row) for row in zip(NAMES, LABELS, strict=True)]
    texts = {
        "bare.json": json.dumps(pairs),
        "object.json": json.dumps({"seed": 1, "image_filenames": pairs}),
        "table.csv": "image,label\nb.jpg,n2\na.jpg,n1\n",
        "words.txt": "b.jpg n2\na.jpg n1\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    pl.DataFrame({"name": NAMES, "wnid": LABELS}).write_parquet(tmp_path / "table.parquet")
    for name in (*texts, "table.parquet"):
        order = read_order(str(tmp_path / name))
        assert (order.names, order.labels) == (NAMES, LABELS), name
    (tmp_path / "names.json").write_text(json.dumps(NAMES))
    (tmp_path / "names.txt").write_text("b.jpg\na.jpg\n")
    for name in ("names.json", "names.txt"):
        order = read_order(str(tmp_path / name))
        assert (order.names, order.labels) == (NAMES, None)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("o.json", '["a", "b", "a"]', "rows 1 and 3 are both a"),
        ("o.json", '{"files": []}', "is no list of images"),
        ("o.json", "[", "is no JSON"),
        ("o.csv", "x,y\n1,2\n", "names belong in one called"),
        ("o.csv", "name\n\nb,c\n", "row 2: has 2 columns, the heading has 1"),
        ("o.csv", "name,label\na,1\n,2\n", "row 2: column name is empty"),
        ("o.txt", "", "lists no images"),
        ("o.pkl", "x", "ends in .json"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_order(str(tmp_path / name))


def test_names_match_whole_or_by_their_stems() -> None:
    assert places(["a.jpg", "b.jpg"], ["b.jpg", "c.jpg"]).tolist() == [1, -1]
    assert places(["val/n1/a.JPEG", "val/n2/b.JPEG"], ["b", "a"]).tolist() == [1, 0]
    assert places(["x/a.jpg", "y/a.jpg"], ["a"]).tolist() == [-1]  # a stem that is not the only one says nothing


def test_the_published_list_is_sorted_by_class_not_by_name() -> None:
    order = read_order(reference("imagenet/imagenet-validation-original.json"))
    assert len(order.names) == 50_000
    assert order.labels is not None
    assert list(order.labels) == sorted(order.labels)
    assert list(order.names) != sorted(order.names)
