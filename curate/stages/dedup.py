"""`dedup`: semantic duplicates within a concept (SemDeDup, Abbas et al. 2023), after byte-identical ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.concepts.assign import DISTANCE_SCALE
from curate.dedup.semantic import keep_order, semantic_duplicates
from curate.engine.exchange import Bucket, Buckets, Records, Worked
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.exact import ExactConfig, ExactStage
from curate.stages.part import Part
from curate.stages.vectors import alive_vectors
from curate.store.artifacts import Artifact
from curate.store.uids import format_uid

_DTYPE = np.dtype(
    [("key", "u4"), ("part", "u4"), ("row", "u4"), ("uid_hi", "u8"), ("uid_lo", "u8"), ("distance", "i8")]
)
_BACK = np.dtype(
    [
        ("part", "u4"),
        ("row", "u4"),
        ("similarity", "f8"),
        ("of_hi", "u8"),
        ("of_lo", "u8"),
        ("keeper_hi", "u8"),
        ("keeper_lo", "u8"),
    ]
)


class DedupConfig(StageConfig):
    """What counts as a duplicate, and which of a pair stays."""

    within: Annotated[str | None, Reference({"cluster"})] = Field(
        None, description="Cluster stage in whose concepts pairs are compared; default: the nearest before."
    )
    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"}, follow="within")] = Field(
        None, description="Embed stage whose vectors are compared; default: the one that `within` clustered."
    )
    epsilon: float = Field(
        0.07, ge=0, le=1, description="A pair with cosine similarity above 1 - epsilon is a duplicate."
    )
    rule: Literal["paper", "greedy"] = Field(
        "paper", description="paper: dropped for any earlier sample, as SemDeDup's code does; greedy: for a kept one."
    )
    order: Literal["hard", "easy"] = Field("hard", description="Which stays: hard = farthest from the centroid.")


class DedupStage(Stage[DedupConfig]):
    """Drops what is too similar to an earlier sample of its concept; names that sample and its surviving keeper."""

    kind = "dedup"
    VERSION = 1
    Config = DedupConfig
    drops = True

    @classmethod
    def companions_before(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """Byte-identical copies go first: they need no vectors."""
        return [(ExactStage, ExactConfig(name=f"{name}-exact"))]

    def columns(self) -> dict[str, pl.DataType]:
        """uids and the cosine similarity to duplicate_of; null for rows that stay."""
        return {"duplicate_of": pl.String(), "keeper": pl.String(), "similarity": pl.Float64()}

    def reads(self) -> tuple[str, ...]:
        """Concepts, vectors, uids."""
        return (next(iter(self.context.schema)), self._within, self._embedding)

    @property
    def _within(self) -> str:
        return str(self.context.references["within"])

    @property
    def _embedding(self) -> str:
        return str(self.context.references["embedding"])

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Alive rows per concept, and the length of a vector."""
        concept = part.columns(f"{self._within}.concept").to_series()
        mine = concept.filter(pl.Series(part.alive)).drop_nulls().to_numpy()
        concepts, counts = np.unique(mine, return_counts=True)
        return {"concepts": concepts, "counts": counts, "dim": np.asarray(part.vectors(self._embedding).shape[1])}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Sizes of all concepts: how the exchange is cut. Memory: O(k)."""
        centroids = totals.artifacts(self._within)["centroids"]
        assert isinstance(centroids, np.ndarray)
        sizes, dim = np.zeros(len(centroids), dtype=np.int64), 0
        for summary in summaries:
            sizes[summary["concepts"]] += summary["counts"]
            dim = int(summary["dim"])
        return {"sizes": sizes, "vectors": {"dim": dim}}

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """Neighbouring concepts together, by the bytes of their records and vectors."""
        sizes, vectors = artifacts["sizes"], artifacts["vectors"]
        assert isinstance(sizes, np.ndarray)
        assert isinstance(vectors, dict)
        return Buckets.by_weight(sizes * (_DTYPE.itemsize + 2 * vectors["dim"]))

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records:
        """Alive rows that have a concept and a vector."""
        frame = part.columns("uid_hi", "uid_lo", f"{self._within}.concept", f"{self._within}.distance")
        has = frame[f"{self._within}.concept"].is_not_null().to_numpy()
        index, vectors = alive_vectors(part, self._embedding, has)
        frame = frame[index.tolist()]
        rows = np.zeros(len(index), dtype=_DTYPE)
        rows["key"] = frame[f"{self._within}.concept"].to_numpy()
        rows["part"], rows["row"] = part.index, index
        rows["uid_hi"], rows["uid_lo"] = frame["uid_hi"].to_numpy(), frame["uid_lo"].to_numpy()
        rows["distance"] = np.rint(frame[f"{self._within}.distance"].to_numpy() * DISTANCE_SCALE).astype(np.int64)
        return Records(rows, vectors)

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Each concept of the bucket in turn. Memory: a block of similarities; vectors on scratch disk when large."""
        rows = bucket.rows
        if not len(rows):
            return Worked(np.zeros(0, dtype=_BACK))
        starts = np.flatnonzero(np.diff(rows["key"].astype(np.int64), prepend=-1))
        spans = list(zip(starts, [*starts[1:], len(rows)], strict=True))
        order = np.concatenate(
            [
                start
                + keep_order(
                    rows["distance"][start:stop],
                    rows["uid_hi"][start:stop],
                    rows["uid_lo"][start:stop],
                    self.config.order,
                )
                for start, stop in spans
            ]
        )
        vectors = bucket.vectors(order)
        back = []
        for start, stop in spans:
            mine = rows[order[start:stop]]
            found = semantic_duplicates(vectors[start:stop], epsilon=self.config.epsilon, rule=self.config.rule)
            drop = ~found.keep
            gone = np.zeros(int(drop.sum()), dtype=_BACK)
            gone["part"], gone["row"], gone["similarity"] = (
                mine["part"][drop],
                mine["row"][drop],
                found.similarity[drop],
            )
            for name, index in (("of", found.duplicate_of[drop]), ("keeper", found.keeper[drop])):
                gone[f"{name}_hi"], gone[f"{name}_lo"] = mine["uid_hi"][index], mine["uid_lo"][index]
            back.append(gone)
        return Worked(np.concatenate(back))

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Mark the duplicates."""
        assert back is not None
        values: dict[str, list[Any]] = {name: [None] * part.rows for name in self.columns()}
        for record in back:
            row = record["row"]
            values["duplicate_of"][row] = format_uid(int(record["of_hi"]), int(record["of_lo"]))
            values["keeper"][row] = format_uid(int(record["keeper_hi"]), int(record["keeper_lo"]))
            values["similarity"][row] = float(record["similarity"])
        frame = pl.DataFrame({name: pl.Series(v, dtype=self.columns()[name]) for name, v in values.items()})
        return Columns(frame.with_columns(keep=pl.col("keeper").is_null(), reason=pl.lit("semantic_duplicate")))
