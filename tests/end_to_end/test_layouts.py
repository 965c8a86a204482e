"""Whole runs over tars as others leave them: ImageNet's tar of tars and flat validation tar, img2dataset, DataComp."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import corpus
import downloads
import polars as pl
import pytest
import webdataset
from PIL import Image
from typer.testing import CliRunner

import curate
from curate.cli.main import app
from curate.pipeline.explain import explain
from curate.pipeline.summary import summarise, summary_lines
from curate.pipeline.verify import verify_release
from curate.store.workspace import Workspace

SYNSETS = ("n01440764", "n01443537", "n02094114")


def samples_of(release: Path) -> dict[str, dict[str, bytes]]:
    """uid -> extension -> bytes, of all shards."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(release.glob("*.tar")):
        with tarfile.open(path) as tar:
            for info in tar:
                uid, _, ext = info.name.partition(".")
                handle = tar.extractfile(info)
                assert handle is not None
                found.setdefault(uid, {})[ext] = handle.read()
    return found


def spec(root: Path, given: dict[str, Any], *stages: Any) -> dict[str, Any]:
    return {"name": "layouts", "input": given, "workspace": f"{root}/work", "stages": ["index", *stages]}


# --- ImageNet ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    inner = []
    for c, synset in enumerate(SYNSETS):
        images = [(f"{synset}_{i}.JPEG", corpus.jpeg(10 * c + i)) for i in range(4)]
        inner.append((f"{synset}.tar", corpus.tar_bytes(list(images))))
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(corpus.tar_bytes(list(inner)))
    names = [f"ILSVRC2012_val_{n:08d}" for n in range(1, 7)]
    val = [(f"{name}.JPEG", corpus.jpeg(100 + n)) for n, name in enumerate(names)]
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(corpus.tar_bytes(list(val)))
    return tmp_path


def test_imagenet_as_distributed(imagenet: Path) -> None:
    archive = f"{imagenet}/ILSVRC2012_img_train.tar"
    run = curate.run(spec(imagenet, {"archive": archive, "shards_per_part": 2}, {"release": {}}), workers=0)
    assert (run.record.rows, run.record.alive, run.quarantined, run.record.parts) == (12, 12, 0, 2)
    release = Path(str(run.release))
    numbers = {synset: n for n, synset in enumerate(SYNSETS)}
    assert json.loads((release / "classes.json").read_text()) == numbers
    table = pl.read_parquet(release / "samples.parquet")
    assert table["source"].to_list() == [f"{synset}.tar" for synset in SYNSETS for _ in range(4)]
    found = samples_of(release)
    for uid, key, label in table.select("uid", "key", "label").iter_rows():
        assert key.startswith(f"{label}_")
        assert found[uid]["cls"] == str(numbers[label]).encode()
    assert verify_release(Workspace(str(release))).ok
    # webdataset reads the class number as it reads its own
    shards = sorted(map(str, release.glob("*.tar")))
    pairs = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("jpeg", "cls"))
    assert [number for _, number in pairs] == [n for n in range(3) for _ in range(4)]
    assert all(isinstance(image, Image.Image) for image, _ in pairs)
    (story,) = explain(run, key=f"{SYNSETS[1]}_2")
    assert (story.shard, story.alive) == (f"{SYNSETS[1]}.tar", True)


def test_an_archive_elsewhere_keeps_uids_and_reuses_nothing_of_its_place(imagenet: Path, tmp_path: Path) -> None:
    """The same bytes under the same name in another folder give the same release."""
    moved = imagenet / "elsewhere"
    moved.mkdir()
    data = (imagenet / "ILSVRC2012_img_train.tar").read_bytes()
    (moved / "ILSVRC2012_img_train.tar").write_bytes(data)
    runs = [
        curate.run(spec(root, {"archive": f"{root}/ILSVRC2012_img_train.tar"}, {"release": {}}), workers=0)
        for root in (imagenet, moved)
    ]
    releases = [{p.name: p.read_bytes() for p in Path(str(run.release)).glob("*.tar")} for run in runs]
    assert releases[0] == releases[1] != {}


@pytest.mark.parametrize("kind", ["kaggle", "synsets", "numbers"])
def test_flat_validation_images_get_labels_from_a_table(imagenet: Path, kind: str) -> None:
    labels = [SYNSETS[n % 3] for n in range(6)]
    numbers = [490, 361, 171, 490, 361, 171]
    text = {
        "kaggle": "ImageId,PredictionString\n"
        + "".join(f"ILSVRC2012_val_{n + 1:08d},{labels[n]} 1 2 3 4 \n" for n in reversed(range(6))),
        "synsets": "".join(f"{label}\n" for label in labels),
        "numbers": "".join(f"{number}\n" for number in numbers),
    }[kind]
    (imagenet / "labels.txt").write_text(text)
    given = {"shards": f"{imagenet}/ILSVRC2012_img_val.tar", "labels": f"{imagenet}/labels.txt"}
    run = curate.run(spec(imagenet, given, {"release": {}}), workers=0)
    release = Path(str(run.release))
    table = pl.read_parquet(release / "samples.parquet")
    classes = json.loads((release / "classes.json").read_text())
    found = samples_of(release)
    if kind == "numbers":
        assert table["label"].to_list() == [str(number) for number in numbers]
        assert classes == {"171": 171, "361": 361, "490": 490}
    else:
        assert table["label"].to_list() == labels
        assert classes == {synset: n for n, synset in enumerate(SYNSETS)}
    for uid, label in table.select("uid", "label").iter_rows():
        assert int(found[uid]["cls"]) == classes[label]
    (imagenet / "labels.txt").write_text(text + "\n")
    assert curate.run(spec(imagenet, given), workers=0).record.steps[0].folder != run.record.steps[0].folder


def test_labels_of_their_own_are_released_as_they_are(tmp_path: Path) -> None:
    members: list[tuple[str | bytes, bytes]] = [("a.jpg", corpus.jpeg(1)), ("a.cls", b"7"), ("b.jpg", corpus.jpeg(2))]
    (tmp_path / "x.tar").write_bytes(corpus.tar_bytes(members))
    (tmp_path / "labels.csv").write_text("a,cat\nb,dog\n")
    given = {"shards": f"{tmp_path}/x.tar", "labels": f"{tmp_path}/labels.csv"}
    run = curate.run(spec(tmp_path, given, "release"), workers=0)
    release = Path(str(run.release))
    assert json.loads((release / "classes.json").read_text()) == {"dog": 0}
    assert [found["cls"] for found in samples_of(release).values()] == [b"7", b"0"]


# --- downloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digits", "uid"), [(5, False), (8, True)])
def test_downloads_add_up_and_keep_their_json(tmp_path: Path, digits: int, uid: bool) -> None:
    tried = downloads.write_downloads(tmp_path / "in", digits=digits, uid=uid)
    given = {"shards": f"{tmp_path}/in", "caption": "txt", "fields": {"similarity": "float"}}
    run = curate.run(
        spec(tmp_path, given, {"filter": {"where": "similarity < 0.45"}}, {"release": {"samples_per_shard": 5}}),
        workers=0,
    )
    record = run.record
    assert (record.rows, run.quarantined) == (28, 0)
    assert record.step("uids").reasons == {"not_downloaded": 12}
    kept = [one for one in tried if one.image is not None and one.meta["similarity"] < 0.45]
    assert record.alive == len(kept)
    release = Path(str(run.release))
    table = pl.read_parquet(release / "samples.parquet")
    assert table["key"].to_list() == [one.meta["key"] for one in kept]
    assert table["similarity"].to_list() == [one.meta["similarity"] for one in kept]
    found = samples_of(release)
    for one, released in zip(kept, table["uid"], strict=True):
        json_bytes = json.dumps(one.meta, indent=4).encode()
        assert found[released] == {"jpg": one.image, "txt": one.meta["caption"].encode(), "json": json_bytes}
        if uid:
            assert released == one.meta["uid"]
    dropped = pl.read_parquet(release / "dropped.parquet")
    gone = dropped.filter(pl.col("reason") == "not_downloaded")
    assert dict(gone.select("key", "detail").iter_rows()) == {
        one.meta["key"]: one.meta["error_message"] for one in tried if one.image is None
    }
    manifest = json.loads((release / "manifest.json").read_text())
    assert {name: manifest["upstream"][name] for name in ("attempted", "successes", "failed")} == {
        "attempted": 28, "successes": 16, "failed": 12,
    }  # fmt: skip
    assert sum(manifest["upstream"]["reasons"].values()) == 12
    assert manifest["input_samples"] == 28 == manifest["samples"] + manifest["dropped_samples"]
    assert verify_release(Workspace(str(release))).ok
    summary = summarise(run)
    assert summary["rows"] == summary["alive"] + summary["dropped"] + summary["quarantined"]
    assert summary["noted"]["upstream"]["attempted"] == 28
    (line,) = [line for line in summary_lines(summary) if line.startswith("downloaded before")]
    assert line.startswith("downloaded before: 28 tried = 16 got + 12 failed (")
    assert summary["broken"] == []
    (story,) = explain(run, uid=gone["uid"][0])
    assert (story.status, story.alive, story.members, story.release) == ("not_downloaded", False, [], None)


def test_a_failed_download_never_beats_a_good_sample_of_its_uid(tmp_path: Path) -> None:
    tried = downloads.write_downloads(tmp_path / "in", shards=1, digits=8, uid=True)
    failed = next(one for one in tried if one.image is None)
    image = corpus.jpeg(500)
    with (tmp_path / "in" / "00000001.tar").open("wb") as out:  # tried again later, and then it worked
        tar = webdataset.TarWriter(out)
        tar.write({"__key__": "000000010000", "jpg": image, "txt": "again", "json": {"uid": failed.meta["uid"]}})
        tar.close()
    run = curate.run(spec(tmp_path, {"shards": f"{tmp_path}/in", "caption": "txt"}, "release"), workers=0)
    released = pl.read_parquet(f"{run.release}/samples.parquet").filter(pl.col("uid") == failed.meta["uid"])
    assert released["key"].to_list() == ["000000010000"]
    assert run.record.step("uids").reasons == {"not_downloaded": 6}


def test_the_command_ends_well_in_spite_of_failed_downloads(tmp_path: Path) -> None:
    downloads.write_downloads(tmp_path / "in")
    path = tmp_path / "p.yaml"
    path.write_text(
        f"name: d\ninput: {{shards: {tmp_path}/in, caption: txt}}\nworkspace: {tmp_path}/work\n"
        "stages: [index, release]\n"
    )
    result = CliRunner().invoke(app, ["run", str(path), "--workers", "0"])
    assert result.exit_code == 0, result.output
    report = (tmp_path / "work" / "report.html").read_text()
    assert "not_downloaded" in report
    assert "These numbers do not add up" not in report


def test_image_bytes_open(imagenet: Path) -> None:
    """The release of an archive holds the very images of its inner tars."""
    run = curate.run(spec(imagenet, {"archive": f"{imagenet}/ILSVRC2012_img_train.tar"}, "release"), workers=0)
    images = {members["jpeg"] for members in samples_of(Path(str(run.release))).values()}
    assert images == {corpus.jpeg(10 * c + i) for c in range(3) for i in range(4)}
    assert all(Image.open(io.BytesIO(data)).size == (64, 48) for data in images)
