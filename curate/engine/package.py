"""The working directory of a job as a zip file: which of its files travel to the cluster, and how many bytes.

What never lives here: talking to a cluster (curate.engine.submit).
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from curate.errors import SpecError

LIMIT = 100 << 20
"""Bytes of a zip file that a Ray cluster takes, at its default settings."""
LEFT_OUT = (
    ".git",
    ".venv",
    "venv",
    "build",
    "node_modules",
    "__pycache__",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".hypothesis",
    "*.egg-info",
)
"""Patterns that never travel, besides those in .gitignore and .rayignore files."""
IGNORE_FILES = (".gitignore", ".rayignore")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every entry: the same files give the same bytes, which Ray then need not be sent twice."""
_SHOWN = 3


def files_to_send(folder: Path) -> Iterator[Path]:
    """Files below `folder`, relative, in sorted order; ignore files count for their folder and below, as in git.

    Links to folders are not followed. The installed package is the one that runs: a copy of curate at the top, as in a
    checkout, stays behind. Imports ray: choose the authentication before. Memory: names of one folder and its parents.
    """
    own = ["/curate"] if (folder / "curate" / "cli" / "main.py").is_file() else []
    yield from _walk(folder, Path(), [(Path(), _patterns([*LEFT_OUT, *own]))])


def write_zip(folder: Path, target: Path, also: Sequence[Path] = (), limit: int = LIMIT) -> int:
    """Write the files of `folder` to the zip file `target` and return its size in bytes.

    also: relative paths that travel even if they are ignored. Raises SpecError when `folder` is none, when a file
    cannot be read, or as soon as the zip exceeds `limit`. Memory: one buffer, and a record a file.
    """
    if not folder.is_dir():
        raise SpecError(f"the working directory {folder} is not a folder; choose another one with --working-dir")
    names = dict.fromkeys([*files_to_send(folder), *also])
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for name in sorted(names):
            entry = zipfile.ZipInfo(name.as_posix(), _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            try:
                entry.external_attr = ((folder / name).stat().st_mode & 0o777) << 16
                with (folder / name).open("rb") as source, out.open(entry, "w") as sink:
                    while block := source.read(1 << 20):
                        sink.write(block)
                        if target.stat().st_size > limit:
                            raise _too_large(folder, list(names), limit)
            except OSError as error:
                raise SpecError(
                    f"{folder / name} cannot be read ({error.strerror}), so it cannot travel with the job; name it in "
                    "a .rayignore file, or choose another --working-dir"
                ) from error
    size = target.stat().st_size
    if size > limit:
        raise _too_large(folder, list(names), limit)
    return size


def _walk(folder: Path, here: Path, rules: list[tuple[Path, Any]]) -> Iterator[Path]:
    place = folder / here
    try:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
    except OSError as error:
        raise SpecError(f"{place} cannot be listed ({error.strerror}); choose another --working-dir") from error
    lines = [
        line
        for entry in entries
        if entry.name in IGNORE_FILES and entry.is_file()
        for line in Path(entry.path).read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    rules = [*rules, (here, _patterns(lines))] if lines else rules
    for entry in entries:
        name = here / entry.name
        is_folder = entry.is_dir(follow_symlinks=False)
        # a pattern with a slash at its end means folders only
        said = [f"{name.relative_to(at).as_posix()}{'/' if is_folder else ''}" for at, _ in rules]
        if any(pattern.match_file(text) for text, (_, pattern) in zip(said, rules, strict=True)):
            continue
        if is_folder:
            yield from _walk(folder, name, rules)
        elif entry.is_file():
            yield name


def _patterns(lines: list[str]) -> Any:
    from ray._private.thirdparty.pathspec import PathSpec  # the one with which Ray itself reads .gitignore

    return PathSpec.from_lines("gitwildmatch", lines)


def _too_large(folder: Path, names: list[Path], limit: int) -> SpecError:
    sizes: Counter[str] = Counter()
    for name in names:
        sizes[name.parts[0]] += (folder / name).stat().st_size
    largest = ", ".join(f"{name} {size / 1e6:,.1f} MB" for name, size in sizes.most_common(_SHOWN))
    return SpecError(
        f"the working directory {folder} holds more than the {limit >> 20} MiB that a job can send (largest: "
        f"{largest}); name what the job does not need in a .rayignore file, written as a .gitignore, choose another "
        "--working-dir, or use --no-upload where every machine sees this folder"
    )
