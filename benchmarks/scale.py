"""From vectors to the keep list at scale: cluster (a Lloyd iteration over everything), dedup, DBP quotas, selection.

    python benchmarks/scale.py --rows 1e6 5e6 20e6                    # 64 dims, parts of 10,000 rows, 1,000 concepts
    python benchmarks/scale.py --rows 1e6 --dim 768

Rows are made by number: a concept drawn from a Zipf distribution (exponent 1 over 1,000), its centre plus noise; one
row in twenty is a near copy (cosine about 0.995) of a row of an earlier part. The real stages then run on a local Ray.
Checked after each size: every row is there once, the budget is met to the row, and how many planted copies are found.
Prints a row of a Markdown table a size, and the seconds and bytes of each step. 20 million rows need 20 GB in --folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from exchange import moved
from numpy.typing import NDArray
from peak_pss import Peak, bytes_under
from pydantic import Field
from synthetic import executor

from curate.engine.base import Engine, InlineEngine
from curate.engine.ray_engine import RayEngine
from curate.formats.samples import IndexOptions
from curate.pipeline.plan import add_step
from curate.stages import registry
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig
from curate.stages.part import Part
from curate.store.artifacts import Artifact, read_artifacts
from curate.store.columns import read_columns
from curate.store.uids import hash64

CONCEPTS, EXPONENT = 1000, 1.0
COPIES = 0.05
SPREAD, NEAR = 0.8, 0.096
EPSILON, KEEP = 0.05, 0.4


class MadeConfig(StageConfig):
    """How many rows a part has, and their length."""

    rows: int = Field(10_000, ge=1)
    dim: int = Field(64, ge=4)


def centres(dim: int) -> NDArray[np.float32]:
    """Unit centres float32 [CONCEPTS, dim]."""
    made = np.random.Generator(np.random.Philox(key=7)).standard_normal((CONCEPTS, dim), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def originals(part: int, rows: int, dim: int) -> NDArray[np.float32]:
    """Vectors of a part before copies are planted, float32 [rows, dim], nearly unit."""
    rng = np.random.Generator(np.random.Philox(key=11, counter=[0, 0, 0, part]))
    weights = np.arange(1, CONCEPTS + 1, dtype=np.float64) ** -EXPONENT
    concept = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(rows)).clip(max=CONCEPTS - 1)
    noise = rng.standard_normal((rows, dim), dtype=np.float32) * np.float32(SPREAD / np.sqrt(dim))
    made = centres(dim)[concept] + noise
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def copies(part: int, rows: int) -> tuple[NDArray[np.int64], int]:
    """Rows of a part that are copies of the rows of the same number in an earlier part, and which part that is."""
    rng = np.random.Generator(np.random.Philox(key=13, counter=[0, 0, 0, part]))
    source = int(rng.integers(0, max(part, 1)))
    return np.flatnonzero(rng.random(rows) < (COPIES if part else 0.0)), source


def vectors(part: int, rows: int, dim: int) -> NDArray[np.float16]:
    """Vectors of a part, float16 [rows, dim]."""
    made = originals(part, rows, dim)
    at, source = copies(part, rows)
    rng = np.random.Generator(np.random.Philox(key=17, counter=[0, 0, 0, part]))
    near = originals(source, rows, dim)[at]
    near += rng.standard_normal(near.shape, dtype=np.float32) * np.float32(NEAR / np.sqrt(dim))
    made[at] = near / np.linalg.norm(near, axis=1, keepdims=True)
    return made.astype(np.float16)


class MadeIndex(Stage[MadeConfig]):
    """The rows, by number."""

    kind = "index"
    Config = MadeConfig
    first = True

    def columns(self) -> dict[str, pl.DataType]:
        return {"uid_hi": pl.UInt64(), "uid_lo": pl.UInt64()}

    def map(self, part: Part, artifacts: Any, back: Any) -> Columns:
        number = np.arange(self.config.rows, dtype=np.uint64) + np.uint64(part.index * self.config.rows)
        return Columns(pl.DataFrame({"uid_hi": hash64(number, number, 1, "made"), "uid_lo": number}))


class MadeEmbed(Stage[MadeConfig]):
    """Their vectors."""

    kind = "embed"
    Config = MadeConfig

    def columns(self) -> dict[str, pl.DataType]:
        return {"vec_row": pl.UInt32()}

    def reads(self) -> tuple[str, ...]:
        return ("index",)

    def map(self, part: Part, artifacts: Any, back: Any) -> Columns:
        frame = pl.DataFrame({"vec_row": np.arange(self.config.rows, dtype=np.uint32)})
        return Columns(frame, {"image": vectors(part.index, self.config.rows, self.config.dim)})


def steps(given: argparse.Namespace) -> list[tuple[str, type[Stage[Any]], StageConfig]]:
    """Name, class and options of each step, companions included."""
    made = {"rows": given.part_rows, "dim": given.dim}
    found: list[tuple[str, type[Stage[Any]], StageConfig]] = [
        ("index", MadeIndex, MadeConfig(name="index", **made)),
        ("embed", MadeEmbed, MadeConfig(name="embed", **made)),
    ]
    options: dict[str, dict[str, Any]] = {
        "cluster": {
            "concepts": given.concepts,
            "train": "full",
            "iterations": given.iterations,
            "training_sample": 50 * given.concepts,
        },
        "dedup": {"epsilon": EPSILON, "probes": given.probes},
        "prune": {"keep": KEEP, "of": "deduplicated"},
    }
    for kind, values in options.items():
        stage = registry()[kind]
        config = stage.Config.model_validate(values)
        # byte-identical copies need the hashes of files, and there are none
        before = [(c.name or "", k, c) for k, c in stage.companions_before(kind, config) if k.kind != "dedup-exact"]
        found += [*before, (kind, stage, config)]
    return found


def measure(rows: int, engine: Engine, folder: Path, given: argparse.Namespace) -> None:
    """Run one size and print what it took. Raises when a row is lost, doubled or misjudged."""
    parts = -(-rows // given.part_rows)
    rows = parts * given.part_rows
    runner, _ = executor(str(folder), parts, engine)
    seconds, written = {}, {}
    whole = 0.0
    with Peak(folder=folder) as peak:
        for name, kind, config in steps(given):
            before, start = moved("write"), time.perf_counter()
            add_step(runner.plan, name, kind, config, IndexOptions("benchmark"))
            runner.run(runner.plan.steps[-1])
            seconds[name] = time.perf_counter() - start
            written[name] = moved("write") - before
            if name not in ("index", "embed"):
                whole += seconds[name]
            print(f"  {name}: {seconds[name]:.1f} s, {written[name] / rows:.0f} B written a row", file=sys.stderr)
    recall = check(runner, parts, given)
    alive = runner.alive
    cells = [
        f"{rows:,} x {given.dim}",
        f"{parts:,}",
        *(f"{value:.1f} s" for name, value in seconds.items() if name not in ("index", "embed")),
        f"{whole:.1f} s",
        f"{rows / whole:,.0f}",
        f"{alive['dedup']:,}",
        f"{alive['prune']:,}",
        f"{recall:.4f}",
        f"{peak.pss / 2**20:,.0f} ({peak.mapped / 2**20:,.0f}) MiB in {peak.processes}",
        f"{peak.folder_bytes / rows:.0f} B",
        f"{sum(written.values()) / rows:.0f} B",
    ]
    names = [name for name in seconds if name not in ("index", "embed")]
    if given.head:
        titles = ["rows x dim", "parts", *names, "in all", "rows/s", "after dedup", "kept", "copies found"]
        titles += ["peak PSS (mapped files)", "largest folder a row", "written a row"]
        print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
        given.head = False
    print(f"| {' | '.join(cells)} |", flush=True)


def check(runner: Any, parts: int, given: argparse.Namespace) -> float:
    """Share of the planted copies that were dropped or whose original was; asserts that counts add up."""
    plan = runner.plan
    found = {name: plan.step(name) for name in ("cluster", "dedup", "prune")}

    def column(name: str, part: int, *columns: str) -> pl.DataFrame:
        return read_columns(plan.workspace, found[name].folder, part, found[name].parts[part], list(columns))

    kept = sum(int(column("prune", part, "alive")["alive"].sum()) for part in range(parts))
    dropped, copied, caught = 0, 0, 0
    alive = [column("dedup", part, "alive")["alive"].to_numpy() for part in range(parts)]
    for part in range(parts):
        dropped += int((~alive[part]).sum())
        at, source = copies(part, given.part_rows)
        at = np.setdiff1d(at, copies(source, given.part_rows)[0])  # what was there is gone: a copy took its place
        copied += len(at)
        caught += int((~alive[part][at] | ~alive[source][at]).sum())
    prune = plan.step("prune")
    artifacts: dict[str, Artifact] = read_artifacts(plan.workspace, prune.folder, prune.whole)
    quotas = artifacts["concepts"]
    assert isinstance(quotas, pl.DataFrame)
    assert kept == int(quotas["quota"].sum()) == int(KEEP * runner.alive["dedup"]), "the budget is not met to the row"
    assert runner.alive["dedup"] + dropped == runner.rows, "rows are lost"
    return caught / max(copied, 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 5e6, 20e6])
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--part-rows", type=int, default=10_000)
    parser.add_argument("--concepts", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument(
        "--probes", type=lambda text: text if text == "all" else int(text), default=2, help="as the option of dedup"
    )
    parser.add_argument("--workers", type=int, default=2, help="0: everything in this process")
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    given = parser.parse_args()
    given.head = True
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, {given.workers} workers")
    for rows in given.rows:
        engine: Engine = RayEngine(workers=given.workers) if given.workers else InlineEngine()
        try:
            with tempfile.TemporaryDirectory(prefix="curate-scale-", dir=given.folder) as folder:
                measure(int(rows), engine, Path(folder), given)
                left = bytes_under(Path(folder) / "scratch")
                assert left == 0, f"{left} bytes of scratch are left"
        finally:
            engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
