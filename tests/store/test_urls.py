from __future__ import annotations

import hashlib
import importlib
import itertools
import os
import sys
from pathlib import Path

import braceexpand
import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.errors import InputError
from curate.store import urls


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("pipe:cat /etc/passwd", "run commands"),
        ("PIPE:x", "run commands"),
        ("ftp://h/x.tar", "'ftp'"),
        ("zip://a::s3://b/c.zip", "chained"),
        ("simplecache::s3://b/c", "chained"),
        ("exec:ls", "'exec'"),
        ("s3:bucket/x", "not supported"),
        ("https://me:hunter2@host/x.tar", "environment"),
        ("s3://id:hunter2@b/x", "environment"),
        ("s3://id:hunter2@b?x", "environment"),
    ],
)
def test_refused(url: str, word: str) -> None:
    with pytest.raises(InputError, match=word) as caught:
        urls.resolve(url)
    assert "hunter2" not in str(caught.value)


def test_local_paths_in_every_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("a/b.tar", "./a/b.tar", f"{tmp_path}/a/b.tar", f"file://{tmp_path}/a/b.tar"):
        fs, path = urls.resolve(url)
        assert urls.is_local(fs)
        assert Path(path) == tmp_path / "a" / "b.tar"
    assert urls.resolve("./a:b@c.tar")[1] == str(tmp_path / "a:b@c.tar")
    assert urls.resolve("file:///a/user@host/b")[1] == "/a/user@host/b"
    assert urls.resolve("memory://a/b@c.tar")[1] == "/a/b@c.tar"


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    known = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(known, "s3", raising=False)  # it may have been used before
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(InputError, match=r"pip install 'curate\[s3\]'"):
        urls.resolve("s3://bucket/x.tar")


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("a", "b", "c"), "a/b/c"),
        (("/", "a"), "/a"),
        (("/a/", "/b/"), "/a/b"),
        (("memory://", "a"), "memory://a"),
        (("s3://b/", "c/d"), "s3://b/c/d"),
        (("s3://b",), "s3://b"),
        (("a", "", "b"), "a/b"),
        (("", "a"), "a"),
    ],
)
def test_join(parts: tuple[str, ...], expected: str) -> None:
    assert urls.join(*parts) == expected


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_reading(kind: str, tmp_path: Path) -> None:
    data = os.urandom(5000)
    url = str(tmp_path / "f") if kind == "local" else "memory://urls/f"
    fs, path = urls.resolve(url)
    fs.pipe_file(path, data)
    assert urls.size(url) == 5000
    with urls.open_read(url) as handle:
        assert handle.read() == data
    assert urls.read_range(url, 100, 50) == data[100:150]
    assert urls.read_range(url, 4990, 50) == data[4990:]
    before = urls.etag(url)
    assert before == urls.etag(url)
    if kind == "memory":
        assert before == hashlib.sha256(data).hexdigest()
    else:
        stat = (tmp_path / "f").stat()
        assert before == f"5000-{stat.st_mtime_ns}"
        os.utime(path, ns=(0, stat.st_mtime_ns + 1))
        assert urls.etag(url) != before
    fs.rm(path)
    for read in (urls.size, urls.etag, urls.open_read, lambda u: urls.read_range(u, 0, 1)):
        with pytest.raises(InputError, match="no such file"):
            read(url)


def test_etags_of_object_stores() -> None:
    fs = fsspec.filesystem("http")
    assert urls.etag_of(fs, {"name": "x", "size": 3, "ETag": '"abc"'}) == "abc"
    assert urls.etag_of(fs, {"name": "x", "size": 3, "md5Hash": "q=="}) == "q=="
    assert urls.etag_of(fs, {"name": "x", "size": 3, "LastModified": "2020"}) == "3-2020"
    assert urls.etag_of(fs, {"name": "x", "size": 3}) == "3"


piece = st.one_of(
    st.text("ab/.-", max_size=3),
    st.sampled_from(
        [
            "{00..03}",
            "{1..10..4}",
            "{3..0}",
            "{a..d}",
            "{007..9}",
            "{x,y}",
            "{,z}",
            "{a}",
            "{a,{0..2}}",
            "{{a,b},c}",
            "{-1..1}",
        ]
    ),
)


@given(st.lists(piece, max_size=4).map("".join))
def test_braces_agree_with_braceexpand(pattern: str) -> None:
    assert urls.expand_braces(pattern) == list(braceexpand.braceexpand(pattern))


def test_braces_of_a_shard_range() -> None:
    names = urls.expand_braces("s3://b/{00000..00123}.tar")
    assert names == [f"s3://b/{i:05d}.tar" for i in range(124)]
    both = urls.expand_braces("{a,b}/{8..11}.tar")
    assert both == [f"{d}/{i}.tar" for d, i in itertools.product("ab", range(8, 12))]


@pytest.mark.parametrize(
    ("pattern", "word"),
    [
        ("{0..99999999}.tar", "more than"),
        ("{0..5.tar", "never closed"),
        ("{a..5}", "not a range"),
        ("{0..9999}{0..9999}", "more than"),
    ],
)
def test_bad_braces(pattern: str, word: str) -> None:
    with pytest.raises(InputError, match=word):
        urls.expand_braces(pattern)
