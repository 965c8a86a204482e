"""Exact quotas against the same quadratic programme in quadprog (k = 500), and their time up to a million concepts."""

from __future__ import annotations

import resource
import time

import numpy as np
import quadprog
from numpy.typing import NDArray

from curate.pruning.allocate import allocate, lower_bounds, targets


def problem(k: int) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Complexities, Pareto concept sizes and a budget of four tenths."""
    rng = np.random.default_rng(0)
    counts = (rng.pareto(3.0, k) * 1000 + 1).astype(np.int64)
    return rng.uniform(0.04, 0.49, k), counts, int(0.4 * counts.sum())


def main() -> None:
    for k in (500, 5_000, 1_000_000):
        complexity, counts, total = problem(k)
        start = time.perf_counter()
        wish = targets(complexity, 0.1, total, counts)
        softmax = time.perf_counter() - start
        lower = lower_bounds(counts, total, 0.1)
        result = allocate(wish, lower, counts, total)  # also warms up
        start = time.perf_counter()
        allocate(wish, lower, counts, total)
        ours = time.perf_counter() - start
        line = f"k = {k:9,}: softmax {softmax * 1e3:8.2f} ms, quotas {ours * 1e3:8.2f} ms, sum - total = "
        line += f"{int(result.quota.sum()) - total}, saturated {result.saturated_share:.2f}"
        if k == 500:
            # in units of the mean target: quadprog loses its footing on raw counts and on heavier tails
            scale = total / k
            sides = np.hstack([np.ones((k, 1)), np.eye(k), -np.eye(k)])
            bounds = np.concatenate([[total], lower, -counts]) / scale
            start = time.perf_counter()
            x = quadprog.solve_qp(np.eye(k), wish / scale, sides, bounds, 1)[0] * scale
            theirs = time.perf_counter() - start
            line += f"; quadprog {theirs * 1e3:.0f} ms ({theirs / ours:.0f} times as long), largest difference "
            line += f"{np.abs(x - result.exact).max() / scale:.1e} mean targets"
        print(line)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
