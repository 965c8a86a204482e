"""URLs: brace patterns, which protocols are allowed, and the few reading calls the input side needs.

What never lives here: writing (curate.store.workspace) and any knowledge of shards.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec

from curate.errors import InputError
from curate.store.remote import NoRanges, Remote
from curate.store.retry import VARIABLE, GaveUp, code_of, said

#: Protocol -> what to install when its filesystem is missing ("" = comes with fsspec).
PROTOCOLS = {
    "file": "",
    "memory": "",
    "s3": "curate[s3]",
    "s3a": "curate[s3]",
    "gs": "curate[gcs]",
    "gcs": "curate[gcs]",
    "http": "aiohttp",
    "https": "aiohttp",
    "az": "adlfs",
    "abfs": "adlfs",
    "hf": "huggingface_hub",
}
#: Most names one brace pattern may give.
MAX_NAMES = 1_000_000
_RANGE = re.compile(r"(-?\d+|[A-Za-z])\.\.(-?\d+|[A-Za-z])(?:\.\.(-?\d+))?\Z")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]+):(//)?")
_ETAG_KEYS = ("etag", "md5", "md5hash", "content-md5", "digest", "sha256", "blob_id")
_TIME_KEYS = ("mtime", "lastmodified", "last_modified", "last-modified", "updated")
_BUFFER = 1 << 20


def split_protocol(url: str) -> tuple[str, str]:
    """``(protocol, rest)`` of a URL, rest without ``//``; a plain path has protocol "file".

    Raises :class:`InputError` for ``pipe:``, chained (``a::b``) and unknown protocols, and for ``user:password@``.
    """
    match = _SCHEME.match(url)
    if match is None:
        return "file", url
    protocol, rest = match[1].lower(), url[match.end() :]
    shown = url if "@" not in rest.split("/", 1)[0] else f"{match[0]}***@{rest.split('@', 1)[1]}"
    if protocol == "pipe":
        raise InputError(f"{shown!r}: pipe: URLs run commands and are refused; give the files themselves.")
    if rest.startswith(":") or "::" in rest.split("/", 1)[0]:
        raise InputError(f"{shown!r}: chained URLs (a::b) are refused; give the address of the file itself.")
    if protocol not in PROTOCOLS or (match[2] is None and protocol != "file"):
        known = ", ".join(f"{name}://" for name in PROTOCOLS)
        raise InputError(
            f"{shown!r}: protocol {protocol!r} is not supported; use one of {known}, or write a local path whose name "
            f"contains a colon as ./{Path(rest).name or 'name'}."
        )
    if shown != url and protocol not in ("file", "memory"):
        raise InputError(
            f"{shown!r}: user names and passwords do not belong in a URL; set them in the environment of the storage "
            "library (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)."
        )
    return protocol, rest


def resolve(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL and the path inside it (absolute for local paths; nothing need exist there).

    Remote ones are a :class:`curate.store.remote.Remote`, which tries every call again while its errors may pass.
    Listings are never cached, so what another process wrote is seen. Raises :class:`InputError` (refused URL, missing
    extra).
    """
    protocol, rest = split_protocol(str(url))
    try:
        if protocol == "file":
            return fsspec.filesystem("file"), str(Path(rest).expanduser().absolute())
        fs = fsspec.filesystem(protocol) if protocol == "memory" else Remote(protocol)
    except ImportError as err:
        extra = PROTOCOLS[protocol]
        raise InputError(f"{protocol}:// needs a package that is not installed: pip install {extra!r}.") from err
    return fs, cast(str, fs._strip_protocol(f"{protocol}://{rest}"))


def is_local(fs: Any) -> bool:
    """Whether a filesystem is this machine's disk."""
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def join(url: str, *names: str) -> str:
    """``url`` with ``names`` appended, one slash between each."""
    base, tail = str(url).rstrip("/"), "/".join(stripped for name in names if (stripped := name.strip("/")))
    if not url or not tail:
        return tail or str(url)
    return f"{base}//{tail}" if base.endswith(":") else f"{base}/{tail}"


def open_read(url: str) -> BinaryIO:
    """Open for reading with large buffers: 1 MiB local, 8 MiB requests remote; http servers without ranges: no seek.

    Raises :class:`InputError` when it cannot be opened; reading raises OSError, for :func:`unreadable` to explain.
    """
    fs, path = resolve(url)
    try:
        if is_local(fs):
            return Path(path).open("rb", buffering=_BUFFER)
        return cast(BinaryIO, fs.open(path, "rb"))
    except OSError as err:
        raise unreadable(url, err) from err


def info(url: str) -> dict[str, Any]:
    """The filesystem's record of one file or folder; :class:`InputError` when it is not there."""
    fs, path = resolve(url)
    try:
        return cast(dict[str, Any], fs.info(path))
    except OSError as err:
        raise unreadable(url, err) from err


def size(url: str) -> int:
    """Size in bytes."""
    return int(info(url)["size"] or 0)


def etag(url: str) -> str:
    """A short text that changes when the content does; see :func:`etag_of`."""
    fs, _ = resolve(url)
    return etag_of(fs, info(url))


def etag_of(fs: Any, record: dict[str, Any]) -> str:
    """The etag from an ``info``/``ls`` record.

    ETag or MD5 where the storage has one; size and modification time in ns for local files; sha256 of the content in
    memory; otherwise size and the storage's modification time.
    """
    if is_local(fs):
        stat = Path(record["name"]).stat()
        return f"{stat.st_size}-{stat.st_mtime_ns}"
    if "memory" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
        return hashlib.sha256(fs.cat_file(record["name"])).hexdigest()
    lower = {str(key).lower(): value for key, value in record.items()}
    for key in _ETAG_KEYS:
        if lower.get(key):
            return str(lower[key]).strip('"')
    for key in _TIME_KEYS:
        if lower.get(key):
            return f"{record.get('size')}-{lower[key]}"
    return f"{record.get('size')}"


def read_range(url: str, start: int, length: int) -> bytes:
    """``length`` bytes from byte ``start``; fewer only when the file ends before. Raises :class:`InputError`."""
    fs, path = resolve(url)
    try:
        if is_local(fs):
            with Path(path).open("rb", buffering=0) as handle:
                handle.seek(start)
                return io.BufferedReader(handle).read(length)
        return cast(bytes, fs.cat_file(path, start=start, end=start + length))
    except OSError as err:
        raise unreadable(url, err) from err


def unreadable(url: str, err: OSError) -> InputError:
    """The sentence for a file that cannot be read."""
    if code_of(err) == "NoSuchBucket":
        return InputError(f"{url}: there is no such bucket; check its name and the endpoint.")
    if isinstance(err, FileNotFoundError):
        return InputError(f"{url}: there is no such file; check the path, or take it out of the pipeline file.")
    if isinstance(err, PermissionError):
        remote = "" if split_protocol(url)[0] == "file" else f" ({said(err)})"
        return InputError(f"{url}: permission denied{remote}; check the file's rights or the storage credentials.")
    if isinstance(err, IsADirectoryError):
        return InputError(f"{url}: is a folder, not a file.")
    if isinstance(err, GaveUp):
        return InputError(
            f"{url}: {err}; check that the storage is up and its address right, then run the same command again "
            f"({VARIABLE} sets for how many seconds to try)."
        )
    if isinstance(err, NoRanges):
        return InputError(f"{url}: the server ignores range requests; copy the shards to a disk or an object store.")
    return InputError(f"{url}: cannot be read ({said(err)}).")


def expand_braces(pattern: str) -> list[str]:
    """All names of a pattern with ``{00000..00099}``, ``{0..10..2}``, ``{a..c}`` and ``{x,y}``, nested too.

    Zero padding is kept; braces without a comma or a range stay as they are, as in a shell.
    """
    out = list(itertools.islice(_braces(pattern), MAX_NAMES + 1))
    if len(out) > MAX_NAMES:
        raise InputError(f"{pattern!r} names more than {MAX_NAMES:,} shards; check the range.")
    return out


def _braces(pattern: str) -> Iterator[str]:
    start = 0
    while (open_ := pattern.find("{", start)) >= 0:
        close, commas, depth = -1, [], 0
        for i in range(open_, len(pattern)):
            depth += (pattern[i] == "{") - (pattern[i] == "}")
            if depth == 1 and pattern[i] == ",":
                commas.append(i)
            if depth == 0:
                close = i
                break
        if close < 0:
            raise InputError(f"{pattern!r}: the brace at character {open_ + 1} is never closed.")
        body = pattern[open_ + 1 : close]
        choices: Iterable[str] | None = None
        if commas:
            cuts = [open_, *commas, close]
            choices = (v for a, b in itertools.pairwise(cuts) for v in _braces(pattern[a + 1 : b]))
        elif match := _RANGE.match(body):
            choices = _range(pattern, match)
        if choices is None:
            start = open_ + 1
            continue
        tails = expand_braces(pattern[close + 1 :])
        for choice in choices:
            for tail in tails:
                yield pattern[:open_] + choice + tail
        return
    yield pattern


def _range(pattern: str, match: re.Match[str]) -> list[str]:
    first, last, step_text = match.groups()
    step = abs(int(step_text)) if step_text else 1
    if first.isalpha() != last.isalpha() or step == 0:
        raise InputError(f"{pattern!r}: {{{match[0]}}} is not a range; write {{00000..00099}} or {{a..c}}.")
    if first.isalpha():
        low, high = ord(first), ord(last)
    else:
        low, high = int(first), int(last)
    if abs(high - low) // step + 1 > MAX_NAMES:
        raise InputError(f"{pattern!r} names more than {MAX_NAMES:,} shards; check the range.")
    numbers = range(low, high + 1, step) if low <= high else range(low, high - 1, -step)
    if first.isalpha():
        return [chr(n) for n in numbers]
    padded = any(len(t.lstrip("-")) > 1 and t.lstrip("-").startswith("0") for t in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return [f"{n:0{width}d}" for n in numbers]
