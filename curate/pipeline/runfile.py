"""run.json: the plan as resolved, and what came of it. Timings live here, in events and in the report only."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.errors import StorageError
from curate.formats.samples import UPSTREAM_STATUSES
from curate.pipeline.retries import Retried
from curate.store.groups import Group, read_group
from curate.store.records import parse_record
from curate.store.workspace import Workspace

SCHEMA_VERSION: Literal[1] = 1
_PACKAGES = (
    "curate",
    "ray",
    "torch",
    "open_clip_torch",
    "timm",
    "faiss-gpu",
    "faiss-cpu",
    "polars",
    "numpy",
    "numba",
    "pillow",
)


class StepRecord(BaseModel):
    """One step of the run."""

    model_config = ConfigDict(extra="forbid")

    name: str
    kind: str
    folder: str
    group: str | None = Field(description="fingerprint of the column group; null for a sink")
    whole: str = Field(description="fingerprint of what a reduce or exchange of this step makes")
    status: Literal["waiting", "running", "done", "failed"] = "waiting"
    rows_before: int | None = None
    rows_after: int | None = None
    reasons: dict[str, int] = Field(default_factory=dict, description="rows dropped here, by reason")
    quarantines: bool = False
    seconds: float | None = None
    reused_parts: int = 0
    parts: int = 0
    facts: dict[str, Any] = Field(default_factory=dict, description="how it ran, rows computed; what a sink wrote")

    @property
    def computed_all(self) -> bool:
        """Whether all of the step's work was done in this run, so that its time is that of its rows."""
        return not self.reused_parts and not self.facts.get("rows_taken_over")

    @property
    def set_aside(self) -> dict[str, int]:
        """Rows quarantined here, by reason: dropped for an error that is not an earlier tool's."""
        return {why: n for why, n in self.reasons.items() if self.quarantines and why not in UPSTREAM_STATUSES}


class RunFile(BaseModel):
    """`run.json` of a workspace."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    plan: str = Field(description="fingerprint of the whole plan")
    command: str
    spec: dict[str, Any] = Field(description="the pipeline file with overrides, environment variables unexpanded")
    source: str = Field(description="name of the pipeline file")
    limit_shards: int | None = None
    sample: float | None = None
    driver: str = Field(description="names this driver's event segments")
    status: Literal["running", "done", "failed", "interrupted"] = "running"
    error: str | None = None
    exit_code: int | None = Field(default=None, description="of the error that ended it; null otherwise")
    started: float
    finished: float | None = None
    engine: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    input_bytes: int = 0
    parts: int = 0
    shards: int = 0
    rows: int = 0
    alive: int = 0
    quarantined: int = 0
    truth: str | None = Field(default=None, description="URL of a truth.json beside the shards, if there is one")
    notes: list[dict[str, Any]] = Field(default_factory=list, description="broken shards and the like")
    retried: Retried | None = Field(default=None, description="what came of --retry-failed")
    steps: list[StepRecord] = Field(default_factory=list)

    @property
    def made(self) -> bool:
        """Whether the run reads no input and makes its samples: its first step has no columns."""
        return bool(self.steps) and self.steps[0].group is None

    def step(self, name: str) -> StepRecord:
        """A step by name. Raises StorageError with the names there are."""
        for step in self.steps:
            if step.name == name:
                return step
        raise StorageError(f"this run has no step named {name}; it has {', '.join(step.name for step in self.steps)}")

    def write(self, workspace: Workspace) -> None:
        """Write run.json, and the same under runs/ so that earlier plans of the workspace stay named."""
        data = self.model_dump_json(indent=1).encode()
        workspace.put(f"runs/{self.plan}.json", data)
        workspace.put("run.json", data)

    def group(self, workspace: Workspace, step: StepRecord) -> Group | None:
        """The finished column group of a step, None when it has none (yet)."""
        if step.status != "done" or step.group is None:
            return None
        return read_group(workspace, step.folder, step.group)


def read_run(workspace: Workspace, name: str = "run.json") -> RunFile:
    """Read a run file. Raises StorageError when there is none, or one of another schema version."""
    if not workspace.exists(name):
        raise StorageError(f"{workspace.where()} holds no {name}; is it the workspace of a run?")
    return parse_record(RunFile, workspace.read(name), workspace.where(name), "run the pipeline again to write it anew")


def versions() -> dict[str, str]:
    """Versions of everything that can change a result."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
