"""The three shapes of label sets: read, written, byte for byte; and votes and scores beside them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_data import reference

from curate.errors import InputError
from curate.formats import label_sets
from curate.formats.class_lists import ClassList
from curate.formats.label_sets import LabelSets, read_label_sets
from curate.formats.row_orders import RowOrder

CSV = b"""id,category,original_label,proposed_labels,unclear_multi_labels,wrong_multi_labels,is_problematic
ILSVRC2012_val_00000001.JPEG,M,3,"3, 14",7,"9, 12",False
ILSVRC2012_val_00000002.JPEG,Z,5,,,,True
ILSVRC2012_val_00000003.JPEG,B,5,2,,5,False
"""


def put(folder: Path, name: str, data: bytes) -> str:
    (folder / name).write_bytes(data)
    return str(folder / name)


def test_real_json_comes_back_byte_for_byte() -> None:
    path = reference("imagenet/real.json")
    sets = read_label_sets(path)
    data = label_sets.write_real(sets)
    assert data == Path(path).read_bytes()
    assert hashlib.sha256(data).hexdigest() == "d83e9bff374c631aae8439eb064c7019acc56e1b3bc3f56b8380c2a710b0220b"
    assert sets.names[41206] == "ILSVRC2012_val_00041207.JPEG"
    sizes = np.bincount([len(one) for one in sets.labels])
    assert sizes.tolist() == [3163, 39394, 5408, 1319, 411, 161, 88, 41, 13, 2]
    assert sum(one == sorted(one) for one in sets.labels) == 46_043


def test_the_multi_label_csv_comes_back_byte_for_byte(tmp_path: Path) -> None:
    sets = read_label_sets(put(tmp_path, "multilabel.csv", CSV))
    assert sets.labels == [[3, 14], [], [2]]
    assert (sets.unclear, sets.wrong) == ([[7], [], []], [[9, 12], [], [5]])
    assert (sets.original, sets.problematic) == ([3, 5, 5], [False, True, False])
    assert label_sets.write_csv(sets) == CSV
    derived = LabelSets(sets.names, sets.labels, "x", sets.original)
    assert [row.split(",")[1] for row in label_sets.write_csv(derived).decode().splitlines()[1:]] == ["M", "Z", "B"]


def test_the_csv_is_read_as_pandas_leaves_it_and_with_wordnet_ids(tmp_path: Path) -> None:
    data = b"id,proposed_labels,unclear_multi_labels,is_problematic\na,12.0,,0\nb,n00000007,12,1.0\n"
    sets = read_label_sets(put(tmp_path, "m.csv", data), classes=ClassList({"n00000007": 7}))
    assert (sets.labels, sets.unclear, sets.wrong) == ([[12], [7]], [[], [12]], None)
    assert (sets.original, sets.problematic) == (None, [False, True])


NAME = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 8), unique=True, max_size=4), min_size=1, max_size=6), st.data())
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, lists: list[list[int]], data: st.DataObject
) -> None:
    n = len(lists)
    names = tuple(data.draw(st.lists(NAME, unique=True, min_size=n, max_size=n)))
    original = data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n))
    folder = tmp_path_factory.mktemp("sets")
    made = LabelSets(names, lists, "made", original)
    npz = label_sets.write_multi_hot(made, 9)
    read = read_label_sets(put(folder, "s.npz", npz))
    assert (read.names, read.labels, read.original) == (names, [sorted(one) for one in lists], original)
    assert label_sets.write_multi_hot(read) == npz
    table = label_sets.write_csv(made)
    read = read_label_sets(put(folder, "s.csv", table))
    assert (read.names, read.labels, read.original) == (names, lists, original)
    assert label_sets.write_csv(read) == table
    real = label_sets.write_real(made)
    read = read_label_sets(put(folder, "s.json", real), RowOrder(names, None, "order"))
    assert (read.names, read.labels) == (names, lists)
    assert label_sets.write_real(read) == real


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("s.json", b"[[1], [2]]", "has 2 lists and names no images; ImageNet's validation set has 50,000"),
        ("s.json", b"[[1.5]]", "has not the shape of real.json"),
        ("s.json", b"[[true]]", "has not the shape of real.json"),
        ("s.csv", b"id,labels\na,1\n", "has no column proposed_labels"),
        ("s.csv", b'id,proposed_labels\na,"1, 1"\n', r"gives a a label twice \(1, 1\)"),
        ("s.csv", b"id,proposed_labels\na,1.5\n", "row 1: names the class 1.5"),
        ("s.csv", b"id,proposed_labels,is_problematic\na,1,maybe\n", "row 1: is_problematic is maybe"),
        ("s.txt", b"1", "label sets end in"),
    ],
)
def test_what_is_no_label_set_is_refused(tmp_path: Path, name: str, data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_label_sets(put(tmp_path, name, data))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"labels": np.array([[0, 2]]), "names": np.array(["a"])}, "row 1: holds a number that is neither 0 nor 1"),
        ({"labels": np.array([[0, 1]])}, "has no array names"),
        ({"labels": np.array([[0, 1]]), "names": np.array(["a", "b"])}, "is not one text an image"),
        ({"labels": np.array([[0, 1]]), "names": np.array(["a"], dtype=object)}, "is no .npz file of numbers"),
        ({"x": np.array([1])}, "multi-hot files have labels"),
        (
            {"labels": np.array([[0, 1]]), "names": np.array(["a"]), "original": np.array([0.5])},
            "original is not one class number",
        ),
    ],
)
def test_arrays_that_are_no_multi_hot_are_refused(tmp_path: Path, arrays: dict[str, object], said: str) -> None:
    np.savez(tmp_path / "s.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        read_label_sets(str(tmp_path / "s.npz"))


def test_a_class_beyond_the_classes_is_not_written() -> None:
    with pytest.raises(InputError, match="holds the class 5, which 3 classes do not have"):
        label_sets.write_multi_hot(LabelSets(("a",), [[5]], "x"), 3)
    with pytest.raises(InputError, match="has no original labels"):
        label_sets.write_csv(LabelSets(("a",), [[5]], "x"))
