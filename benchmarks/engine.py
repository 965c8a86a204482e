"""What the engine itself costs: start-up, and driver CPU and memory per part without a row, on Ray and in one process.

    python benchmarks/engine.py --parts 2000 20000 --workers 2

Baselines of the same run: `ray.get([f.remote() for _ in range(n)])` with a function that does nothing, for Ray; a loop
that only commits the same empty parts, for one process. A step over empty parts plans, sends, commits and records them.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import ray
from peak_pss import Peak, pss_of
from synthetic import Again, Nothing, executor, step

from curate.engine.base import Engine, InlineEngine, Need
from curate.engine.ray_engine import RayEngine
from curate.stages.config import StageConfig
from curate.store.columns import PartMeta, write_part
from curate.store.workspace import Workspace


@dataclass(frozen=True)
class Cost:
    """What a block cost this process: wall and CPU seconds, bytes of memory more than before."""

    wall: float
    cpu: float
    held: int

    def per(self, parts: int) -> str:
        return (
            f"{self.wall / parts * 1e3:.2f} ms, of driver CPU {self.cpu / parts * 1e3:.3f} ms, "
            f"driver memory {self.held / parts:,.0f} B"
        )


def cost_of(block: Callable[[], object]) -> Cost:
    gc.collect()
    held, wall, cpu = own(), time.perf_counter(), time.process_time()
    kept = block()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    gc.collect()
    held = own() - held
    del kept
    return Cost(wall, cpu, held)


def own() -> int:
    """Bytes of PSS of this process."""
    return pss_of(int(Path("/proc/self").resolve().name))[0]


def nothing(item: int) -> int:
    return item


def start_up(workers: int) -> RayEngine:
    start = time.perf_counter()
    engine = RayEngine(workers=workers)
    up = time.perf_counter() - start
    start = time.perf_counter()
    list(engine.map(nothing, range(workers), Need()))
    first = time.perf_counter() - start
    start = time.perf_counter()
    list(engine.map(nothing, range(workers), Need()))
    warm = time.perf_counter() - start
    print(
        f"Ray of {workers} workers: up in {up:.2f} s, first items {first:.2f} s later, then {warm * 1e3:.1f} ms a round"
    )
    return engine


def steps(engine: Engine, parts: int) -> tuple[Cost, Cost, Cost]:
    """Costs of a first step and a second one over empty parts, and of the second when it is finished already."""
    with tempfile.TemporaryDirectory(prefix="curate-engine-") as folder:
        runner, _ = executor(folder, parts, engine)
        first = cost_of(lambda: (step(runner, Nothing, StageConfig(name="nothing")), runner))
        again = runner.plan
        second = cost_of(lambda: (step(runner, Again, StageConfig(name="again")), again))
        third = cost_of(lambda: runner.run(runner.plan.steps[-1]))
    return first, second, third


def committed(parts: int) -> Cost:
    """A loop that only commits empty parts."""
    frame = pl.DataFrame({"n": pl.Series([], dtype=pl.UInt32)})
    with tempfile.TemporaryDirectory(prefix="curate-engine-") as folder:
        workspace = Workspace(folder)

        def loop() -> None:
            for part in range(parts):
                meta = PartMeta(step="nothing", part=part, fingerprint="0" * 12, rows=0, alive=None)
                write_part(workspace, "nothing", meta, frame, {})

        return cost_of(loop)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    with Peak(every_s=2.0) as peak:  # looking costs CPU too
        engine = start_up(given.workers)
        try:
            remote = ray.remote(nothing)
            for parts in given.parts:
                plain = cost_of(lambda n=parts: ray.get([remote.remote(item) for item in range(n)]))
                sent = cost_of(lambda n=parts: sum(1 for _ in engine.map(nothing, range(n), Need())))
                first, second, third = steps(engine, parts)
                print(f"{parts:,} parts on Ray, for each part:")
                print(f"  ray.get of no-op tasks:    {plain.per(parts)}")
                print(f"  engine.map of no-op items: {sent.per(parts)}; CPU {sent.cpu / plain.cpu:.2f}x of ray.get")
                print(f"  first step, empty parts:   {first.per(parts)}; CPU {first.cpu / plain.cpu:.2f}x of ray.get")
                print(f"  second step, empty parts:  {second.per(parts)}; CPU {second.cpu / plain.cpu:.2f}x of ray.get")
                print(f"  second step, finished:     {third.per(parts)}", flush=True)
        finally:
            engine.close()
        for parts in given.parts:
            plain = committed(parts)
            first, second, third = steps(InlineEngine(), parts)
            print(f"{parts:,} parts in one process, for each part:")
            print(f"  a loop that only commits:  {plain.per(parts)}")
            print(f"  first step, empty parts:   {first.per(parts)}; CPU {first.cpu / plain.cpu:.2f}x of the loop")
            print(f"  second step, empty parts:  {second.per(parts)}; CPU {second.cpu / plain.cpu:.2f}x of the loop")
            print(f"  second step, finished:     {third.per(parts)}", flush=True)
    print(
        f"peak summed PSS {peak.pss / 2**20:,.0f} MiB in {peak.processes} processes, "
        f"driver {peak.driver / 2**20:,.0f} MiB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
