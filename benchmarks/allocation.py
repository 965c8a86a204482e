"""Exact quotas against quadratic programming solvers on the same problem: time, peak memory, and what the answers lack.

Solvers: OSQP through qpsolvers as the reference implementation of Density-Based Pruning calls it (dense identity,
default tolerances, rounded), the same with a sparse identity at eps 1e-9 and polish, and quadprog. One that is not
installed is left out with a sentence:

    pip install qpsolvers==4.13.0 osqp==1.1.3 quadprog==0.1.13

    python benchmarks/allocation.py [--sizes 500 5000 10000] [--rounds 3]

Every side solves in a process of its own, so its peak memory is its own; sides take turns, and ratios are of medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata, util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.pruning.allocate import allocate, lower_bounds, targets

SIDES = {
    "curate": (),
    "qpsolvers+osqp, as the paper": ("qpsolvers", "osqp"),
    "qpsolvers+osqp, sparse, 1e-9": ("qpsolvers", "osqp", "scipy"),
    "quadprog": ("quadprog",),
}
QUADPROG_MOST = 1_000
"""quadprog needs k^3 work: larger problems are not given to it."""


@dataclass(frozen=True)
class Problem:
    """Targets, bounds and the number to keep."""

    wish: NDArray[np.float64]
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    total: int


@dataclass
class Outcome:
    """One solve."""

    seconds: float
    extra_mib: float
    """Peak resident memory above that before the solve."""
    sum_error: int | None
    """Sum of the rounded answer less the number to keep; None when there was no answer."""
    beyond: int = 0
    """Concepts whose rounded answer is beyond a bound."""
    off: float = 0.0
    """Largest difference from the exact optimum before rounding, in samples."""


def problem(k: int) -> Problem:
    """Complexities in [.04, .49], Pareto concept sizes of mean about 560,000, and a budget of four tenths."""
    rng = np.random.default_rng(0)
    counts = (rng.pareto(3.0, k) * 1_120_000 + 1).astype(np.int64)
    total = int(0.4 * counts.sum())
    wish = targets(rng.uniform(0.04, 0.49, k), 0.1, total, counts)
    return Problem(wish, lower_bounds(counts, total, 0.0), counts, total)


def _curate(p: Problem) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    found = allocate(p.wish, p.lower, p.upper, p.total)
    return found.exact, found.quota


def _osqp(p: Problem, *, exact: bool) -> NDArray[np.float64] | None:
    import qpsolvers

    k = len(p.wish)
    lower, upper = p.lower.astype(float), p.upper.astype(float)
    if not exact:
        ones = np.ones((1, k))
        return qpsolvers.solve_qp(
            np.eye(k), -p.wish, A=ones, b=np.array([float(p.total)]), lb=lower, ub=upper, solver="osqp"
        )
    from scipy import sparse

    options: dict[str, Any] = {"eps_abs": 1e-9, "eps_rel": 1e-9, "polishing": True, "max_iter": 200_000}
    identity, ones = sparse.identity(k, format="csc"), sparse.csc_matrix(np.ones((1, k)))
    scale = p.total / k  # in units of the mean target: raw counts are far from 1e-9
    found = qpsolvers.solve_qp(
        identity, -p.wish / scale, A=ones, b=np.array([p.total / scale]), lb=lower / scale, ub=upper / scale,
        solver="osqp", **options,
    )  # fmt: skip
    return None if found is None else found * scale


def _quadprog(p: Problem) -> NDArray[np.float64]:
    import quadprog

    k, scale = len(p.wish), p.total / len(p.wish)
    sides = np.hstack([np.ones((k, 1)), np.eye(k), -np.eye(k)])
    bounds = np.concatenate([[p.total], p.lower, -p.upper]) / scale
    return np.asarray(quadprog.solve_qp(np.eye(k), p.wish / scale, sides, bounds, 1)[0] * scale)


SOLVERS: dict[str, Callable[[Problem], Any]] = {
    "qpsolvers+osqp, as the paper": lambda p: _osqp(p, exact=False),
    "qpsolvers+osqp, sparse, 1e-9": lambda p: _osqp(p, exact=True),
    "quadprog": _quadprog,
}


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def solve(side: str, k: int) -> Outcome:
    """One side on the problem of size k, in this process. Importing a library is not counted."""
    warnings.simplefilter("ignore")
    p, small = problem(k), problem(20)
    answer: Any = _curate if side == "curate" else SOLVERS[side]
    answer(small)
    before = peak_mib()
    start = time.perf_counter()
    found = answer(p)
    seconds = time.perf_counter() - start
    extra = peak_mib() - before
    if found is None:
        return Outcome(seconds, extra, None)
    x, quota = found if side == "curate" else (found, np.rint(found).astype(np.int64))
    beyond = int(((quota < p.lower) | (quota > p.upper)).sum())
    off = float(np.abs(x - _curate(p)[0]).max())
    return Outcome(seconds, extra, int(quota.sum()) - p.total, beyond, off)


def apart(side: str, k: int) -> Outcome:
    """`solve` in a process of its own."""
    command = [sys.executable, __file__, "--one", side, "--sizes", str(k)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def compare(k: int, rounds: int) -> None:
    """All sides on one problem, in turns."""
    found: dict[str, list[Outcome]] = {}
    for _ in range(rounds):
        for side, needed in SIDES.items():
            if all(util.find_spec(name) for name in needed) and not (side == "quadprog" and k > QUADPROG_MOST):
                found.setdefault(side, []).append(apart(side, k))
    ours = statistics.median(one.seconds for one in found["curate"])
    for side, outcomes in found.items():
        seconds = statistics.median(one.seconds for one in outcomes)
        memory = statistics.median(one.extra_mib for one in outcomes)
        first = outcomes[0]
        line = f"k = {k:7,}  {side:30s} {seconds * 1e3:10.2f} ms  {seconds / ours:9.1f}x  {memory:8.1f} MiB more"
        if first.sum_error is None:
            print(f"{line}  no answer")
            continue
        print(f"{line}  sum {first.sum_error:+d}  beyond a bound {first.beyond}  off by at most {first.off:.2g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 5_000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(asdict(solve(arguments.one, arguments.sizes[0]))))
        return
    for name in sorted({name for needed in SIDES.values() for name in needed}):
        print(f"{name} {metadata.version(name)}" if util.find_spec(name) else f"{name} is not installed: left out")
    for k in arguments.sizes:
        compare(k, arguments.rounds)
    start = time.perf_counter()
    p = problem(1_000_000)
    made = time.perf_counter() - start
    start = time.perf_counter()
    quota = _curate(p)[1]
    print(
        f"k = 1,000,000  curate: problem {made * 1e3:.0f} ms, quotas {(time.perf_counter() - start) * 1e3:.0f} ms, "
        f"sum {int(quota.sum()) - p.total:+d}; peak of this process {peak_mib():.0f} MiB"
    )


if __name__ == "__main__":
    main()
