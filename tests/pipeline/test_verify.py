"""Every way to damage a release is found and named; an undamaged one passes."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from small_run import small_run

from curate.errors import StorageError
from curate.pipeline.verify import Verification, verify_release
from curate.store.workspace import Workspace


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of a release that may be broken."""
    return Path(shutil.copytree(small_run().release, tmp_path / "release"))


def check(release: Path) -> Verification:
    return verify_release(Workspace(str(release)), workers=2)


def said(release: Path) -> set[str]:
    return {str(violation) for violation in check(release).violations}


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    value = json.loads(path.read_text())
    path.write_text(json.dumps(change(value) or value))


def seal(release: Path, *names: str) -> None:
    """Enter the present bytes of files in the manifest, as someone would who hides a change."""

    def change(manifest: Any) -> None:
        for name in names:
            data = (release / name).read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}

    edit(release / "manifest.json", change)


def rewrite(path: Path, change: Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]) -> None:
    """Read a tar with tarfile, change its members, write it again."""
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    with tarfile.open(path, "w") as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def restat(release: Path, shard: str, samples: int) -> None:
    """Make the statistics of a shard agree with its bytes again."""
    data = (release / f"{shard}.tar").read_bytes()
    facts = {"successes": samples, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit(release / f"{shard}_stats.json", lambda stats: stats | facts)
    edit(release / "sizes.json", lambda sizes: sizes | {f"{shard}.tar": samples})
    seal(release, f"{shard}.tar", f"{shard}_stats.json", "sizes.json")


def test_a_good_release_passes_and_is_counted(release: Path) -> None:
    found = check(release)
    files = [path for path in release.rglob("*") if path.is_file()]
    assert found.ok
    assert found.violations == []
    assert (found.samples, found.shards, found.files) == (15, 3, len(files))
    assert found.nbytes == sum(p.stat().st_size for p in files) - (release / "manifest.json").stat().st_size
    assert found.manifest_sha256 == hashlib.sha256((release / "manifest.json").read_bytes()).hexdigest()


def test_workers_and_place_do_not_matter(release: Path) -> None:
    (release / "00001.tar").unlink()
    place = Workspace(str(release))
    assert verify_release(place, workers=1).violations == verify_release(place, workers=8).violations


@pytest.mark.parametrize("where", ["image", "header", "end"])
def test_one_flipped_bit_of_a_tar_is_found(release: Path, where: str) -> None:
    path = release / "00001.tar"
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        image = next(info for info in tar if info.name.endswith((".jpg", ".png")))
    at = {"image": image.offset_data + image.size // 2, "header": image.offset + 5, "end": len(data) - 1}[where]
    data[at] ^= 1
    path.write_bytes(data)
    found = said(release)
    digest = hashlib.sha256(data).hexdigest()
    assert any(text.startswith(f"00001.tar: its sha256 is {digest}") for text in found)
    assert any(text.startswith("00001_stats.json: says sha256") for text in found)
    assert any("1 images have not the sha256 of samples.parquet/00001" in text for text in found) == (where == "image")


def test_a_changed_image_is_found_although_all_checksums_were_made_to_fit(release: Path) -> None:
    rewrite(
        release / "00000.tar",
        lambda members: [(n, d[:-1] + b"x" if i == 0 else d) for i, (n, d) in enumerate(members)],
    )
    restat(release, "00000", 5)
    with tarfile.open(release / "00000.tar") as tar:
        uid = tar.getnames()[0].split(".")[0]
    assert said(release) == {f"00000.tar: 1 images have not the sha256 of samples.parquet/00000.parquet: {uid}"}


@pytest.mark.parametrize("name", ["00000.tar", "00001_stats.json", "sizes.json", "samples.parquet/00002.parquet"])
def test_a_missing_file_is_named(release: Path, name: str) -> None:
    size = (release / name).stat().st_size
    (release / name).unlink()
    found = said(release)
    assert f"{name}: the file is missing ({size:,} bytes in the manifest)" in found
    if name == "00000.tar":
        assert "manifest.json: says 15, but there are 10 samples in the shards" in found


@pytest.mark.parametrize("name", ["00003.tar", "notes.txt", "samples.parquet/00009.parquet"])
def test_a_file_too_many_is_named(release: Path, name: str) -> None:
    (release / name).write_bytes(b"more")
    assert said(release) == {f"{name}: the file is not in the manifest"}


def test_a_folder_too_many_is_named(release: Path) -> None:
    (release / "extra").mkdir()
    (release / "extra" / "x").write_bytes(b"")
    assert said(release) == {"extra/: the folder does not belong to the release"}


def test_a_cut_tar_is_named(release: Path) -> None:
    path = release / "00002.tar"
    path.write_bytes(path.read_bytes()[:2000])
    found = said(release)
    assert any(text.startswith("00002.tar: has 2,000 bytes, the manifest says") for text in found)
    assert any(text.startswith("00002.tar: the tar is damaged: the file stops inside") for text in found)
    assert any(text.startswith("samples.parquet/00002.parquet: has 5 rows, but 00002.tar has 0 ") for text in found)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("samples", "says 16, but there are 15 samples in the shards"),
        ("dropped_samples", "says 19, but there are 18 rows in dropped.parquet"),
        ("input_samples", "says 34, but there are 33 samples and dropped samples together"),
        ("shards", "says 4, but there are 3 shards"),
    ],
)
def test_a_wrong_count_of_the_manifest_is_named(release: Path, key: str, message: str) -> None:
    edit(release / "manifest.json", lambda manifest: manifest | {key: manifest[key] + 1})
    assert said(release) == {f"manifest.json: {message}"}


def test_a_wrong_reason_of_the_manifest_is_named(release: Path) -> None:
    def change(manifest: Any) -> None:
        manifest["dropped"]["prune"] = {"over_quota": 9, "no_concept": 1}

    edit(release / "manifest.json", change)
    assert said(release) == {
        "manifest.json: says 9 dropped by prune as over_quota, dropped.parquet has 10",
        "manifest.json: says 1 dropped by prune as no_concept, dropped.parquet has 0",
    }


def test_counts_beside_a_shard_are_compared_with_it(release: Path) -> None:
    edit(release / "00001_stats.json", lambda stats: stats | {"successes": 6})
    edit(release / "sizes.json", lambda sizes: sizes | {"00001.tar": 7, "00009.tar": 1})
    seal(release, "00001_stats.json", "sizes.json")
    assert said(release) == {
        "00001_stats.json: says successes 6, but 00001.tar has 5",
        "sizes.json: says 7 samples in 00001.tar, which has 5",
        "sizes.json: names 00009.tar, which is no shard of the manifest",
    }


def test_a_sample_twice_is_found_although_all_else_was_made_to_fit(release: Path) -> None:
    with tarfile.open(release / "00000.tar") as tar:
        uid = tar.getnames()[0].split(".")[0]
        taken = [(i.name, tar.extractfile(i).read()) for i in tar if i.name.startswith(uid)]  # type: ignore[union-attr]
    rewrite(release / "00002.tar", lambda members: members + taken)
    tables = [release / "samples.parquet" / f"0000{n}.parquet" for n in (0, 2)]
    row = pl.read_parquet(tables[0]).head(1).with_columns(shard=pl.lit("00002.tar"))
    pl.concat([pl.read_parquet(tables[1]), row]).write_parquet(tables[1])
    seal(release, "samples.parquet/00002.parquet")
    restat(release, "00002", 6)
    edit(release / "manifest.json", lambda m: m | {"samples": 16, "input_samples": 34})
    assert said(release) == {f"manifest.json: 1 samples share a uid with another one: {uid} in 00000.tar and 00002.tar"}


def test_samples_in_another_order_than_their_table_are_found(release: Path) -> None:
    rewrite(release / "00001.tar", lambda members: members[3:6] + members[:3] + members[6:])
    restat(release, "00001", 5)
    (found,) = said(release)
    assert found.startswith("samples.parquet/00001.parquet: 2 rows differ from the order of 00001.tar: row 0 is ")


def test_members_that_no_release_has_are_named(release: Path) -> None:
    rewrite(release / "00001.tar", lambda members: [*members, ("../escape.jpg", b"x"), ("noextension", b"")])
    found = said(release)
    assert "00001.tar: the member name '../escape.jpg' leads to a parent folder" in found
    assert "00001.tar: the member 'noextension' belongs to no sample" in found
    assert "00001.tar: 1 samples are not named by a uid: ../escape" in found


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "samples.parquet/../../x", "00000.tar/x"])
def test_a_manifest_cannot_make_it_read_elsewhere(release: Path, name: str) -> None:
    entry = {"bytes": 1, "sha256": "0" * 64}
    (release.parent / "secret").write_text("x")
    edit(release / "manifest.json", lambda m: m | {"files": m["files"] | {name: entry}})
    assert said(release) == {f"manifest.json: lists {name!r}, which is no file of a release"}


def test_a_damaged_table_is_found_by_its_checksum(release: Path) -> None:
    path = release / "dropped.parquet" / "00001.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    found = said(release)
    assert any(text.startswith("dropped.parquet/00001.parquet: its sha256 is") for text in found)


def test_all_violations_are_reported_at_once(release: Path) -> None:
    (release / "00000_stats.json").unlink()
    (release / "notes.txt").write_text("x")
    edit(release / "manifest.json", lambda manifest: manifest | {"samples": 1})
    assert len(said(release)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "has no manifest.json"), ("{", "is damaged"), ('{"schema_version": 2}', "schema version 2")],
)
def test_a_folder_that_is_no_release_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StorageError, match=message):
        check(tmp_path)
