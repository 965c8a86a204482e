"""Exact k-means against faiss.Kmeans and scikit-learn's MiniBatchKMeans: time, objective, peak memory, in one run.

    python benchmarks/kmeans.py [--rows 40000] [--dim 512] [--concepts 500] [--iterations 30] [--threads 1] [--rounds 3]

All start from the same centroids (rows of the data, by hash) and see the same float16 unit rows. Sides alternate; each
runs in a process of its own, so that peak memory is its own: what it adds to the rows themselves. `full` is the way of
`train: full`: every iteration compares every row with every centroid, cut into parts, and adds the parts up. The
objective is the mean cosine distance to the nearest of the final centroids, measured for all sides by the same exact
function. Rows: --vectors FILE.npy (float16 [n, d]), else a mixture on a curved surface of 24 dimensions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDES = ("exact", "full", "faiss", "sklearn")
PART = 10_000
"""Rows of a part of the side `full`."""
BATCH = 4096
"""Rows of a batch of MiniBatchKMeans; it takes as many steps as fit into the same number of passes."""


def made(n: int, dim: int) -> NDArray[np.float16]:
    """Unit rows of 200 groups on a curved surface, with noise all around: distances like those of real embeddings."""
    rng = np.random.default_rng(0)
    groups, inner = rng.standard_normal((200, 24)), rng.standard_normal((24, dim))
    out = np.empty((n, dim), dtype=np.float16)
    for at in range(0, n, 4096):  # small blocks: making the rows must not set the peak memory
        count = min(4096, n - at)
        x = np.tanh((groups[rng.integers(0, 200, count)] + rng.standard_normal((count, 24))) @ inner / 4)
        x += 0.2 * rng.standard_normal((count, dim))
        out[at : at + count] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return out


def rows_of(args: argparse.Namespace) -> NDArray[np.float16]:
    """The rows, in memory."""
    if args.vectors is None:
        return made(args.rows, args.dim)
    rows: NDArray[np.float16] = np.load(args.vectors, mmap_mode="r")[: args.rows].astype(np.float16)
    return rows


def resident_mib(field: str) -> float:
    """VmRSS (now) or VmHWM (the most since `forget_peak`) of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def forget_peak() -> None:
    """Let VmHWM start anew."""
    Path("/proc/self/clear_refs").write_text("5")


def one(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train on one side."""
    from curate.concepts.assign import assign, to_float
    from curate.concepts.kmeans import start, train
    from curate.concepts.lloyd import ended, moved, partial, total

    if side == "faiss":
        import faiss  # noqa: F401 (loaded before memory and time are looked at)
    if side == "sklearn":
        from sklearn.cluster import MiniBatchKMeans
    x = rows_of(args)
    init = start(x, args.concepts, seeding=args.seeding, seed=1)
    forget_peak()
    before, begin = resident_mib("VmRSS"), time.perf_counter()
    if side in ("exact", "faiss"):
        centroids = train(
            x, args.concepts, niter=args.iterations, seed=1, init=init, engine=side, threads=args.threads
        ).centroids
    elif side == "full":
        centroids, objective, still = init, list[float](), False
        while not objective or not ended(objective, still, args.iterations, 0.0):
            whole = total(partial(x[at : at + PART], centroids) for at in range(0, len(x), PART))
            objective.append(float(whole.objective))
            fresh, _ = moved(centroids, whole.sums, whole.counts)
            still, centroids = np.array_equal(fresh, centroids), fresh
    else:
        model = MiniBatchKMeans(
            args.concepts,
            init=init,
            n_init=1,
            max_iter=args.iterations,
            batch_size=BATCH,
            max_no_improvement=None,
            random_state=0,
        )
        found = model.fit(x.astype(np.float32)).cluster_centers_
        centroids = (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)
    seconds = time.perf_counter() - begin
    extra = resident_mib("VmHWM") - before
    return {"seconds": seconds, "extra_mib": extra, "objective": float(to_float(assign(x, centroids)[1]).mean())}


def installed(side: str) -> bool:
    """Whether the library of a side is there."""
    module = {"faiss": "faiss", "sklearn": "sklearn"}.get(side, "numpy")
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def parser() -> argparse.ArgumentParser:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 40_000), ("dim", 512), ("concepts", 500), ("iterations", 30)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeding", default="random")
    parser.add_argument("--vectors", default=None)
    parser.add_argument("--side", default=None, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run all sides in turn, print medians and ratios against faiss."""
    args = parser().parse_args()
    if args.side is not None:
        print(json.dumps(one(args.side, args)))
        return
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(args.threads))
    there = [side for side in SIDES if installed(side)]
    for side in SIDES:
        if side not in there:
            print(f"{side} is not installed here: left out")
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in there}
    for _ in range(args.rounds):
        for side in there:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            results[side].append(json.loads(done.stdout))
    baseline = results.get("faiss", results["exact"])
    for side, found in results.items():
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        ratios = [base["seconds"] / one["seconds"] for base, one in zip(baseline, found, strict=True)]
        print(
            f"{side:8} {middle['seconds']:8.2f} s  objective {middle['objective']:.6f}"
            f"  peak +{middle['extra_mib']:.0f} MiB"
            f"  {statistics.median(ratios):.2f}x as fast as {'faiss' if 'faiss' in results else 'exact'}"
            f" ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main()
