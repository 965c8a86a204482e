"""Does pruning by our metric and our selection do what theory says? The teacher-student perceptron.

Samples x ~ N(0, I) of N dimensions are labelled by a teacher; a probe that is the teacher gives each its margin. The
metric `margin` and `select` keep a share f of them (hard, easy or random), a student of largest margin learns from
these, and its test error arccos(R) / pi is compared with the solution of the replica equations (Sorscher et al. 2022,
arXiv 2206.14486, section 2), which this script solves as well:

    1 - R^2 = alpha E[(m^2 + s^2) Phi(m / s) + m s phi(m / s)]
    R       = alpha {E[u (m Phi(m / s) + s phi(m / s))] + R E[Phi(m / s)]}

with alpha = kept samples / N, u = |teacher . x| in the kept region, s = sqrt(1 - R^2), m = kappa - R u.

    python benchmarks/perceptron.py --seeds 16
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import fsolve, nnls
from scipy.stats import norm

from curate.pruning.metrics import by_random, predictions
from curate.pruning.select import select
from curate.store.uids import hash64

Keep = Literal["full", "random", "hard", "easy"]
SHARES: tuple[tuple[float, Keep], ...] = (
    (1.0, "full"), (0.5, "random"), (0.5, "hard"), (0.5, "easy"), (0.25, "random"), (0.25, "hard"), (0.25, "easy"),
)  # fmt: skip
ALPHAS = (1.0, 2.0, 4.0, 8.0, 16.0)
SCALE = 2.0**40
"""Margins become whole numbers for `select`, as a score step's do."""


@dataclass(frozen=True)
class Cell:
    """One cell of the table: theory, mean and standard error over seeds."""

    alpha: float
    share: float
    keep: Keep
    theory: float
    mean: float
    error: float

    @property
    def off(self) -> float:
        """Distance from theory in standard errors."""
        return abs(self.mean - self.theory) / self.error


# --- theory -----------------------------------------------------------------------------------------------------------


def theory(alpha_total: float, share: float, keep: Keep) -> float:
    """Test error of the student, by continuation from few samples to share * alpha_total."""
    low, high = 0.0, 9.0
    if keep == "hard":
        high = float(norm.ppf((1 + share) / 2))
    elif keep == "easy":
        low = float(norm.ppf(1 - share / 2))
    nodes, weights = np.polynomial.legendre.leggauss(400)
    u = low + (high - low) * (nodes + 1) / 2
    weight = weights * norm.pdf(u)
    weight /= weight.sum()
    target = share * alpha_total
    x = np.array([0.05, 10.0])
    for alpha in [*np.geomspace(0.02, target, max(2, int(40 * math.log10(target / 0.02))))[:-1], target]:

        def residual(x: NDArray[np.float64], alpha: float = alpha) -> list[float]:
            r, kappa = x
            s = math.sqrt(max(1e-300, 1 - r * r))
            m = kappa - r * u
            cdf, pdf = norm.cdf(m / s), norm.pdf(m / s)
            first = alpha * float(weight @ ((m * m + s * s) * cdf + m * s * pdf)) - (1 - r * r)
            second = alpha * (float(weight @ (u * (m * cdf + s * pdf))) + r * float(weight @ cdf)) - r
            return [first, second]

        x, _, done, said = fsolve(residual, x, full_output=True, xtol=1e-12)
        if done != 1 and max(map(abs, residual(x))) > 1e-8:
            raise RuntimeError(f"no solution at alpha {alpha:g}, share {share:g} {keep}: {said}")
    return math.acos(float(x[0])) / math.pi


# --- simulation -------------------------------------------------------------------------------------------------------


def largest_margin(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The shortest w with rows @ w >= 1, exactly: least distance programming by NNLS (Lawson and Hanson 1974, chapter
    23). rows: y * x of separable samples, float64 [p, n].
    """
    p, n = rows.shape
    stacked = np.concatenate([rows.T, np.ones((1, p))])
    u, _ = nnls(stacked, np.append(np.zeros(n), 1.0), maxiter=60 * p)
    rest = stacked @ u
    rest[-1] -= 1.0
    w = -rest[:-1] / rest[-1]
    if (worst := float((rows @ w).min())) < 1 - 1e-6:
        raise RuntimeError(f"the fit did not end: a margin is {worst:g}, not 1")
    return w


def student_error(n: int, alpha_total: float, share: float, keep: Keep, seed: int) -> float:
    """Test error of one student of `n` dimensions."""
    rng = np.random.default_rng([seed, int(alpha_total * 1000), n])
    count = round(alpha_total * n)
    x = rng.normal(size=(count, n))
    teacher = rng.normal(size=n)
    teacher /= np.linalg.norm(teacher)
    z = x @ teacher
    y = (z < 0).astype(np.int64)  # class 0 where the teacher says +1
    probabilities = predictions.softmax(np.stack([z / 2, -z / 2], axis=1))
    hi, lo = np.full(count, seed, dtype=np.uint64), np.arange(count, dtype=np.uint64)
    if keep == "random":
        score = by_random(hash64(hi, lo, seed, "perceptron"))
    else:
        score = np.rint(predictions.margin(probabilities, y) * SCALE).astype(np.int64)
    quota = np.array([round(share * count)])
    kept = select(np.zeros(count, np.int32), score, hi, lo, quota, "easy" if keep == "easy" else "hard")
    w = largest_margin((x * np.sign(z)[:, None])[kept])
    return math.acos(float(w @ teacher) / float(np.linalg.norm(w))) / math.pi


def table(n: int, seeds: int, alphas: tuple[float, ...] = ALPHAS) -> Iterator[Cell]:
    """All cells, each over `seeds` students."""
    for alpha in alphas:
        for share, keep in SHARES:
            errors = np.array([student_error(n, alpha, share, keep, seed) for seed in range(seeds)])
            spread = float(errors.std(ddof=1)) / math.sqrt(seeds)
            yield Cell(alpha, share, keep, theory(alpha, share, keep), float(errors.mean()), spread)


def verdict(cells: list[Cell]) -> tuple[float, float]:
    """Share of the cells within 2.5 standard errors of theory, and the farthest in standard errors."""
    off = [cell.off for cell in cells]
    return sum(o <= 2.5 for o in off) / len(off), max(off)


def crossovers(cells: list[Cell]) -> dict[float, tuple[float, float]]:
    """For each share: the largest alpha at which easy wins in the simulation, and the smallest at which hard does."""
    found = {}
    for share in sorted({cell.share for cell in cells if cell.keep == "hard"}):
        by = {(cell.alpha, cell.keep): cell.mean for cell in cells if cell.share == share}
        alphas = sorted({alpha for alpha, _ in by})
        easy = [a for a in alphas if by[a, "easy"] < by[a, "hard"]]
        hard = [a for a in alphas if by[a, "hard"] < by[a, "easy"]]
        found[share] = (max(easy, default=math.nan), min(hard, default=math.nan))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--alphas", type=float, nargs="+", default=list(ALPHAS))
    given = parser.parse_args()
    start = time.perf_counter()
    cells = []
    print("| alpha_tot | keep | theory | simulated | s.e. off |\n|---|---|---|---|---|")
    for cell in table(given.dim, given.seeds, tuple(given.alphas)):
        cells.append(cell)
        name = "full" if cell.keep == "full" else f"f={cell.share:g} {cell.keep}"
        line = f"| {cell.alpha:g} | {name} | {cell.theory:.4f} | {cell.mean:.4f} +- {cell.error:.4f} | {cell.off:.1f} |"
        print(line, flush=True)
    share, most = verdict(cells)
    print(f"\n{len(cells)} cells, {share:.0%} within 2.5 standard errors, the farthest {most:.1f}")
    for f, (easy, hard) in crossovers(cells).items():
        print(f"f={f:g}: easy wins up to alpha_tot {easy:g}, hard from {hard:g}")
    print(f"{time.perf_counter() - start:.0f} s")
    return 0 if share >= 0.95 and most <= 4 else 1


if __name__ == "__main__":
    sys.exit(main())
