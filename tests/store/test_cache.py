from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import s3_server
from s3_server import S3Server

from curate.store import cache
from curate.store.cache import cached
from curate.store.columns import PartMeta, read_meta, read_vectors, write_part
from curate.store.workspace import Workspace


class Source:
    """Files by name, with a count of how often each was fetched."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def get(self, name: str, workspace: str = "s3://bucket/run", nbytes: int = 1000) -> bytes:
        data = content(name, nbytes)

        def fetch() -> bytes:
            self.fetched.append(name)
            return data

        found = cached(workspace, name, nbytes, hashlib.sha256(data).hexdigest(), fetch)
        self.kept = isinstance(found, Path)
        try:
            return found.read_bytes() if isinstance(found, Path) else found
        except FileNotFoundError:  # another process made room; read_vectors then reads past the cache
            return data


def content(name: str, nbytes: int) -> bytes:
    return (name.encode() * nbytes)[:nbytes]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "cache"))
    monkeypatch.setenv(cache.LIMIT, "10000")
    monkeypatch.setattr(cache, "_checked", set())
    return Source()


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").glob("*/*"))


def test_the_second_time_nothing_is_fetched(source: Source, tmp_path: Path) -> None:
    for _ in range(3):
        assert source.get("a") == content("a", 1000)
        assert source.kept
    assert source.fetched == ["a"]
    source.get("a", workspace="s3://bucket/other")
    source.get("b")
    assert source.fetched == ["a", "a", "b"]
    assert len(files(tmp_path)) == 3
    assert (tmp_path / "cache").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 1000, b"x" * 1001])
def test_a_damaged_copy_is_fetched_again(
    source: Source, tmp_path: Path, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.get("a")
    files(tmp_path)[0].write_bytes(damage)
    monkeypatch.setattr(cache, "_checked", set())  # as in another process
    assert source.get("a") == content("a", 1000)
    assert source.fetched == ["a", "a"]
    assert files(tmp_path)[0].read_bytes() == content("a", 1000)


def test_what_arrives_damaged_is_not_kept(source: Source, tmp_path: Path) -> None:
    found = cached("s3://bucket/run", "a", 5, hashlib.sha256(b"right").hexdigest(), lambda: b"wrong")
    assert found == b"wrong"
    assert files(tmp_path) == []


def test_the_oldest_make_room(source: Source, tmp_path: Path) -> None:
    hour = time.time() - 2 * cache.IN_USE_S
    before: set[Path] = set()
    for number in range(10):
        source.get(f"{number}", workspace=f"s3://bucket/{number}")
        (made,) = set(files(tmp_path)) - before
        os.utime(made, (hour + number, hour + number))
        before.add(made)
    source.get("0", workspace="s3://bucket/0")  # the first is used again
    source.get("new", nbytes=2500)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 10_000
    source.fetched.clear()
    for number in (0, 4, 5, 6, 7, 8, 9):
        source.get(f"{number}", workspace=f"s3://bucket/{number}")
    assert source.fetched == []
    for number in (1, 2, 3):
        source.get(f"{number}", workspace=f"s3://bucket/{number}")
    assert source.fetched == ["1", "2", "3"]


def test_passes_over_more_than_fits_still_find_what_fits(source: Source) -> None:
    """Plain oldest-first would fetch all 15 files in every pass."""
    for _ in range(4):
        source.fetched.clear()
        for number in range(15):
            assert source.get(f"{number}") == content(f"{number}", 1000)
        assert len(source.fetched) in (15, 5)
    assert len(source.fetched) == 5


def test_no_cache_where_none_can_be(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source.get("large", nbytes=10_001)
    assert not source.kept
    monkeypatch.setenv(cache.LIMIT, "0")
    source.get("a")
    assert not source.kept
    monkeypatch.setenv(cache.LIMIT, "10000")
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv(cache.FOLDER, str(tmp_path / "file" / "below"))
    assert source.get("a") == content("a", 1000)
    assert not source.kept
    assert files(tmp_path) == []


def test_a_full_disk_is_no_error(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert source.get("a") == content("a", 1000)
    assert not source.kept
    assert files(tmp_path) == []


def test_a_default_place_of_somebody_else_is_not_used(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(cache.FOLDER)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    source.get("a")
    assert source.kept
    (own,) = tmp_path.glob("curate-cache-*")
    own.chmod(0o777)
    source.get("b")
    assert not source.kept
    own.chmod(0o700)
    own.rename(tmp_path / "elsewhere")
    own.symlink_to(tmp_path / "elsewhere")
    source.get("b")
    assert not source.kept


def test_what_a_killed_process_left_goes_away(source: Source, tmp_path: Path) -> None:
    source.get("a")
    folder = files(tmp_path)[0].parent
    for name, age in ((".new.tmp", 0), (".old.tmp", 7200)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    source.get("b")
    assert [path.name for path in files(tmp_path) if path.suffix == ".tmp"] == [".new.tmp"]


def _many(seed: int) -> int:
    rng, source = np.random.default_rng(seed), Source()
    for number in rng.integers(0, 30, 200).tolist():
        assert source.get(f"{number}", workspace=f"s3://bucket/{number % 7}") == content(f"{number}", 1000)
    return len(source.fetched)


def test_several_processes_at_once(source: Source, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        fetched = pool.map(_many, range(3))
    assert max(fetched) < 200
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 13_000  # each may have been about to add one
    assert not [path for path in files(tmp_path) if path.suffix == ".tmp"]


@pytest.fixture
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server.serving(tmp_path_factory.mktemp("s3"), verbose=True) as server, s3_server.known(server.env):
        yield server


def test_vectors_of_a_remote_workspace_are_read_once(source: Source, s3: S3Server, tmp_path: Path) -> None:
    place = Workspace(s3.url("run"))
    vectors = np.eye(16, dtype=np.float16)[:10]
    meta = PartMeta(step="embed", part=0, fingerprint="f" * 12, rows=10, alive=None)
    write_part(place, "embed@x", meta, pl.DataFrame({"vec_row": range(10)}), {"image": vectors})

    def read() -> np.ndarray:
        return read_vectors(place, "embed@x", 0, "f" * 12, "image")

    assert np.array_equal(read(), vectors)
    (kept,) = files(tmp_path)
    before = s3.requests()
    read_meta(place, "embed@x", 0, "f" * 12)
    footer = s3.requests() - before
    before = s3.requests()
    again = read()
    assert s3.requests() - before == footer
    assert isinstance(again, np.memmap)
    assert np.array_equal(again, vectors)
    kept.write_bytes(b"gone bad")
    assert np.array_equal(read(), vectors)
    assert kept.stat().st_size > 300


def test_files_of_this_process_are_not_copied(source: Source, tmp_path: Path) -> None:
    place = Workspace("memory://cache-test")
    meta = PartMeta(step="embed", part=0, fingerprint="f" * 12, rows=2, alive=None)
    write_part(place, "embed@x", meta, pl.DataFrame({"vec_row": [0, 1]}), {"image": np.eye(2, dtype=np.float16)})
    assert np.array_equal(read_vectors(place, "embed@x", 0, "f" * 12, "image"), np.eye(2))
    assert files(tmp_path) == []
