from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from bench import Bench
from safetensors.numpy import save_file

from curate.errors import CurateError, ModelError, SpecError
from curate.pruning.heads import apply_head, make_head
from curate.stages.heads import HeadsConfig, HeadsStage

SIZES = [9, 14]
WEIGHT = np.random.default_rng(5).normal(size=(2, 8)).astype(np.float32)
BIAS = np.asarray([0.5, -1.0], dtype=np.float32)


def file_of(folder: Path, kind: str) -> str:
    path = folder / f"head.{kind}"
    entries = {"weight": WEIGHT, "bias": BIAS}
    if kind == "npz":
        np.savez(path, **entries)
    elif kind == "safetensors":
        save_file(entries, path)
    else:
        torch.save({"state_dict": {name: torch.from_numpy(values) for name, values in entries.items()}}, path)
    return str(path)


def vectors(bench: Bench) -> np.ndarray:
    """Vectors of all rows but the last of each part; every third row was dropped before."""
    wide = np.random.default_rng(0).normal(size=(sum(SIZES), 8))
    rows = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)
    bench.index(SIZES)
    frames, packed, first = [], [], 0
    for size in SIZES:
        places = pl.Series([*range(size - 1), None], dtype=pl.UInt32)
        dropped = [(first + n) % 3 != 0 for n in range(size)]
        frames.append(pl.DataFrame({"vec_row": places, "keep": dropped, "reason": ["x"] * size}))
        packed.append(rows[first : first + size - 1])
        first += size
    bench.given("embed", frames, vectors=packed)
    return rows


@pytest.mark.parametrize("kind", ["npz", "safetensors", "pt"])
def test_scores_are_columns_null_where_there_is_no_vector(
    bench: Callable[..., Bench], tmp_path: Path, kind: str
) -> None:
    made = bench(len(SIZES))
    rows = vectors(made)
    options: dict[str, Any] = {"head": file_of(tmp_path, kind), "columns": ["aesthetic", "nsfw"]}
    frame = made.stage(HeadsStage, **options)
    true = apply_head(make_head({"weight": WEIGHT, "bias": BIAS}), rows)
    assert np.abs(true - (rows.astype(np.float64) @ WEIGHT.T.astype(np.float64) + BIAS)).max() < 1e-6
    has = np.arange(sum(SIZES)) % 3 != 0
    has[[SIZES[0] - 1, sum(SIZES) - 1]] = False
    for n, name in enumerate(("aesthetic", "nsfw")):
        assert frame[name].is_not_null().to_list() == has.tolist()
        assert frame[name].drop_nulls().to_list() == true[has, n].tolist()


def test_the_file_counts_by_its_content(bench: Callable[..., Bench], tmp_path: Path) -> None:
    made = bench(len(SIZES))
    vectors(made)
    path = Path(file_of(tmp_path, "npz"))
    (tmp_path / "copy.npz").write_bytes(path.read_bytes())
    np.savez(tmp_path / "other.npz", weight=WEIGHT * 2, bias=BIAS)
    folders = {}
    for name, file in (("one", path), ("two", tmp_path / "copy.npz"), ("three", tmp_path / "other.npz")):
        made.stage(HeadsStage, name, head=str(file), columns=["a", "b"])
        folders[name] = made.plan.step(name).own
    assert folders["one"] == folders["two"] != folders["three"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": "one"}, "gives 2 numbers for each sample, but columns names 1"),
        ({"columns": ["one", "one"]}, "gives one name to two columns"),
        ({"columns": ["a", "b"], "head": "/nowhere.npz"}, "cannot be read"),
    ],
)
def test_a_head_that_does_not_fit_is_found_before_work_starts(
    bench: Callable[..., Bench], tmp_path: Path, options: dict[str, Any], told: str
) -> None:
    made = bench(len(SIZES))
    vectors(made)
    with pytest.raises((SpecError, ModelError), match=told):
        made.stage(HeadsStage, **({"head": file_of(tmp_path, "npz")} | options))


@pytest.mark.parametrize("what", ["objects", "text", "pickle", "length"])
def test_files_that_are_no_heads_are_refused(bench: Callable[..., Bench], tmp_path: Path, what: str) -> None:
    made = bench(len(SIZES))
    vectors(made)
    path = tmp_path / ("head.pt" if what == "pickle" else "head.npz")
    if what == "objects":
        np.savez(path, weight=np.asarray([{}], dtype=object))
    elif what == "text":
        np.savez(path, weight=np.asarray([["a"]]))
    elif what == "pickle":
        torch.save({"weight": Path("a")}, path)
    else:
        np.savez(path, weight=np.ones((1, 9)))
    with pytest.raises(CurateError) as error:
        made.stage(HeadsStage, head=str(path), columns="risk")
    told = "vectors of 9 numbers" if what == "length" else str(path)
    assert told in str(error.value)


@pytest.mark.parametrize("name", ["caption", "concept", "alive", "1st", "a b"])
def test_names_that_are_taken_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"column of its own already|should match pattern"):
        HeadsConfig.model_validate({"head": "x.npz", "columns": name})
