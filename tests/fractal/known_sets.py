"""Systems whose measure is known in closed form."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from curate.fractal.systems import System


def similarity(ratio: float, degrees: float, x: float, y: float) -> list[list[float]]:
    c, s = ratio * math.cos(math.radians(degrees)), ratio * math.sin(math.radians(degrees))
    return [[c, -s, x], [s, c, y]]


def equal(*maps: list[list[float]]) -> System:
    return System(np.array(maps), np.full(len(maps), 1.0 / len(maps)))


R3 = math.sqrt(3.0)
SIERPINSKI = equal(*(similarity(0.5, 0.0, x, y) for x, y in [(0, 0), (0.5, 0), (0.25, R3 / 4)]))
KOCH = equal(
    similarity(1 / 3, 0, 0, 0),
    similarity(1 / 3, 60, 1 / 3, 0),
    similarity(1 / 3, -60, 0.5, R3 / 6),
    similarity(1 / 3, 0, 2 / 3, 0),
)
DRAGON = equal(similarity(2**-0.5, 45, 0, 0), similarity(2**-0.5, 135, 1, 0))
CARPET = equal(*(similarity(1 / 3, 0, x / 3, y / 3) for x in range(3) for y in range(3) if (x, y) != (1, 1)))
MCMULLEN = equal(*([[1 / 3, 0, x / 3], [0, 1 / 2, y / 2]] for x, y in [(0, 0), (2, 0), (1, 1)]))
FERN = System(
    np.array(
        [
            [[0, 0, 0], [0, 0.16, 0]],
            [[0.85, 0.04, 0], [-0.04, 0.85, 1.6]],
            [[0.2, -0.26, 0], [0.23, 0.22, 1.6]],
            [[-0.15, 0.28, 0], [0.26, 0.24, 0.44]],
        ]
    ),
    np.array([0.01, 0.85, 0.07, 0.07]),
)

#: name -> system, dimension (None: no closed form), mean, (var x, cov, var y)
SETS: dict[str, tuple[System, float | None, tuple[float, float], tuple[float, float, float]]] = {
    "sierpinski": (SIERPINSKI, math.log(3) / math.log(2), (0.5, 0.28868), (1 / 18, 0, 1 / 18)),
    "koch": (KOCH, math.log(4) / math.log(3), (0.5, 0.09623), (1 / 15, 0, 1 / 135)),
    "dragon": (DRAGON, 2.0, (0.4, 0.2), (0.14, -0.03, 0.06)),
    "carpet": (CARPET, math.log(8) / math.log(3), (0.5, 0.5), (3 / 32, 0, 3 / 32)),
    "mcmullen": (MCMULLEN, None, (0.5, 1 / 3), (1 / 12, 0, 2 / 27)),
    "fern": (FERN, None, (0.79683, 6.16758), (1.43631, 1.29783, 6.24963)),
}


def orbit(system: System, n: int, seed: int) -> NDArray[np.float64]:
    """n successive points of one orbit, by the definition: slow and plain."""
    rng = np.random.default_rng(seed)
    choice = rng.choice(system.n, size=n + 200, p=system.p)
    maps = system.maps.tolist()
    x = y = 0.0
    out = np.empty((n + 200, 2))
    for i, c in enumerate(choice.tolist()):
        (a, b, e), (d, f, g) = maps[c]
        x, y = a * x + b * y + e, d * x + f * y + g
        out[i] = x, y
    return out[200:]
