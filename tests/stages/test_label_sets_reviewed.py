from __future__ import annotations

import numpy as np
import pytest

from curate.errors import InputError
from curate.stages.label_sets_reviewed import Reviewed, bare, by_whole_names


def truths(*names: str) -> Reviewed:
    return Reviewed({name: ({number}, set()) for number, name in enumerate(names)})


@pytest.mark.parametrize(
    ("name", "without"),
    [("c0/000.jpg", "c0/000"), ("./a.b.png", "a.b"), ("v1.5/x", "v1.5/x"), (".hidden", ".hidden"), ("x", "x")],
)
def test_bare(name: str, without: str) -> None:
    assert bare(name) == without


def test_whole_names_with_or_without_extension() -> None:
    known = truths("c0/000.jpg", "c1/000.jpg", "x.v2.jpg")
    assert [known.whole(key) for key in ("c0/000", "c1/000.png", "x.v2", "000", "c2/000")] == [
        *("c0/000", "c1/000", "x.v2", None, None)
    ]
    assert (len(known), known.highest) == (3, 2)


def test_last_parts_tell_all_images_that_may_be_meant() -> None:
    known = truths("c0/000.jpg", "c1/000.jpg", "c1/007.jpg")
    assert known.last("val/000") == ["c0/000", "c1/000"]
    assert known.last("somewhere/else/007.png") == ["c1/007"]
    assert known.last("008") == []


def test_names_that_differ_by_the_extension_only_are_refused() -> None:
    with pytest.raises(InputError, match=r"reviewed: two images are a but for the extension"):
        truths("a.jpg", "a.png")


def names(*parts: list[str]) -> list[np.ndarray]:
    return [np.array(part, dtype=np.str_) for part in parts]


def test_last_parts_count_only_when_no_whole_name_is_there() -> None:
    assert by_whole_names(names(["a"], []), names(["a", "b", "b"]), "f", "s")
    assert not by_whole_names(names([], []), names(["a"], ["b"]), "f", "s")


@pytest.mark.parametrize(
    ("whole", "last", "said"),
    [
        ((["a"], ["a"]), ([], []), "several samples are called a"),
        (([], []), (["a", "b"], ["b"]), "several samples end as the reviewed images b"),
    ],
)
def test_samples_that_share_an_image_are_refused(whole: tuple[list[str]], last: tuple[list[str]], said: str) -> None:
    with pytest.raises(InputError, match=rf"stage s: {said}, so what f says may be of another one"):
        by_whole_names(names(*whole), names(*last), "f", "s")
