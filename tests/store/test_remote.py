"""Against a real S3 server that can be killed, and a real http server."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import s3_server
from http_server import site
from hypothesis import given, settings
from hypothesis import strategies as st
from s3_server import S3Server

from curate.errors import InputError, StorageError
from curate.store import remote, retry, urls
from curate.store.workspace import Workspace

BIG = np.random.default_rng(0).integers(0, 256, 40 << 20, dtype=np.uint8).tobytes()
"""40 MiB: more than one part of an upload, more than two blocks of a download."""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server.serving(tmp_path_factory.mktemp("s3"), verbose=True) as server, s3_server.known(server.env):
        Workspace(server.url("data")).put("big", BIG)
        yield server


def later(seconds: float, action: object) -> threading.Timer:
    timer = threading.Timer(seconds, action)  # type: ignore[arg-type]
    timer.start()
    return timer


# --- reading and writing ----------------------------------------------------------------------------------------------


def test_a_large_file_goes_in_parts_and_comes_in_ranges(s3: S3Server) -> None:
    before = s3.requests()
    place = Workspace(s3.url("data"))
    with place.create("parts") as out:
        out.write(BIG)
    sent = s3.requests() - before
    assert (sent["initiate multipart"], sent["put multipart"], sent["complete multipart"]) == (1, 3, 1)
    assert sent["CREATE OBJECT"] == 0
    assert (s3.bucket / "data" / "parts").read_bytes() == BIG
    assert place.read("parts") == BIG
    assert place.read_range("parts", 5, 5 + (35 << 20)) == BIG[5 : 5 + (35 << 20)]
    with place.open("parts") as handle:
        assert handle.read() == BIG


def test_small_things_take_one_request(s3: S3Server) -> None:
    place = Workspace(s3.url("few"))

    def asked(action: object) -> int:
        before = s3.requests()
        action()  # type: ignore[operator]
        return (s3.requests() - before).total()

    assert asked(lambda: place.put("x", b"12345")) == 1
    assert asked(lambda: place.read("x")) == 1
    assert asked(lambda: place.read_range("x", 1, 3)) == 1
    assert asked(lambda: place.listing()) == 1
    assert asked(lambda: urls.open_read(s3.url("few/x")).read()) == 1


def test_nothing_of_an_upload_shows_before_its_end(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies in the middle of an upload in parts and stays away: the old file is still the file."""
    place = Workspace(s3.url("half"))
    place.put("file", b"old")
    monkeypatch.setenv(retry.VARIABLE, "0.5")

    def put_until_it_dies() -> None:
        while True:
            place.put("file", BIG)

    kill = later(0.05, s3.kill)
    with pytest.raises(StorageError, match="CURATE_RETRY_SECONDS"):
        put_until_it_dies()
    kill.join()
    s3.start()
    there = place.read("file")
    assert there in (b"old", BIG)
    assert place.listing() == {"file": len(there)}


def test_ends_and_empty_files(s3: S3Server) -> None:
    place = Workspace(s3.url("ends"))
    place.put("empty", b"")
    place.put("ten", b"0123456789")
    for read in (place.read, lambda name: place.read_range(name, 0, 5), lambda name: place.read_range(name, -5, None)):
        assert read("empty") == b""
    assert place.read_range("ten", 8, 20) == b"89"
    assert place.read_range("ten", 10, 20) == b""
    assert place.read_range("ten", 30, 40) == b""
    assert place.read_range("ten", -3, None) == b"789"
    assert place.read_range("ten", -30, None) == b"0123456789"
    with place.open("empty") as handle:
        assert handle.read() == b""


def test_a_file_as_long_as_a_request(s3: S3Server) -> None:
    place = Workspace(s3.url("edges"))
    for size in (remote.FIRST, remote.FIRST + remote.BLOCK, remote.PIECE, remote.PIECE + 1):
        place.put("file", BIG[:size])
        assert place.read("file") == BIG[:size]
        with urls.open_read(s3.url("edges/file")) as handle:
            assert handle.read() == BIG[:size]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([io.SEEK_SET, io.SEEK_CUR, io.SEEK_END]),
            st.integers(0, len(BIG) - 1),
            st.one_of(st.integers(0, 3000), st.integers(0, 12 << 20)),
        ),
        max_size=6,
    )
)
def test_reading_by_ranges_is_reading(s3: S3Server, moves: list[tuple[int, int, int]]) -> None:
    """Any seeks and reads give what the same give over the bytes in memory."""
    truth = io.BytesIO(BIG)
    with urls.open_read(s3.url("data/big")) as handle:
        for whence, offset, length in moves:
            at = {io.SEEK_SET: offset, io.SEEK_CUR: offset - truth.tell(), io.SEEK_END: offset - len(BIG)}[whence]
            assert handle.seek(at, whence) == truth.seek(at, whence)
            assert handle.read(length) == truth.read(length)
            assert handle.tell() == truth.tell()


# --- listing and removing ---------------------------------------------------------------------------------------------


def test_more_names_than_one_answer_holds(s3: S3Server) -> None:
    folder = s3.bucket / "many" / "inner"
    folder.mkdir(parents=True)
    for i in range(1203):
        (folder / f"{i:04d}").write_bytes(b"x" * (i % 3))
    s3.kill()
    s3.start()  # it remembers listings
    place = Workspace(s3.url("many"))
    assert place.listing("inner") == {f"{i:04d}": i % 3 for i in range(1203)}
    assert place.folders() == ["inner"]
    place.remove("inner")
    assert place.listing("inner") == {}
    assert place.folders() == []
    assert not [path for path in folder.rglob("*") if path.is_file()]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_it_waits_for_a_server_that_comes_back(s3: S3Server) -> None:
    place = Workspace(s3.url("back"))
    place.put("x", b"1")
    s3.kill()
    comes = later(1.0, s3.start)
    began = time.monotonic()
    assert place.read("x") == b"1"
    assert time.monotonic() - began >= 1.0
    comes.join()
    for call in (lambda: place.put("y", b"2"), lambda: place.listing(), lambda: place.remove("y")):
        s3.kill()
        comes = later(0.3, s3.start)
        call()  # type: ignore[no-untyped-call]
        comes.join()
    assert place.listing() == {"x": 1}


def test_a_read_goes_on_where_the_server_died(s3: S3Server) -> None:
    with urls.open_read(s3.url("data/big")) as handle:
        head = handle.read(1000)
        s3.kill()
        comes = later(1.0, s3.start)
        assert head + handle.read() == BIG
        comes.join()


def test_a_server_that_stays_away_is_a_sentence(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retry.VARIABLE, "0.5")
    s3.kill()
    try:
        with pytest.raises(StorageError) as storage:
            Workspace(s3.url("gone")).read("x")
        with pytest.raises(InputError) as given:
            urls.open_read(s3.url("gone/x.tar"))
    finally:
        s3.start()
    for text, where in ((str(storage.value), "s3://bucket/gone/x"), (str(given.value), "s3://bucket/gone/x.tar")):
        assert where in text
        assert "without success, last error: Could not connect to the endpoint URL" in text
        assert "check that the storage is up and its address right, then run the same command again" in text
        assert "CURATE_RETRY_SECONDS" in text
        assert s3_server.SECRET not in text


def test_what_is_not_there(s3: S3Server) -> None:
    began = time.monotonic()
    with pytest.raises(StorageError, match="no such file"):
        Workspace(s3.url("data")).read("none")
    with pytest.raises(InputError, match="there is no such file"):
        urls.open_read(s3.url("data/none.tar"))
    for url in ("s3://no-such-bucket/work", "s3://no-such-bucket"):
        with pytest.raises(StorageError, match="there is no such bucket; create it"):
            Workspace(url).check_writable()
    with pytest.raises(InputError, match="no such bucket"):
        urls.open_read("s3://no-such-bucket/x.tar")
    assert Workspace(s3.url("data/none")).listing() == {}
    assert time.monotonic() - began < 30  # nothing of this is tried again


@pytest.mark.parametrize(
    ("key", "secret"), [("nobody", s3_server.SECRET), (s3_server.KEY, "wrong-secret-5d1"), (None, None)]
)
def test_wrong_credentials_are_a_sentence_without_them(s3: S3Server, key: str | None, secret: str | None) -> None:
    env = s3_server.environment(s3.endpoint, key or "", secret or "")
    with s3_server.known(env):
        if key is None:
            del os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
        began = time.monotonic()
        with pytest.raises(StorageError, match="permission denied") as storage:
            Workspace(s3.url("work")).check_writable()
        with pytest.raises(InputError, match="permission denied") as given:
            urls.open_read(s3.url("data/big"))
        assert time.monotonic() - began < 30
    for text in (str(storage.value), str(given.value)):
        assert "credentials" in text
        assert s3_server.SECRET not in text
        assert "wrong-secret-5d1" not in text


@pytest.mark.slow
def test_a_server_that_hangs_is_left_after_a_while(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connected, but silent: 30 s a try."""
    monkeypatch.setenv(retry.VARIABLE, "0")
    s3.freeze()
    try:
        with pytest.raises(StorageError, match="timeout"):
            Workspace(s3.url("data")).read("x")
        wakes = later(2.0, s3.thaw)
        monkeypatch.setenv(retry.VARIABLE, "60")
        assert Workspace(s3.url("data")).read_range("big", 0, 10) == BIG[:10]
        wakes.join()
    finally:
        s3.thaw()


# --- http -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_http_with_and_without_ranges(tmp_path: Path, ranges: bool) -> None:
    (tmp_path / "x.tar").write_bytes(BIG[: 20 << 20])
    (tmp_path / "empty.tar").write_bytes(b"")
    with site(tmp_path, ranges=ranges) as web:
        with urls.open_read(f"{web.url}/x.tar") as handle:
            assert handle.seekable() == ranges
            assert handle.read(1000) == BIG[:1000]
            assert handle.read() == BIG[1000 : 20 << 20]
        with urls.open_read(f"{web.url}/empty.tar") as handle:
            assert handle.read() == b""
        if ranges:
            assert urls.read_range(f"{web.url}/x.tar", 100, 50) == BIG[100:150]
        else:
            with pytest.raises(InputError, match="ignores range requests; copy the shards"):
                urls.read_range(f"{web.url}/x.tar", 100, 50)
        with pytest.raises(InputError, match="no such file"):
            urls.open_read(f"{web.url}/none.tar").read()


@pytest.mark.parametrize("ranges", [True, False])
def test_http_that_breaks_goes_on(tmp_path: Path, ranges: bool) -> None:
    (tmp_path / "x.tar").write_bytes(BIG[: 12 << 20])
    with site(tmp_path, ranges=ranges) as web:
        web.break_after, web.breaks = 3 << 20, 3
        with urls.open_read(f"{web.url}/x.tar") as handle:
            assert handle.read() == BIG[: 12 << 20]
        assert web.breaks == 0
        web.busy = 2  # 503
        assert urls.size(f"{web.url}/x.tar") == 12 << 20


def test_other_protocols_resolve_or_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    fs, path = urls.resolve("hf://datasets/someone/things/data/0.tar")
    assert (type(fs._raw()).__name__, path) == ("HfFileSystem", "datasets/someone/things/data/0.tar")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "adlfs", None)
    with pytest.raises(InputError, match=r"pip install 'curate\[gcs\]'"):
        urls.resolve("gs://bucket/x.tar")
    with pytest.raises(InputError, match="pip install 'adlfs'"):
        urls.resolve("az://container/x.tar")
