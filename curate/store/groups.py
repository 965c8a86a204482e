"""A finished column group: its parts in order, its artifacts, and where the columns of earlier groups live."""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from curate.store.columns import SCHEMA_VERSION, PartEntry
from curate.store.records import parse_record
from curate.store.workspace import Workspace


class Group(BaseModel):
    """`group.<fingerprint>.json`, written last: one state of a column group, over all parts of an input."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    step: str
    kind: str
    folder: str
    fingerprint: str
    config: dict[str, Any]
    columns: dict[str, str] = Field(description="column -> polars dtype")
    artifacts: str | None = Field(default=None, description="fingerprint of the artifacts, if the stage made any")
    drops: bool
    quarantines: bool = Field(description="whether dropped rows are errors (quarantined) rather than decisions")
    parts: list[PartEntry]

    @property
    def rows(self) -> int:
        """Rows over all parts."""
        return sum(part.rows for part in self.parts)

    @property
    def alive(self) -> int | None:
        """Rows still in after this group; None when it drops nothing."""
        return sum(part.alive or 0 for part in self.parts) if self.drops else None

    @property
    def counts(self) -> dict[str, int]:
        """Rows dropped here by reason, most first."""
        total: Counter[str] = Counter()
        for part in self.parts:
            total.update(part.counts)
        return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def group_file(fingerprint: str) -> str:
    """File name of a group's summary inside its folder."""
    return f"group.{fingerprint}.json"


def write_group(workspace: Workspace, group: Group) -> None:
    """Write the group's summary: the group is finished from here on."""
    workspace.put(f"{group.folder}/{group_file(group.fingerprint)}", group.model_dump_json(indent=1).encode())


def read_group(workspace: Workspace, folder: str, fingerprint: str) -> Group:
    """Read a finished group. Raises StorageError when damaged or of another schema version."""
    name = f"{folder}/{group_file(fingerprint)}"
    return parse_record(Group, workspace.read(name), workspace.where(name), "delete it and run again")
