"""`against`: drops what is in a reference set already, such as an evaluation set (decontamination) or a release."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field

from curate.concepts.assign import assign
from curate.concepts.kmeans import train
from curate.dedup.reference import Reach, most_similar, reach
from curate.errors import InputError, SpecError
from curate.formats.datacomp import Subset, positions, records, uid_at
from curate.formats.references import (
    EMBEDDING,
    ReferenceSet,
    encoder_of,
    open_references,
    samples_of,
    vectors_of,
)
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.stages.read_embeddings import stored
from curate.stages.vectors import alive_vectors
from curate.store.artifacts import Artifact
from curate.store.groups import Group, read_group
from curate.store.workspace import Workspace

GROUPS = 256
"""Concepts are put into at most so many groups of neighbours: 32 bytes a reference for what each group could match."""
_COARSE_ITERATIONS = 5


class AgainstConfig(StageConfig):
    """What is compared with, and what counts as the same."""

    references: Annotated[list[str], Field(min_length=1)] = Field(
        description="Paths or URLs: .npy or .npz of vectors, folders of embeddings, finished workspaces, releases."
    )
    epsilon: float | None = Field(
        0.07,
        ge=0,
        le=1,
        description="Dropped when the cosine similarity is above 1 - epsilon, or is 1; null: only exact copies.",
    )
    within: Annotated[str | None, Reference({"cluster"}, optional=True)] = Field(
        None, description="Cluster stage whose concepts save comparisons; default: the nearest before, if any."
    )
    embedding: Annotated[str | None, Reference(frozenset(EMBEDDING), follow="within", optional=True)] = Field(
        None, description="Embed stage whose vectors are compared; default: the one that `within` clustered."
    )


@dataclass(frozen=True)
class _Loaded:
    """All sets of a worker: vectors on scratch disk, codes and keys in memory."""

    vectors: NDArray[np.float16]
    """[m, d] memory-mapped from an unnamed file."""
    keys: pl.Series
    """[m] set:key."""
    uids: Subset
    """Samples that are known by hash or uid, in order."""
    sets: pl.Series
    """Name of the set of each."""
    hashed: NDArray[np.bool_]
    """Whether it has a sha256."""
    by_uid: tuple[Subset, NDArray[np.int64]]
    """The uids sorted, and which sample each is."""
    by_sha: tuple[Subset, NDArray[np.int64]]
    """The first halves of all sha256 sorted, and which sample each is."""

    def name(self, sample: int) -> str:
        """set:uid of a sample."""
        return f"{self.sets[sample]}:{uid_at(self.uids, sample)}"


class AgainstStage(Stage[AgainstConfig]):
    """The same image bytes or the same uid, or a vector too close to any vector of a set. Nothing else is compared.

    Memory: of the sets, 2 x dimension bytes a vector on scratch disk, and some 100 bytes a vector or sample; of the
    part, its vectors in float32 and a block of products.
    """

    kind = "against"
    VERSION = 1
    Config = AgainstConfig
    drops = True
    depends = "part"
    not_hashed = frozenset({"references"})

    _sets: tuple[ReferenceSet, ...] = ()
    loaded: _Loaded | None = None
    """Made once a worker, like `within`, and never sent to another."""
    within: Reach | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("loaded", "within")}

    def columns(self) -> dict[str, pl.DataType]:
        """Both null for rows that stay; similarity also for exact copies."""
        return {"similarity": pl.Float64(), "reference": pl.String()}

    @cached_property
    def _index(self) -> str:
        return next(iter(self.context.schema))

    @property
    def _embedding(self) -> str | None:
        return self.context.references["embedding"] if self._dim else None

    @property
    def _within(self) -> str | None:
        """None also where the concepts are of other vectors than those compared: they would spare the wrong ones."""
        within = self.context.references["within"] if self._dim else None
        clustered = self.context.referred.get(within or "", {}).get("embedding", self._embedding)
        return within if clustered == self._embedding else None

    @property
    def _dim(self) -> int:
        """Length of the references' vectors; 0 when none are compared."""
        return max((one.dim for one in self._sets), default=0) if self.config.epsilon is not None else 0

    def reads(self) -> tuple[str, ...]:
        """Hashes and uids; with vectors, these and the concepts."""
        return (self._index, *(step for step in (self._within, self._embedding) if step is not None))

    def check(self) -> None:
        """Look at every set once: a missing file, or vectors of two lengths, are found before work starts."""
        try:
            sets = tuple(open_references(self.config.references))
        except InputError as error:
            raise SpecError(f"stage {self.context.step}, references: {error}") from error
        self._sets = sets
        with_vectors = [one for one in sets if one.dim]
        for one in with_vectors[1:]:
            if one.dim != with_vectors[0].dim and self.config.epsilon is not None:
                raise SpecError(
                    f"stage {self.context.step}: {one.url} has vectors of {one.dim} numbers, {with_vectors[0].url} of "
                    f"{with_vectors[0].dim}; they are of different models: use one stage for each"
                )
        if with_vectors and self.config.epsilon is not None and self.context.references["embedding"] is None:
            raise SpecError(
                f"stage {self.context.step} compares vectors, but no stage before it makes any; put embed or "
                "read_embeddings before it, or set epsilon: null to look for exact copies only"
            )
        if self.config.epsilon is None and (bare := next((one for one in sets if not one.samples), None)):
            raise SpecError(
                f"stage {self.context.step}: {bare.url} holds vectors only, and epsilon: null compares none; set "
                "epsilon, or leave it out"
            )

    def identity(self) -> dict[str, Any]:
        """What the sets hold, and what they are called in the column `reference`."""
        return {"references": [[one.name, one.content] for one in self._sets]}

    def setup(self) -> None:
        """Read all sets, piece by piece."""
        self.loaded, self.within = self._load(), None

    # --- what is compared with ----------------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Nothing of the part: the reduce looks at the references."""
        return {}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Compare lengths and encoders, and tell what the sets are. Memory: O(parts)."""
        for _ in summaries:
            pass
        if self._embedding is not None:
            self._fits(_group(totals, self._embedding))
        told = [
            {"name": one.name, "url": one.url, "content": one.content, "vectors": one.vectors, "samples": one.samples}
            for one in self._sets
        ]
        return {"references": {"references": told}}

    def _fits(self, group: Group | None) -> None:
        if group is None:
            return
        dim = max((part.vectors["image"].dim for part in group.parts if part.rows), default=0)
        ours = encoder_of(group)
        for one in self._sets:
            if one.dim and dim and one.dim != dim:
                raise InputError(
                    f"{one.url}: has vectors of {one.dim} numbers, those of {group.step} have {dim}; embed both with "
                    "the same encoder"
                )
            if one.encoder is not None and ours is not None and one.encoder != ours:
                theirs, mine = ("/".join(str(v) for _, v in made if v is not None) for made in (one.encoder, ours))
                raise InputError(
                    f"{one.url}: its vectors are by {theirs}, those of {group.step} by {mine}, which cannot be "
                    "compared; embed both with the same encoder"
                )

    def _load(self) -> _Loaded:
        keys: list[pl.Series] = []
        with tempfile.TemporaryFile(prefix="curate-references-") as scratch:
            m = 0
            for one in self._sets if self._dim else ():
                for names, raw in vectors_of(one):
                    rows, good = stored(np.asarray(raw))
                    scratch.write(np.ascontiguousarray(rows[good]).tobytes())
                    kept = pl.Series([f"{one.name}:{names[i]}" for i in np.flatnonzero(good)], dtype=pl.String)
                    keys.append(kept)
                    m += len(kept)
            scratch.flush()
            # the map keeps the file, which has no name any more
            shape = (m, self._dim)
            vectors = np.memmap(scratch, np.float16, "r", shape=shape) if m else np.zeros(shape, dtype=np.float16)
        frames = [frame.with_columns(pl.lit(one.name).alias("set")) for one in self._sets for frame in samples_of(one)]
        empty = pl.DataFrame(schema={"uid_hi": pl.UInt64, "uid_lo": pl.UInt64, "sha256": pl.String, "set": pl.String})
        samples = pl.concat([empty, *frames], rechunk=True)
        uids = records(samples["uid_hi"].to_numpy(), samples["uid_lo"].to_numpy())
        hashed = samples["sha256"].is_not_null().to_numpy()
        return _Loaded(
            vectors=vectors,
            keys=pl.concat([pl.Series(dtype=pl.String), *keys], rechunk=True),
            uids=uids,
            sets=samples["set"],
            hashed=hashed,
            by_uid=_sorted(uids, np.arange(len(uids))),
            by_sha=_sorted(_halves(samples["sha256"].drop_nulls()), np.flatnonzero(hashed)),
        )

    def _reach(self, part: Part, vectors: NDArray[np.float16]) -> Reach | None:
        """What each group of concepts could match; made from the centroids with the first part of a worker."""
        if self._within is None or self.config.epsilon is None:
            return None
        if self.within is None:
            centroids = part.artifacts(self._within)["centroids"]
            assert isinstance(centroids, np.ndarray)
            group = np.arange(len(centroids), dtype=np.int32)
            if len(centroids) > GROUPS:
                coarse = train(centroids, GROUPS, niter=_COARSE_ITERATIONS, seed=0, seeding="kmeans++").centroids
                group = np.unique(assign(centroids, coarse)[0], return_inverse=True)[1].astype(np.int32)
            self.within = reach(vectors, centroids, group, self.config.epsilon)
        return self.within

    # --- the decision -------------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Look up hashes and uids, then compare the vectors of what is left. Memory: as of the class."""
        assert self.loaded is not None
        exact = self._exact(part, self.loaded)
        found: list[str | None] = [None] * part.rows
        similarity: list[float | None] = [None] * part.rows
        for row in np.flatnonzero(exact >= 0).tolist():
            found[row] = self.loaded.name(int(exact[row]))
        if self._embedding is not None and len(self.loaded.vectors):
            rows, best, which = self._near(part, self.loaded.vectors, exact < 0)
            for row, value, reference in zip(rows.tolist(), best.tolist(), which.tolist(), strict=True):
                if reference >= 0:
                    found[row], similarity[row] = self.loaded.keys[reference], value
        values = pl.DataFrame(
            {
                "similarity": pl.Series(similarity, dtype=pl.Float64),
                "reference": pl.Series(found, dtype=pl.String),
            }
        )
        return Columns(
            values.with_columns(
                keep=pl.col("reference").is_null(),
                reason=pl.when(pl.col("similarity").is_null())
                .then(pl.lit("in_reference_exact"))
                .otherwise(pl.lit("in_reference")),
            )
        )

    def _exact(self, part: Part, loaded: _Loaded) -> NDArray[np.int64]:
        """Number of the sample with the same bytes, or with the same uid unless both hashes are known; -1: none.

        Two collections may use one uid for different images (uids come from names), but not one sha256.
        """
        found = np.full(part.rows, -1, dtype=np.int64)
        if not len(loaded.uids):
            return found
        frame = part.columns(f"{self._index}.uid_hi", f"{self._index}.uid_lo", f"{self._index}.sha256")
        rows = np.flatnonzero(part.alive)
        hi, lo, sha = frame[rows.tolist()]
        hashed = sha.is_not_null().to_numpy()
        codes, of = loaded.by_uid
        at = positions(codes, hi.to_numpy(), lo.to_numpy())
        sample = np.where(at >= 0, of[at], -1)
        found[rows] = np.where(hashed & loaded.hashed[sample], -1, sample)
        codes, of = loaded.by_sha
        if len(codes):
            halves = _halves(sha.drop_nulls())
            at = positions(codes, halves["f0"], halves["f1"])
            found[rows[hashed][at >= 0]] = of[at[at >= 0]]
        return found

    def _near(
        self, part: Part, references: NDArray[np.float16], left: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
        """Rows that were compared, their largest similarity and which reference that is."""
        assert self._embedding is not None
        assert self.config.epsilon is not None
        rows, vectors = alive_vectors(part, self._embedding, left)
        if len(rows) and vectors.shape[1] != references.shape[1]:
            raise InputError(
                f"stage {self.context.step}: the references have vectors of {references.shape[1]} numbers, those of "
                f"{self._embedding} have {vectors.shape[1]}; embed both with the same encoder"
            )
        within = self._reach(part, references)
        if within is None:
            return rows, *most_similar(vectors, references, self.config.epsilon)
        concept = part.columns(f"{self._within}.concept").to_series()
        has = concept.is_not_null().to_numpy()[rows]
        similarity, which = np.zeros(len(rows)), np.full(len(rows), -1, dtype=np.int64)
        concepts = concept.fill_null(0).to_numpy()[rows]
        for mine, options in ((has, {"concept": concepts[has], "within": within}), (~has, {})):
            if mine.any():
                found = most_similar(vectors[mine], references, self.config.epsilon, **options)
                similarity[mine], which[mine] = found
        return rows, similarity, which


def _halves(sha256: pl.Series) -> Subset:
    """The first 128 bits of every sha256 (hex, no nulls), in order."""
    texts = sha256.to_list()
    octets = np.frombuffer(b"".join(bytes.fromhex(text) for text in texts), dtype=">u8").reshape(-1, 4)
    return records(octets[:, 0], octets[:, 1])


def _sorted(codes: Subset, of: NDArray[np.int64]) -> tuple[Subset, NDArray[np.int64]]:
    """Codes in order, the sample that came first before others with the same code."""
    order = np.lexsort((codes["f1"], codes["f0"]))
    return codes[order], of[order]


def _group(totals: Totals, step: str) -> Group | None:
    """The finished group of an earlier step; None when it cannot be told which it is."""
    layer = next(layer for layer in totals.layers if layer.step == step)
    workspace: Workspace = totals.workspace
    files = sorted(name for name in workspace.listing(layer.folder) if name.startswith("group."))
    return read_group(workspace, layer.folder, files[0].split(".")[1]) if files else None
