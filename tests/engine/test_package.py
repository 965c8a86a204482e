"""What travels with a job: against git's own idea of what is ignored, and the size limit."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from curate.engine.package import files_to_send, write_zip
from curate.errors import SpecError


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"this is {name}")


def sent(folder: Path) -> list[str]:
    return [name.as_posix() for name in files_to_send(folder)]


def test_ignored_files_are_those_that_git_ignores(tmp_path: Path) -> None:
    fill(
        tmp_path,
        "a.yaml",
        "b.log",
        "keep.log",
        "data/x.tar",
        "data/list.txt",
        "sub/b.log",
        "sub/own.csv",
        "sub/c/own.csv",
    )
    fill(tmp_path, "out/1.txt", "sub/out/2.txt", "name with space.txt", "deep/a/b/c.txt", "deep/a/b/d.txt", "ü.txt")
    (tmp_path / ".gitignore").write_text("# logs\n*.log\n!keep.log\n/out/\ndata/*.tar\ndeep/**/d.txt\n")
    (tmp_path / "sub" / ".gitignore").write_text("/own.csv\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert sorted(sent(tmp_path)) == sorted(name for name in listed.split("\0") if name)


def test_rayignore_counts_too_and_some_folders_never_travel(tmp_path: Path) -> None:
    fill(tmp_path, "a.yaml", "big.bin", ".venv/x.py", "build/x", "p/__pycache__/m.pyc", "p/m.py", "x.egg-info/PKG-INFO")
    (tmp_path / ".rayignore").write_text("big.bin\n")
    assert sent(tmp_path) == [".rayignore", "a.yaml", "p/m.py"]


def test_a_checkout_of_curate_leaves_its_package_behind(tmp_path: Path) -> None:
    fill(tmp_path, "curate/cli/main.py", "docs/curate/x.md", "a.yaml")
    assert sent(tmp_path) == ["a.yaml", "docs/curate/x.md"]
    (tmp_path / "curate" / "cli" / "main.py").unlink()
    fill(tmp_path, "curate/notes.txt")
    assert "curate/notes.txt" in sent(tmp_path)


def test_links_to_folders_are_left_out_and_links_to_files_followed(tmp_path: Path) -> None:
    fill(tmp_path, "work/a.yaml", "outside/x.txt")
    (tmp_path / "work" / "around").symlink_to(tmp_path / "work")
    (tmp_path / "work" / "x.txt").symlink_to(tmp_path / "outside" / "x.txt")
    assert sent(tmp_path / "work") == ["a.yaml", "x.txt"]


def test_the_zip_holds_the_files_and_its_bytes_depend_on_nothing_else(tmp_path: Path) -> None:
    for copy in ("one", "two"):
        fill(tmp_path / copy, "b/c.yaml", "a.yaml", "build/late.yaml")
    first, second = tmp_path / "1.zip", tmp_path / "2.zip"
    size = write_zip(tmp_path / "one", first, [Path("build/late.yaml"), Path("a.yaml")])
    write_zip(tmp_path / "two", second, [Path("build/late.yaml")])
    assert first.read_bytes() == second.read_bytes()
    assert size == first.stat().st_size
    with zipfile.ZipFile(first) as found:
        assert {name: found.read(name).decode() for name in found.namelist()} == {
            name: f"this is {name}" for name in ("a.yaml", "b/c.yaml", "build/late.yaml")
        }


def test_too_large_names_the_largest(tmp_path: Path) -> None:
    fill(tmp_path, "a.yaml")
    (tmp_path / "shards").mkdir()
    noise = np.random.default_rng(0).bytes(3 << 20)
    (tmp_path / "shards" / "0.tar").write_bytes(noise)
    with pytest.raises(SpecError, match=r"more than the 1 MiB .*shards 3\.1 MB.*\.rayignore.*--no-upload"):
        write_zip(tmp_path, tmp_path.parent / "large.zip", limit=1 << 20)
    (tmp_path / "shards" / "0.tar").write_bytes(bytes(3 << 20))
    assert write_zip(tmp_path, tmp_path.parent / "small.zip", limit=1 << 20) < 1 << 20


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is not a folder"):
        write_zip(tmp_path / "none", tmp_path / "x.zip")
