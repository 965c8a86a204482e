"""`near`: keep the samples of concepts that are nearest for at least one vector of a reference, such as ImageNet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate import embed
from curate.concepts.assign import assign
from curate.errors import InputError, SpecError
from curate.formats.clip_retrieval import Npy, open_npy, read_rows
from curate.formats.sources import Sidecar
from curate.stages.base import Again, Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.store import urls
from curate.store.artifacts import Artifact


class NearConfig(StageConfig):
    """Which vectors are the reference, and which concepts they are looked up in."""

    reference: str = Field(
        min_length=1,
        description="A .npy file, path or URL, of vectors of the encoder that was clustered: float [n, d].",
    )
    within: Annotated[str | None, Reference({"cluster"})] = Field(
        None, description="Cluster stage that gives the concepts; default: the nearest before."
    )


class NearStage(Stage[NearConfig]):
    """Nearest is the largest cosine, for samples and reference alike, decided exactly as in `cluster`.

    Gadre et al. 2023 (arXiv 2304.14108), section 3.2, image-based filtering; there centroids of unequal length are
    compared by inner product, which favours the longer ones.
    """

    kind = "near"
    VERSION = 1
    Config = NearConfig
    drops = True
    not_hashed = frozenset({"reference"})

    def columns(self) -> dict[str, pl.DataType]:
        """Only bookkeeping."""
        return {}

    def reads(self) -> tuple[str, ...]:
        """Concepts and centroids."""
        return (self._within,)

    @property
    def _within(self) -> str:
        return str(self.context.references["within"])

    @cached_property
    def _file(self) -> Sidecar:
        url = self.config.reference
        if urls.split_protocol(url)[0] == "file":
            url = str(urls.resolve(url)[1])  # workers may have another working folder
        return Sidecar("reference", url, urls.size(url), urls.etag(url))

    @cached_property
    def _reference(self) -> Npy:
        return open_npy(self._file)

    def check(self) -> None:
        """The file holds vectors."""
        if not self._reference.rows:
            raise SpecError(f"stage {self.context.step}: the reference {self.config.reference} holds no vector")

    def identity(self) -> dict[str, Any]:
        """Which file, wherever it lies."""
        return {"reference": [self._file.nbytes, self._file.etag]}

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """First pass: nothing. Second: the concepts that this part's share of the reference reaches.

        Memory: 8,192 vectors, and those of `assign`.
        """
        if not state:
            return {}
        centroids = totals.artifacts(self._within)["centroids"]
        assert isinstance(centroids, np.ndarray)
        reference, parts = self._reference, int(state["parts"])
        if reference.dim != centroids.shape[1]:
            raise InputError(
                f"{reference.url}: has vectors of {reference.dim} numbers, the concepts of {self._within} have "
                f"{centroids.shape[1]}; they are of different encoders."
            )
        first, stop = (reference.rows * n // parts for n in (part.index, part.index + 1))
        reached = [np.zeros(0, dtype=np.int32)]
        for where, rows in read_rows(reference, np.arange(first, stop)):
            unit, good = embed.to_stored(rows.astype(np.float32))
            if not good.all():
                row = first + where.start + int(good.argmin())
                raise InputError(
                    f"{reference.url}: row {row:,} is zero, or holds NaN or infinity; take it out, every row counts."
                )
            reached.append(np.unique(assign(unit, centroids)[0]))
        return {"reached": np.unique(np.concatenate(reached))}

    def reduce(
        self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State
    ) -> dict[str, Artifact] | Again:
        """Which concepts are reached. Memory: 1 byte a concept."""
        if not state:
            return Again({"parts": np.asarray(sum(1 for _ in summaries))})
        centroids = totals.artifacts(self._within)["centroids"]
        assert isinstance(centroids, np.ndarray)
        reached = np.zeros(len(centroids), dtype=bool)
        for summary in summaries:
            reached[summary["reached"]] = True
        told = {"concepts": len(reached), "reached": int(reached.sum()), "reference_rows": self._reference.rows}
        return {"reached": np.flatnonzero(reached).astype(np.int32), "reference": told}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Keep the rows of concepts that were reached. Memory: a column of the part."""
        reached = artifacts["reached"]
        assert isinstance(reached, np.ndarray)
        frame = pl.DataFrame({"concept": part.columns(f"{self._within}.concept").to_series()})
        return Columns(
            frame.select(
                keep=pl.col("concept").is_in(reached).fill_null(False),
                reason=pl.when(pl.col("concept").is_null())
                .then(pl.lit("no_concept"))
                .otherwise(pl.lit("far_from_reference")),
            )
        )
