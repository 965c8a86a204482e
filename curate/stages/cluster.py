"""`cluster`: concepts by spherical k-means on a sample of the vectors or on all of them, then each row's nearest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.concepts.assign import DISTANCE_SCALE, Device, assign, to_float
from curate.concepts.kmeans import Engine, start, train
from curate.concepts.lloyd import Partial, ended, moved, partial, total
from curate.concepts.number import Purpose, for_dedup, for_prune
from curate.concepts.seeding import Seeding
from curate.errors import InputError, SpecError
from curate.stages.base import Again, Columns, Resources, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.stages.vectors import alive_vectors
from curate.store.artifacts import Artifact
from curate.store.uids import hash64


class ClusterConfig(StageConfig):
    """Number of concepts and how they are trained."""

    concepts: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        description="Number of concepts (clusters), k; auto: see purpose."
    )
    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"})] = Field(
        None, description="Embed stage whose vectors are clustered; default: the nearest before."
    )
    purpose: Purpose = Field(
        "prune", description="What auto is for. prune: the fewest that doubling gains little on; dedup: the least work."
    )
    train: Literal["sample", "full"] = Field(
        "sample",
        description="sample: iterate over training_sample rows in one task; full: over all rows, on all workers.",
    )
    iterations: int = Field(100, ge=1, description="Lloyd iterations; 100 as in DBP and SemDeDup.")
    tolerance: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Stop when an iteration lowers the mean distance by less than this share.",
    )
    training_sample: int = Field(
        1_000_000, ge=1, description="Rows drawn for training, about this many; all rows when there are fewer."
    )
    seeding: Seeding = Field(
        "random", description="Rows of the sample that iterations start from: random, or spread by squared distance."
    )
    engine: Engine = Field(
        "exact", description="exact: the same centroids on any machine; faiss: its own, on a sample only."
    )
    threads: int = Field(1, ge=1, description="CPU threads of faiss; part of the result, so it is fixed.")


class ClusterStage(Stage[ClusterConfig]):
    """Adds concept and distance (cosine distance to the concept's centroid, exact multiples of 2^-32)."""

    kind = "cluster"
    VERSION = 1
    Config = ClusterConfig
    uses_seed = True
    gpus: float = 0.0
    """GPUs of one worker, set by the run once the cluster is known."""

    def columns(self) -> dict[str, pl.DataType]:
        """Null for rows that are not alive."""
        return {"concept": pl.Int32(), "distance": pl.Float64()}

    def needs_samples(self) -> int:
        """At least one for each concept."""
        return 1 if self.config.concepts == "auto" else self.config.concepts

    def check(self) -> None:
        """faiss trains on a sample in one task."""
        if self.config.engine == "faiss" and self.config.train == "full":
            raise SpecError(f"stage {self.context.step}: train: full has an engine of its own; leave engine: faiss out")
        if self.config.engine == "faiss" and self.config.tolerance:
            raise SpecError(f"stage {self.context.step}: faiss knows no tolerance; leave it out, or engine: faiss")

    def facts(self) -> dict[str, Any]:
        """Recorded, not hashed: the result is the same on any device."""
        return {"device": "cuda" if self.gpus else "cpu"}

    def resources(self) -> Resources:
        """One GPU if the cluster has any."""
        return Resources(gpus=self.gpus)

    @property
    def _device(self) -> Device:
        if not self.gpus:
            return "cpu"
        import torch  # heavy to import, and a CPU does without

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def _embedding(self) -> str:
        name = self.context.references["embedding"]
        assert name is not None
        return name

    # --- passes over the parts --------------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """First: rows whose hash of (seed, uid) is small enough, the same rows for any cut into parts. Then, with
        train: full, what the part contributes to an iteration. Memory: the part's vectors, O(concepts x dim).
        """
        if state:
            _, vectors = alive_vectors(part, self._embedding)
            return partial(vectors, state["centroids"], device=self._device).arrays()
        only = None
        if totals.alive > self.config.training_sample:
            uids = part.columns("uid_hi", "uid_lo")
            draw = hash64(uids["uid_hi"].to_numpy(), uids["uid_lo"].to_numpy(), self.context.seed, self.kind)
            only = draw < np.uint64(self.config.training_sample / totals.alive * 2**64)
        return {"vectors": alive_vectors(part, self._embedding, only)[1]}

    def merge(self, summaries: Iterator[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """The sample's rows one after the other; of an iteration, one exact sum. Memory: that, and one summary."""
        first = next(summaries)
        if "vectors" in first:
            return {"vectors": np.concatenate([first["vectors"], *(one["vectors"] for one in summaries)])}
        return total(_partials(first, summaries)).arrays()

    def reduce(
        self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State
    ) -> dict[str, Artifact] | Again:
        """Train on the sample, or take starting centroids from it, or end an iteration over all rows.

        Memory: the training sample (training_sample x d float16, twice while it is put together), 20 bytes a row of
        it, O(k d); in an iteration O(k d).
        """
        if state:
            return self._iteration(summaries, totals, state)
        sample = np.concatenate([summary["vectors"] for summary in summaries])
        if not len(sample):
            raise InputError(
                f"no sample is alive before stage {self.context.step}: the stages before it dropped all "
                f"{totals.rows:,}; see why with curate status and loosen them"
            )
        concepts, auto = self._concepts(sample, totals)
        if len(sample) < concepts <= totals.alive and totals.alive > self.config.training_sample:
            raise SpecError(
                f"stage {self.context.step} asks for {concepts} concepts but its training sample has only "
                f"{len(sample)} of the {totals.alive} samples alive there; raise training_sample, or lower concepts"
            )
        if len(sample) < concepts:
            raise SpecError(
                f"stage {self.context.step} asks for {concepts} concepts but only {len(sample)} samples "
                f"are alive there; set concepts to {len(sample)} or less"
            )
        report = {"concepts": concepts, "training_rows": len(sample), "alive_rows": totals.alive} | auto
        config, seed, device = self.config, self.context.seed, self._device
        if config.train == "full":
            centroids = start(sample, concepts, seeding=config.seeding, seed=seed, device=device)
            return Again({"centroids": centroids, "objective": np.zeros(0), "report": _packed(report)})
        training = train(
            sample,
            concepts,
            niter=config.iterations,
            seed=seed,
            threads=config.threads,
            engine=config.engine,
            seeding=config.seeding,
            tolerance=config.tolerance,
            device=device,
        )
        report |= {"objective": training.objective, "empty": training.empty}
        return {"centroids": training.centroids, "training": report}

    def _concepts(self, sample: NDArray[np.float16], totals: Totals) -> tuple[int, dict[str, Any]]:
        """The number of concepts and, when it was chosen here, the reasons for the report."""
        if self.config.concepts != "auto":
            return self.config.concepts, {}
        if self.config.purpose == "dedup":
            choice = for_dedup(totals.alive, len(sample))
        else:
            choice = for_prune(sample, seed=self.context.seed, device=self._device)
        return choice.concepts, {"auto": {"purpose": self.config.purpose} | asdict(choice)}

    def _iteration(
        self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State
    ) -> dict[str, Artifact] | Again:
        whole = total(Partial.of_arrays(summary) for summary in summaries)
        rows = int(whole.counts.sum())
        centroids, empty = moved(state["centroids"], whole.sums, whole.counts)
        objective = [*state["objective"].tolist(), whole.objective / DISTANCE_SCALE / rows]
        still = np.array_equal(centroids, state["centroids"])
        if not ended(objective, still, self.config.iterations, self.config.tolerance):
            return Again({**state, "centroids": centroids, "objective": np.asarray(objective)})
        report = json.loads(state["report"].tobytes())
        report |= {"iterated_rows": rows, "objective": objective, "empty": empty}
        return {"centroids": centroids, "training": report}

    # --- each part --------------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Nearest centroid of every alive row. Memory: the part's vectors and one block of scores."""
        centroids = artifacts["centroids"]
        assert isinstance(centroids, np.ndarray)
        rows, vectors = alive_vectors(part, self._embedding)
        concept, distance = assign(vectors, centroids, device=self._device)
        frame = pl.DataFrame({"row": rows, "concept": concept, "distance": to_float(distance)})
        everything = pl.DataFrame({"row": np.arange(part.rows)})
        return Columns(everything.join(frame, on="row", how="left", maintain_order="left").drop("row"))


def _partials(first: dict[str, NDArray[Any]], others: Iterator[dict[str, NDArray[Any]]]) -> Iterator[Partial]:
    yield Partial.of_arrays(first)
    yield from map(Partial.of_arrays, others)


def _packed(report: dict[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(report).encode(), dtype=np.uint8)
