from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.formats.label_trees import (
    detect_layout,
    label_path,
    list_labels,
    parse_label,
    read_label,
    write_label,
)
from curate.formats.torch_files import save


def tensor_like_relabels(seed: int, k: int = 5, h: int = 15, w: int = 15, classes: int = 1000) -> torch.Tensor:
    """A stored tensor [2, k, h, w], made with numpy alone."""
    rng = np.random.default_rng(seed)
    numbers = np.argsort(rng.random((classes, h, w)), axis=0)[:k]
    scores = -np.sort(-(rng.standard_normal((k, h, w)) * 4).astype(np.float32), axis=0)
    return torch.from_numpy(np.stack([scores, numbers.astype(np.float32)]))


def saved(value: Any, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 5),
    st.sampled_from(["hw", "wh"]),
    st.booleans(),
    st.booleans(),
)
def test_import_and_export_give_the_same_bytes(
    seed: int, k: int, h: int, w: int, layout: Any, zipped: bool, half: bool
) -> None:
    stored = tensor_like_relabels(seed, k, h, w, 40)
    stored = stored.half() if half else stored
    data = saved(stored) if zipped else save(stored, "legacy")
    one = parse_label(data, "x.pt", layout, 40)
    assert one.container == ("zip" if zipped else "legacy")
    for plane, values in enumerate((one.scores, one.classes)):
        there = stored[plane] if layout == "hw" else stored[plane].swapaxes(1, 2)
        assert np.array_equal(values, there.numpy())
    assert one.scores.dtype == (np.float16 if half else np.float32)
    assert one.scores.shape == ((k, h, w) if layout == "hw" else (k, w, h))
    assert one.classes.dtype == np.uint16
    assert write_label(one.scores, one.classes, layout, container=one.container) == data


@pytest.mark.parametrize("zipped", [True, False])
def test_an_axis_of_length_one_does_not_change_the_bytes(zipped: bool) -> None:
    stored = tensor_like_relabels(0, 1, 1, 2, 40)
    data = saved(stored) if zipped else save(stored, "legacy")
    one = parse_label(data, "x.pt", "wh")
    assert write_label(one.scores, one.classes, "wh", container=one.container) == data


def test_the_axes_are_where_the_layout_says() -> None:
    stored = tensor_like_relabels(1)
    rows_first, columns_first = (parse_label(saved(stored), "x.pt", layout) for layout in ("hw", "wh"))
    assert rows_first.scores[0, 2, 9] == stored[0, 0, 2, 9]
    assert columns_first.scores[0, 9, 2] == stored[0, 0, 2, 9]
    assert columns_first.classes[3, 9, 2] == stored[1, 3, 2, 9]
    turned = write_label(columns_first.scores, columns_first.classes, "hw")
    assert torch.equal(torch.load(io.BytesIO(turned), weights_only=True), stored.swapaxes(2, 3))


def test_a_file_of_relabel_has_the_size_that_is_known_of_them() -> None:
    """9,353 bytes in the legacy container; 12 GB for 1,281,167 images."""
    published = saved(tensor_like_relabels(2), zipped=False)
    assert len(published) == 9353
    one = parse_label(published, "x.pt", "hw")
    assert abs(len(write_label(one.scores, one.classes, "hw", container="legacy")) - 9353) < 30
    assert 12.0e9 < 1_281_167 * len(write_label(one.scores, one.classes, "hw", container="zip")) < 13.8e9


def test_signed_zeros_ranks_and_ties_survive() -> None:
    stored = torch.zeros(2, 3, 1, 2)
    stored[0, :, 0, 0] = torch.tensor([-0.0, 5.0, 5.0])
    stored[1] = torch.tensor([7.0, 0.0, 999.0])[:, None, None]
    one = parse_label(saved(stored), "x.pt", "hw", 1000)
    assert one.classes[:, 0, 0].tolist() == [7, 0, 999]
    assert write_label(one.scores, one.classes, "hw") == saved(stored)


def test_float16_writes_only_what_it_can_hold() -> None:
    one = parse_label(saved(tensor_like_relabels(3)), "x.pt", "hw")
    halves = one.scores.astype(np.float16)
    assert write_label(halves.astype(np.float32), one.classes, "hw", dtype="float16") == write_label(
        halves, one.classes, "hw"
    )
    with pytest.raises(InputError, match="not exact in float16"):
        write_label(one.scores, one.classes, "hw", dtype="float16")
    with pytest.raises(InputError, match=r"Class 21000 .* up to 2,048 only; write float32"):
        write_label(halves, np.where(one.classes == one.classes[0, 0, 0], np.uint16(21_000), one.classes), "hw")
    many = one.classes.astype(np.uint32) + 21_000
    again = parse_label(write_label(one.scores, many, "hw"), "x.pt", "hw")
    assert np.array_equal(again.classes, many)
    with pytest.raises(InputError, match="up to 16,777,216"):
        write_label(one.scores, one.classes.astype(np.uint32) + (1 << 24), "hw")
    too_high = torch.from_numpy(np.stack([halves, np.full_like(halves, 4096)]))[:, :1]
    with pytest.raises(InputError, match="class 4096 in float16"):
        parse_label(saved(too_high), "x.pt", "hw")


def test_what_cannot_be_a_label_map_is_refused_with_its_place() -> None:
    def changed(plane: int, rank: int, row: int, column: int, value: float) -> torch.Tensor:
        stored = tensor_like_relabels(4)
        stored[plane, rank, row, column] = value
        return stored

    good = tensor_like_relabels(4)
    refused = (
        (good[0], r"float32 \[5, 15, 15\]; wanted"),
        (good[:1], r"\[1, 5, 15, 15\]; wanted"),
        (torch.zeros(2, 0, 15, 15), r"\[2, 0, 15, 15\]"),
        (good.double(), "float64"),
        ([good], "a list of 1"),
        (changed(0, 1, 2, 3, float("nan")), r"not finite at \(1, 2, 3\)"),
        (changed(1, 1, 2, 3, float("nan")), "nan for a class number"),
        (changed(1, 1, 2, 3, 3.5), "3.5 for a class number"),
        (changed(1, 1, 2, 3, -1), "-1 for a class number"),
        (changed(1, 1, 2, 3, 1000), "class 1000; there are 1,000"),
        (changed(1, 1, 2, 3, float(good[1, 0, 2, 3])), r"twice in cell \(2, 3\)"),
        (good.flip(0), "for a class number; is plane 0 the classes"),
    )
    for value, said in refused:
        with pytest.raises(InputError, match=r"x\.pt.*" + said):
            parse_label(saved(value), "x.pt", "hw", 1000)
    with pytest.raises(InputError, match="layout is 'rows'; say \"hw\""):
        parse_label(saved(good), "x.pt", "rows")  # type: ignore[arg-type]
    near = parse_label(saved(changed(1, 1, 2, 3, 999.004)), "x.pt", "hw", 1000)
    assert near.classes[1, 2, 3] == 999


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_a_tree_is_listed_and_read_without_running_what_lies_in_it(tmp_path: Path) -> None:
    images = ["n01440764/n01440764_18.JPEG", "n01440764/a.b.c.JPEG", "n01443537/no ending", "n01443537/ü.png"]
    for seed, image in enumerate(images):
        path = tmp_path / label_path(image)
        path.parent.mkdir(exist_ok=True)
        torch.save(tensor_like_relabels(seed), path)  # with the file's own name inside the archive, as torch does
    (tmp_path / "n01443537" / "readme.txt").write_text("no label")
    found = dict(list_labels(str(tmp_path)))
    assert list(found) == ["n01440764/a.b.c", "n01440764/n01440764_18", "n01443537/no ending", "n01443537/ü"]
    for seed, image in enumerate(images):
        one = read_label(found[label_path(image).removesuffix(".pt")], "hw", 1000)
        assert np.array_equal(np.stack([one.scores, one.classes]), tensor_like_relabels(seed).numpy())
    torch.save(Evil(tmp_path / "made"), tmp_path / "evil.pt")
    with pytest.raises(InputError, match="a pickle can run code"):
        read_label(dict(list_labels(str(tmp_path)))["evil"], "hw")
    assert not (tmp_path / "made").exists()
    with pytest.raises(InputError, match=r"holds no \.pt files"):
        list(list_labels(str(tmp_path / "n0")))


def test_names_keep_all_dots_but_the_last() -> None:
    assert label_path("n1/a.b.JPEG") == "n1/a.b.pt"
    assert label_path("n.1/a") == "n.1/a.pt"
    assert label_path("x.webp") == "x.pt"


@pytest.mark.parametrize("truth", ["hw", "wh"])
def test_boxes_say_which_axis_comes_first(truth: Any) -> None:
    """Objects of the labelled class stand in their boxes, among stray scores; files are written in either layout."""
    rng = np.random.default_rng(5)
    given_files = []
    for _ in range(60):
        label = int(rng.integers(0, 50))
        sides, shares = rng.uniform(0.2, 0.6, 2), rng.random(2)
        top, left = (1 - sides) * shares
        scores = rng.uniform(0, 4, (3, 15, 15)).astype(np.float32)
        classes = np.argsort(rng.random((50, 15, 15)), axis=0)[:3].astype(np.uint16)
        classes[classes == label] = 50
        rows = slice(round(top * 15), round((top + sides[0]) * 15))
        columns = slice(round(left * 15), round((left + sides[1]) * 15))
        classes[0, rows, columns] = label
        scores[0, rows, columns] = 9
        file = parse_label(write_label(scores, classes, truth), "x.pt", "hw")
        given_files.append((file, label, np.array([[top, left, *sides]])))
    found = detect_layout(given_files)
    assert found.layout == truth
    assert found.sure
    right, wrong = (found.hw, found.wh) if truth == "hw" else (found.wh, found.hw)
    assert right > 8 > 6 > wrong
    assert found.images == 60
    even = detect_layout([(file, label, np.array([[0.25, 0.25, 0.5, 0.5]])) for file, label, _ in given_files])
    assert not even.sure
    with pytest.raises(InputError, match="cannot be told apart"):
        detect_layout([])
    with pytest.raises(InputError, match="cannot be told apart"):
        detect_layout([(given_files[0][0], 1, np.array([[2.0, 0.0, 0.5, 0.5]]))])
