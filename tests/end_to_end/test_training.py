"""Training on releases that curate made, by real trainers, with the commands and the code of docs/training.md."""

from __future__ import annotations

import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import corpus
import polars as pl
import pytest
import realdata
import torch
import torchvision
import webdataset

import curate

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def released(root: Path, given: dict[str, Any], samples_per_shard: int) -> Path:
    """A release, as `release` in `root`."""
    spec = {
        "name": "train",
        "input": given,
        "workspace": f"{root}/work",
        "stages": ["index", {"release": {"samples_per_shard": samples_per_shard, "to": f"{root}/release"}}],
    }
    return Path(str(curate.run(spec, workers=0).release))


def words_of(photo: Path) -> str:
    return f"a photo for {photo.parent.name}, number {photo.stem}"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release of 44 real photos and captions in 4 shards, made from 3."""
    root = tmp_path_factory.mktemp("captioned")
    photos = realdata.photos()[::5][:44]
    (root / "shards").mkdir()
    for shard in range(3):
        members: list[tuple[str | bytes, bytes]] = []
        for photo in photos[shard::3]:
            members += corpus.sample(f"{photo.parent.name}-{photo.stem}", photo.read_bytes(), words_of(photo).encode())
        (root / "shards" / f"{shard}.tar").write_bytes(corpus.tar_bytes(members))
    released(root, {"shards": f"{root}/shards/*.tar", "caption": "txt"}, 11)
    return root


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release of 48 real photos of three classes in 2 shards, made from the folder `photos`."""
    root = tmp_path_factory.mktemp("labelled")
    photos = realdata.photos()
    classes = {
        "bird": realdata.birds()[::57],
        "thing": [photo for photo in photos if photo.parent.name == "classification"],
        "overlay": [photo for photo in photos if photo.parent.name == "segmentation"],
    }
    for name, found in classes.items():
        (root / "photos" / name).mkdir(parents=True)
        for photo in found[:16]:
            shutil.copy(photo, root / "photos" / name)
    released(root, {"folder": f"{root}/photos"}, 24)
    return root


def trainer(root: Path, command: str, *more: str) -> subprocess.CompletedProcess[str]:
    """A command of the page, with the webdataset that the page asks for."""
    words = [sys.executable if word == "python" else word for word in shlex.split(command.replace("\\\n", " "))]
    path = os.pathsep.join([str(realdata.old_webdataset()), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*words, *more], cwd=root, env=env, capture_output=True, text=True, timeout=280, check=False)


def test_the_page_names_the_version_that_is_tested() -> None:
    assert f"webdataset=={realdata.OLD_WEBDATASET.version}" in blocks("sh")[1]


@pytest.mark.slow
def test_open_clips_trainer_trains_on_a_release(captioned: Path) -> None:
    """An epoch over all 44 samples, counted by the trainer itself from sizes.json; a checkpoint of a changed model."""
    done = trainer(captioned, blocks("sh")[0])
    assert done.returncode == 0, done.stderr[-3000:]
    log = (captioned / "logs/first/out.log").read_text()
    steps = re.findall(r"Train Epoch: 0 \[ *(\d+)/(\d+) .* Loss: ([^ ]+)", log)
    sizes = json.loads((captioned / "release/sizes.json").read_text())
    assert sum(sizes.values()) == 44
    assert [(int(seen), int(total)) for seen, total, _ in steps] == [(11 * step, 44) for step in (1, 2, 3, 4)]
    losses = [float(loss) for *_, loss in steps]
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    assert losses[0] == pytest.approx(math.log(11), abs=1)  # a fresh model guesses among the 11 of a batch
    assert "Handling webdataset error" not in log
    path = captioned / "logs/first/checkpoints/epoch_1.pt"
    checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    assert checkpoint["epoch"] == 1
    assert float(checkpoint["state_dict"]["logit_scale"]) != pytest.approx(math.log(1 / 0.07), abs=1e-6)
    assert {int(state["step"]) for state in checkpoint["optimizer"]["state"].values()} == {4}
    del checkpoint
    path.unlink()  # half a gigabyte


READER = """
import json, sys
from types import SimpleNamespace
from open_clip_train.data import get_wds_dataset
args = SimpleNamespace(
    train_data=sys.argv[1], train_num_samples=None, train_data_upsampling_factors=None, dataset_resampled=False,
    seed=0, batch_size=11, workers=2, world_size=1,
)
info = get_wds_dataset(args, lambda image: image.size[0], True, tokenizer=lambda text: [text])
info.set_epoch(0)
seen = [(width, text) for widths, texts in info.dataloader for width, text in zip(widths.tolist(), texts)]
print(json.dumps([info.dataloader.num_samples, info.dataloader.num_batches, sorted(seen)]))
"""


def test_open_clips_reader_gives_every_pair_once(captioned: Path) -> None:
    """The trainer's own data pipeline, in its own process: every photo with its own caption, once an epoch."""
    done = trainer(captioned, f"python -c {shlex.quote(READER)}", "release/{00000..00003}.tar")
    assert done.returncode == 0, done.stderr[-3000:]
    number, batches, seen = json.loads(done.stdout.splitlines()[-1])
    assert (number, batches) == (44, 4)
    kept = pl.read_parquet(captioned / "release/samples.parquet/*.parquet")
    assert seen == sorted([width, caption] for width, caption in kept.select("width", "caption").iter_rows())
    assert {text for _, text in seen} == {words_of(photo) for photo in realdata.photos()[::5][:44]}


def test_class_numbers_are_those_of_an_image_folder(labelled: Path) -> None:
    classes = json.loads((labelled / "release/classes.json").read_text())
    assert classes == torchvision.datasets.ImageFolder(str(labelled / "photos")).class_to_idx
    kept = {row["uid"]: row for row in pl.read_parquet(labelled / "release/samples.parquet/*.parquet").to_dicts()}
    tars = sorted(str(path) for path in (labelled / "release").glob("*.tar"))
    numbers = {
        sample["__key__"]: int(sample["cls"]) for sample in webdataset.WebDataset(tars, shardshuffle=False).decode()
    }
    assert len(numbers) == len(kept) == 48
    for uid, number in numbers.items():
        assert number == classes[kept[uid]["label"]] == classes[kept[uid]["key"].split("/")[0]]


def test_timm_learns_from_a_release(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop of the page: three easy classes are told apart better and better."""
    monkeypatch.chdir(labelled)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (labelled / "loop.py").write_text(blocks("python")[0])
    made = runpy.run_path("loop.py")
    epochs = made["epochs"]
    assert len(epochs) == 8
    assert all(map(math.isfinite, epochs))
    assert len(made["losses"]) == 6  # 48 samples in batches of 8
    assert epochs[0] > 0.8
    assert sum(epochs[-2:]) / 2 < 0.75 * epochs[0]


def test_the_other_code_of_the_page_runs(
    labelled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(labelled)
    for number, code in enumerate(blocks("python")[1:]):
        (labelled / f"code{number}.py").write_text(code)
        made = runpy.run_path(f"code{number}.py")
    assert capsys.readouterr().out.split() == ["100"]
    assert sum(made["weights"].values()) == pytest.approx(3)
    assert len(made["weights"]) == 48
