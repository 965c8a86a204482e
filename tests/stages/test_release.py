from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import corpus
import polars as pl
import pytest
import webdataset
from small_run import SmallRun, small_run

import curate
from curate.errors import InputError, StorageError
from curate.store.uids import format_uid


@pytest.fixture(scope="module")
def small() -> SmallRun:
    return small_run()


def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def released(spec: dict[str, Any], **options: Any) -> tuple[curate.Run, Path]:
    run = curate.run(spec | {"stages": [*spec["stages"], {"release": options}]}, workers=0)
    return run, Path(str(run.release))


def test_every_alive_sample_is_there_byte_for_byte_in_input_order(small: SmallRun) -> None:
    source: dict[str, list[tuple[str, bytes]]] = {}
    for shard in sorted((small.root / "shards").glob("*.tar")):
        for name, data in members(shard):
            key, _, ext = name.partition(".")
            source.setdefault(key, []).append((ext, data))
    frame = small.run.columns("index", "prune").collect().filter(pl.col("prune.alive"))
    uids = [format_uid(hi, lo) for hi, lo in frame.select("index.uid_hi", "index.uid_lo").iter_rows()]
    expected = [
        (f"{uid}.{ext}", data) for uid, key in zip(uids, frame["index.key"], strict=True) for ext, data in source[key]
    ]
    found = [member for shard in sorted(small.release.glob("*.tar")) for member in members(shard)]
    assert found == expected
    assert len(uids) == len(set(uids)) == small.run.record.alive > 5


def test_webdataset_reads_it(small: SmallRun) -> None:
    urls = [str(path) for path in sorted(small.release.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
    table = pl.read_parquet(small.release / "samples.parquet")
    assert [s["__key__"] for s in samples] == table["uid"].to_list()
    for sample, width, caption in zip(samples, table["width"], table["caption"], strict=True):
        image = sample["jpg"] if "jpg" in sample else sample["png"]
        assert image.size[0] == width
        assert sample["txt"] == caption


@pytest.mark.parametrize(("limit", "sizes"), [(5, [4, 4, 4]), (12, [12]), (7, [6, 6]), (1, [1] * 12), (100, [12])])
def test_shards_are_even(limit: int, sizes: list[int], tiny: dict[str, Any]) -> None:
    _, folder = released(tiny, samples_per_shard=limit)
    assert [len(members(path)) // 3 for path in sorted(folder.glob("*.tar"))] == sizes
    assert max(sizes) - min(sizes) <= 1
    assert json.loads((folder / "sizes.json").read_text()) == {f"{i:05d}.tar": n for i, n in enumerate(sizes)}


def test_the_same_bytes_for_any_cut_into_parts(tiny: dict[str, Any], tmp_path: Path) -> None:
    trees = []
    for size in (1, 2, 3):
        given = {**tiny["input"], "shards_per_part": size}
        spec = tiny | {"input": given, "workspace": f"{tmp_path}/work-{size}"}
        spec["stages"] = [*tiny["stages"], {"sample": {"fraction": 0.8}}]
        trees.append(tree(released(spec, samples_per_shard=4)[1]))
    shards = [{n: d for n, d in t.items() if n.endswith(".tar")} for t in trees]
    assert shards[0] == shards[1] == shards[2]
    tables = [{n: d for n, d in t.items() if n.startswith("samples")} for t in trees]
    assert tables[0] == tables[1] == tables[2]
    with tarfile.open(fileobj=io.BytesIO(shards[0]["00000.tar"])) as tar:
        for info in tar:
            assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o444)


def test_the_manifest_adds_up(small: SmallRun) -> None:
    manifest = json.loads((small.release / "manifest.json").read_text())
    record = small.run.record
    assert manifest["input_samples"] == record.rows == manifest["samples"] + manifest["dropped_samples"]
    assert manifest["samples"] == record.alive
    assert manifest["dropped"] == {
        step.name: dict(sorted(step.reasons.items())) for step in record.steps if step.reasons
    }
    assert manifest["dropped_samples"] == sum(sum(reasons.values()) for reasons in manifest["dropped"].values())
    assert manifest["shards"] == len(list(small.release.glob("*.tar")))
    there = tree(small.release)
    assert set(manifest["files"]) == set(there) - {"manifest.json"}
    for name, file in manifest["files"].items():
        assert (file["bytes"], file["sha256"]) == (len(there[name]), hashlib.sha256(there[name]).hexdigest())


def test_stats_beside_each_shard(small: SmallRun) -> None:
    for path in sorted(small.release.glob("*.tar")):
        stats = json.loads(path.with_name(f"{path.stem}_stats.json").read_text())
        data = path.read_bytes()
        assert stats == stats | {
            "successes": len({name.partition(".")[0] for name, _ in members(path)}),
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
        }


def test_kept_and_dropped_tables_are_the_whole_input(small: SmallRun) -> None:
    kept = pl.read_parquet(small.release / "samples.parquet")
    gone = pl.read_parquet(small.release / "dropped.parquet")
    index = small.run.columns("index").collect()
    uids = [format_uid(hi, lo) for hi, lo in index.select("uid_hi", "uid_lo").iter_rows()]
    assert sorted([*kept["uid"], *gone["uid"]]) == sorted(uids)
    reasons = {key: (stage, reason) for key, stage, reason in gone.select("key", "stage", "reason").iter_rows()}
    assert reasons["page"] == ("uids", "not_an_image")
    assert reasons["small"] == ("filter", "false")
    assert reasons["torn"] == ("embed", "decode_error")
    assert reasons["twin1"] == ("uids", "duplicate_uid")
    assert reasons["copy-of-a1"] == ("dedup-exact", "same_bytes")
    row = gone.row(by_predicate=pl.col("key") == "copy-of-a1", named=True)
    assert (row["keeper"], row["source"]) == (small.uid_of("a1"), "b.tar")
    assert not gone["stage"].is_null().any()
    distance = small.run.columns("cluster", "prune").collect().filter(pl.col("prune.alive"))["cluster.distance"]
    assert kept["distance"].to_list() == distance.to_list()


def test_nothing_left_is_a_release_without_shards(tiny: dict[str, Any]) -> None:
    spec = tiny | {"stages": ["index", {"filter": {"where": "width < 0"}}]}
    _, folder = released(spec)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["samples"], manifest["shards"], manifest["dropped_samples"]) == (0, 0, 12)
    assert pl.read_parquet(folder / "dropped.parquet").height == 12


def test_a_folder_of_images_is_released_too(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "in" / label / f"{i}.jpg").write_bytes(corpus.jpeg(i))
    spec = {
        "name": "folder",
        "input": {"folder": f"{tmp_path}/in", "files_per_part": 2},
        "workspace": f"{tmp_path}/work",
        "stages": ["index"],
    }
    _, folder = released(spec, samples_per_shard=4)
    found = [member for path in sorted(folder.glob("*.tar")) for member in members(path)]
    images = [data for name, data in found if name.endswith(".jpg")]
    assert images == [corpus.jpeg(i) for _ in range(2) for i in range(3)]
    # the folder a sample lay in goes with it as a class number
    numbers = [int(data) for name, data in found if name.endswith(".cls")]
    names = {n: name for name, n in json.loads((folder / "classes.json").read_text()).items() if isinstance(n, int)}
    assert [names[n] for n in numbers] == ["cat"] * 3 + ["dog"] * 3
    assert pl.read_parquet(folder / "samples.parquet")["label"].to_list() == ["cat"] * 3 + ["dog"] * 3


@pytest.mark.parametrize("name", ["thesis.tex", "photos/summer.jpg"])
def test_what_lies_in_the_target_is_never_touched(name: str, tiny: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out" / name).parent.mkdir(parents=True)
    (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(StorageError, match=rf"already holds {name.split('/')[0]}; choose another folder with `to`"):
        released(tiny, to=f"{tmp_path}/out")
    assert tree(tmp_path / "out") == {name: b"mine"}
    shutil.rmtree(tmp_path / "out")
    assert released(tiny, to=f"{tmp_path}/out")[1] == tmp_path / "out"


def test_another_release_in_the_target_is_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    released(tiny, to=f"{tmp_path}/out")
    before = tree(tmp_path / "out")
    with pytest.raises(StorageError, match="already holds"):
        released(tiny | {"stages": ["index", {"sample": {"fraction": 0.5}}]}, to=f"{tmp_path}/out")
    assert tree(tmp_path / "out") == before
    run, _ = released(tiny, to=f"{tmp_path}/out")
    assert run.record.step("release").reused_parts == run.record.step("release").parts


def test_a_release_that_was_deleted_is_written_again(tiny: dict[str, Any]) -> None:
    _, folder = released(tiny, samples_per_shard=3)
    before = tree(folder)
    shutil.rmtree(folder)
    _, again = released(tiny, samples_per_shard=3)
    assert again == folder
    assert tree(folder) == before


def test_a_shard_lost_while_the_release_was_written_is_found_and_mended(tiny: dict[str, Any]) -> None:
    """A run that stopped before its manifest, and a shard removed before the next."""
    run, folder = released(tiny, samples_per_shard=3)
    before = tree(folder)
    work = next(Path(tiny["workspace"]).glob("release-work@*"))
    (folder / "manifest.json").unlink()
    next(work.glob("finished.*.json")).unlink()
    (folder / "00001.tar").unlink()
    with pytest.raises(StorageError, match=r"lost 00001\.tar while the release was written; run again"):
        released(tiny, samples_per_shard=3)
    released(tiny, samples_per_shard=3)
    assert tree(folder) == before
    assert run.release == str(folder)


def test_an_image_that_changed_since_it_was_indexed_is_found(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Same size, same time, other bytes: only the hash tells."""
    curate.run(tiny, workers=0)
    path = tmp_path / "shards" / "00001.tar"
    stat, data = path.stat(), bytearray(path.read_bytes())
    at = data.index(b"\xff\xd8\xff") + 200
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(InputError, match=r"the image of sample 000004 is not the one that was indexed"):
        released(tiny)


def test_two_pilots_do_not_mix(tiny: dict[str, Any]) -> None:
    """A run over fewer shards has a release of its own, and both stay whole."""
    spec = tiny | {"stages": ["index", "release"]}
    pilot = curate.run(spec, workers=0, limit_shards=1)
    full = curate.run(spec, workers=0)
    again = curate.run(spec, workers=0, limit_shards=1)
    assert pilot.release != full.release
    assert again.release == pilot.release
    assert (pilot.record.alive, full.record.alive) == (4, 12)
    assert again.record.step("release").reused_parts == again.record.step("release").parts
