"""Rows to the bucket of their key and back, through the real executor, with every row checked: does memory stay flat?

    python benchmarks/exchange.py --rows 1e6 5e6 20e6          # parts of 10,000 rows, 64 dims, a local Ray, 2 workers

Concepts are drawn from a Zipf distribution (exponent 1.1 over 50,000), so the largest holds one row in seven and is far
larger than a bucket. Each row's vector travels to its concept; a checksum of vector, concept and size of the concept
travels back to the row, where it is computed once more from the row's number. A row that is lost, doubled or swapped
ends the run. Prints one row of a Markdown table a size. Deletes what it wrote; 20 million rows need 9 GB in --folder.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
from peak_pss import Peak, bytes_under, tree_of
from synthetic import RECORD_BYTES, ROWS, Numbers, NumbersConfig, There, executor, step

from curate.engine import exchange
from curate.engine.base import Engine, InlineEngine
from curate.engine.ray_engine import RayEngine
from curate.stages.config import StageConfig
from curate.store.artifacts import read_artifacts

PHASES = ("summary", "reduce", "emit", "buckets", "map")
HEAD = (
    "| rows | parts | groups x buckets | largest concept | make | "
    + " | ".join(PHASES)
    + " | exchange in all | rows/s | peak PSS (mapped files) | driver | scratch | written / read a row |"
)


def moved(kind: str) -> int:
    """Bytes that this process and its descendants passed to write, or got from read, so far."""
    total = 0
    for process in tree_of(psutil.Process()):
        with contextlib.suppress(psutil.Error):
            total += getattr(process.io_counters(), f"{kind}_chars")
    return total


def measure(rows: int, engine: Engine, folder: Path, part_rows: int) -> str:
    """Run one size; its row of the table. Raises when a row is not what it must be."""
    parts = -(-rows // part_rows)
    rows = parts * part_rows
    runner, timed = executor(str(folder), parts, engine)
    making = step(runner, Numbers, NumbersConfig(name="numbers", rows=part_rows))
    before = moved("write"), moved("read")
    with Peak(folder=folder / "scratch") as peak:
        seconds = step(runner, There, StageConfig(name="there"))
    written, read = moved("write") - before[0], moved("read") - before[1]
    there = runner.plan.steps[-1]
    counts = read_artifacts(runner.plan.workspace, there.folder, there.whole)["sizes"]
    assert isinstance(counts, np.ndarray)
    assert int(counts.sum()) == rows == runner.rows
    buckets = exchange.Buckets.by_weight(counts * RECORD_BYTES).n
    phases = [timed.seconds.get(f"there {name}", 0.0) for name in PHASES]
    cells = [
        f"{rows:,}",
        f"{parts:,}",
        f"{len(exchange.part_groups(parts))} x {buckets}",
        f"{int(counts.max()):,} rows, {int(counts.max()) * RECORD_BYTES / 2**20:,.0f} MiB",
        *(f"{value:.1f} s" for value in (making, *phases, seconds)),
        f"{rows / seconds:,.0f}",
        f"{peak.pss / 2**20:,.0f} ({peak.mapped / 2**20:,.0f}) MiB in {peak.processes}",
        f"{peak.driver / 2**20:,.0f} MiB",
        f"{peak.folder_bytes / 2**20:,.0f} MiB, {peak.folder_bytes / rows:.0f} B a row",
        f"{written / rows:.0f} / {read / rows:.0f} B",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=float, nargs="+", default=[1e6, 5e6, 20e6])
    parser.add_argument("--part-rows", type=int, default=ROWS)
    parser.add_argument("--workers", type=int, default=2, help="0: everything in this process")
    parser.add_argument("--folder", help="where to write; default: the system's temporary folder")
    given = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start, {given.workers} workers")
    print(HEAD)
    print("|---" * HEAD.count(" | ") + "|---|", flush=True)
    for rows in given.rows:
        start = time.perf_counter()
        # a Ray of its own for each size: what an earlier size left in the workers must not count
        engine: Engine = RayEngine(workers=given.workers) if given.workers else InlineEngine()
        try:
            with tempfile.TemporaryDirectory(prefix="curate-exchange-", dir=given.folder) as folder:
                print(measure(int(rows), engine, Path(folder), given.part_rows), flush=True)
                left = bytes_under(Path(folder) / "scratch")
                assert left == 0, f"{left} bytes of scratch are left"
        finally:
            engine.close()
        print(f"{time.perf_counter() - start:.0f} s in all", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
