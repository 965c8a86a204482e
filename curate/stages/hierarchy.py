"""`hierarchy`: concepts of concepts, by k-means with resampling on the centroids of a cluster (Vo et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.concepts.hierarchy import evenness, hierarchy
from curate.errors import SpecError
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact


class HierarchyConfig(StageConfig):
    """Sizes of the levels and how they are trained."""

    within: Annotated[str | None, Reference({"cluster"})] = Field(
        None, description="Cluster stage whose concepts are level 1; default: the nearest before."
    )
    levels: list[int] = Field(
        min_length=1, description="Number of concepts of level 2, 3, ...; each smaller than the level below it."
    )
    resamplings: int | list[int] = Field(
        10, description="How often k-means is run again on what lies nearest the centroids; one number for each level."
    )
    nearest: int | list[int] | None = Field(
        None,
        description="Concepts taken around each centroid then, one for each level; default: half the mean, 2 or more.",
    )
    iterations: int = Field(50, ge=1, description="Lloyd iterations of each k-means, at most.")

    @model_validator(mode="after")
    def _levels_fit(self) -> HierarchyConfig:
        for number, (k, below) in enumerate(zip(self.levels[1:], self.levels, strict=False), 3):
            if k >= below:
                raise ValueError(f"levels: level {number} has {k} concepts and level {number - 1} {below}; lower it")
        if self.levels[-1] < 1:
            raise ValueError(f"levels: a level has {self.levels[-1]} concepts; it needs 1 or more")
        for name, least in (("resamplings", 0), ("nearest", 1)):
            given = getattr(self, name)
            values = given if isinstance(given, list) else [] if given is None else [given]
            if isinstance(given, list) and len(given) != len(self.levels):
                raise ValueError(f"{name}: there are {len(given)} numbers for {len(self.levels)} levels; give one each")
            if values and min(values) < least:
                raise ValueError(f"{name}: {min(values)} is too low; it must be {least} or more")
        return self


class HierarchyStage(Stage[HierarchyConfig]):
    """Adds concept_2, concept_3, ...: the concept of each further level that a sample's concept belongs to."""

    kind = "hierarchy"
    VERSION = 1
    Config = HierarchyConfig
    uses_seed = True

    def columns(self) -> dict[str, pl.DataType]:
        """One a level; null for rows that are not alive."""
        return {f"concept_{level}": pl.Int32() for level in range(2, 2 + len(self.config.levels))}

    @property
    def _within(self) -> str:
        return str(self.context.references["within"])

    def needs_samples(self) -> int:
        """More than concepts of level 2: level 1 must have more, and each takes a sample."""
        return self.config.levels[0] + 1

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Alive rows of each concept that has any here."""
        concept = part.columns(f"{self._within}.concept").to_series()
        mine = concept.filter(pl.Series(part.alive)).drop_nulls().to_numpy()
        concepts, counts = np.unique(mine, return_counts=True)
        return {"concepts": concepts, "counts": counts}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """All levels, from the centroids of level 1 alone. Memory: O(k d), k the concepts of level 1."""
        centroids = totals.artifacts(self._within)["centroids"]
        assert isinstance(centroids, np.ndarray)
        if self.config.levels[0] >= len(centroids):
            raise SpecError(
                f"stage {self.context.step} asks for {self.config.levels[0]:,} concepts at level 2, but {self._within} "
                f"has only {len(centroids):,}, which are level 1; lower levels, or raise concepts there"
            )
        sizes = np.zeros(len(centroids), dtype=np.int64)
        for summary in summaries:
            sizes[summary["concepts"]] += summary["counts"]
        again, near, count = self.config.resamplings, self.config.nearest, len(self.config.levels)
        levels = hierarchy(
            centroids,
            self.config.levels,
            iterations=self.config.iterations,
            resamplings=again if isinstance(again, list) else [again] * count,
            nearest=near if isinstance(near, list) else [near] * count,
            seed=self.context.seed,
        )
        artifacts: dict[str, Artifact] = {}
        told: list[dict[str, Any]] = [_told(1, sizes)]
        for number, level in enumerate(levels, 2):
            below, sizes = sizes, np.zeros(len(level.centroids), dtype=np.int64)
            np.add.at(sizes, level.parents, below)
            artifacts[f"parents_{number}"] = level.parents
            artifacts[f"centroids_{number}"] = level.centroids
            facts = {"objective": level.objective, "rows": level.rows, "nearest": level.nearest, "empty": level.empty}
            told.append(_told(number, sizes) | facts)
        return artifacts | {"levels": {"levels": told}}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Follow the parents upwards. Memory: a few numbers a row."""
        concept = part.columns(f"{self._within}.concept").to_series()
        has = part.alive & concept.is_not_null().to_numpy()
        at = concept.fill_null(0).to_numpy()[has]
        columns = {}
        for level in range(2, 2 + len(self.config.levels)):
            parents = artifacts[f"parents_{level}"]
            assert isinstance(parents, np.ndarray)
            at = parents[at]
            whole = np.full(part.rows, -1, dtype=np.int32)
            whole[has] = at
            columns[f"concept_{level}"] = whole
        frame = pl.DataFrame(columns, schema=self.columns())
        return Columns(frame.select(pl.when(pl.col(name) >= 0).then(name) for name in columns))


def _told(level: int, sizes: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "level": level,
        "concepts": len(sizes),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        "even": evenness(sizes),
    }
