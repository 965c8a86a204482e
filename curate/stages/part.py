"""What a stage sees of one part: the columns and vectors that earlier steps left, by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.formats.sources import PartSource
from curate.store.artifacts import Artifact, read_artifacts
from curate.store.columns import read_columns, read_vectors
from curate.store.workspace import Workspace


@dataclass(frozen=True)
class Layer:
    """One step's columns of this part: where they are, what they are called."""

    step: str
    kind: str
    folder: str
    fingerprint: str
    columns: tuple[str, ...]
    drops: bool
    artifacts: str | None = None
    """Fingerprint of the step's artifacts, if it makes any."""


@dataclass(frozen=True)
class Twin:
    """A stored state of the step that is being computed: of the very part, or of one that holds the same content."""

    folder: str
    part: int
    fingerprint: str


def load_artifacts(workspace: Workspace, layers: Iterable[Layer], step: str) -> dict[str, Artifact]:
    """Artifacts of an earlier step, by name."""
    for layer in layers:
        if layer.step == step and layer.artifacts is not None:
            return read_artifacts(workspace, layer.folder, layer.artifacts)
    raise SpecError(f"no earlier step named {step} makes artifacts")


@dataclass
class Part:
    """One part of the run's table. Rows are the samples of `source`, in tar order; picklable."""

    workspace: Workspace
    index: int
    source: PartSource
    layers: tuple[Layer, ...]
    """Earlier steps, in order."""
    fingerprint: str = ""
    """Of the state of this part that is read or computed, when one step's work is meant."""
    twins: tuple[Twin, ...] = ()
    """Where rows of the same content may be stored already, most likely first; for stages that reuse rows."""
    retry: bool = False
    """True when rows that failed are to be tried again, whatever is stored of them."""

    def __getstate__(self) -> dict[str, object]:
        # what was read (alive) stays behind: another process reads it again
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def layer(self, step: str) -> Layer:
        """The layer of a step by its name."""
        for layer in self.layers:
            if layer.step == step:
                return layer
        raise SpecError(
            f"part {self.index} has no step named {step}; steps so far: {', '.join(x.step for x in self.layers)}"
        )

    def columns(self, *names: str) -> pl.DataFrame:
        """Columns by name, one row a sample. `width` takes the latest step that wrote it, `step.column` that step's.

        Memory: the columns asked for.
        """
        wanted: dict[str, list[tuple[str, str]]] = {}
        for name in names:
            step, _, column = name.rpartition(".")
            layer = self.layer(step) if step else self._latest(column)
            wanted.setdefault(layer.step, []).append((name, column))
        frames = []
        for step, pairs in wanted.items():
            layer = self.layer(step)
            frame = read_columns(
                self.workspace, layer.folder, self.index, layer.fingerprint, sorted({c for _, c in pairs})
            )
            frames.append(frame.select(pl.col(column).alias(name) for name, column in pairs))
        return pl.concat(frames, how="horizontal").select(names)

    def _latest(self, column: str) -> Layer:
        for layer in reversed(self.layers):
            if column in layer.columns:
                return layer
        raise SpecError(f"no step so far writes a column named {column}")

    @cached_property
    def alive(self) -> NDArray[np.bool_]:
        """bool [rows]: rows that no earlier step dropped, read from the nearest step that drops."""
        for layer in reversed(self.layers):
            if layer.drops:
                frame = read_columns(self.workspace, layer.folder, self.index, layer.fingerprint, ["alive"])
                return frame["alive"].to_numpy()
        return np.ones(self.rows, dtype=bool)

    @cached_property
    def rows(self) -> int:
        """Samples in this part."""
        layer = self.layers[0]
        return read_columns(self.workspace, layer.folder, self.index, layer.fingerprint, [layer.columns[0]]).height

    def artifacts(self, step: str) -> dict[str, Artifact]:
        """Artifacts of an earlier step."""
        return load_artifacts(self.workspace, self.layers, step)

    def vectors(self, step: str, which: str = "image") -> NDArray[Any]:
        """Packed vectors, float16 [n, d], or records [n]; the step's `vec_row` or `map_row` says which is whose."""
        layer = self.layer(step)
        return read_vectors(self.workspace, layer.folder, self.index, layer.fingerprint, which)
