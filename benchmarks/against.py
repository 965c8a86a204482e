"""Decontamination: the most similar reference of every row, against faiss.IndexFlatIP.search(k=1) over all of them.

    python benchmarks/against.py [--rows 10000] [--references 20000] [--dim 512] [--concepts 500] [--epsilon 0.03]

Both sides see the same unit rows on one thread and in one process of their own, so that peak memory is its own: what it
adds to the data. Ours decides exactly, faiss in float32; the number of decisions that differ is printed. Clumps stand
for concepts; one row in twenty lies near a reference. Real vectors: --vectors FILE.npy (float16 [n, d]), of which the
last `references` are the set. The time of `reach` (once a worker) counts as ours.
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

SIDES = ("all", "concepts", "faiss")


def made(args: argparse.Namespace) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Rows and references, float16."""
    if args.vectors is not None:
        x = np.load(args.vectors, mmap_mode="r")
        return np.asarray(x[: args.rows]), np.asarray(x[-args.references :])
    rng = np.random.default_rng(0)
    middles = rng.standard_normal((args.concepts, args.dim))
    sides = []
    for n in (args.rows, args.references):
        out = np.empty((n, args.dim), dtype=np.float16)
        for at in range(0, n, 4096):
            x = middles[rng.integers(0, args.concepts, min(4096, n - at))]
            x = x + args.spread * rng.standard_normal(x.shape)
            out[at : at + len(x)] = x / np.linalg.norm(x, axis=1, keepdims=True)
        sides.append(out)
    rows, references = sides
    near = np.arange(0, args.rows, 20)
    x = references[rng.integers(0, args.references, len(near))] + 0.1 / args.dim**0.5 * rng.standard_normal(
        (len(near), args.dim)
    )
    rows[near] = x / np.linalg.norm(x, axis=1, keepdims=True)
    return rows, references


def peak_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def one(side: str, args: argparse.Namespace) -> dict[str, Any]:
    rows, references = made(args)
    share = 1.0
    concept = within = None
    if side == "faiss":
        import faiss

        faiss.omp_set_num_threads(1)
    else:
        from curate.concepts.assign import assign
        from curate.concepts.kmeans import train
        from curate.dedup.reference import most_similar, reach

        if side == "concepts":  # the concepts are there before: they are the cluster stage's
            centroids = train(rows, args.concepts, niter=5, seed=0).centroids
            concept, _ = assign(rows, centroids)
            coarse = train(centroids, min(256, len(centroids)), niter=5, seed=0, seeding="kmeans++").centroids
            group = np.unique(assign(centroids, coarse)[0], return_inverse=True)[1].astype(np.int32)
    Path("/proc/self/clear_refs").write_text("5")
    before, start = peak_mib("VmRSS"), time.perf_counter()
    if side == "faiss":
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(references.astype(np.float32))
        similarity = index.search(rows.astype(np.float32), 1)[0][:, 0]
        found = similarity > 1 - args.epsilon
    else:
        if side == "concepts":
            within = reach(references, centroids, group, args.epsilon)
            share = within.share
        found = most_similar(rows, references, args.epsilon, concept=concept, within=within)[1] >= 0
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "mib": peak_mib("VmHWM") - before,
        "share": share,
        "found": np.flatnonzero(found).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 10_000), ("references", 20_000), ("dim", 512), ("concepts", 500), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--epsilon", type=float, default=0.03)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--vectors")
    parser.add_argument("--side", choices=SIDES)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(one(args.side, args)))
        return
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for _ in range(args.rounds):
        for side in SIDES:
            command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
            line = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
            results[side].append(json.loads(line))
    exact = set(results["all"][0]["found"])
    for side in SIDES:
        seconds = [r["seconds"] for r in results[side]]
        ratios = sorted(theirs["seconds"] / ours for theirs, ours in zip(results["faiss"], seconds, strict=True))
        last = results[side][-1]
        print(
            f"{side:8} {statistics.median(seconds):7.2f} s  {statistics.median(ratios):5.2f}x of faiss "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})  peak +{last['mib']:.0f} MiB  "
            f"pairs left {last['share']:.1%}  {len(last['found'])} found, {len(exact ^ set(last['found']))} differ"
        )


if __name__ == "__main__":
    main()
