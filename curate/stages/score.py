"""`score`: how hard each sample is, by a metric of vectors, of a column, or of tables of a model's training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from curate.errors import InputError, SpecError
from curate.pruning.metrics import geometry, metric
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import Reference, StageConfig
from curate.stages.part import Part
from curate.stages.score_table import ScoreTableConfig, ScoreTableStage
from curate.stages.vectors import alive_vectors
from curate.store.artifacts import Artifact
from curate.store.uids import hash64

TABLES = ("predictions", "epochs", "subsets", "scores")
_ONLY: Mapping[str, tuple[str, ...]] = {
    "predictions": ("predictions", "epochs", "subsets"), "scores": ("scores",), "orientation": ("scores",),
    "match": TABLES, "key": TABLES, "order": TABLES, "classes": ("predictions", "epochs"),
    "column": ("scores", "column"),
}  # fmt: skip
"""Options that only metrics with such needs know."""


class ScoreConfig(StageConfig):
    """Which metric, and what it is made of."""

    metric: Literal[
        "prototypes", "knn", "el2n", "grand", "margin", "entropy", "ddd", "forgetting", "memorization",
        "influence-max", "influence-sum-abs", "clip", "imported", "random",
    ] = Field(description="How hard a sample is; docs/metrics.md has the equations.")  # fmt: skip
    predictions: str | Annotated[list[str], Field(min_length=1)] | None = Field(
        None, description="Tables of predictions or training runs: a path or URL, or a list with one for each model."
    )
    scores: str | None = Field(None, description="imported: the file with the scores.")
    orientation: Literal["high", "low"] = Field("high", description="imported: which end of the scores is hard.")
    match: str = Field(
        "key", min_length=1, description="What names a sample in tables: key, name (no folders), uid, or a text column."
    )
    key: str | None = Field(None, description="Column of the tables that names the sample; default: by known names.")
    order: str | None = Field(None, description="List of the samples in row order, for tables without such a column.")
    column: str | None = Field(None, description="imported: column of the score; clip: column of an earlier step.")
    classes: str | None = Field(None, description="List of the labels in the order of the model's outputs.")
    label: str = Field("label", min_length=1, description="Column of an earlier step with the own class.")
    embedding: Annotated[str | None, Reference({"embed", "read_embeddings"}, optional=True)] = Field(
        None, description="prototypes, knn: embed stage whose vectors are used; default: the nearest before."
    )
    leave_one_out: bool = Field(False, description="prototypes: leave the sample out of the mean of its class.")
    neighbours: int = Field(10, ge=1, description="knn: nearest reference rows that are averaged over (k).")
    reference: int = Field(
        100_000, ge=1, description="knn: rows drawn as the reference, about this many; all rows when there are fewer."
    )

    @model_validator(mode="after")
    def _fitting(self) -> ScoreConfig:
        needs = metric(self.metric).needs
        for option, kinds in _ONLY.items():
            if option in self.model_fields_set and getattr(self, option) is not None and needs not in kinds:
                raise ValueError(f"the metric {self.metric} does not know {option}; leave it out")
        wanted = "scores" if needs == "scores" else "predictions" if needs in TABLES else None
        if wanted is not None and getattr(self, wanted) is None:
            raise ValueError(f"the metric {self.metric} is made of tables; give {wanted}: FILE")
        return self

    @property
    def files(self) -> tuple[str, ...]:
        """The tables, one entry a model."""
        given = self.scores if self.scores is not None else self.predictions
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)


class ScoreStage(Stage[ScoreConfig]):
    """Adds `score`, HIGH = hard; null for rows that are not alive or of which nothing is known."""

    kind = "score"
    VERSION = 1
    Config = ScoreConfig
    not_hashed = frozenset({"predictions", "scores", "order", "classes"})  # their content counts: see score_table.py

    @classmethod
    def companions_before(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """Tables are joined first."""
        assert isinstance(config, ScoreConfig)
        if not config.files:
            return []
        shared = {
            name: getattr(config, name) for name in ("metric", "match", "key", "column", "order", "classes", "label")
        }
        high = config.orientation == "high"
        return [(ScoreTableStage, ScoreTableConfig(name=f"{name}-table", files=config.files, high=high, **shared))]

    @property
    def uses_seed(self) -> bool:  # type: ignore[override]
        """Only what draws."""
        return self.config.metric in ("knn", "random")

    @property
    def depends(self) -> Literal["all", "part"]:  # type: ignore[override]
        """Metrics of vectors look at all samples, the others at one."""
        return "all" if self._vectors else "part"

    @property
    def _vectors(self) -> bool:
        return metric(self.config.metric).needs == "vectors"

    @property
    def _table(self) -> str | None:
        return f"{self.context.step}-table" if self.config.files else None

    def columns(self) -> dict[str, pl.DataType]:
        """score: how hard the sample is, HIGH = hard."""
        return {"score": pl.Float64()}

    def reads(self) -> tuple[str, ...]:
        """The index, and where the metric comes from."""
        used = [next(iter(self.context.schema))]
        if self._table is not None:
            used.append(self._table)
        elif self._vectors:
            used.append(self._embedding)
        for column in self._columns:
            used += [owner] if (owner := self._owner(column)) is not None else []
        return tuple(dict.fromkeys(used))

    @property
    def _columns(self) -> list[str]:
        """Columns of earlier steps that decide."""
        if self.config.metric == "prototypes":
            return [self.config.label]
        return [self.config.column or "clip_score"] if self.config.metric == "clip" else []

    @property
    def _embedding(self) -> str:
        return str(self.context.references["embedding"])

    def _owner(self, column: str) -> str | None:
        step, _, name = column.rpartition(".")
        schema = self.context.schema
        return next((s for s in reversed(list(schema)) if name in schema[s] and step in ("", s)), None)

    def _named(self, column: str) -> str:
        return f"{self._owner(column)}.{column.rpartition('.')[2]}"

    def check(self) -> None:
        """The column and the vectors that the metric needs are there."""
        step = self.context.step
        if self._vectors and self.context.references.get("embedding") is None:
            raise SpecError(f"stage {step}: {self.config.metric} needs vectors; put an embed stage before it")
        for column in self._columns:
            owner = self._owner(column)
            if owner is None:
                raise SpecError(
                    f"stage {step}: {self.config.metric} needs the column {column}; no earlier step writes it"
                )
            dtype = self.context.schema[owner][column.rpartition(".")[2]]
            if self.config.metric == "clip" and not dtype.is_numeric():
                raise SpecError(f"stage {step}: the column {column} holds {dtype}; a CLIP score is a number")

    # --- what is looked at as a whole ---------------------------------------------------------------------------------

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Sums of classes, or drawn rows, or counts of what was found. Memory: the part's vectors."""
        if self.config.metric == "prototypes":
            rows, vectors, labels = self._labelled(part)
            names, classes = np.unique(labels, return_inverse=True)
            sums, counts = geometry.class_sums(vectors, classes.astype(np.int64), len(names))
            return {"names": names, "sums": sums, "counts": counts}
        if self.config.metric == "knn":
            uids = part.columns("uid_hi", "uid_lo")
            hi, lo = uids["uid_hi"].to_numpy(), uids["uid_lo"].to_numpy()
            only = None
            if totals.alive > self.config.reference:
                draw = hash64(hi, lo, self.context.seed, self.kind)
                only = draw < np.uint64(self.config.reference / totals.alive * 2**64)
            rows, vectors = alive_vectors(part, self._embedding, only)
            return {"vectors": vectors, "uids": np.stack([hi[rows], lo[rows]], axis=1)}
        score = self._known(part).to_series()
        found = {"alive": int(part.alive.sum()), "scored": int((score.is_not_null().to_numpy() & part.alive).sum())}
        if self._table is not None:
            entries = part.columns(f"{self._table}.entries").to_series()
            found |= {"entries": int(entries.sum() or 0), "met": int(entries.is_not_null().sum())}
        return {name: np.asarray(count, dtype=np.int64) for name, count in found.items()}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        """Prototypes, the reference, or a report. Memory: O(classes x dim), or `reference` x dim x 2 bytes twice."""
        if self.config.metric == "prototypes":
            return self._prototypes(summaries)
        if self.config.metric == "knn":
            found = list(summaries)
            return {
                "reference": np.concatenate([summary["vectors"] for summary in found]),
                "reference_uids": np.concatenate([summary["uids"] for summary in found]),
            }
        totalled = dict.fromkeys(("alive", "scored", "entries", "met"), 0)
        for summary in summaries:
            for name, count in summary.items():
                totalled[name] += int(count)
        report: dict[str, Any] = {
            "metric": self.config.metric,
            "alive": totalled["alive"],
            "scored": totalled["scored"],
        }
        if self._table is not None:
            rows = totals.artifacts(self._table)["parts"]
            assert isinstance(rows, dict)
            report |= {"rows": rows["rows"], "unmatched": rows["rows"] - totalled["entries"]}
            if totals.rows and not totalled["met"]:
                raise InputError(
                    f"stage {self.context.step}: no row of {self.config.files[0]} names a sample by "
                    f"{self.config.match} (its first is {rows['first']!r}, the first sample's is "
                    f"{rows['sample']!r}); choose another with "
                    "the option match, such as name, or another column with key"
                )
        return {"summary": report}

    def _prototypes(self, summaries: Iterator[dict[str, NDArray[Any]]]) -> dict[str, Artifact]:
        sums: dict[str, NDArray[np.float64]] = {}
        counts: dict[str, int] = {}
        for summary in summaries:
            for name, row, count in zip(
                summary["names"].tolist(), summary["sums"], summary["counts"].tolist(), strict=True
            ):
                sums[name] = sums[name] + row if name in sums else row  # exact, so in any order
                counts[name] = counts.get(name, 0) + count
        names = sorted(sums)
        if not names:
            raise InputError(
                f"stage {self.context.step}: no alive sample with a vector has a value in {self.config.label}, "
                "so there are no classes; see how the input gives labels, or use another metric"
            )
        table = pl.DataFrame({"label": names, "members": [counts[name] for name in names]})
        return {"sums": np.stack([sums[name] for name in names]), "classes": table}

    # --- the score ----------------------------------------------------------------------------------------------------

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """The score of every alive row. Memory: the part's vectors; knn also the reference in float32 and 100 MiB."""
        if not self._vectors:
            known = self._known(part).to_series()
            alive = pl.Series(part.alive)
            missing = int((known.is_null() & alive).sum())
            notes = [{"kind": "no_score", "samples": missing}] if missing else []
            frame = pl.DataFrame({"score": known, "alive": alive})
            return Columns(frame.select(pl.when("alive").then("score").cast(pl.Float64).alias("score")), notes=notes)
        rows, distance = self._distances(part, artifacts)
        score = np.full(part.rows, -1, dtype=np.int64)
        score[rows] = distance
        frame = pl.DataFrame({"at": score})
        exact = pl.col("at") / geometry.DISTANCE_SCALE
        return Columns(frame.select(pl.when(pl.col("at") >= 0).then(exact).alias("score")))

    def _distances(self, part: Part, artifacts: Mapping[str, Artifact]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self.config.metric == "prototypes":
            sums, table = artifacts["sums"], artifacts["classes"]
            assert isinstance(sums, np.ndarray)
            assert isinstance(table, pl.DataFrame)
            rows, vectors, labels = self._labelled(part)
            classes = np.searchsorted(np.asarray(table["label"].to_list(), dtype=np.str_), labels)
            members = table["members"].to_numpy()
            loo = self.config.leave_one_out
            return rows, geometry.prototypes(vectors, classes.astype(np.int64), sums, members, leave_one_out=loo)
        reference, uids = artifacts["reference"], artifacts["reference_uids"]
        assert isinstance(reference, np.ndarray)
        assert isinstance(uids, np.ndarray)
        rows, vectors = alive_vectors(part, self._embedding)
        place = {(int(hi), int(lo)): i for i, (hi, lo) in enumerate(uids.tolist())}
        mine = part.columns("uid_hi", "uid_lo")[rows.tolist()]
        itself = np.asarray([place.get(uid, -1) for uid in mine.rows()], dtype=np.int64)
        return rows, geometry.knn(vectors, reference, self.config.neighbours, itself)

    def _labelled(self, part: Part) -> tuple[NDArray[np.int64], NDArray[np.float16], NDArray[np.str_]]:
        """Alive rows that have a vector and a label."""
        labels = part.columns(self._named(self.config.label)).to_series().cast(pl.String)
        rows, vectors = alive_vectors(part, self._embedding, labels.is_not_null().to_numpy())
        return rows, vectors, np.asarray(labels[rows.tolist()].to_list(), dtype=np.str_)

    def _known(self, part: Part) -> pl.DataFrame:
        """The score of every row, alive or not, null where nothing is known: of tables, a column or a draw."""
        if self._table is not None:
            return part.columns(f"{self._table}.value")
        if self.config.metric == "random":
            uids = part.columns("uid_hi", "uid_lo")
            draw = hash64(uids["uid_hi"].to_numpy(), uids["uid_lo"].to_numpy(), self.context.seed, self.context.step)
            return pl.DataFrame({"score": metric("random").score(draw) / 2.0**63})
        column = part.columns(self._named(self._columns[0])).to_series().cast(pl.Float64)
        score = pl.DataFrame({"score": metric("clip").score(column)})
        return score.select(pl.when(pl.col("score").is_finite()).then("score"))
