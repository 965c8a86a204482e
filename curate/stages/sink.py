"""A sink writes files of its own from what earlier steps decided, a source from its options alone; no columns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import polars as pl
from numpy.typing import NDArray

from curate.errors import StorageError
from curate.stages.base import C, Stage, State, Totals
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.workspace import Workspace


@dataclass(frozen=True)
class Unit:
    """One piece of a sink's work: what it makes, from which parts."""

    kind: str
    index: int
    parts: tuple[int, ...]
    samples: int = 0
    """Samples in it, where that is known beforehand."""

    @property
    def name(self) -> str:
        """Names the unit among all of its sink."""
        return f"{self.kind}-{self.index:05d}"


class Lost(StorageError):
    """What a finished unit wrote is not there any more; raised by `finish`, and all units are then written again."""


class Sink(Stage[C]):
    """A stage at the end of a pipeline. Its units are independent; a marker in the workspace says one is finished."""

    kind: ClassVar[str]

    def columns(self) -> dict[str, pl.DataType]:
        """None: a sink adds no column group."""
        return {}

    @abstractmethod
    def target(self, workspace: Workspace, whole: str) -> Workspace:
        """Where the sink writes; `whole` is the fingerprint of everything it reads."""

    @abstractmethod
    def units(self, artifacts: Mapping[str, Artifact], parts: int) -> list[Unit]:
        """All pieces of work."""

    @abstractmethod
    def write(
        self, unit: Unit, parts: Sequence[Part], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """Do one unit; returns what `finish` must know of it (JSON-able), which is also its marker."""

    @abstractmethod
    def intact(self, report: dict[str, Any], target: Workspace) -> bool:
        """Whether what `finish` reported is still there; a cheap look, not a verification."""

    @abstractmethod
    def finish(
        self, results: Iterable[dict[str, Any]], artifacts: Mapping[str, Artifact], target: Workspace
    ) -> dict[str, Any]:
        """Write what needs all units (a manifest), last of all; returns what run.json should say of the sink.

        Raises Lost when a unit's files are gone.
        """


@dataclass(frozen=True)
class Outlook:
    """What a source is about to make."""

    samples: int
    shards: int
    seconds: float
    """Of one core, about."""
    nbytes: int
    """Of all files, about."""
    what: str
    """In words, such as `images of 1,000 classes`."""
    warnings: tuple[str, ...] = ()


class Source(Sink[C]):
    """A sink that reads nothing: its reduce, over no parts, and its units make samples from the options and the seed.

    Its `Config` says `makes_samples = True`. Its `Unit`s are of the kind `shard` and say how many `samples` they hold.
    """

    first = True
    uses_seed = True

    @abstractmethod
    def outlook(self) -> Outlook:
        """What a run will make; asked before any work."""

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Never called: there are no parts."""
        raise TypeError(f"stage {self.kind} reads no parts")
