"""Headers of tar members against those of Python's tarfile, and the files of a release as they are written."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.stages.release_files import TarOut, lost, put_json, put_table, tar_header
from curate.store.workspace import Workspace


@given(name=st.text(min_size=1, max_size=120), size=st.integers(0, 2**40))
def test_headers_are_those_of_tarfile(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o444, 0
    assert tar_header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 8**11 - 1, 8**11])
@pytest.mark.parametrize("name", ["a", "a" * 100, "a" * 101, "0d5a.jpg", "\u00e9.txt"])
def test_headers_at_the_edges(name: str, size: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o444, 0
    assert tar_header(name, size) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def test_a_tar_is_read_by_tarfile_and_its_digest_is_that_of_its_bytes() -> None:
    out, given = io.BytesIO(), {"a.jpg": b"x" * 700, "a.cls": b"3", "b.jpg": b"", f"{'c' * 150}.txt": b"long"}
    tar = TarOut(out)
    for name, data in given.items():
        tar.add(name, data)
    tar.close()
    raw = out.getvalue()
    assert (tar.nbytes, tar.digest.hexdigest()) == (len(raw), hashlib.sha256(raw).hexdigest())
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        assert {member.name: archive.extractfile(member).read() for member in archive} == given  # type: ignore[union-attr]


def test_what_is_gone_or_has_another_size_is_found(tmp_path: Path) -> None:
    target = Workspace(str(tmp_path))
    files = put_json(target, "a.json", {"n": 1}) | put_table(target, "t/0.parquet", pl.DataFrame({"n": [1]}))
    assert lost(target, files) is None
    for name, (nbytes, digest) in files.items():
        data = (tmp_path / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (nbytes, digest)
    (tmp_path / "a.json").write_bytes(b"{")
    assert lost(target, files) == "a.json"
    (tmp_path / "a.json").write_bytes(b'{\n "n": 1\n}\n')
    (tmp_path / "t" / "0.parquet").unlink()
    assert lost(target, files) == "t/0.parquet"
