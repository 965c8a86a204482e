"""Dead letters: samples that were set aside because something was wrong with them, and trying them again.

A finished part is never changed. So what is tried again becomes a new state: the part gets a generation, which stands
in `retries.json` of the workspace before work starts and enters the part's fingerprint wherever a plan is made.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.store.fingerprint import fingerprint
from curate.store.records import parse_record
from curate.store.workspace import Workspace

FILE = "retries.json"


class Open(BaseModel):
    """A retry that has begun and was not yet told of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    states: str = Field(description="fingerprint of the states to be made, of all steps that set samples aside")
    samples: int = Field(description="dead letters there were before")
    shards: int = Field(description="broken shards there were before")


class Retried(BaseModel):
    """What came of a retry."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(default=0, description="dead letters before")
    good: int = Field(default=0, description="fewer dead letters after it")
    shards: int = Field(default=0, description="broken shards before")
    mended: int = Field(default=0, description="fewer broken shards after it")


class Retries(BaseModel):
    """`retries.json`: how often each part was tried again."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    generations: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="folder of a step -> fingerprint of a part as first made -> times tried again"
    )
    open: Open | None = None

    def state(self, folder: str, first: str) -> str:
        """Fingerprint of the newest state of a part; `first` is that of the state made first."""
        return _named(first, self.generation(folder, first))

    def generation(self, folder: str, first: str) -> int:
        """How often the part was tried again."""
        return self.generations.get(folder, {}).get(first, 0)

    def states(self, folder: str, first: str) -> list[str]:
        """Fingerprints of all states of a part, the first one first."""
        return [_named(first, number) for number in range(self.generation(folder, first) + 1)]

    def again(self, folder: str, first: str) -> None:
        """Try a part again: its state gets a new name."""
        self.generations.setdefault(folder, {})[first] = self.generation(folder, first) + 1


def _named(first: str, generation: int) -> str:
    return fingerprint(first, "again", generation) if generation else first


def read_retries(workspace: Workspace) -> Retries:
    """The record of a workspace, an empty one when there is none. Raises StorageError when it is damaged."""
    if not workspace.exists(FILE):
        return Retries()
    way_out = "delete it; samples that were mended by --retry-failed are then set aside again"
    return parse_record(Retries, workspace.read(FILE), workspace.where(FILE), way_out)


def write_retries(workspace: Workspace, retries: Retries) -> None:
    """Write the record, in one put."""
    workspace.put(FILE, retries.model_dump_json(indent=1).encode())
