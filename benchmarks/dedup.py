"""Blocked exact duplicate search against a dense float32 similarity matrix, in one run; prints ratio and peak memory.

Each side runs in a process of its own so that peak memory is its own: python benchmarks/dedup.py [rows] [dim]
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np
from numpy.typing import NDArray


def rows_with_duplicates(n: int, dim: int) -> NDArray[np.float16]:
    """One concept: rows around a common direction, three in ten of them near copies."""
    rng = np.random.default_rng(0)
    common = 0.7 * rng.standard_normal((1, dim))
    out = np.empty((n, dim), dtype=np.float16)
    for at in range(0, n, 512):  # small blocks: making the data must not set the peak memory
        x = common + rng.standard_normal((min(512, n - at), dim))
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        if at:
            copies = np.flatnonzero(rng.random(len(x)) < 0.3)
            x[copies] = out[rng.integers(0, at, len(copies))] + 0.0003 * rng.standard_normal((len(copies), dim))
            x /= np.linalg.norm(x, axis=1, keepdims=True)
        out[at : at + len(x)] = x
    return out


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(side: str, n: int, dim: int) -> dict[str, float]:
    if side == "dense":
        import torch
    else:
        from curate.dedup.semantic import max_similarity
    x = rows_with_duplicates(n, dim)
    before = peak_mib()
    start = time.perf_counter()
    if side == "dense":
        full = torch.from_numpy(x).float()
        found = int((torch.triu(full @ full.T, diagonal=1).max(dim=0).values > 0.93).sum())
    else:
        result = max_similarity(x, epsilon_max=0.07)
        found = int((result.exact & (result.similarity > 0.93)).sum())
    return {"seconds": time.perf_counter() - start, "extra_mib": peak_mib() - before, "duplicates": found}


def main() -> None:
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 12_000
    dim = int(sys.argv[2]) if len(sys.argv) > 2 else 512
    if len(sys.argv) > 3:
        print(json.dumps(one(sys.argv[3], n, dim)))
        return
    results = {}
    for side in ("dense", "blocked"):
        line = subprocess.run(
            [sys.executable, __file__, str(n), str(dim), side], check=True, capture_output=True, text=True
        ).stdout
        r = results[side] = json.loads(line)
        pair = r["seconds"] / (n * (n - 1) / 2) * 1e9
        print(
            f"{side:8} {r['seconds']:8.2f} s  {pair:7.2f} ns/pair  peak +{r['extra_mib']:.0f} MiB"
            f"  {r['duplicates']:.0f} duplicates"
        )
    ratio = results["dense"]["seconds"] / results["blocked"]["seconds"]
    print(f"{n} rows x {dim}: blocked exact search is {ratio:.2f} times as fast as dense torch matmul + triu + max")


if __name__ == "__main__":
    main()
