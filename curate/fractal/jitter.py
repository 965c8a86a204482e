"""How the maps of a class differ from image to image, within the ranges of the papers.

`basic`, `svd`, `sval` and `fractaldb` are the parameter jitters of Anderson & Farrell 2022 (arXiv 2110.03091);
`one_parameter` moves all entries, as 1p-frac does (ECCV 2024). What is drawn is written down as facts, and the facts
move the maps: `replay` of a class and its facts gives the same maps, bit for bit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal.randomness import Draws
from curate.fractal.specification import Jitter
from curate.fractal.systems import sample

Maps = NDArray[np.float64]

_TRIES = 4
_ROUNDING = 1e-9  # a singular value drawn as 1 may come back this much larger
_HALF_WIDTH = 0.1  # of the sigma-factor of the one system of 1p-frac


def jittered(maps: Maps, options: Jitter, draws: Draws, sigma: tuple[float, float]) -> tuple[Maps, dict[str, Any]]:
    """Maps of one image, float64 [n, 2, 3], and facts (JSON-able) from which `replay` makes them again.

    Published ranges, with s the strength; the map that changes is drawn uniformly:

    - basic: one map, shift and all, times U(1 - .2s, 1 + .1s). Drawn up to 4 times until no singular value is above 1,
      else nothing changes; so a class that expands changes only where that makes it contract.
    - svd: equally likely, the left or the right rotation of one map turned by U(-.5s, .5s), or its shift moved by
      U(-.5s, .5s) on each axis. Singular values stay.
    - sval: both singular values of one map times one factor, uniform among those that keep the sigma-factor within
      `sigma` and the values at most 1; s below 1 narrows that range about 1, s above 1 is 1. A class that starts
      outside moves no further out.
    - fractaldb: one entry of each map, times one of five factors from 1 - .2s to 1 + .2s.
    - one_parameter: every entry times its own U(1 - .1s, 1 + .1s).

    The last two do not mind whether maps contract. Where nothing changes, `maps` itself is returned, with no facts.
    """
    facts: dict[str, Any] = {}
    if options.strength > 0.0 and options.kind != "none":
        facts = _KINDS[options.kind](maps, options.strength, draws, sigma)
    return replay(maps, facts), facts


def replay(maps: Maps, facts: dict[str, Any]) -> Maps:
    """Maps of an image from those of its class [n, 2, 3] and the facts of `jittered`, also when read from JSON.

    Facts that a family marked as `undone`, because the moved maps could not be drawn, change nothing. Raises SpecError
    for facts of no known kind.
    """
    if not facts or "undone" in facts:
        return maps
    if (kind := facts.get("kind")) not in _KINDS:
        raise SpecError(f"there is no jitter {kind!r}; facts come from the image's own record.")
    if kind == "one_parameter":
        return perturbed(maps, facts["deviation"], Draws(int(facts["key"], 16)))
    out = maps.copy()
    if kind == "fractaldb":
        flat = out.reshape(-1)
        for i, (entry, factor) in enumerate(zip(facts["entries"], facts["factors"], strict=True)):
            flat[6 * i + entry] *= factor
        return out
    one = out[facts["map"]]
    if kind == "basic":
        one *= facts["factor"]
    elif kind == "sval":
        one[:, :2] *= facts["factor"]
    elif "shift" in facts:
        one[0, 2] += facts["shift"][0]
        one[1, 2] += facts["shift"][1]
    else:
        (a, b, _), (c, d, _) = one.tolist()
        cos, sin = math.cos(facts["angle"]), math.sin(facts["angle"])
        # U diag(s) V with U turned is R A, with V turned A R: no decomposition is needed
        if facts["side"] == "left":
            one[:, :2] = (cos * a - sin * c, cos * b - sin * d), (sin * a + cos * c, sin * b + cos * d)
        else:
            one[:, :2] = (cos * a + sin * b, cos * b - sin * a), (cos * c + sin * d, cos * d - sin * c)
    return out


def perturbed(maps: Maps, deviation: float, draws: Draws) -> Maps:
    """Every entry of every map [n, 2, 3] times its own U(1 - deviation, 1 + deviation): a class of 1p-frac."""
    return np.asarray(
        maps * draws.uniform(maps.size, 1.0 - deviation, 1.0 + deviation).reshape(maps.shape), dtype=np.float64
    )


def base_system(sigma: float, draws: Draws, *, reach: float = 1.0) -> Maps:
    """The one system of 1p-frac whose perturbations are the classes, float64 [2, 2, 3]: its sigma-factor is uniform in
    sigma +- 0.1 (the README's is 3.5). reach: as in `systems.sample`. Raises SpecError for a sigma that two maps lack.
    """
    if not _HALF_WIDTH <= sigma <= 6.0 - _HALF_WIDTH:
        raise SpecError(f"the sigma-factor of two maps lies between 0 and 6, so {sigma:g} +- {_HALF_WIDTH} is too far.")
    return sample(2, draws, reach=reach, alpha=(sigma - _HALF_WIDTH, sigma + _HALF_WIDTH))


def singular_values(maps: Maps) -> list[tuple[float, float]]:
    """(s1, s2) of each map of [n, 2, 3], larger first, in closed form: s1 + s2 and |s1 - s2| are the lengths of
    (a + d, c - b) and (a - d, b + c). Absolute error: a few units in the last place of s1.
    """
    out = []
    for (a, b, _), (c, d, _) in maps.tolist():
        total, difference = math.hypot(a + d, c - b), math.hypot(a - d, b + c)
        out.append(((total + difference) / 2.0, abs(total - difference) / 2.0))
    return out


def _basic(maps: Maps, strength: float, draws: Draws, sigma: tuple[float, float]) -> dict[str, Any]:
    large = [s1 for s1, _ in singular_values(maps)]
    for _ in range(_TRIES):
        at, factor = draws.below(len(large)), draws.one(1.0 - 0.2 * strength, 1.0 + 0.1 * strength)
        others = max((s1 for i, s1 in enumerate(large) if i != at), default=0.0)
        if factor * large[at] <= 1.0 and others <= 1.0 + _ROUNDING:
            return {"kind": "basic", "map": at, "factor": factor}
    return {}


def _svd(maps: Maps, strength: float, draws: Draws, sigma: tuple[float, float]) -> dict[str, Any]:
    at, part, most = draws.below(len(maps)), draws.below(3), 0.5 * strength
    if part == 2:
        return {"kind": "svd", "map": at, "shift": [draws.one(-most, most), draws.one(-most, most)]}
    return {"kind": "svd", "map": at, "side": ("left", "right")[part], "angle": draws.one(-most, most)}


def _sval(maps: Maps, strength: float, draws: Draws, sigma: tuple[float, float]) -> dict[str, Any]:
    values, at = singular_values(maps), draws.below(len(maps))
    s1, s2 = values[at]
    share = s1 + 2.0 * s2
    if share < 1e-12:  # a point has no singular values to scale
        return {}
    rest = math.fsum(a + 2.0 * b for i, (a, b) in enumerate(values) if i != at)
    low = max(min((sigma[0] - rest) / share, 1.0), 0.0)
    high = max(min((sigma[1] - rest) / share, 1.0 / s1), 1.0)
    strength = min(strength, 1.0)
    factor = draws.one(1.0 + strength * (low - 1.0), 1.0 + strength * (high - 1.0))
    return {"kind": "sval", "map": at, "factor": factor}


def _fractaldb(maps: Maps, strength: float, draws: Draws, sigma: tuple[float, float]) -> dict[str, Any]:
    entries = [draws.below(6) for _ in range(len(maps))]
    factors = [1.0 + 0.1 * strength * (draws.below(5) - 2) for _ in entries]
    return {"kind": "fractaldb", "entries": entries, "factors": factors}


def _one_parameter(maps: Maps, strength: float, draws: Draws, sigma: tuple[float, float]) -> dict[str, Any]:
    # a key says as much as six factors a map would, and in hex no reader of JSON rounds it
    return {"kind": "one_parameter", "key": f"{draws.below(2**64):016x}", "deviation": 0.1 * strength}


_KINDS = {"basic": _basic, "svd": _svd, "sval": _sval, "fractaldb": _fractaldb, "one_parameter": _one_parameter}
