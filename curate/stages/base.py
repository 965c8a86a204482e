"""The base class of all stages. A stage is glue: read columns, call an algorithm, write columns.

A stage is any mixture of three shapes, run in this order; each is a method that may stay undefined:

1. **reduce**: `summarise(part)` for each part (and `merge`, for one summary a worker), then `reduce(summaries, totals)`
   -> small artifacts (centroids, quotas), or long ones that `map` reads by range (`Rows`);
2. **exchange**: `emit(part)` records with a key, then `work(bucket)` on all records of some keys, from all parts;
3. **map**: `map(part, ...)` -> the columns this stage adds, one row a sample.

Adding one takes one file: docs/adding-a-stage.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.engine.exchange import Bucket, Buckets, Records, Worked
from curate.formats.samples import IndexOptions
from curate.stages.config import StageConfig
from curate.stages.part import Layer, Part, load_artifacts
from curate.store.artifacts import Artifact
from curate.store.workspace import Workspace

C = TypeVar("C", bound=StageConfig)


@dataclass(frozen=True)
class Context:
    """What a stage knows of the run around it."""

    step: str
    """This step's name."""
    seed: int
    input: IndexOptions
    references: Mapping[str, str | None] = field(default_factory=dict)
    """Option name -> step name, for options that are references; resolved by the plan."""
    schema: Mapping[str, Mapping[str, pl.DataType]] = field(default_factory=dict)
    """Earlier step -> its columns, so that names and types are checked before work starts."""
    pipeline: str = "pipeline"
    """Name of the pipeline."""
    referred: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    """Earlier step -> its own references."""
    limit_shards: int | None = None
    """A source makes no more shards than this (--limit-shards)."""


@dataclass(frozen=True)
class Totals:
    """What is known of the whole run once the earlier steps are finished."""

    workspace: Workspace
    layers: tuple[Layer, ...]
    """Earlier steps, in order; without part fingerprints."""
    rows: int
    """Rows of the input."""
    alive: int
    """Rows still in before this step."""
    alive_after: Mapping[str, int]
    """Rows still in after each earlier step that drops."""

    def artifacts(self, step: str) -> dict[str, Artifact]:
        """Artifacts of an earlier step."""
        return load_artifacts(self.workspace, self.layers, step)


@dataclass(frozen=True)
class Columns:
    """What `map` returns: the frame, packed vectors by name, things to report."""

    frame: pl.DataFrame
    vectors: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Float16 unit rows [n, d], or records [n], by name."""
    notes: list[dict[str, Any]] = field(default_factory=list)
    facts: Mapping[str, int] = field(default_factory=dict)
    """Counts of the work done, summed over the parts of this run for run.json; not stored with the part."""


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage needs."""

    cpus: float = 1.0
    gpus: float = 0.0
    model: bool = False
    """True when `setup` is expensive: the stage then runs on actors that keep its state."""


State = Mapping[str, NDArray[Any]]
"""What one pass of a reduce hands to the next."""


@dataclass(frozen=True)
class Again:
    """What `reduce` returns to see all parts once more; `state` goes to the next pass. Memory: small arrays only."""

    state: State


class Stage(Generic[C]):
    """One step of a pipeline. Instances are small and picklable; heavy state is made in `setup`, once a worker."""

    kind: ClassVar[str]
    VERSION: ClassVar[int] = 1
    """Raise it when the same options give other columns: stored work of older versions is then not reused."""
    Config: ClassVar[type[StageConfig]] = StageConfig
    drops: ClassVar[bool] = False
    """True when `map` returns keep and reason; the base then adds the cumulative `alive`."""
    quarantines: ClassVar[bool] = False
    """True when what it drops are errors."""
    first: ClassVar[bool] = False
    """True for a stage that makes the rows; exactly the first one is."""
    sees_alive: ClassVar[bool] = True
    """False when results do not depend on what earlier steps dropped."""
    reuses_rows: ClassVar[bool] = False
    """True when a row's result depends on its content alone: `map` then finds stored rows in `part.twins`. Such a stage
    defines `contents` and stores what it returns as columns."""
    depends: ClassVar[Literal["all", "earlier", "part"]] = "all"
    """What a part of a reduce or an exchange depends on: all parts, or only itself and those before it in input order
    (exchange), or only itself (a reduce whose artifacts `map` does not use). With the last two, appended parts leave
    stored ones as they are."""
    not_retried: ClassVar[frozenset[str]] = frozenset()
    """Reasons of a stage that quarantines which are no failures: `--retry-failed` leaves such rows alone."""
    uses_seed: ClassVar[bool] = False
    """True when the pipeline's seed decides the result."""
    not_hashed: ClassVar[frozenset[str]] = frozenset()
    """Options that change speed but not results, such as a batch size."""

    def __init__(self, config: C, context: Context) -> None:
        self.config = config
        self.context = context

    # --- what the plan asks ---------------------------------------------------------------------------------------

    def columns(self) -> dict[str, pl.DataType]:
        """Columns that `map` returns, without keep, reason and alive."""
        raise TypeError(f"stage {self.kind} must define columns()")

    def reads(self) -> tuple[str, ...]:
        """Names of the earlier steps whose columns this one reads; they enter its fingerprint."""
        return tuple(name for name in self.context.references.values() if name is not None)

    def resources(self) -> Resources:
        """What one worker needs."""
        return Resources()

    def check(self) -> None:
        """Find what can be found before work starts (unknown models, missing files). Raises a CurateError."""

    def needs_samples(self) -> int:
        """Samples without which the stage cannot work; 0 when any number will do."""
        return 0

    @classmethod
    def companions_before(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """Steps that always come just before this one, such as byte-identical duplicates before semantic ones."""
        return []

    @classmethod
    def companions_after(cls, name: str, config: StageConfig) -> list[tuple[type[Stage[Any]], StageConfig]]:
        """Steps that always come just after this one, such as the uid table after the index."""
        return []

    def identity(self) -> dict[str, Any]:
        """Further facts that decide the result, such as the hash of the weights; JSON-able."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What run.json should say of how it runs: device, batch size; JSON-able, not part of any fingerprint."""
        return {}

    def retries(self) -> str:
        """Name of the step whose part is made again to try this step's quarantined rows again."""
        return self.context.step

    # --- what the engine calls, on any worker ----------------------------------------------------------------------

    def setup(self) -> None:
        """Load what `map` needs; called once a worker."""

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        """Small arrays of one part, input of `reduce`. state: what the pass before asked for, {} in the first."""
        raise TypeError(f"stage {self.kind} has no reduce")

    def merge(self, summaries: Iterator[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
        """One summary for many parts, in part order. With it a worker hands over a single summary for all parts of its
        share of a pass. It must be exact, so that `reduce` gives the same from any shares.
        """
        raise TypeError(f"stage {self.kind} merges no summaries")

    def reduce(
        self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State
    ) -> dict[str, Artifact] | Again:
        """Artifacts from all summaries, which come in part order; or `Again`, to see the parts once more."""
        raise TypeError(f"stage {self.kind} has no reduce")

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        """How the keys of an exchange are cut."""
        raise TypeError(f"stage {self.kind} has no exchange")

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records | Iterator[Records]:
        """Records of one part for an exchange, at once or in pieces."""
        raise TypeError(f"stage {self.kind} has no exchange")

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        """Work on all records of a key range."""
        raise TypeError(f"stage {self.kind} has no exchange")

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """The columns this stage adds to one part. `back`: this part's records from the exchange, sorted by row."""
        raise TypeError(f"stage {self.kind} must define map()")

    def contents(self, part: Part) -> pl.DataFrame:
        """`content_hi`, `content_lo` (UInt64) of every row: a hash of all that decides its result; null where there is
        none.
        """
        raise TypeError(f"stage {self.kind} must define contents()")

    # --- what it has ------------------------------------------------------------------------------------------------

    @classmethod
    def has_reduce(cls) -> bool:
        """Whether the stage reduces over parts."""
        return cls.summarise is not Stage.summarise

    @classmethod
    def has_merge(cls) -> bool:
        """Whether summaries of several parts become one before they are stored."""
        return cls.merge is not Stage.merge

    @classmethod
    def has_exchange(cls) -> bool:
        """Whether the stage exchanges rows."""
        return cls.emit is not Stage.emit

    def schema(self) -> dict[str, pl.DataType]:
        """All columns of the group, bookkeeping included."""
        return self.columns() | (
            {"keep": pl.Boolean(), "reason": pl.String(), "alive": pl.Boolean()} if self.drops else {}
        )


def with_alive(frame: pl.DataFrame, before: NDArray[np.bool_]) -> pl.DataFrame:
    """Add `alive` = alive before and kept here. Rows already out get null keep and reason: they were not judged."""
    judged = pl.Series(before)
    return frame.with_columns(
        keep=pl.when(judged).then(pl.col("keep")),
        reason=pl.when(judged & ~pl.col("keep")).then(pl.col("reason")),
        alive=judged & pl.col("keep").fill_null(False),
    )
