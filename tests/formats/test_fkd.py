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
from curate.formats.fkd import parse_crops, read_crops, write_crops
from curate.formats.torch_files import save


def stored(seed: int, n: int = 500, k: int = 5, classes: int = 1000, half: bool = False) -> list[torch.Tensor]:
    """A list as FKD saves it, made with numpy alone."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(0.1, 1, (n, 2))
    boxes = np.concatenate([(1 - sides) * rng.random((n, 2)), sides], axis=1).astype(np.float32)
    numbers = np.argsort(rng.random((n, classes)), axis=1)[:, :k]
    p = -np.sort(-rng.dirichlet(np.ones(classes), n), axis=1)[:, :k]
    labels = torch.from_numpy(np.stack([numbers, p], axis=1).astype(np.float16 if half else np.float32))
    return [torch.from_numpy(boxes), torch.from_numpy(rng.random(n) < 0.5), labels]


def saved(value: Any, zipped: bool = True) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=zipped)
    return out.getvalue()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 6), st.booleans(), st.booleans())
def test_import_and_export_give_the_same_bytes(seed: int, n: int, k: int, zipped: bool, half: bool) -> None:
    data = saved(stored(seed, n, k, 30, half)) if zipped else save(stored(seed, n, k, 30, half), "legacy")
    one = parse_crops(data, "x.tar", 30)
    assert one.classes.shape == one.probabilities.shape == (n, k)
    assert write_crops(one.boxes, one.mirrored, one.classes, one.probabilities, one.container) == data


def test_planes_are_classes_then_probabilities(tmp_path: Path) -> None:
    value = stored(1)
    torch.save(value, tmp_path / "n01440764_18.tar")
    one = read_crops(str(tmp_path / "n01440764_18.tar"), 1000)
    assert np.array_equal(one.classes, value[2][:, 0].numpy())
    assert np.array_equal(one.probabilities, value[2][:, 1].numpy())
    assert np.array_equal(one.boxes, value[0].numpy())
    assert np.array_equal(one.mirrored, value[1].numpy())


def test_what_cannot_be_crops_is_refused_with_its_place() -> None:
    def changed(element: int, at: tuple[int, ...], value: float) -> list[torch.Tensor]:
        out = stored(2)
        out[element][at] = value
        return out

    good = stored(2)
    refused = (
        (good[2], "is no list of coordinates"),
        (good[:2], "is no list of coordinates"),
        ([good[0], good[1].int(), good[2]], r"element 1 holds int32 \[500\]; wanted bool"),
        ([good[0][:9], good[1], good[2]], r"\[9, 4\], \[500\] and \[500, 2, 5\]"),
        ([good[0], good[1], good[2].swapaxes(1, 2)], r"\[500, 5, 2\]"),
        ([good[0], good[1], good[2].flip(1)], "for a class number; is plane 1 the classes, as in ReLabel's"),
        (changed(0, (7, 2), 1.5), "crop 7: its box .* leaves the image"),
        (changed(0, (7, 0), float("nan")), "crop 7: its box"),
        (changed(2, (8, 1, 0), 3.0), "crop 8: its probabilities"),
        (changed(2, (8, 1, 0), float("nan")), "crop 8: its probabilities"),
        (changed(2, (9, 0, 1), float(good[2][9, 0, 0])), "crop 9: names a class twice"),
        (changed(2, (9, 0, 1), 1000.0), "class 1000; there are 1,000"),
    )
    for value, said in refused:
        with pytest.raises(InputError, match=r"x\.tar.*" + said):
            parse_crops(saved(value), "x.tar", 1000)


def test_what_does_not_fit_is_not_written() -> None:
    one = parse_crops(saved(stored(3, 4, half=True)), "x.tar")
    with pytest.raises(InputError, match="do not fit"):
        write_crops(one.boxes[:3], one.mirrored, one.classes, one.probabilities)
    with pytest.raises(InputError, match=r"Class 3000 .* float16 is exact up to 2,048"):
        write_crops(one.boxes, one.mirrored, np.full_like(one.classes, 3000), one.probabilities)


class Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_code_is_not_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a pickle can run code"):
        parse_crops(saved([*stored(4, 3)[:2], Evil(tmp_path / "made")]), "x.tar")
    assert not (tmp_path / "made").exists()
