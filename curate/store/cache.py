"""Files of a remote workspace on local disk, so that the next pass over them reads no network.

Only for files whose name is never used for other content, such as vector files, which carry the number of the attempt
that wrote them. CURATE_CACHE names the folder (default: one of this user's own in the temporary folder),
CURATE_CACHE_BYTES its limit (default 50 GB; 0: no cache). A cache that cannot work (a full disk, no rights) is no
cache, never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

FOLDER = "CURATE_CACHE"
LIMIT = "CURATE_CACHE_BYTES"
DEFAULT_LIMIT = 50 * 10**9

IN_USE_S = 3600.0
"""A file of the same workspace that was used within this time does not make room for another one: when a workspace is
larger than the cache, passes over it would otherwise throw out each file just before it is read again."""
_ABANDONED_S = 3600.0
_TOUCH_S = 60.0

_checked: set[tuple[str, int]] = set()
"""Files whose hash this process has seen to be right."""


def cached(workspace: str, name: str, nbytes: int, sha256: str, fetch: Callable[[], bytes]) -> Path | bytes:
    """The file `name` of the workspace with this URL: a path on local disk, or its bytes when it cannot be kept.

    nbytes, sha256: what the file must be; a copy that is shorter, longer or damaged is fetched again. A file that
    arrives with other content is given as it came and not kept. Safe for any number of processes: files appear whole,
    and one that is removed while it is mapped stays readable. Errors of `fetch` pass through. Memory: the file, once.
    """
    limit = _limit()
    folder = _folder() if 0 < nbytes <= limit else None
    if folder is None:
        return fetch()
    own = folder / _short(workspace)
    path = own / f"{_short(name)}-{sha256[:16]}"
    if _good(path, nbytes, sha256):
        return path
    data = fetch()
    if len(data) != nbytes or hashlib.sha256(data).hexdigest() != sha256:
        return data
    with contextlib.suppress(OSError):
        if _make_room(folder, own, limit - nbytes):
            own.mkdir(mode=0o700, exist_ok=True)
            temporary = own / f".{path.name}.{uuid.uuid4().hex[:8]}.tmp"
            try:
                temporary.write_bytes(data)
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
            _checked.add((str(path), path.stat().st_mtime_ns))
            return path
    return data


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _limit() -> int:
    """Bytes; what is no number means the default."""
    try:
        return int(os.environ.get(LIMIT, DEFAULT_LIMIT))
    except ValueError:
        return DEFAULT_LIMIT


def _folder() -> Path | None:
    """The cache's folder, made if need be; None when it cannot be, or others may write into it."""
    chosen = os.environ.get(FOLDER)
    folder = Path(chosen) if chosen else Path(tempfile.gettempdir()) / f"curate-cache-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat() if not chosen else folder.stat()
    except OSError:
        return None
    # the default place has a name that anyone could have taken before
    safe = chosen or (
        stat.S_ISDIR(facts.st_mode)
        and facts.st_uid == os.getuid()
        and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
    return folder if safe else None


def _good(path: Path, nbytes: int, sha256: str) -> bool:
    """Whether the copy is there and right: its size at every use, its hash once a process."""
    try:
        facts = path.stat()
        if facts.st_size != nbytes:
            return False
        if (str(path), facts.st_mtime_ns) not in _checked:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
                    return False
        if time.time() - facts.st_mtime > _TOUCH_S:
            os.utime(path)  # the time of last use, for the order in which files go
            facts = path.stat()
    except OSError:
        return False
    _checked.add((str(path), facts.st_mtime_ns))
    return True


def _make_room(folder: Path, own: Path, room: int) -> bool:
    """Remove files, the ones not used for the longest time first, until at most `room` bytes are left; see IN_USE_S."""
    now, files = time.time(), list[tuple[float, int, Path]]()
    for path in folder.glob("*/*"):
        with contextlib.suppress(OSError):
            facts = path.stat()
            if not path.name.endswith(".tmp"):
                files.append((facts.st_mtime, facts.st_size, path))
            elif now - facts.st_mtime > _ABANDONED_S:
                path.unlink(missing_ok=True)
    held = sum(size for _, size, _ in files)
    for used, size, path in sorted(files):
        if held <= room:
            break
        if path.parent != own or now - used > IN_USE_S:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
                held -= size
    return held <= room
