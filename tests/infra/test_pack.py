"""The quickstart's shards: same bytes each time, bytes as shipped, and a truth that holds."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import realdata
import webdataset
from PIL import Image, ImageOps

from infra.quickstart.pack import TRUTH, Truth, main, pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth]:
    realdata.birds(), realdata.photos(), realdata.scikit_image()  # skip here when the registry cannot be reached
    out = tmp_path_factory.mktemp("quickstart")
    truth, written = pack(out)
    assert written
    return out, truth


@pytest.fixture(scope="module")
def samples(packed: tuple[Path, Truth]) -> dict[str, dict[str, bytes]]:
    """key -> {extension: bytes}, in shard order; every key's members are adjacent."""
    found: dict[str, dict[str, bytes]] = {}
    for shard in packed[1].shards:
        with tarfile.open(packed[0] / shard["name"]) as tar:
            last = None
            for member in tar:
                key, extension = member.name.split(".")
                assert key == last or key not in found
                last = key
                source = tar.extractfile(member)
                assert source is not None
                found.setdefault(key, {})[extension] = source.read()
    return found


def image_of(sample: dict[str, bytes]) -> bytes:
    (data,) = (sample[extension] for extension in ("jpg", "png") if extension in sample)
    return data


def test_the_same_bytes_each_time_and_no_work_when_up_to_date(
    packed: tuple[Path, Truth], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, truth = packed
    assert main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("packed 1,357 samples in 6 shards")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted([TRUTH, *(shard["name"] for shard in truth.shards)])
    for name in names:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    for shard in truth.shards:
        assert hashlib.sha256((out / shard["name"]).read_bytes()).hexdigest() == shard["sha256"]
    again, written = pack(tmp_path)
    assert (again, written) == (truth, False)
    (tmp_path / truth.shards[3]["name"]).unlink()
    assert pack(tmp_path)[1]
    assert (tmp_path / truth.shards[3]["name"]).read_bytes() == (out / truth.shards[3]["name"]).read_bytes()
    other, written = pack(tmp_path, seed=1, shards=3)
    assert written
    assert len(list(tmp_path.glob("*.tar"))) == 3
    assert other.planted != truth.planted


def test_counts_add_up(packed: tuple[Path, Truth], samples: dict[str, dict[str, bytes]]) -> None:
    truth = packed[1]
    assert len(samples) == truth.samples == sum(shard["samples"] for shard in truth.shards) == 1357
    assert Counter(entry["kind"] for entry in truth.planted) == {
        "copy": 25,
        "jpeg": 32,
        "half": 32,
        "crop": 32,
        "flip": 32,
    }
    assert truth.samples == 919 + 260 + 17 + len(truth.planted) + len(truth.broken)
    assert len({entry["of"] for entry in truth.planted}) == len(truth.planted)
    assert max(shard["samples"] for shard in truth.shards) - min(shard["samples"] for shard in truth.shards) <= 1


def test_originals_are_the_shipped_bytes(samples: dict[str, dict[str, bytes]]) -> None:
    for path in realdata.birds():
        assert samples[f"bird-{path.stem}"]["jpg"] == path.read_bytes()
    for path in realdata.photos():
        assert samples[f"{path.parent.name}-{path.stem}"]["jpg"] == path.read_bytes()
    assert samples["skimage-chelsea"]["png"] == (realdata.scikit_image() / "chelsea.png").read_bytes()
    assert samples["skimage-chelsea"]["txt"] == b"Chelsea the cat."


def test_every_planted_edit_is_what_it_says(packed: tuple[Path, Truth], samples: dict[str, dict[str, bytes]]) -> None:
    for entry in packed[1].planted:
        data, source = image_of(samples[entry["key"]]), image_of(samples[entry["of"]])
        about = json.loads(samples[entry["key"]]["json"])
        assert (about["planted"], about["of"]) == (entry["kind"], entry["of"])
        if entry["kind"] == "copy":
            assert data == source
            continue
        assert data != source
        edit, original = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(source))
        if entry["kind"] == "half":
            assert edit.size == (original.width // 2, original.height // 2)
            expected = original.resize(edit.size, Image.Resampling.BOX)
        elif entry["kind"] == "crop":
            assert edit.size == (original.width * 4 // 5, original.height * 4 // 5)
            continue
        else:
            expected = ImageOps.mirror(original) if entry["kind"] == "flip" else original
        gap = np.abs(np.asarray(edit, np.float64) - np.asarray(expected, np.float64)).mean()
        assert gap < 12, entry


def test_crops_lie_inside_their_originals(packed: tuple[Path, Truth], samples: dict[str, dict[str, bytes]]) -> None:
    """Brute force over every placement of a 120 x 120 bird: the best one must fit almost perfectly."""
    crops = [entry for entry in packed[1].planted if entry["kind"] == "crop" and entry["of"].startswith("bird-")]
    for entry in crops[:6]:
        edit = np.asarray(Image.open(io.BytesIO(image_of(samples[entry["key"]]))).convert("L"), np.float64)
        whole = np.asarray(Image.open(io.BytesIO(image_of(samples[entry["of"]]))).convert("L"), np.float64)
        windows = np.lib.stride_tricks.sliding_window_view(whole, edit.shape)
        assert np.abs(windows - edit).mean(axis=(2, 3)).min() < 4, entry


def test_broken_files_cannot_be_decoded_and_all_others_can(
    packed: tuple[Path, Truth], samples: dict[str, dict[str, bytes]]
) -> None:
    bad = {entry["key"]: entry["kind"] for entry in packed[1].broken}
    for key, sample in samples.items():
        if bad.get(key) == "no-image":
            assert not {"jpg", "png"} & sample.keys()
        elif key in bad:
            with pytest.raises((OSError, SyntaxError, Image.DecompressionBombError)):
                Image.open(io.BytesIO(image_of(sample))).load()
        else:
            Image.open(io.BytesIO(image_of(sample))).load()


def test_every_sample_names_its_source_and_licence(samples: dict[str, dict[str, bytes]]) -> None:
    for sample in samples.values():
        about = json.loads(sample["json"])
        assert set(about) == {"source", "file", "license", "attribution", "planted", "of"}
        assert about["source"]
        assert about["license"]
        assert about["attribution"]


def test_duplicates_spread_over_shards(packed: tuple[Path, Truth]) -> None:
    out, truth = packed
    place = {}
    for number, shard in enumerate(truth.shards):
        with tarfile.open(out / shard["name"]) as tar:
            place |= {name.split(".")[0]: number for name in tar.getnames()}
    apart = sum(place[entry["key"]] != place[entry["of"]] for entry in truth.planted)
    assert apart > len(truth.planted) * 0.7  # 5/6 expected of a fair shuffle


def test_webdataset_reads_the_shards(packed: tuple[Path, Truth]) -> None:
    out, truth = packed
    urls = [str(out / shard["name"]) for shard in truth.shards]
    keys = [sample["__key__"] for sample in webdataset.WebDataset(urls, shardshuffle=False)]
    assert len(keys) == len(set(keys)) == truth.samples
