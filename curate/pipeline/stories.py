"""What `curate explain` tells of a sample, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["made", "kept", "dropped", "not judged", "not run yet"]


@dataclass(frozen=True)
class Other:
    """Another sample that is part of the story: its uid and, when it can be found, where it is."""

    uid: str
    key: str | None = None
    shard: str | None = None


@dataclass(frozen=True)
class StepStory:
    """What one step did with the sample. `values`: its columns; `evidence`: what explains the verdict."""

    step: str
    kind: str
    verdict: Verdict
    reason: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Story:
    """One row of the run's table. Samples that share a uid have a story each."""

    uid: str
    key: str
    shard: str
    part: int
    row: int
    members: list[dict[str, Any]]
    status: str
    detail: str | None
    alive: bool
    steps: list[StepStory]
    release: str | None
    """URL of the shard of the release that holds it."""
    released_as: str | None
    """Name of its members there, without extensions."""

    def as_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
