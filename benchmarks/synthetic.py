"""Stages over rows that are made by number, and a way to run them as `curate run` would: for the other benchmarks.

Workers import this module, so the classes below travel by name.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field
from rich.console import Console

from curate.engine.base import Engine
from curate.engine.events import EventLog
from curate.engine.exchange import Bucket, Buckets, Records, Worked
from curate.formats.samples import IndexOptions
from curate.formats.sources import PartSource, ShardInfo
from curate.pipeline.execute import Executor
from curate.pipeline.plan import Plan, add_step
from curate.pipeline.reporting import Advancing, Reporter
from curate.pipeline.spec import InputSpec, PipelineSpec
from curate.stages.base import Columns, Stage, State, Totals
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact
from curate.store.workspace import Workspace

ROWS, DIM, CONCEPTS, EXPONENT = 10_000, 64, 50_000, 1.1
_RECORD = np.dtype([("key", "u4"), ("part", "u4"), ("row", "u4")])
_BACK = np.dtype([("part", "u4"), ("row", "u4"), ("key", "u4"), ("size", "u4"), ("check", "u8")])
_BLOCK = 1 << 15
RECORD_BYTES = _RECORD.itemsize + 2 * DIM
BACK_BYTES = _BACK.itemsize


def zipf_bounds() -> NDArray[np.float64]:
    """Cumulative probabilities of the ranks of a Zipf distribution, float64 [CONCEPTS]."""
    weights = np.arange(1, CONCEPTS + 1, dtype=np.float64) ** -EXPONENT
    return np.cumsum(weights) / weights.sum()


_BOUNDS = zipf_bounds()


def made(part: int, rows: int) -> tuple[NDArray[np.uint32], NDArray[np.float16]]:
    """Keys uint32 [rows] and unit vectors float16 [rows, DIM] of a part: a function of its number and nothing else."""
    rng = np.random.Generator(np.random.Philox(key=20, counter=[0, 0, 0, part]))
    rank = np.searchsorted(_BOUNDS, rng.random(rows), side="right").clip(max=CONCEPTS - 1)
    key = (rank * 7919 + 13) % CONCEPTS  # 7919 is prime: the ranks are spread, big concepts have small neighbours
    vectors = rng.standard_normal((rows, DIM), dtype=np.float32)
    vectors /= np.sqrt(np.einsum("nd,nd->n", vectors, vectors))[:, None]
    return key.astype(np.uint32), vectors.astype(np.float16)


def checksums(vectors: NDArray[np.float16], key: NDArray[Any], size: NDArray[Any]) -> NDArray[np.uint64]:
    """A 64-bit hash a row, uint64 [n], of all bytes of its vector, its key and the size of its concept."""
    odd = np.random.Generator(np.random.Philox(key=64)).integers(0, 2**64, DIM // 4 + 2, dtype=np.uint64) | np.uint64(1)
    out = np.empty(len(vectors), dtype=np.uint64)
    for start in range(0, len(out), _BLOCK):
        rows = slice(start, start + _BLOCK)
        words = np.ascontiguousarray(vectors[rows]).view(np.uint64)
        words = words ^ (words >> np.uint64(29))
        value = words @ odd[:-2] + key[rows].astype(np.uint64) * odd[-2] + size[rows].astype(np.uint64) * odd[-1]
        value = (value ^ (value >> np.uint64(31))) * odd[0]
        out[rows] = value ^ (value >> np.uint64(32))
    return out


class NumbersConfig(StageConfig):
    """How many rows a part has."""

    rows: int = Field(ROWS, ge=0)


class Numbers(Stage[NumbersConfig]):
    """Makes the rows: a concept and a vector each."""

    kind = "numbers"
    Config = NumbersConfig
    first = True

    def columns(self) -> dict[str, pl.DataType]:
        return {"concept": pl.UInt32()}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        key, vectors = made(part.index, self.config.rows)
        return Columns(pl.DataFrame({"concept": key}), {"image": vectors})


class There(Stage[StageConfig]):
    """All three shapes at once: sizes of concepts, vectors to their concept and a checksum back, and the proof."""

    kind = "there"

    def columns(self) -> dict[str, pl.DataType]:
        return {"concept": pl.UInt32(), "size": pl.UInt32(), "check": pl.UInt64()}

    def reads(self) -> tuple[str, ...]:
        return ("numbers",)

    def summarise(self, part: Part, totals: Totals, state: State) -> dict[str, NDArray[Any]]:
        concepts, counts = np.unique(part.columns("numbers.concept").to_series().to_numpy(), return_counts=True)
        return {"concepts": concepts, "counts": counts}

    def reduce(self, summaries: Iterator[dict[str, NDArray[Any]]], totals: Totals, state: State) -> dict[str, Artifact]:
        sizes = np.zeros(CONCEPTS, dtype=np.int64)
        for summary in summaries:
            sizes[summary["concepts"]] += summary["counts"]
        return {"sizes": sizes}

    def buckets(self, artifacts: Mapping[str, Artifact], totals: Totals) -> Buckets:
        sizes = artifacts["sizes"]
        assert isinstance(sizes, np.ndarray)
        return Buckets.by_weight(sizes * RECORD_BYTES)

    def emit(self, part: Part, artifacts: Mapping[str, Artifact]) -> Records:
        key = part.columns("numbers.concept").to_series().to_numpy()
        rows = np.zeros(len(key), dtype=_RECORD)
        rows["key"], rows["part"], rows["row"] = key, part.index, np.arange(len(key))
        return Records(rows, part.vectors("numbers"))

    def work(self, bucket: Bucket, artifacts: Mapping[str, Artifact]) -> Worked:
        rows = bucket.rows
        back = np.zeros(len(rows), dtype=_BACK)
        if len(rows):
            for name in ("part", "row", "key"):
                back[name] = rows[name]
            _, inverse, counts = np.unique(rows["key"], return_inverse=True, return_counts=True)
            back["size"] = counts[inverse]
            back["check"] = checksums(bucket.vectors(np.arange(len(rows))), back["key"], back["size"])
        return Worked(back)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        """Every row is computed once more from its number; nothing that went through the store is trusted."""
        assert back is not None
        key, vectors = made(part.index, part.rows)
        sizes = artifacts["sizes"]
        assert isinstance(sizes, np.ndarray)
        check = checksums(vectors, key, sizes[key])
        if not np.array_equal(back["row"], np.arange(part.rows)) or np.any(back["part"] != part.index):
            raise ValueError(f"part {part.index}: {len(back)} rows came back for {part.rows}, or in another order")
        wrong = np.flatnonzero((back["check"] != check) | (back["key"] != key) | (back["size"] != sizes[key]))
        if len(wrong):
            raise ValueError(f"part {part.index}: row {wrong[0]} and {len(wrong) - 1} more came back as other rows")
        return Columns(pl.DataFrame({"concept": back["key"], "size": back["size"], "check": back["check"]}))


class Nothing(Stage[StageConfig]):
    """Parts without a row: what is left is what the engine and the store cost."""

    kind = "nothing"
    first = True

    def columns(self) -> dict[str, pl.DataType]:
        return {"n": pl.UInt32()}

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        return Columns(pl.DataFrame({"n": pl.Series([], dtype=pl.UInt32)}))


class Again(Stage[StageConfig]):
    """Another step over parts without a row."""

    kind = "again"

    def columns(self) -> dict[str, pl.DataType]:
        return {"m": pl.UInt32()}

    def reads(self) -> tuple[str, ...]:
        return ("nothing",)

    def map(self, part: Part, artifacts: Mapping[str, Artifact], back: NDArray[Any] | None) -> Columns:
        return Columns(pl.DataFrame({"m": pl.Series([], dtype=pl.UInt32)}))


class Timed(Reporter):
    """A reporter that says nothing and notes the seconds of each phase."""

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(Console(quiet=True), EventLog(workspace, "benchmark"), quiet=True)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, step: str, name: str, total: int, unit: str, done: int, quiet: bool) -> Iterator[Advancing]:
        start = time.perf_counter()
        with super().phase(step, name, total, unit, done, quiet) as advancing:
            yield advancing
        self.seconds[f"{step} {name or 'map'}"] = time.perf_counter() - start


def executor(url: str, parts: int, engine: Engine) -> tuple[Executor, Timed]:
    """An executor over `parts` parts that nothing is known of but their number."""
    spec = PipelineSpec(
        name="benchmark", input=InputSpec.model_validate({"folder": "/none", "label": None}), workspace=url, stages=()
    )
    shards = [ShardInfo(f"/none/{i:07d}.tar", f"{i:07d}.tar", 1 << 30, str(i)) for i in range(parts)]
    sources = [PartSource(i, "tar", (shard,)) for i, shard in enumerate(shards)]
    workspace = Workspace(url)
    timed = Timed(workspace)
    return Executor(Plan(spec, workspace, sources, [], parts), engine, timed), timed


def step(runner: Executor, kind: type[Stage[Any]], config: StageConfig) -> float:
    """Plan one more step and run it to its end; seconds of the run."""
    add_step(runner.plan, kind.kind, kind, config, IndexOptions("benchmark"))
    start = time.perf_counter()
    runner.run(runner.plan.steps[-1])
    return time.perf_counter() - start
