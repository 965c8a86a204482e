"""A forward-only, memory-bounded tar reader that says how an archive ended.

Reads ustar, GNU (long names, base-256 numbers) and PAX (path, size) archives and agrees with :mod:`tarfile` on every
valid one. Unlike tarfile it tells a cut or damaged archive from a finished one, never loads a member larger than a
limit, and never follows or creates anything: directories, links, devices and sparse members are counted and skipped.
Also here: what a member's name means (key and extension) and which names are unsafe.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
#: Longest GNU long name or PAX header accepted; real ones are a few hundred bytes.
MAX_HEADER_BYTES = 1 << 20
_CHUNK = 1 << 20
_TAIL_LIMIT = 1 << 20

_REGULAR = (b"0", b"\0", b"7")
_WITHOUT_DATA = {
    b"1": "hard link",
    b"2": "symbolic link",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
}
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}

#: Longest member name, and longest level of one, that can be made again as a file on every system.
MAX_NAME_BYTES = 1024
MAX_COMPONENT_BYTES = 255
_META = re.compile(rb"__[^/]*__($|/)")  # members webdataset reserves for itself
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_UNSAFE = re.compile(r"^/|^[A-Za-z]:|\\|[\x00-\x1f\x7f-\x9f]|(?:^|/)\.\.(?:/|$)")

EndReason = Literal["end", "no_end_mark", "trailing_data", "cut", "garbage", "empty", "not_a_tar", "compressed"]


class Readable(Protocol):
    """What :class:`TarScan` needs of a file object: ``read(n)`` returning at most ``n`` bytes, b"" at the end."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes."""
        ...


class Member(NamedTuple):
    """One regular member. ``offset`` and ``nbytes`` (bytes) are the extent of its data inside the archive.

    ``raw_name`` is the name as stored; ``data`` is None when the member was not wanted or is larger than the limit.
    """

    raw_name: bytes
    offset: int
    nbytes: int
    data: bytes | None

    @property
    def name_ok(self) -> bool:
        """Whether the stored name is valid UTF-8."""
        try:
            self.raw_name.decode()
        except UnicodeDecodeError:
            return False
        return True

    @property
    def name(self) -> str:
        """The name as text; bytes that are not UTF-8 are shown as ``\\xNN``."""
        return self.raw_name.decode("utf-8", "backslashreplace")


@dataclass(frozen=True, slots=True)
class TarEnd:
    """How the archive ended, at which byte, as a sentence part, and inside which member (if any) it broke.

    ``end``: an end-of-archive mark, nothing after it. ``no_end_mark``: the file stops at a member boundary without the
    mark, so it may have been cut there. ``trailing_data``: something follows the mark (concatenated archives?).
    ``cut``: the file stops inside a header or a member. ``garbage``: a damaged header after good members.
    ``empty``: no bytes, or only zero blocks. ``not_a_tar``, ``compressed``: not readable at all. ``extent``: offset
    and declared size of the data of that member.
    """

    reason: EndReason
    offset: int
    detail: str = ""
    raw_name: bytes | None = None
    extent: tuple[int, int] | None = None

    @property
    def clean(self) -> bool:
        """Whether every byte was read and understood."""
        return self.reason == "end"

    @property
    def broken(self) -> bool:
        """Whether members may be missing after the last one (cut or garbage)."""
        return self.reason in ("cut", "garbage")


class _StopScan(Exception):
    """Control flow inside this module only."""

    def __init__(self, end: TarEnd) -> None:
        self.end = end


@dataclass(slots=True)
class _Pending:
    """What extension headers said about the member that follows them."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


class TarScan:
    """Iterate the regular members of a tar once, from a file object that only reads forward.

    Memory: one member of at most ``max_member_bytes`` bytes, plus one extension header of at most 1 MiB.
    ``wanted(raw_name)`` false: the data is skipped and ``Member.data`` is None. A member larger than the limit is
    skipped too (``nbytes`` tells). After iteration ``end`` says how the archive ended and ``skipped`` counts what was
    not a regular member, by kind. ``skip(n)`` passes over up to n bytes without reading them, where the file object
    can. Archive damage never raises; errors of the file object do.
    """

    def __init__(
        self,
        fileobj: Readable,
        *,
        max_member_bytes: int = 256 << 20,
        wanted: Callable[[bytes], bool] | None = None,
        skip: Callable[[int], int] | None = None,
    ) -> None:
        self._read = fileobj.read
        self._jump = skip
        self._max = max_member_bytes
        self._wanted = wanted
        self._pos = 0
        self._global = _Pending()
        self.end = TarEnd("end", 0)
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[Member]:
        try:
            yield from self._members()
        except _StopScan as stop:
            self.end = stop.end

    def _members(self) -> Iterator[Member]:
        pending = _Pending()
        while True:
            at = self._pos
            header = self._header(at, fresh=pending.name is None and pending.size is None and not pending.sparse)
            kind = header[156:157]
            size = self._number(header[124:136], at)
            if kind in (b"L", b"K", b"x", b"X", b"g"):
                self._extension(kind, size, at, pending)
                continue
            if kind == b"S":
                self._skip_old_sparse(header, size)
                self.skipped["sparse member"] += 1
                pending = _Pending()
                continue
            name = header[:100].split(b"\0", 1)[0]
            prefix = header[345:500].split(b"\0", 1)[0]
            if prefix:
                name = prefix + b"/" + name
            if kind == b"\0" and name.endswith(b"/"):  # how version 7 tars write a directory
                kind = b"5"
            name = pending.name or self._global.name or name
            if pending.size is not None:
                size = pending.size
            sparse, pending = pending.sparse, _Pending()
            if kind in _WITHOUT_DATA:
                self.skipped[_WITHOUT_DATA[kind]] += 1
                continue
            offset = self._pos
            if kind not in _REGULAR or sparse:
                self._skip(size, name)
                self._pad(size)
                self.skipped["sparse member" if sparse else "unknown kind"] += 1
                continue
            data: bytes | None = None
            if size <= self._max and (self._wanted is None or self._wanted(name)):
                data = self._exact(size)
                if len(data) < size:
                    raise self._cut(offset, size, len(data), name)
            else:
                self._skip(size, name)
            yield Member(name, offset, size, data)
            self._pad(size)

    def _header(self, at: int, *, fresh: bool) -> bytes:
        """The next 512-byte header, checksum verified; ends the scan where there is none."""
        header = self._exact(BLOCK)
        if len(header) < BLOCK:
            if at == 0 and not header:
                raise _StopScan(TarEnd("empty", 0, "the file has 0 bytes"))
            if at == 0:
                raise _StopScan(_not_a_tar(header, f"it has {len(header)} bytes, less than one tar header"))
            if not any(header) and fresh:
                raise _StopScan(TarEnd("no_end_mark", at, "the file stops after a whole member without an end mark"))
            raise _StopScan(TarEnd("cut", at, f"the file stops inside a member header at byte {at + len(header)}"))
        if header == ZERO_BLOCK:
            raise _StopScan(self._after_mark(at))
        total = sum(header) - sum(header[148:156]) + 8 * 32
        stored = _parse_number(header[148:156])
        if stored != total and stored != total - 256 * sum(b > 127 for b in header[:148] + header[156:]):
            if at == 0:
                raise _StopScan(_not_a_tar(header, "its first 512 bytes are not a tar header (checksum differs)"))
            raise _StopScan(TarEnd("garbage", at, f"the header at byte {at} is damaged (checksum differs)"))
        return header

    def _after_mark(self, at: int) -> TarEnd:
        """Whether only zeros follow the end mark (looks at most 1 MiB ahead)."""
        seen = 0
        while seen < _TAIL_LIMIT and (tail := self._read(64 * 1024)):
            seen += len(tail)
            if tail.strip(b"\0"):
                detail = f"more data follows the end mark at byte {at} (concatenated archives?) and is not read"
                return TarEnd("trailing_data", at, detail)
        return TarEnd("empty", at, "the tar has no members") if at == 0 else TarEnd("end", at)

    def _extension(self, kind: bytes, size: int, at: int, pending: _Pending) -> None:
        """Read a GNU long name or PAX header. An earlier one wins over a later one, as in tarfile."""
        if size > MAX_HEADER_BYTES:
            detail = f"the header at byte {at} claims an extension of {size} bytes, more than {MAX_HEADER_BYTES}"
            raise _StopScan(TarEnd("garbage", at, detail))
        body = self._exact(size)
        if len(body) < size:
            raise self._cut(at + BLOCK, size, len(body), None)
        self._pad(size)
        if kind == b"K":  # long link target: links are skipped
            return
        if kind == b"L":
            if pending.name is None:
                pending.name = body.split(b"\0", 1)[0]
            return
        target = self._global if kind == b"g" else pending
        for key, value in _pax_records(body, at):
            if key == b"path" and value and (target.name is None or kind == b"g"):
                target.name = value.rstrip(b"/")
            elif key == b"size" and kind != b"g" and target.size is None:
                if not value.isdigit() or len(value) > 20:
                    raise _StopScan(TarEnd("garbage", at, f"the PAX header at byte {at} has a size that is no number"))
                target.size = int(value)
            elif key.startswith(b"GNU.sparse."):
                target.sparse = True

    def _skip_old_sparse(self, header: bytes, size: int) -> None:
        extended = header[482]
        while extended:
            block = self._exact(BLOCK)
            if len(block) < BLOCK:
                raise self._cut(self._pos, BLOCK, len(block), None)
            extended = block[504]
        self._skip(size, None)
        self._pad(size)

    def _exact(self, size: int) -> bytes:
        """``size`` bytes, or fewer at the end of the file."""
        data = self._read(size) if size else b""
        if len(data) < size:
            parts = [data]
            missing = size - len(data)
            while missing and (more := self._read(missing)):
                parts.append(more)
                missing -= len(more)
            data = b"".join(parts)
        self._pos += len(data)
        return data

    def _skip(self, size: int, name: bytes | None) -> None:
        start, left = self._pos, size
        while left:
            if self._jump is None:
                got = len(self._exact(min(left, _CHUNK)))
            else:
                got = self._jump(left)
                self._pos += got
            if not got:
                raise self._cut(start, size, size - left, name)
            left -= got

    def _pad(self, size: int) -> None:
        pad = -size % BLOCK
        if pad and len(self._exact(pad)) < pad:
            detail = f"the file stops in the padding of its last member at byte {self._pos}"
            raise _StopScan(TarEnd("cut", self._pos, detail))

    def _cut(self, offset: int, size: int, got: int, name: bytes | None) -> _StopScan:
        what = "a member" if name is None else repr(name.decode("utf-8", "backslashreplace"))
        detail = f"the file stops inside {what} at byte {offset + got}: {got} of {size} bytes are there"
        return _StopScan(TarEnd("cut", offset + got, detail, name, None if name is None else (offset, size)))

    def _number(self, field: bytes, at: int) -> int:
        value = _parse_number(field)
        if value is None or value < 0:
            raise _StopScan(TarEnd("garbage", at, f"the header at byte {at} has a size that is no number"))
        return value


def _parse_number(field: bytes) -> int | None:
    """An octal or base-256 header number; None when it is neither."""
    if field[0] in (0x80, 0xFF):
        value = int.from_bytes(field[1:], "big")
        return value - (1 << 8 * (len(field) - 1)) if field[0] == 0xFF else value
    text = field.split(b"\0", 1)[0].strip()
    try:
        return int(text or b"0", 8)
    except ValueError:
        return None


def _pax_records(body: bytes, at: int) -> Iterator[tuple[bytes, bytes]]:
    """The ``length key=value\\n`` records of a PAX header."""
    pos = 0
    while pos < len(body) and body[pos]:
        digits, space, _ = body[pos : pos + 21].partition(b" ")
        end = pos + int(digits) if digits.isdigit() else pos
        key, equals, value = body[pos + len(digits) + 1 : end].partition(b"=")
        if not space or not equals or end > len(body) or value[-1:] != b"\n":
            raise _StopScan(TarEnd("garbage", at, f"the PAX header at byte {at} is damaged"))
        yield key, value[:-1]
        pos = end


def _not_a_tar(head: bytes, detail: str) -> TarEnd:
    for magic, kind in _COMPRESSED.items():
        if head.startswith(magic):
            return TarEnd("compressed", 0, f"compressed tar ({kind}): decompress it first")
    if head.startswith(b"PK\x03\x04"):
        detail += "; it is a zip archive"
    if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
        detail += "; it looks like an HTML page, perhaps a failed download"
    return TarEnd("not_a_tar", 0, detail)


def split_name(raw: bytes) -> tuple[bytes, str] | None:
    """Key and lower-case extension of a member name: the WebDataset convention, split at the basename's first dot.

    None for names that belong to no sample: without a dot, hidden, or ``__name__``.
    """
    start = raw.rfind(b"/") + 1
    dot = raw.find(b".", start)
    if dot <= start or (raw.startswith(b"__") and _META.match(raw)):
        return None
    return raw[:dot], raw[dot + 1 :].decode("utf-8", "backslashreplace").lower()


def check_name(raw: bytes) -> tuple[str, str] | None:
    """``(status, detail)`` when a member name must never become a path or tar member; None when it is safe."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return "bad_name", f"the member name {printable(raw)!r} is not UTF-8"
    long = len(raw) > MAX_COMPONENT_BYTES and (
        len(raw) > MAX_NAME_BYTES or max(map(len, raw.split(b"/"))) > MAX_COMPONENT_BYTES
    )
    if not long and not _UNSAFE.search(text):
        return None
    if long:
        why = f"is longer than {MAX_COMPONENT_BYTES} bytes a level or {MAX_NAME_BYTES} in all"
    elif _CONTROL.search(text):
        why = "holds control characters"
    elif "\\" in text or (text[0] not in "/." and text[1:2] == ":"):
        why = "holds a backslash or a drive letter"
    elif text.startswith("/"):
        why = "is an absolute path"
    else:
        why = "leads to a parent folder"
    return "unsafe_name", f"the member name {printable(raw)!r} {why}"


def printable(raw: bytes) -> str:
    """A name as text without control characters, at most 255 characters."""
    text = raw[: 4 * MAX_COMPONENT_BYTES].decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text)[:MAX_COMPONENT_BYTES]
