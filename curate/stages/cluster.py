"""`cluster`: concepts by spherical k-means on a sample of the vectors, then the nearest concept of every row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.concepts.assign import assign, to_float
from curate.concepts.kmeans import train
from curate.errors import InputError, SpecError
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.stages.vectors import alive_vectors
from curate.store.artifacts import Artifact
from curate.store.uids import hash64


class ClusterConfig(StageConfig):
    """Number of concepts and how they are trained."""

    concepts: int = Field(ge=1, description="Number of concepts (clusters), k.")
    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"})] = Field(
        None, description="Embed stage whose vectors are clustered; default: the nearest before."
    )
    iterations: int = Field(100, ge=1, description="Lloyd iterations; 100 as in DBP and SemDeDup.")
    training_sample: int = Field(
        1_000_000, ge=1, description="Rows drawn for training, about this many; all rows when there are fewer."
    )
    engine: Literal["exact", "faiss"] = Field(
        "exact", description="exact: the same centroids on any machine; faiss: faster with a GPU or many cores."
    )
    threads: int = Field(1, ge=1, description="CPU threads of faiss; part of the result, so it is fixed.")


class ClusterStage(Stage[ClusterConfig]):
    """Adds concept and distance (cosine distance to the concept's centroid, exact multiples of 2^-32)."""

    kind = "cluster"
    VERSION = 1
    Config = ClusterConfig
    uses_seed = True

    def columns(self) -> dict[str, pl.DataType]:
        """Null for rows that are not alive."""
        return {"concept": pl.Int32(), "distance": pl.Float64()}

    def needs_samples(self) -> int:
        """At least one for each concept."""
        return self.config.concepts

    @property
    def _embedding(self) -> str:
        name = self.context.references["embedding"]
        assert name is not None
        return name

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Rows whose hash of (seed, uid) is small enough: the same rows for any cut into parts."""
        only = None
        if totals.alive > self.config.training_sample:
            uids = part.columns("uid_hi", "uid_lo")
            draw = hash64(uids["uid_hi"].to_numpy(), uids["uid_lo"].to_numpy(), self.context.seed, self.kind)
            only = draw < np.uint64(self.config.training_sample / totals.alive * 2**64)
        return {"vectors": alive_vectors(part, self._embedding, only)[1]}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Train. Memory: the training sample (training_sample x d float16) and O(k d)."""
        sample = np.concatenate([summary["vectors"] for summary in summaries])
        if not len(sample):
            raise InputError(
                f"no sample is alive before stage {self.context.step}: the stages before it dropped all "
                f"{totals.rows:,}; see why with curate status and loosen them"
            )
        if len(sample) < self.config.concepts:
            raise SpecError(
                f"stage {self.context.step} asks for {self.config.concepts} concepts but only {len(sample)} samples "
                f"are alive there; set concepts to {len(sample)} or less"
            )
        training = train(
            sample,
            self.config.concepts,
            niter=self.config.iterations,
            seed=self.context.seed,
            threads=self.config.threads,
            engine=self.config.engine,
        )
        report = {
            "concepts": self.config.concepts,
            "training_rows": training.n,
            "alive_rows": totals.alive,
            "objective": training.objective,
            "empty": training.empty,
        }
        return {"centroids": training.centroids, "training": report}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Nearest centroid of every alive row. Memory: the part's vectors and one block of scores."""
        centroids = artifacts["centroids"]
        assert isinstance(centroids, np.ndarray)
        rows, vectors = alive_vectors(part, self._embedding)
        concept, distance = assign(vectors, centroids)
        frame = pl.DataFrame({"row": rows, "concept": concept, "distance": to_float(distance)})
        everything = pl.DataFrame({"row": np.arange(part.rows)})
        return Columns(everything.join(frame, on="row", how="left", maintain_order="left").drop("row"))
