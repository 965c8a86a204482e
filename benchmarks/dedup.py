"""Exact duplicate search: against dense torch, with the prefix filter on real rows, and its memory as a concept grows.

    python benchmarks/dedup.py                     # all three parts, about five minutes on two cores
    python benchmarks/dedup.py dense --rows 20000 --dim 512 --threads 2
    python benchmarks/dedup.py real --rows 20000   # first use embeds CIFAR-10, see real_embeddings.py
    python benchmarks/dedup.py grow

dense: rows without any shortcut (no copies, filter off) against torch: a block of rows times all earlier rows, then
the row maximum; every pair counted once on both sides. real: the same search of EfficientNet-Lite0 rows with and
without the filter, results compared to the byte. grow: peak memory beside mapped files for concepts of 20,000 and
300,000 rows. Sides run in processes of their own and alternate; ratios are medians of rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peak_pss import pss_of

BLOCK = 2048


def rows_of(kind: str, n: int, dim: int) -> NDArray[np.float16]:
    """`free`: independent directions; `copies`: around one direction, three in ten near copies, one in ten exact ones;
    `cifar`, `photos`: real rows."""
    if kind in ("cifar", "photos"):
        from real_embeddings import rows

        return rows(kind, n if kind == "cifar" else 0)
    rng = np.random.default_rng(0)
    common = (0.7 if kind == "copies" else 0.0) * rng.standard_normal((1, dim))
    out = np.empty((n, dim), dtype=np.float16)
    for at in range(0, n, 512):  # small blocks: making the data must not set the peak memory
        x = common + rng.standard_normal((min(512, n - at), dim))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        if at and kind == "copies":
            draw = rng.random(len(x))
            copies = np.flatnonzero(draw < 0.3)
            noise = 0.03 / dim**0.5 * rng.standard_normal((len(copies), dim))
            x[copies] = out[rng.integers(0, at, len(copies))] + noise
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            exact = np.flatnonzero(draw > 0.9)
            x[exact] = out[rng.integers(0, at, len(exact))]
        out[at : at + len(x)] = x
    return out


class Anonymous:
    """Peak of this process's memory that is no mapped file, from a thread."""

    def __enter__(self) -> Anonymous:
        self.start = self.peak = self._now()
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._finished.set()
        self._thread.join()

    def _now(self) -> int:
        pss, mapped = pss_of(os.getpid())
        return pss - mapped

    def _watch(self) -> None:
        while not self._finished.wait(0.02):
            self.peak = max(self.peak, self._now())


def one(side: str, kind: str, n: int, dim: int, epsilon: float) -> dict[str, Any]:
    """Run one side here: seconds, CPU seconds, extra memory and what it found."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.npy"
        np.save(file, rows_of(kind, n, dim))
        x = np.load(file, mmap_mode="r")
        if side == "torch":
            import torch
        from curate.dedup.cosine import Rows
        from curate.dedup.prefix import choose
        from curate.dedup.semantic import max_similarity

        np.ones((64, 64), np.float32) @ np.ones((64, 64), np.float32)
        more: dict[str, Any] = {}
        with Anonymous() as memory:
            start, cpu = time.perf_counter(), time.process_time()
            if side == "torch":
                full = torch.from_numpy(np.array(x)).float()
                found = 0
                for at in range(0, len(x), BLOCK):
                    stop = min(at + BLOCK, len(x))
                    score = full[at:stop] @ full[:stop].T
                    score[:, at:stop].tril_(-1)
                    found += int((score.max(dim=1).values > 1.0 - epsilon).sum())
            else:
                m = max_similarity(x, epsilon_max=epsilon, prefix=0 if side == "plain" else None)
                found = int((m.exact & (m.similarity > 1.0 - epsilon)).sum())
                more["sha"] = hashlib.sha256(m.similarity.tobytes() + m.duplicate_of.tobytes()).hexdigest()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        if side == "filter":
            more["survivors"] = survivors(Rows(x), choose(Rows(x), None, len(x) ** 2 / 2, 1.0 - epsilon, None), epsilon)
        pairs = len(x) * (len(x) - 1) / 2
        extra = (memory.peak - memory.start) / 2**20
        return {"seconds": seconds, "cpu": cpu, "pairs": pairs, "extra_mib": extra, "duplicates": found, **more}


def survivors(rows: Any, prefix: Any, epsilon: float) -> list[float]:
    """Share of pairs that the first filter and both filters let through, and their columns; empty without a filter."""
    if prefix is None:
        return []
    index = np.arange(rows.n)
    first, second = prefix.sketch(rows, index)
    count = [0, 0]
    for at in range(0, rows.n, 512):
        later = index[at : at + 512, None] > index[None, :]
        for level, sketch in enumerate((first, second)):
            bound = sketch[at : at + 512] @ sketch.T
            count[level] += int(((bound >= 1.0 - epsilon - prefix.slack(sketch.shape[1])) & later).sum())
    pairs = rows.n * (rows.n - 1) / 2
    return [prefix.short, count[0] / pairs, prefix.long, count[1] / pairs]


def apart(threads: int, *options: Any) -> dict[str, Any]:
    """`one` in a process of its own."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "one", json.dumps(options)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def duel(names: tuple[str, str], rounds: int, threads: int, kind: str, n: int, dim: int, epsilon: float) -> None:
    """Alternate two sides and print their medians and the ratio."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            seen[name].append(apart(threads, name, kind, n, dim, epsilon))
    for name in names:
        middle = {key: statistics.median(r[key] for r in seen[name]) for key in ("seconds", "cpu", "extra_mib")}
        pairs = seen[name][0]["pairs"]
        print(
            f"  {name:7} {middle['seconds']:7.2f} s  {middle['seconds'] / pairs * 1e9:6.2f} ns a pair"
            f"  CPU {middle['cpu']:7.2f} s  extra memory {middle['extra_mib']:6.0f} MiB"
            f"  {seen[name][0]['duplicates']} duplicates"
        )
    for key in ("seconds", "cpu"):
        ratios = sorted(a[key] / b[key] for a, b in zip(seen[names[0]], seen[names[1]], strict=True))
        what = "wall" if key == "seconds" else "CPU"
        print(
            f"  {names[1]} is {statistics.median(ratios):.2f} times as fast as {names[0]} by {what} time"
            f" ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    last = seen[names[1]][-1]
    if "survivors" in last:
        same = "identical" if last["sha"] == seen[names[0]][-1]["sha"] else "DIFFERENT"
        short = last["survivors"]
        share = (
            f"{short[0]} columns leave {short[1]:.4%} of pairs, {short[2]} {short[3]:.4%}" if short else "filter off"
        )
        print(f"  results {same}; {share}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="all", choices=["all", "dense", "real", "grow", "one"])
    parser.add_argument("options", nargs="?")
    parser.add_argument("--rows", type=int, help="rows of `dense` and `real`; default 12,000 and 20,000")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--grow", type=int, nargs="+", default=[20_000, 300_000])
    parser.add_argument("--epsilon", type=float, nargs="+", default=[0.07, 0.2])
    args = parser.parse_args()
    if args.part == "one":
        print(json.dumps(one(*json.loads(args.options))))
        return
    if args.part in ("all", "dense"):
        n = args.rows or 12_000
        print(f"dense: {n} rows x {args.dim}, no shortcuts, {args.threads} threads")
        duel(("torch", "plain"), args.rounds, args.threads, "free", n, args.dim, 0.07)
    if args.part in ("all", "real"):
        for epsilon in args.epsilon:
            n = args.rows or 20_000
            print(f"real: {n} rows x 1280 (CIFAR-10, EfficientNet-Lite0), epsilon {epsilon}, {args.threads} threads")
            duel(("plain", "filter"), args.rounds, args.threads, "cifar", n, 1280, epsilon)
    if args.part in ("all", "grow"):
        for n in args.grow:
            r = apart(args.threads, "filter", "copies", n, 64, 0.07)
            print(
                f"grow: {n} rows x 64, mapped: {r['seconds']:.1f} s, {r['seconds'] / r['pairs'] * 1e9:.2f} ns a pair,"
                f" extra memory {r['extra_mib']:.0f} MiB beside the mapped file, {r['duplicates']} duplicates"
            )


if __name__ == "__main__":
    main()
