"""Manifests are read back as written; what cannot be understood is a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curate.errors import StorageError
from curate.store.manifest import Manifest, ReleaseFile, read_manifest
from curate.store.workspace import Workspace

MANIFEST = Manifest(
    name="x",
    metadata_license=None,
    input_samples=3,
    samples=1,
    dropped_samples=2,
    dropped={"filter": {"false": 2}},
    shards=1,
    files={"00000.tar": ReleaseFile(bytes=1, sha256="0" * 64)},
)


def test_round_trip(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(MANIFEST.model_dump_json())
    assert read_manifest(Workspace(str(tmp_path))) == MANIFEST


def test_a_folder_without_one_is_no_release(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no manifest\.json"):
        read_manifest(Workspace(str(tmp_path)))


@pytest.mark.parametrize("text", ["", "[]", '"x"', "{", json.dumps({"schema_version": 1, "name": "x"})])
def test_damage_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StorageError, match="damaged"):
        read_manifest(Workspace(str(tmp_path)))


def test_a_newer_version_is_told(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({**MANIFEST.model_dump(), "schema_version": 2}))
    with pytest.raises(StorageError, match="schema version 2, this curate reads 1"):
        read_manifest(Workspace(str(tmp_path)))
