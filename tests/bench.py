"""A bench that runs real stages, inline, over parts whose columns a test made by hand."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import polars as pl
from numpy.typing import NDArray
from rich.console import Console

from curate.engine.base import InlineEngine
from curate.engine.events import EventLog
from curate.formats.samples import IndexOptions
from curate.formats.sources import PartSource, ShardInfo
from curate.pipeline.execute import Executor, StepResult
from curate.pipeline.plan import Plan, Step, add_step
from curate.pipeline.reporting import Reporter
from curate.pipeline.spec import InputSpec, PipelineSpec
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.columns import read_columns
from curate.store.workspace import Workspace


class Given(Stage[StageConfig]):
    """A step whose columns a test made by hand, one frame a part."""

    frames: ClassVar[list[pl.DataFrame]]
    vectors: ClassVar[list[NDArray[Any]] | None]
    which: ClassVar[str] = "image"
    sees_alive = False

    def columns(self) -> dict[str, pl.DataType]:
        schema = dict(self.frames[0].schema)
        return {name: dtype for name, dtype in schema.items() if name not in ("keep", "reason")}

    def reads(self) -> tuple[str, ...]:
        return ()

    def identity(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for frame in self.frames:
            digest.update(repr(frame.rows()).encode())
        for vectors in self.vectors or []:
            digest.update(vectors.tobytes())
        return {"sha256": digest.hexdigest()}

    def map(self, part: Part, artifacts: Any, back: Any) -> Columns:
        vectors = {} if self.vectors is None else {self.which: self.vectors[part.index]}
        return Columns(self.frames[part.index], vectors)


class GivenWithArtifacts(Given):
    artifacts: ClassVar[dict[str, Artifact]]

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        return {}

    def reduce(self, summaries: Any, totals: Totals, state: State) -> dict[str, Artifact]:
        return self.artifacts


class Bench:
    """Real stages on top of hand-made steps, inline, over parts of the given sizes."""

    def __init__(self, url: str, parts: int, seed: int = 0) -> None:
        spec = PipelineSpec(
            name="bench",
            input=InputSpec.model_validate({"folder": "/none", "label": None}),
            workspace=url,
            seed=seed,
            stages=(),
        )
        shards = [ShardInfo(f"/none/{i:05d}.tar", f"{i:05d}.tar", 1 << 30, str(i)) for i in range(parts)]
        sources = [PartSource(i, "tar", (shard,)) for i, shard in enumerate(shards)]
        self.workspace = Workspace(url)
        self.plan = Plan(spec, self.workspace, sources, [], parts)
        reporter = Reporter(Console(quiet=True), EventLog(self.workspace, "bench"), quiet=True)
        self.executor = Executor(self.plan, InlineEngine(), reporter)
        self.results: dict[str, StepResult] = {}

    def _add(self, name: str, kind: type[Stage[Any]], config: StageConfig) -> Step:
        add_step(self.plan, name, kind, config, IndexOptions("bench"))
        step = self.plan.steps[-1]
        self.results[name] = self.executor.run(step)
        return step

    def given(
        self,
        name: str,
        frames: Sequence[pl.DataFrame],
        kind: str | None = None,
        vectors: list[NDArray[Any]] | None = None,
        artifacts: dict[str, Artifact] | None = None,
        which: str = "image",
    ) -> Step:
        """A finished step with these columns; it drops when there is a column `keep`."""
        body: dict[str, Any] = {"kind": kind or name, "frames": list(frames), "vectors": vectors, "which": which}
        body["drops"] = "keep" in frames[0].columns
        body["first"] = not self.plan.steps
        if artifacts is not None:
            body["artifacts"] = artifacts
        base = Given if artifacts is None else GivenWithArtifacts
        return self._add(name, type("Made", (base,), body), StageConfig(name=name))

    def index(self, sizes: Sequence[int], **columns: Sequence[Any]) -> pl.DataFrame:
        """A hand-made index of distinct samples; `columns` replace whole columns over all rows."""
        frame = index_frame(sum(sizes)).with_columns(**{n: pl.Series(v) for n, v in columns.items()})
        self.given("index", cut(frame, sizes))
        return frame

    def embed(self, vectors: NDArray[np.float16], sizes: Sequence[int]) -> None:
        """Hand-made vectors, one for each row."""
        rows = [pl.DataFrame({"vec_row": pl.Series(range(n), dtype=pl.UInt32)}) for n in sizes]
        self.given("embed", rows, vectors=np.split(vectors, np.cumsum(sizes)[:-1]))

    def stage(self, kind: type[Stage[Any]], name: str | None = None, **options: Any) -> pl.DataFrame:
        """Run a stage to its end; its columns over all parts."""
        self._add(name or kind.kind, kind, kind.Config.model_validate(options))
        return self.frame(name or kind.kind)

    def stages(self, kind: type[Stage[Any]], name: str | None = None, **options: Any) -> pl.DataFrame:
        """Run a stage with the steps that always come before it; the columns of the stage itself."""
        name = name or kind.kind
        for companion, config in kind.companions_before(name, kind.Config.model_validate(options)):
            self._add(str(config.name), companion, config)
        return self.stage(kind, name, **options)

    def frame(self, name: str) -> pl.DataFrame:
        step = self.plan.step(name)
        return pl.concat(
            read_columns(self.workspace, step.folder, part, fingerprint) for part, fingerprint in enumerate(step.parts)
        )


def index_frame(rows: int, seed: int = 7) -> pl.DataFrame:
    """An index of `rows` good samples with random uids and hashes."""
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "uid_hi": rng.integers(0, 2**64, rows, dtype=np.uint64),
            "uid_lo": rng.integers(0, 2**64, rows, dtype=np.uint64),
            "key": [f"{i:06d}" for i in range(rows)],
            "sha256": [hashlib.sha256(str(i).encode()).hexdigest() for i in range(rows)],
            "status": ["ok"] * rows,
        }
    )


def cut(frame: pl.DataFrame, sizes: Sequence[int]) -> list[pl.DataFrame]:
    """The rows of `frame` in parts of these sizes."""
    starts = np.cumsum([0, *sizes])
    return [frame[int(start) : int(stop)] for start, stop in itertools.pairwise(starts)]
