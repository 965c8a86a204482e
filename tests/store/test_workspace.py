from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3_server
from s3_server import S3Server

from curate.errors import StorageError
from curate.store.workspace import Workspace


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server.serving(tmp_path_factory.mktemp("s3")) as server, s3_server.known(server.env):
        yield server


@pytest.fixture(params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Workspace]:
    if request.param == "local":
        yield Workspace(str(tmp_path / "deep" / "work"))
    elif request.param == "s3":
        yield Workspace(request.getfixturevalue("s3").url(f"test-{uuid.uuid4().hex}/work"))
    else:
        workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
        yield workspace
        workspace.remove("")


def test_round_trip_in_both_kinds_of_place(place: Workspace) -> None:
    place.put("a/b.bin", b"one")
    place.put("a/b.bin", memoryview(b"two!"))
    with place.create("a/c.bin") as out:
        out.write(b"th")
        out.write(b"ree")
    assert place.read("a/b.bin") == b"two!"
    with place.open("a/c.bin") as handle:
        handle.seek(2)
        assert handle.read() == b"ree"
    assert place.listing("a") == {"b.bin": 4, "c.bin": 5}
    assert place.listing("a/nothing") == {}
    assert place.folders() == ["a"]
    assert place.folders("none") == []
    assert place.exists("a/b.bin")
    assert not place.exists("a/x.bin")
    assert place.sub("a").listing() == place.listing("a")
    place.remove("a/b.bin")
    place.remove("a/b.bin")
    assert place.listing("a") == {"c.bin": 5}
    place.remove("a")
    assert place.folders() == []


def test_nothing_shows_until_the_block_ends(place: Workspace) -> None:
    with place.create("big.tar") as out:
        out.write(b"x" * 100_000)
        out.flush()
        assert place.listing() == {}
        assert not place.exists("big.tar")
    assert place.listing() == {"big.tar": 100_000}


def test_nothing_stays_after_an_error(place: Workspace) -> None:
    place.put("kept.tar", b"old")

    def fail() -> None:
        with place.create("kept.tar") as out:
            out.write(b"new and half")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail()
    assert place.read("kept.tar") == b"old"
    if place.is_local:
        assert os.listdir(place.path()) == ["kept.tar"]


def test_listing_ignores_hidden_files_and_folders(place: Workspace) -> None:
    place.put("seen", b"1")
    place.put(".part.1234.tmp", b"half")
    place.put("sub/inner", b"2")
    assert place.listing() == {"seen": 1}


def test_missing_file_is_a_sentence_that_names_it(place: Workspace) -> None:
    with pytest.raises(StorageError, match=r"gone\.parquet: no such file"):
        place.read("gone.parquet")
    with pytest.raises(StorageError, match=r"gone\.parquet: no such file"), place.open("gone.parquet"):
        pass


def test_it_survives_pickling(place: Workspace) -> None:
    place.put("x", b"1")
    again = pickle.loads(pickle.dumps(place))
    assert again == place
    assert again.read("x") == b"1"


def test_where_is_a_url_and_path_is_for_the_file_system(tmp_path: Path) -> None:
    local, memory = Workspace(f"{tmp_path}/w/"), Workspace("memory://bucket/run")
    assert local.where("a/b") == f"{tmp_path}/w/a/b"
    assert local.path("a/b") == f"{tmp_path}/w/a/b"
    assert memory.where("a/b") == "memory://bucket/run/a/b"
    assert memory.sub("a").where("b") == "memory://bucket/run/a/b"
    assert local.is_local
    assert not memory.is_local


def test_check_writable_leaves_nothing(place: Workspace) -> None:
    place.check_writable()
    assert place.listing() == {}
    if place.is_local:
        assert os.listdir(place.path()) == []


def test_a_file_where_a_folder_should_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="writing"):
        Workspace(str(tmp_path / "file")).check_writable()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="permission denied"):
            Workspace(str(tmp_path / "w")).check_writable()
    finally:
        tmp_path.chmod(0o700)


def test_a_file_that_cannot_grow_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    """A limit on file size stops the write half way, as a quota does (EFBIG)."""
    workspace = Workspace(str(tmp_path))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(StorageError, match=r"writing .*part\.parquet"):
            workspace.put("part.parquet", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_says_no_space_and_leaves_nothing(tmp_path: Path) -> None:
    """A real full disk: a tmpfs of 256 KiB in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"""
import os
from curate.errors import StorageError
from curate.store.workspace import Workspace
workspace = Workspace({str(disk)!r})
workspace.put("small", b"x")
for write in ("put", "create"):
    try:
        if write == "put":
            workspace.put("big", bytes(1 << 20))
        else:
            with workspace.create("big") as out:
                for _ in range(64):
                    out.write(bytes(1 << 14))
    except StorageError as error:
        print(error)
print(os.listdir({str(disk)!r}))
"""
    mount = f"mount -t tmpfs -o size=256k none {disk} && exec {sys.executable} -"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", mount],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    first, second, left = done.stdout.splitlines()
    assert "no space left on the device" in first
    assert first == second
    assert "run the same command again" in first
    assert left == "['small']", done.stderr


def test_sweep_removes_what_killed_writers_left_and_nothing_else(tmp_path: Path) -> None:
    place = Workspace(str(tmp_path))
    place.put("release/00000.tar", b"whole")
    left = [".00001.tar.0a1b2c3d.tmp", "deep/.part.parquet.ffffffff.tmp"]
    kept = [".hidden.tmp", "mine.0a1b2c3d.tmp", ".gitignore", "deep/.a.0a1b2c3d.tmp.txt"]
    for name in left + kept:
        path = tmp_path / "release" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    place.sweep("elsewhere")
    place.sweep("release")
    found = {
        str(path.relative_to(tmp_path / "release")) for path in (tmp_path / "release").rglob("*") if path.is_file()
    }
    assert found == {"00000.tar", *kept}
    Workspace("memory://sweep").sweep()
