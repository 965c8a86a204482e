from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from labelled_run import labelled_run

from curate.errors import InputError, SpecError
from curate.formats.label_map_shards import LabelMapShards
from curate.formats.label_maps import read_info, unpack
from curate.pipeline.map_convert import convert


def tree(root: Path, half: bool = False, files: int = 5) -> dict[str, torch.Tensor]:
    """A tree of .pt files that torch wrote, [2, 3, 4, 2] each; name -> tensor."""
    rng = np.random.default_rng(3)
    made = {}
    for number in range(files):
        classes = np.argsort(rng.random((20, 4, 2)), axis=0)[:3]
        scores = np.sort(rng.standard_normal((3, 4, 2)), axis=0)[::-1].astype(np.float16 if half else np.float32)
        name = f"n{number % 2:08d}/image.{number}"
        made[name] = torch.from_numpy(np.stack([scores, classes.astype(scores.dtype)]))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(made[name], root / f"{name}.pt")
    return made


@pytest.mark.parametrize("layout", ["hw", "wh"])
@pytest.mark.parametrize(("kind", "dtype"), [("relabel", torch.float32), ("token-labeling", torch.float16)])
def test_torch_reads_the_maps_of_a_release_from_the_tree(layout: Any, kind: Any, dtype: Any, tmp_path: Path) -> None:
    release = labelled_run().release
    done = convert(str(release), str(tmp_path / "tree"), kind, layout=layout)
    maps = LabelMapShards(release)
    table = pl.read_parquet(release / "samples.parquet")
    assert (done.maps, done.k, done.height, done.width, done.layout) == (12, 3, 5, 5, layout)
    assert "lse" in done.lost[0]
    assert len(list((tmp_path / "tree").rglob("*.*"))) == 12
    for uid, key in table.select("uid", "key").iter_rows():
        found = torch.load(tmp_path / "tree" / f"{key}.pt", weights_only=True)
        assert found.dtype == dtype
        planes = found.numpy() if layout == "hw" else found.numpy().swapaxes(2, 3)
        scores, classes, _ = unpack(maps[uid])
        assert np.array_equal(planes[0], scores.astype(planes.dtype))
        assert np.array_equal(planes[1], classes.astype(planes.dtype))


@pytest.mark.parametrize("layout", ["hw", "wh"])
@pytest.mark.parametrize("half", [False, True])
def test_a_tree_of_torch_becomes_arrays_and_the_same_tree_again(layout: Any, half: bool, tmp_path: Path) -> None:
    made = tree(tmp_path / "tree", half)
    ours = tmp_path / "ours"
    done = convert(str(tmp_path / "tree"), str(ours), "curate", layout=layout, classes=20, per_shard=2)
    assert (done.maps, done.scores) == (5, "float16" if half else "float32")
    info, maps = read_info(ours), LabelMapShards(ours)
    assert (info.k, info.height, info.width) == ((3, 4, 2) if layout == "hw" else (3, 2, 4))
    assert not info.lse
    assert [len(maps.shard(stem)) for stem in maps.shards] == [1, 2, 2]
    for name, tensor in made.items():
        scores, classes, lse = unpack(maps[name])
        planes = tensor.numpy() if layout == "hw" else tensor.numpy().swapaxes(2, 3)
        assert scores.tobytes() == np.ascontiguousarray(planes[0]).tobytes()
        assert np.array_equal(classes, planes[1])
        assert lse is None
    kind: Any = "token-labeling" if half else "relabel"
    convert(str(ours), str(tmp_path / "again"), kind, layout=layout)
    for name, tensor in made.items():
        again = torch.load(tmp_path / "again" / f"{name}.pt", weights_only=True)
        assert again.dtype == tensor.dtype
        assert torch.equal(again, tensor)


def test_boxes_tell_the_layout_of_a_tree(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(40):
        scores = rng.normal(0, 0.1, (2, 6, 6)).astype(np.float32)
        row, column = rng.integers(0, 5, 2)
        scores[0, row : row + 2, column : column + 2] += 8
        scores[0] += 1
        classes = np.stack([np.full((6, 6), 4), np.full((6, 6), 9)])
        folder = tmp_path / "tree" / "n0"
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(
            torch.from_numpy(np.stack([scores, classes]).swapaxes(2, 3).copy().astype("f4")), folder / f"{number}.pt"
        )
        rows.append((f"n0/{number}", 4, row / 6, column / 6, 2 / 6, 2 / 6))
    table = pl.DataFrame(rows, schema=["image", "class", "top", "left", "height", "width"], orient="row")
    table.write_csv(tmp_path / "boxes.csv")
    source, boxes = str(tmp_path / "tree"), str(tmp_path / "boxes.csv")
    done = convert(source, str(tmp_path / "ours"), "curate", boxes=boxes)
    assert done.layout == "wh"
    assert done.orientation is not None
    assert abs(done.orientation["z"]) > 4
    with pytest.raises(SpecError, match="--layout hw contradicts the boxes, which say wh"):
        convert(source, str(tmp_path / "more"), "curate", layout="hw", boxes=boxes)
    table.with_columns(image=pl.lit("nowhere")).write_csv(tmp_path / "boxes.csv")
    with pytest.raises(InputError, match="none of its images is in"):
        convert(source, str(tmp_path / "more"), "curate", boxes=boxes)
    (tmp_path / "boxes.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is no table of boxes"):
        convert(source, str(tmp_path / "more"), "curate", boxes=boxes)


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    release = str(labelled_run().release)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep me")
    with pytest.raises(SpecError, match=r"full.* is not empty; give a folder that is new"):
        convert(release, str(tmp_path / "full"), "relabel", layout="hw")
    new = str(tmp_path / "new")
    for source, kind, options, sentence in (
        (release, "relabel", {}, "say --layout hw"),
        (release, "relabel", {"layout": "hw", "boxes": "b.csv"}, "--boxes finds the layout of a tree that is read"),
        (release, "curate", {"layout": "hw"}, "holds label maps of curate already"),
        (str(tmp_path), "relabel", {"layout": "hw"}, r"has no label_maps\.json"),
    ):
        kinds: Any = kind
        given: Any = options
        with pytest.raises(SpecError, match=sentence):
            convert(source, new, kinds, **given)
    tree(tmp_path / "tree")
    with pytest.raises(SpecError, match="say --layout hw"):
        convert(str(tmp_path / "tree"), new, "curate")
    assert not Path(new).exists()


def test_trees_that_cannot_be_taken_over_are_sentences(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    with pytest.raises(InputError, match="there are 5 classes"):
        convert(str(tmp_path / "tree"), str(tmp_path / "a"), "curate", layout="hw", classes=5)
    torch.save(torch.zeros(2, 1, 4, 2), tmp_path / "tree" / "n00000001" / "z.pt")
    with pytest.raises(InputError, match=r"z\.pt: holds float32 \[1, 4, 2\], the files before it float32 \[3, 4, 2\]"):
        convert(str(tmp_path / "tree"), str(tmp_path / "b"), "curate", layout="hw", classes=20)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no \.pt files"):
        convert(str(tmp_path / "empty"), str(tmp_path / "c"), "curate", layout="hw")


def test_float32_scores_do_not_become_float16_unless_they_are_exact(tmp_path: Path) -> None:
    tree(tmp_path / "tree")
    convert(str(tmp_path / "tree"), str(tmp_path / "ours"), "curate", layout="hw", classes=20)
    with pytest.raises(InputError, match=r"the map of n00000000/image\.0: Scores of float32 are not exact in float16"):
        convert(str(tmp_path / "ours"), str(tmp_path / "t"), "token-labeling", layout="hw")
