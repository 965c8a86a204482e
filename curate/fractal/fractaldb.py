"""The category search of FractalDB (Kataoka et al. 2020, arXiv 2101.08515), which its published parameters came from.

A candidate has 2 to 7 maps with all entries uniform in (-1, 1), contracting or not, drawn by area; it becomes a
category when a picture of its orbit covers enough pixels. Draws come from numpy's RandomState in the published order,
so that seed 1 gives the 1,000 published categories, the last of them as candidate 42,655. About one candidate in 25
leaves the range of float64 and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.errors import InputError, SpecError
from curate.fractal.systems import System

_COLUMNS = 7
_ENTRIES = [0, 1, 4, 2, 3, 5]  # a row is a, b, c, d, e, f with x' = a x + b y + e and y' = c x + d y + f
_BEFORE = 100  # points dropped before the first that is not a number


def categories(
    seed: int = 1, *, points: int = 100_000, size: int = 512, pad: int = 6, threshold: float = 0.2
) -> Iterator[tuple[int, NDArray[np.float64], float]]:
    """Accepted candidates without end: their number from 1, maps float64 [n, 2, 3], and fill (see `fill`).

    Order of draws: randint(2, 8) maps, six uniforms a map, `points` uniforms for the orbit. Defaults are the published
    settings: about 1 ms a candidate. Memory: 24 bytes a point and the canvas. Raises SpecError for settings that no
    picture has.
    """
    if points < 1 or not 0.0 <= threshold <= 1.0:
        raise SpecError(f"a search needs points and a threshold of 0 to 1, not {points} points and {threshold:g}.")
    if not 0 <= seed < 2**32:
        raise SpecError(f"the published search takes seeds below 2**32, not {seed}; give the pipeline a smaller seed.")
    rng = np.random.RandomState(seed)
    path, seen = np.empty((points, 2)), _canvas(size, pad)
    need = threshold * size * size - 0.5  # half a pixel less, so that rounding refuses nothing too early
    number = 0
    while True:
        number += 1
        n = int(rng.randint(2, 8))
        rows = rng.uniform(-1.0, 1.0, (n, 6))
        cumulative = np.cumsum(_areas(rows))
        drawn = _orbit(rows, cumulative, rng.random_sample(points), path)
        seen[:] = 0
        covered = _cover(path, drawn, pad, seen, need) / (size * size)
        if covered >= threshold:
            yield number, rows[:, _ENTRIES].reshape(n, 2, 3), covered


def orbit(system: System, uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points from (0, 0), which is the first of them, float64 [k, 2]; the last uniform of [n] moves none.

    k is n, or less when the orbit becomes NaN: then the points from there on and the 100 before are dropped, as
    published. An orbit that stays infinite is kept. Memory: 16 bytes a point.
    """
    rows = np.ascontiguousarray(system.maps.reshape(-1, 6)[:, np.argsort(_ENTRIES)], dtype=np.float64)
    out = np.empty((len(uniforms), 2))
    return out[: _orbit(rows, np.cumsum(system.p), np.ascontiguousarray(uniforms, dtype=np.float64), out)]


def fill(points: NDArray[np.float64], size: int = 512, pad: int = 6) -> float:
    """Share of the pixels of a square canvas that hold a point; the box of the points [n, 2] fills all but the margins.

    A coordinate is int((x - min) / span * (size - 2 pad) + pad). 0 when there are no points or their box is not finite.
    Raises SpecError for a canvas that is all margin.
    """
    seen = _canvas(size, pad)
    if not np.isfinite(points).all():
        return 0.0
    return float(_cover(np.ascontiguousarray(points, dtype=np.float64), len(points), pad, seen, 0.0) / (size * size))


def write_csv(maps: NDArray[np.float64]) -> str:
    """Rows `a,b,c,d,e,f,p` of maps [n, 2, 3] without a heading; p by area. Every number is read back bit for bit."""
    rows = maps.reshape(-1, 6)[:, np.argsort(_ENTRIES)]
    table = np.column_stack([rows, _areas(rows)]).tolist()
    return "".join(",".join(map(repr, row)) + "\n" for row in table)


def read_csv(text: str) -> System:
    """Maps and probabilities of such rows. Raises InputError, naming the line, for anything else."""
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = [float(cell) for cell in line.split(",")]
        except ValueError:
            row = []
        if len(row) != _COLUMNS or not all(map(math.isfinite, row)) or row[-1] < 0.0:
            raise InputError(
                f"line {number} is not seven numbers a,b,c,d,e,f,p with p from 0 on: {line.strip()[:80]!r}."
            )
        rows.append(row)
    table = np.array(rows, dtype=np.float64).reshape(-1, _COLUMNS)
    total = float(table[:, -1].sum())
    if abs(total - 1.0) > 1e-3:
        raise InputError(
            f"the probabilities in the last column must sum to 1, not {total:g}; the file may be cut short."
        )
    return System(table[:, _ENTRIES].reshape(-1, 2, 3), table[:, -1].copy())


def _canvas(size: int, pad: int) -> NDArray[np.uint8]:
    if pad < 0 or size <= 2 * pad:
        raise SpecError(f"a canvas of {size} pixels has no room between margins of {pad}.")
    return np.zeros((size, size), dtype=np.uint8)


def _areas(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """|ad - bc| as a share of their sum, float64 [n]; equal shares when all are 0."""
    area = np.abs(rows[:, 0] * rows[:, 3] - rows[:, 1] * rows[:, 2])
    total = float(area.sum())
    return np.asarray(area / total if total > 0.0 else np.full(len(rows), 1.0 / len(rows)), dtype=np.float64)


@njit(cache=True, nogil=True)
def _orbit(rows, cumulative, uniforms, out):  # type: ignore[no-untyped-def]
    """Fills out from the origin and returns how many points there are to show."""
    x, y = 0.0, 0.0
    last = len(rows) - 1
    for i in range(len(out)):
        if np.isnan(x) or np.isnan(y):
            return max(0, i - _BEFORE)
        out[i, 0] = x
        out[i, 1] = y
        r = uniforms[i]
        k = 0
        for j in range(last):  # as many as are not above r: where a linear search ends, without its branches
            k += not r < cumulative[j]
        x, y = rows[k, 0] * x + rows[k, 1] * y + rows[k, 4], rows[k, 2] * x + rows[k, 3] * y + rows[k, 5]
    return len(out)


@njit(cache=True, nogil=True)
def _cover(points, count, pad, seen, need):  # type: ignore[no-untyped-def]
    """Pixels that the first `count` points cover, or fewer than `need` where that many cannot be reached any more."""
    if count == 0:
        return 0
    low_x, low_y = points[0, 0], points[0, 1]
    high_x, high_y = low_x, low_y
    for i in range(count):
        x, y = points[i, 0], points[i, 1]
        low_x = x if x < low_x else low_x
        high_x = x if x > high_x else high_x
        low_y = y if y < low_y else low_y
        high_y = y if y > high_y else high_y
    span_x, span_y = high_x - low_x, high_y - low_y
    if not (np.isfinite(span_x) and np.isfinite(span_y)):
        return 0
    if span_x == 0.0:
        span_x = 1.0
    if span_y == 0.0:
        span_y = 1.0
    room = float(len(seen) - 2 * pad)
    most = len(seen) - 1  # the largest point, when there is no margin
    covered = 0
    for i in range(count):
        across = min(int((points[i, 0] - low_x) / span_x * room + pad), most)
        down = min(int((points[i, 1] - low_y) / span_y * room + pad), most)
        covered += 1 - seen[across, down]
        seen[across, down] = 1
        if covered + (count - 1 - i) < need:
            break
    return covered
