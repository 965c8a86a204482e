"""Every way to damage the label maps of a release is found and named, also when its checksums were made to fit."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from labelled_run import labelled_run

from curate.formats.label_maps import MEMBER, member_bytes
from curate.pipeline.verify import verify_release
from curate.store.workspace import Workspace

ARRAY = "label_maps/00001.npy"


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A copy of a release that may be broken."""
    return Path(shutil.copytree(labelled_run().release, tmp_path / "release"))


def said(release: Path) -> set[str]:
    return {str(violation) for violation in verify_release(Workspace(str(release)), workers=2).violations}


def seal(release: Path, *names: str) -> None:
    """Enter the present bytes of files in the manifest, as someone would who hides a change; gone ones leave it."""
    path = release / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in names:
        del manifest["files"][name]
        if (release / name).exists():
            data = (release / name).read_bytes()
            manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def rewrite(release: Path, edit: Callable[[int, bytes], bytes | None]) -> None:
    """Write the tar of shard 1 again with its n-th label map as `edit` says (None: without), and seal it."""
    path = release / "00001.tar"
    with tarfile.open(path) as tar:
        members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    number = 0
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            wanted: bytes | None = data
            if name.endswith(MEMBER):
                wanted = edit(number, data)
                number += 1
            if wanted is not None:
                info = tarfile.TarInfo(name)
                info.size = len(wanted)
                tar.addfile(info, io.BytesIO(wanted))
    data = path.read_bytes()
    stats = json.loads((release / "00001_stats.json").read_text())
    stats |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (release / "00001_stats.json").write_text(json.dumps(stats))
    seal(release, "00001.tar", "00001_stats.json")


def uid(release: Path, row: int) -> str:
    with tarfile.open(release / "00001.tar") as tar:
        return list(dict.fromkeys(name.partition(".")[0] for name in tar.getnames()))[row]


def test_a_release_with_maps_and_labels_passes(release: Path) -> None:
    assert said(release) == set()


def test_a_changed_byte_and_a_lost_array_are_found_by_the_checksums(release: Path) -> None:
    data = bytearray((release / ARRAY).read_bytes())
    data[-1] ^= 1
    (release / ARRAY).write_bytes(data)
    assert any(one.startswith(f"{ARRAY}: its sha256 is") for one in said(release))
    (release / ARRAY).unlink()
    assert any(ARRAY in one for one in said(release))


def test_an_array_that_is_not_that_of_the_members(release: Path) -> None:
    records = np.load(release / ARRAY)
    records[[0, 2]] = records[[2, 0]]
    np.save(release / ARRAY, records)
    seal(release, ARRAY)
    names = ", ".join(uid(release, row) for row in (0, 2))
    assert said(release) == {f"00001.tar: 2 label maps are not those of {ARRAY}: {names}"}


def test_an_array_of_too_few_rows(release: Path) -> None:
    np.save(release / ARRAY, np.load(release / ARRAY)[:3])
    seal(release, ARRAY)
    assert said(release) == {f"{ARRAY}: has 3 maps, but 00001.tar has 4 samples"}


def test_maps_that_cannot_be_are_named_by_their_rows(release: Path) -> None:
    records = np.load(release / ARRAY)
    records["classes"][1, 0] = 12
    records["scores"][3, 0, 2, 2] = np.inf
    np.save(release / ARRAY, records)
    seal(release, ARRAY)
    rewrite(release, lambda number, data: member_bytes(records[number]))
    names = ", ".join(uid(release, row) for row in (1, 3))
    assert said(release) == {
        f"{ARRAY}: 1 maps have a class beyond the 12: rows 1",
        f"{ARRAY}: 1 maps have a score that is not finite: rows 3",
        f"00001.tar: 2 members {MEMBER} hold no such map as label_maps.json says: {names}",
    }


def test_arrays_of_something_else(release: Path) -> None:
    np.save(release / ARRAY, np.zeros(4))
    seal(release, ARRAY)
    assert said(release) == {f"{ARRAY}: is no array of label maps; wanted records of scores, classes and lse."}
    (release / ARRAY).write_bytes(b"\x93NUMPY")
    seal(release, ARRAY)
    (only,) = said(release)
    assert only.startswith(f"{ARRAY}: is no array of label maps: ")


def test_members_that_are_damaged_or_missing(release: Path) -> None:
    rewrite(release, lambda number, data: {0: data[:-8], 1: data}.get(number, None if number == 2 else data))
    assert said(release) == {
        f"00001.tar: 1 members {MEMBER} hold no such map as label_maps.json says: {uid(release, 0)}",
        f"00001.tar: 3 of 4 samples have a member {MEMBER}",
    }


def test_a_wrong_or_lost_label_maps_json(release: Path) -> None:
    told = json.loads((release / "label_maps.json").read_text())
    (release / "label_maps.json").write_text(json.dumps(told | {"k": 4}))
    seal(release, "label_maps.json")
    found = said(release)
    assert f"{ARRAY}: holds 3 classes in 5 x 5 cells, scores float16, classes uint16, lse float32; " in " ".join(found)
    assert sum(one.startswith("label_maps/") for one in found) == 3
    (release / "label_maps.json").write_text("{}")
    seal(release, "label_maps.json")
    assert any(one.startswith("label_maps.json: cannot be understood") for one in said(release))
    (release / "label_maps.json").unlink()
    seal(release, "label_maps.json")
    assert said(release) == {"manifest.json: lists arrays of label maps, but not label_maps.json"}


def test_a_shard_without_its_array_while_others_have_one(release: Path) -> None:
    (release / ARRAY).unlink()
    seal(release, ARRAY)
    assert said(release) == {f"manifest.json: does not list {ARRAY}"}


def test_members_of_that_name_in_a_release_without_maps_are_nobodys(release: Path) -> None:
    for name in ("label_maps.json", *(f"label_maps/{n:05d}.npy" for n in range(3))):
        (release / name).unlink()
        seal(release, name)
    rewrite(release, lambda number, data: b"anything" if number else data)
    assert said(release) == set()
