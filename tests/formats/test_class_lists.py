"""Numbers of classes and relations between them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from reference_data import reference

from curate.errors import InputError
from curate.formats.class_lists import ClassList, from_wnids, read_classes, read_relations
from curate.formats.row_orders import read_order


def test_the_published_list_numbers_classes_by_sorted_id() -> None:
    classes = read_classes(reference("imagenet/class_info.json"))
    order = read_order(reference("imagenet/imagenet-validation-original.json"))
    assert order.labels is not None
    assert from_wnids(order.labels).numbers == classes.numbers
    assert (classes.number("n01440764", "x"), classes.name(0), classes.name(5000)) == (0, "tench", "5000")


def test_relations_are_read_by_number_and_by_id(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("a,b,relation\nn00000001,1,synonym\n2,n00000003,part-of\n")
    classes = ClassList({"n00000001": 0, "n00000003": 3})
    assert read_relations(str(tmp_path / "r.csv"), classes) == {(0, 1): "synonym", (2, 3): "part-of"}
    with pytest.raises(InputError, match="names the class n00000001; give a list of classes with --classes"):
        read_relations(str(tmp_path / "r.csv"), ClassList({}))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([{"cid": 0, "wnid": "a"}, {"cid": 0, "wnid": "b"}], r"class 1: b \(0\) stands twice"),
        ([{"cid": "0", "wnid": "a"}], "class 0: has no number cid"),
        ({"a": 1}, "is no list of classes"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, value: object, said: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=said):
        read_classes(str(tmp_path / "c.json"))
    assert from_wnids(["cat", "dog"]).numbers == {}


def test_the_lists_that_timm_ships_are_those_of_timm() -> None:
    from timm.data import ImageNetInfo

    for name, classes in (("imagenet-1k", 1000), ("imagenet-12k", 11821), ("imagenet-21k", 21843)):
        found, theirs = read_classes(name), ImageNetInfo(name)
        assert len(found.numbers) == len(found.names) == classes
        assert [found.numbers[wnid] for wnid in theirs.label_names()] == list(range(classes))
        assert all(theirs.index_to_description(n).split(",")[0] == found.names[n] for n in range(0, classes, 97))
    assert read_classes("imagenet-1k").name(0) == "tench"
