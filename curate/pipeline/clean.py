"""Find what a workspace holds that no run names any more, and remove it.

Named is what `run.json` and `runs/*.json` speak of. Only files and folders whose names curate gives are ever removed;
whatever else lies in a workspace is left alone.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from curate.errors import StorageError
from curate.pipeline.runfile import RunFile, read_run
from curate.pipeline.status import is_live
from curate.store.columns import parse_meta
from curate.store.groups import group_file, read_group
from curate.store.workspace import Workspace

_FOLDER = re.compile(r"[a-z][a-z0-9_-]*@[0-9a-f]{12}\Z")
_PART = re.compile(r"part-\d{5,}\.([0-9a-f]{12})\.parquet\Z")
_VECTORS = re.compile(r"part-\d{5,}\.[0-9a-f]{8}\.[A-Za-z0-9_-]+\.npy\Z")
_GROUP = re.compile(r"group\.([0-9a-f]{12})\.json\Z")
_WHOLE = re.compile(r"[A-Za-z0-9_-]+\.([0-9a-f]{12})\.(npy|parquet|json)\Z")
_RUN = re.compile(r"[0-9a-f]{12}\.json\Z")
_EVENTS = re.compile(r"(.+)-\d{5,}\.jsonl\Z")
_TEMPORARY = re.compile(r"\.(.+\.[0-9a-f]{8}\.tmp|probe-[0-9a-f]{8})\Z")
_RELEASE = re.compile(
    r"(\d{5,}\.tar|\d{5,}_stats\.json|(sizes|classes|manifest|subset|specification)\.json|(sample_ids|subset)\.npy"
    r"|systems\.parquet|README\.md)\Z"
)
_RELEASE_TABLES = ("samples.parquet", "dropped.parquet")
_EMBEDDINGS = re.compile(
    r"(embeddings\.json|(img_emb/img|text_emb/text)_emb_\d{4,}\.npy|metadata/metadata_\d{4,}\.parquet"
    r"|runs/\d{5,}\.npy)\Z"
)
_TABLE = re.compile(r"\d{5,}\.parquet\Z")
TEMPORARY_S = 600.0
"""A temporary file younger than this may still be written to."""


@dataclass(frozen=True)
class Removable:
    """One file, or a folder with all it holds. `path` is relative to the workspace."""

    path: str
    nbytes: int
    files: int
    why: str


@dataclass
class Cleaning:
    """What can go, and what was not recognised inside folders that can."""

    workspace: Workspace
    remove: list[Removable] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        """Bytes that will be free."""
        return sum(item.nbytes for item in self.remove)

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "workspace": self.workspace.url,
            "nbytes": self.nbytes,
            "remove": [asdict(item) for item in self.remove],
            "unknown": self.unknown,
        }


def plan_cleaning(workspace: Workspace, *, only_latest: bool = False, now: float | None = None) -> Cleaning:
    """Look at a workspace and decide what can go; nothing is changed.

    only_latest: runs other than that of run.json are forgotten first. now: seconds since the epoch. Raises StorageError
    when there is no run, when a run file cannot be read, and while a run is at work. Memory: names of one folder.
    """
    now = time.time() if now is None else now
    latest = read_run(workspace)
    names = sorted(name for name in workspace.listing("runs") if _RUN.match(name))
    runs = [latest] + [read_run(workspace, f"runs/{name}") for name in names if name != f"{latest.plan}.json"]
    for run in runs:
        if is_live(workspace, run, now):
            raise StorageError(
                f"the run {run.name} is at work in {workspace.where()}; clean when it has ended (a run that was killed "
                "counts as ended after a minute without an event)"
            )
    return _Cleaner(workspace, [latest] if only_latest else runs, now).plan()


def carry_out(cleaning: Cleaning) -> None:
    """Remove what was planned. Run files go first: should this be stopped, the same command finishes it."""
    for item in sorted(cleaning.remove, key=lambda item: not item.path.startswith("runs/")):
        cleaning.workspace.remove(item.path)


class _Cleaner:
    """Compares what is there with what the runs name."""

    def __init__(self, workspace: Workspace, runs: list[RunFile], now: float) -> None:
        self.workspace, self.now = workspace, now
        self.result = Cleaning(workspace)
        self.groups: dict[str, set[str]] = {}
        self.wholes: dict[str, set[str]] = {}
        self.releases: set[str] = set()
        self.scratch: set[str] = set()
        self.drivers = {run.driver for run in runs}
        self.plans = {run.plan for run in runs}
        self.specs = [json.dumps(run.spec) for run in runs]
        for run in runs:
            for step in run.steps:
                self.wholes.setdefault(step.folder, set()).add(step.whole)
                groups = self.groups.setdefault(step.folder, set())
                if step.group is not None:
                    groups.add(step.group)
                else:
                    self.releases.add(f"{step.name}@{step.whole}")
                if step.status != "done":
                    self.scratch.add(f"{step.folder}/{step.whole}")

    def plan(self) -> Cleaning:
        for folder in self.workspace.folders():
            if folder == "events":
                self._events()
            elif folder == "runs":
                self._runs()
            elif folder == "scratch":
                self._scratch()
            elif folder in self.releases or any(folder in spec for spec in self.specs):
                inner = [*_RELEASE_TABLES, "img_emb", "text_emb", "metadata"]
                self._temporary(folder, *(f"{folder}/{name}" for name in inner))
            elif folder in self.wholes:
                self._named(folder)
                self._temporary(folder)
            elif _FOLDER.match(folder):
                self._whole_folder(folder, "no run names it")
        self._temporary("")
        return self.result

    def _add(self, path: str, nbytes: int, why: str, files: int = 1) -> None:
        self.result.remove.append(Removable(path, nbytes, files, why))

    # --- small things -------------------------------------------------------------------------------------------------

    def _events(self) -> None:
        for name, size in sorted(self.workspace.listing("events").items()):
            match = _EVENTS.match(name)
            if match and match[1] not in self.drivers:
                self._add(f"events/{name}", size, "events of a run that was run again or forgotten")

    def _runs(self) -> None:
        for name, size in sorted(self.workspace.listing("runs").items()):
            if _RUN.match(name) and name.removesuffix(".json") not in self.plans:
                self._add(f"runs/{name}", size, "a run other than the latest")

    def _scratch(self) -> None:
        for folder in self.workspace.folders("scratch"):
            if not _FOLDER.match(folder):
                continue
            inside = [f"{folder}/{name}" for name in self.workspace.folders(f"scratch/{folder}")]
            gone = [name for name in inside if name not in self.scratch]
            for name in [folder] if gone == inside else gone:
                files = list(self._below(f"scratch/{name}"))
                self._add(f"scratch/{name}", sum(size for _, size in files), "scratch of a finished step", len(files))

    def _temporary(self, *folders: str) -> None:
        """Files that were being written when a process was killed; only local disks have such."""
        for folder in folders:
            for name, size in self._hidden(folder).items():
                path = f"{folder}/{name}" if folder else name
                if _TEMPORARY.match(name) and self.now - Path(self.workspace.path(path)).stat().st_mtime > TEMPORARY_S:
                    self._add(path, size, "half-written file of a killed process")

    # --- folders of steps ---------------------------------------------------------------------------------------------

    def _named(self, folder: str) -> None:
        """Files in a folder that some run names: those of other inputs or states, and vectors without a part."""
        listing = self.workspace.listing(folder)
        wanted = self.groups[folder]
        there = [name for name in wanted if group_file(name) in listing]
        parts: dict[str, list[str]] = {}
        for name in there:
            group = read_group(self.workspace, folder, name)
            for part in group.parts:
                parts[f"part-{part.part:05d}.{part.fingerprint}.parquet"] = [v.file for v in part.vectors.values()]
        # of an unfinished group nobody knows yet which parts it will name: all of them stay
        unfinished = len(there) < len(wanted)
        vectors = {file for files in parts.values() for file in files}
        for name, size in sorted(listing.items()):
            path = f"{folder}/{name}"
            if _PART.match(name):
                if name in parts:
                    continue
                if unfinished:
                    meta = parse_meta(self.workspace.read(path), self.workspace.where(path))
                    vectors |= {vector.file for vector in meta.vectors.values()}
                else:
                    self._add(path, size, "a part of another input or an earlier state")
            elif match := _GROUP.match(name):
                if match[1] not in wanted:
                    self._add(path, size, "summary of another input or an earlier state")
            elif not _VECTORS.match(name) and (match := _WHOLE.match(name)) and match[1] not in self.wholes[folder]:
                self._add(path, size, "made for another input or an earlier state")
        for name, size in sorted(listing.items()):
            if _VECTORS.match(name) and name not in vectors:
                self._add(f"{folder}/{name}", size, "vectors without a part")

    def _whole_folder(self, folder: str, why: str) -> None:
        """A folder that can go; should it hold anything that curate does not write, only the rest of it goes."""
        files = list(self._below(folder))
        strange = [path for path, _ in files if not _ours(path.removeprefix(f"{folder}/"))]
        if not strange:
            self._add(folder, sum(size for _, size in files), why, len(files))
            return
        self.result.unknown += strange
        for path, size in files:
            if path not in strange:
                self._add(path, size, why)

    def _below(self, folder: str) -> Iterable[tuple[str, int]]:
        """Every file in a folder and its folders, hidden ones too: (path, bytes)."""
        for name, size in sorted((self.workspace.listing(folder) | self._hidden(folder)).items()):
            yield f"{folder}/{name}", size
        for inner in self.workspace.folders(folder):
            yield from self._below(f"{folder}/{inner}")

    def _hidden(self, folder: str) -> dict[str, int]:
        if not self.workspace.is_local:
            return {}
        here = Path(self.workspace.path(folder))
        if not here.is_dir():
            return {}
        return {p.name: p.stat().st_size for p in here.iterdir() if p.name.startswith(".") and p.is_file()}


def _ours(path: str) -> bool:
    """Whether curate gives such a name to a file of a step's folder or of a release."""
    folder, _, name = path.rpartition("/")
    if _TEMPORARY.match(name) or _EMBEDDINGS.match(path):
        return True
    if folder:
        return folder in _RELEASE_TABLES and bool(_TABLE.match(name))
    return bool(_VECTORS.match(name) or _WHOLE.match(name) or _RELEASE.match(name))
