from __future__ import annotations

import gzip
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.formats.tar import Member, TarScan, check_name, printable, split_name


class Dribble(io.RawIOBase):
    """A forward-only stream that returns at most ``step`` bytes a read and cannot seek."""

    def __init__(self, data: bytes, step: int) -> None:
        self._inner, self._step = io.BytesIO(data), step

    def read(self, size: int = -1, /) -> bytes:
        return self._inner.read(min(size, self._step))


def scan(data: bytes, **options: object) -> tuple[list[Member], TarScan]:
    scanner = TarScan(io.BytesIO(data), **options)  # type: ignore[arg-type]
    return list(scanner), scanner


def truth(data: bytes) -> list[tuple[bytes, int, int, bytes]]:
    out = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        for info in tar:
            if info.isreg() and not info.issparse():
                body = tar.extractfile(info)
                assert body is not None
                out.append((info.name.encode("utf-8", "surrogateescape"), info.offset_data, info.size, body.read()))
    return out


KINDS = [
    tarfile.REGTYPE,
    tarfile.AREGTYPE,
    tarfile.CONTTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
]
entry = st.tuples(
    st.one_of(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=30),
        st.text("ab/é", min_size=90, max_size=300),
        st.binary(min_size=1, max_size=20)
        .filter(lambda b: b"\0" not in b)
        .map(lambda b: b.decode("utf-8", "surrogateescape")),
    ).filter(lambda n: n.strip("/") != ""),
    st.sampled_from(KINDS + [tarfile.REGTYPE] * 8),
    st.binary(max_size=1100),
)


def build(entries: list[tuple[str, bytes, bytes]], fmt: int, global_headers: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=fmt, encoding="utf-8", errors="surrogateescape", pax_headers=global_headers
    ) as tar:
        for name, kind, data in entries:
            if kind == tarfile.AREGTYPE and "/" in name:  # with a slash at the end of its name it is a directory
                kind = tarfile.REGTYPE
            info = tarfile.TarInfo(name)
            info.type, info.mtime = kind, 1234
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = "target" * (30 if fmt != tarfile.USTAR_FORMAT else 2)
            regular = kind in tarfile.REGULAR_TYPES
            info.size = len(data) if regular else 0
            try:
                tar.addfile(info, io.BytesIO(data) if regular else None)
            except ValueError:  # ustar cannot hold every name
                continue
    return out.getvalue()


@settings(max_examples=300, deadline=None)
@given(
    st.lists(entry, max_size=6),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.sampled_from([1, 100, 512, 1 << 20]),
)
def test_agrees_with_tarfile(entries: list[tuple[str, bytes, bytes]], fmt: int, step: int) -> None:
    data = build(entries, fmt, {"comment": "global"} if fmt == tarfile.PAX_FORMAT and entries else None)
    scanner = TarScan(Dribble(data, step))
    assert [tuple(m) for m in scanner] == truth(data)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        written = tar.getmembers()
    assert sum(scanner.skipped.values()) == sum(not info.isreg() for info in written)
    assert scanner.end.reason == ("end" if written else "empty")


def test_pax_and_base256_sizes() -> None:
    for pax in (True, False):
        info = tarfile.TarInfo("big.bin")
        info.size = 700
        if pax:
            info.pax_headers = {"size": "700", "path": "renamed.bin"}
            raw = bytearray(info.tobuf(tarfile.PAX_FORMAT))
        else:
            raw = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
        head = raw[-512:]  # the header itself says 0 when the PAX record says 700
        head[124:136] = b"00000000000\0" if pax else b"\x80" + (700).to_bytes(11, "big")
        head[148:156] = b" " * 8
        head[148:156] = b"%06o\0 " % sum(head)
        raw[-512:] = head
        data = bytes(raw) + b"x" * 700 + bytes(-700 % 512) + bytes(1024)
        members, scanner = scan(data)
        assert [tuple(m) for m in members] == truth(data)
        assert (members[0].raw_name, members[0].nbytes) == (b"renamed.bin" if pax else b"big.bin", 700)
        assert scanner.end.clean


def test_signed_checksums_and_version_7_directories() -> None:
    info = tarfile.TarInfo("é" * 20)
    info.size = 3
    raw = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(b - 256 * (b > 127) for b in raw)
    old = bytearray(tarfile.TarInfo("old/").tobuf(tarfile.USTAR_FORMAT))
    old[156:157] = b"\0"
    old[148:156] = b" " * 8
    old[148:156] = b"%06o\0 " % sum(old)
    data = bytes(old) + bytes(raw) + b"abc" + bytes(509) + bytes(1024)
    members, scanner = scan(data)
    assert [tuple(m) for m in members] == truth(data)
    assert scanner.skipped == {"directory": 1}


def test_sparse_members_are_skipped_and_counted() -> None:
    info = tarfile.TarInfo("sparse.bin")
    info.size, info.pax_headers = 512, {"GNU.sparse.map": "0,512", "GNU.sparse.size": "4096", "GNU.sparse.name": "s"}
    plain = tarfile.TarInfo("plain.bin")
    data = info.tobuf(tarfile.PAX_FORMAT) + bytes([1]) * 512 + plain.tobuf() + bytes(1024)
    members, scanner = scan(data)
    assert [m.raw_name for m in members] == [b"plain.bin"]
    assert scanner.skipped == {"sparse member": 1}


SMALL = build([("a.jpg", tarfile.REGTYPE, b"A" * 700), ("b.jpg", tarfile.REGTYPE, b"B" * 512)], tarfile.USTAR_FORMAT)


def test_every_cut_yields_the_readable_prefix_and_says_so() -> None:
    whole = truth(SMALL)
    for cut in range(3600):
        members, scanner = scan(SMALL[:cut])
        assert [tuple(m) for m in members] == [m for m in whole if m[1] + m[2] <= cut], cut
        if cut == 0:
            assert scanner.end.reason == "empty"
        elif cut < 512:
            assert scanner.end.reason == "not_a_tar"
        elif cut < 512 + 1024 + 512 + 512 and cut != 512 + 1024:
            assert scanner.end.reason == "cut", cut
            assert scanner.end.offset <= cut
        elif cut < 512 + 1024 + 512 + 512 + 512:
            assert scanner.end.reason == "no_end_mark", cut
        else:
            assert scanner.end.clean, cut


def test_cut_names_the_member() -> None:
    _, scanner = scan(SMALL[: 1536 + 512 + 10])
    assert (scanner.end.raw_name, scanner.end.offset) == (b"b.jpg", 2058)
    assert "10 of 512 bytes" in scanner.end.detail


@pytest.mark.parametrize(
    ("data", "reason", "words"),
    [
        (b"", "empty", "0 bytes"),
        (bytes(10240), "empty", "no members"),
        (b"<!DOCTYPE html><html>" + b" " * 600, "not_a_tar", "HTML"),
        (b"\x89PNG" + bytes(range(256)) * 4, "not_a_tar", "checksum"),
        (b"PK\x03\x04" + b"z" * 600, "not_a_tar", "zip"),
        (gzip.compress(SMALL), "compressed", "gzip"),
        (SMALL[:1536] + b"\xff" * 512 + SMALL[1536:], "garbage", "byte 1536"),
        (SMALL + SMALL, "trailing_data", "concatenated"),
    ],
)
def test_how_it_ended(data: bytes, reason: str, words: str) -> None:
    _, scanner = scan(data)
    assert scanner.end.reason == reason
    assert words in scanner.end.detail


def test_large_and_unwanted_members_are_not_loaded() -> None:
    reads: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            reads.append(size or 0)
            return super().read(size)

    data = build([("big", tarfile.REGTYPE, b"x" * (5 << 20)), ("b", tarfile.REGTYPE, b"y" * 9)], tarfile.USTAR_FORMAT)
    members = list(TarScan(Watched(data), max_member_bytes=1 << 20))
    assert [(m.raw_name, m.nbytes, m.data) for m in members] == [(b"big", 5 << 20, None), (b"b", 9, b"y" * 9)]
    assert max(reads) <= 1 << 20
    assert [m.data for m in TarScan(io.BytesIO(data), wanted=lambda n: n == b"big")] == [b"x" * (5 << 20), None]


def test_absurd_extension_headers_are_not_read() -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    _, scanner = scan(info.tobuf(tarfile.GNU_FORMAT))
    assert scanner.end.reason == "garbage"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_ends_the_scan_without_an_exception(data: st.DataObject) -> None:
    raw = bytearray(build([("k" * 150, tarfile.REGTYPE, b"A" * 700), ("b", tarfile.REGTYPE, b"B")], tarfile.PAX_FORMAT))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, 4000))] = data.draw(st.integers(0, 255))
    for at in range(0, 2048, 512):  # make damaged headers pass the checksum, so that what is behind it is reached
        if data.draw(st.booleans()):
            raw[at + 148 : at + 156] = b" " * 8
            raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    for member in TarScan(io.BytesIO(bytes(raw)), max_member_bytes=1 << 20):
        assert member.data is None or raw[member.offset : member.offset + member.nbytes] == member.data


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a.jpg", (b"a", "jpg")),
        (b"d.e/a.b.JPG", (b"d.e/a", "b.jpg")),
        (b"a.", (b"a", "")),
        (b"a", None),
        (b"d.x/a", None),
        (b".hidden.jpg", None),
        (b"__x__/a.jpg", None),
        (b"__x__.jpg", (b"__x__", "jpg")),
    ],
)
def test_split_name(name: bytes, expected: tuple[bytes, str] | None) -> None:
    assert split_name(name) == expected


@pytest.mark.parametrize(
    ("name", "status", "word"),
    [
        (b"../a.jpg", "unsafe_name", "parent"),
        (b"a/../b.jpg", "unsafe_name", "parent"),
        (b"a/..", "unsafe_name", "parent"),
        (b"/a.jpg", "unsafe_name", "absolute"),
        (b"C:/a.jpg", "unsafe_name", "drive"),
        (b"a\\b.jpg", "unsafe_name", "backslash"),
        (b"a\0b.jpg", "unsafe_name", "control"),
        (b"a\x1b[31m.jpg", "unsafe_name", "control"),
        (b"x" * 256, "unsafe_name", "longer"),
        (b"xy/" * 342, "unsafe_name", "longer"),
        (b"caf\xe9.jpg", "bad_name", "UTF-8"),
    ],
)
def test_unsafe_names(name: bytes, status: str, word: str) -> None:
    found = check_name(name)
    assert found is not None
    assert found[0] == status
    assert word in found[1]
    assert printable(name).isprintable()


@pytest.mark.parametrize("name", ["a.jpg", "./a..b.jpg", "d/..a/b.jpg", "ünï/日本.jpg", "x" * 255, "xy/" * 341])
def test_safe_names(name: str) -> None:
    assert check_name(name.encode()[:255] if "/" not in name else name.encode()) is None
