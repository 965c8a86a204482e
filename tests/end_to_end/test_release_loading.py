"""A release read by the programs it is written for: webdataset, a torch DataLoader, open_clip, polars."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import polars as pl
import pytest
import webdataset
from conftest import Undisturbed
from PIL import Image
from torch.utils.data import DataLoader
from whole_runs import releases


@pytest.fixture(scope="module")
def release(undisturbed: Undisturbed) -> Path:
    (folder,) = releases(undisturbed.workspace)
    return folder


@pytest.fixture(scope="module")
def samples(release: Path) -> pl.DataFrame:
    return pl.read_parquet(release / "samples.parquet")


def urls(release: Path) -> list[str]:
    return sorted(str(path) for path in release.glob("*.tar"))


def members(tar: Path) -> dict[str, dict[str, bytes]]:
    """Key -> extension -> bytes, by the standard library."""
    found: dict[str, dict[str, bytes]] = {}
    with tarfile.open(tar) as archive:
        for member in archive:
            key, _, ext = member.name.partition(".")
            data = archive.extractfile(member)
            assert data is not None
            found.setdefault(key, {})[ext] = data.read()
    return found


def test_every_member_equals_its_source(release: Path, samples: pl.DataFrame, undisturbed: Undisturbed) -> None:
    sources = {path.name: members(path) for path in undisturbed.shards.glob("*.tar")}
    seen = {}
    for url in urls(release):
        for uid, written in members(Path(url)).items():
            assert uid not in seen
            seen[uid] = written
    assert len(seen) == samples.height > 0
    for uid, source, key in samples.select("uid", "source", "key").iter_rows():
        assert seen[uid] == sources[source][key]
        assert set(seen[uid]) == {"jpg" if "jpg" in seen[uid] else "png", "txt", "json"}


def test_webdataset_decodes_every_sample(release: Path, samples: pl.DataFrame) -> None:
    rows = {row["uid"]: row for row in samples.iter_rows(named=True)}
    count = 0
    for sample in webdataset.WebDataset(urls(release), shardshuffle=False).decode("pil"):
        row = rows[sample["__key__"]]
        image = sample.get("jpg", sample.get("png"))
        assert isinstance(image, Image.Image)
        assert image.size == (row["width"], row["height"])
        assert sample["txt"] == row["caption"]
        assert isinstance(sample["json"], dict)
        count += 1
    assert count == samples.height


def test_a_data_loader_with_two_workers_sees_each_sample_once(release: Path, samples: pl.DataFrame) -> None:
    dataset = (
        webdataset.WebDataset(urls(release), shardshuffle=False).decode("pil").to_tuple("__key__", "jpg;png", "txt")
    )
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    got = [(key, image.size, caption) for key, image, caption in loader]
    expected = samples.select("uid", "width", "height", "caption").iter_rows()
    assert sorted(got) == sorted((uid, (width, height), caption) for uid, width, height, caption in expected)


def test_open_clip_finds_the_number_of_samples(release: Path, samples: pl.DataFrame) -> None:
    data = pytest.importorskip("open_clip_train.data", reason="this open_clip comes without its training tools")
    tars = urls(release)
    braces = f"{release}/{{{Path(tars[0]).stem}..{Path(tars[-1]).stem}}}.tar"
    assert data.get_dataset_size(braces) == (samples.height, len(tars))


def test_tables_and_sizes_agree(release: Path, samples: pl.DataFrame) -> None:
    sizes = json.loads((release / "sizes.json").read_text())
    assert sizes == dict(samples.group_by("shard").len().sort("shard").iter_rows())
    assert max(sizes.values()) - min(sizes.values()) <= 1
    for shard, number in sizes.items():
        stats = json.loads((release / f"{shard.removesuffix('.tar')}_stats.json").read_text())
        assert stats["successes"] == number
    dropped = pl.read_parquet(release / "dropped.parquet")
    assert samples.height + dropped.height == 40
    assert set(samples["uid"]).isdisjoint(dropped["uid"])
