"""The search for the classes of iterated function systems: candidates drawn, judged by gates, written down in a table.

Candidates come in an order that the seed decides; a gate only judges, it never changes a candidate. What a row says
beside maps and probabilities follows from these alone: the same system has the same row in every dataset.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal import fractaldb
from curate.fractal.chaos import quantised
from curate.fractal.invariants import Moments, moments
from curate.fractal.jitter import perturbed
from curate.fractal.likeness import Likeness
from curate.fractal.pilot import Survey, survey
from curate.fractal.randomness import Draws
from curate.fractal.specification import Gates, Ifs
from curate.fractal.systems import System, probabilities, sample, sample_anderson2022

DROUGHT = 10_000
"""Candidates that may be refused in a row before the search gives up."""
MOST_COMPARED = 200_000
"""Most classes with a gate on distance: each new one is compared to all others, minutes for so many."""

SCHEMA = pl.Schema(
    {
        "class": pl.Int64(),
        "system": pl.String(),
        "n": pl.Int64(),
        "maps": pl.List(pl.Float64),
        "p": pl.List(pl.Float64),
        "mean": pl.List(pl.Float64),
        "covariance": pl.List(pl.Float64),
        "low": pl.List(pl.Float64),
        "high": pl.List(pl.Float64),
        "fill": pl.Float64(),
        "box_dimension": pl.Float64(),
        "p_min": pl.Float64(),
        "s1_max": pl.Float64(),
        "sigma_factor": pl.Float64(),
        "candidate": pl.Int64(),
    }
)
"""Columns of the table. maps: 6 n numbers, map by map and row by row. mean: x, y and covariance: xx, xy, yy of the
invariant measure, null for a system that does not contract on average. low, high: canonical bounds, x and y."""

_ROUNDING = 1e-9  # singular values drawn up to 1 come back from their matrix as 1 + 1e-16


@dataclass(frozen=True)
class Found:
    """The classes, and what it took to find them."""

    table: pl.DataFrame
    """See SCHEMA, one row a class."""
    tried: int
    """Candidates judged. (Those of fractaldb have passed its own gate on fill before.)"""
    refused: dict[str, int]
    """Candidates refused, by the first gate that they failed: degenerate, s1_max, p_min, aspect, fill, distance."""


@dataclass(frozen=True)
class Judged:
    """A system that passed, and what was measured to judge it."""

    system: System
    moments: Moments | None
    survey: Survey


def find(options: Ifs, classes: int, seed: int) -> Found:
    """The first `classes` candidates of `seed` that pass the gates.

    One core searches about 1,000 classes in 3 s. Memory: 1.5 KB a class, 1.2 KB more with a gate on distance. Raises
    SpecError when DROUGHT candidates in a row are refused, and when distances of more than MOST_COMPARED classes would
    be compared.
    """
    gates, likeness = options.gates, Likeness()
    if gates.distance > 0.0 and classes > MOST_COMPARED:
        raise SpecError(
            f"gates.distance compares every class to every other: {classes:,} are too many, {MOST_COMPARED:,} the "
            "most. Set gates.distance: 0 or fewer classes."
        )
    columns: dict[str, list[object]] = {name: [] for name in SCHEMA}
    refused = dict.fromkeys(("degenerate", "s1_max", "p_min", "aspect", "fill", "distance"), 0)
    stream = _candidates(options, seed)
    found = tried = dry = 0
    while found < classes:
        candidate, maps = next(stream)
        tried += 1
        judged = judge(maps, options)
        if isinstance(judged, Judged) and gates.distance > 0.0:
            if likeness.nearest(judged.survey.cells, gates.distance) is None:
                likeness.add(judged.survey.cells)
            else:
                judged = "distance"
        if isinstance(judged, str):
            refused[judged] += 1
            dry += 1
            if dry == DROUGHT:
                raise SpecError(_dry(refused, gates, found, classes, tried))
            continue
        for name, value in _row(judged, found, candidate).items():
            columns[name].append(value)
        found, dry = found + 1, 0
    return Found(pl.DataFrame(columns, schema=SCHEMA), tried, refused)


def judge(maps: NDArray[np.float64], options: Ifs) -> Judged | str:
    """A candidate float64 [n, 2, 3] with its probabilities and measurements, or the name of the gate that refuses it.

    The cheap gates come first. Whatever the gates say, a system is refused as degenerate when its numbers or its pilot
    orbit are not finite, or when the pilot stays on a point.
    """
    gates = options.gates
    if not np.isfinite(maps).all():
        return "degenerate"
    system = System(maps, quantised(probabilities(maps, options.probability, options.floor)))
    if float(system.singular_values[:, 0].max()) > gates.s1_max + _ROUNDING:
        return "s1_max"
    if float(system.p.min()) < gates.p_min:
        return "p_min"
    exact = _moments(system)
    if exact is not None and _aspect(exact.covariance) < gates.aspect:
        return "aspect"
    seen = survey(system, exact)
    if seen is None:
        return "degenerate"
    if exact is None and _aspect(seen.covariance) < gates.aspect:
        return "aspect"
    if not gates.fill[0] <= seen.fill <= gates.fill[1]:
        return "fill"
    return Judged(system, exact, seen)


def name_of(system: System) -> str:
    """12 hex digits that name a system: of the SHA-256 of its maps' and probabilities' little-endian float64."""
    data = system.maps.astype("<f8").tobytes() + system.p.astype("<f8").tobytes()
    return hashlib.sha256(data).hexdigest()[:12]


def _candidates(options: Ifs, seed: int) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Numbers and maps of the candidates, without end (from 0; from 1 for fractaldb, as its search counts)."""
    if options.sampler == "anderson2022":
        rng, sizes = np.random.default_rng(seed), tuple(range(options.maps[0], options.maps[1] + 1))
        return ((j, sample_anderson2022(sizes, rng, reach=options.reach)) for j in itertools.count())
    if options.sampler == "fractaldb":
        # the published set is seed 1, so seed 0 gives it; its law has 2 to 7 maps, of which `maps` may take fewer
        low, high = options.maps
        return ((j, maps) for j, maps, _ in fractaldb.categories(1 + seed) if low <= len(maps) <= high)
    if options.sampler == "one_parameter":
        base = _base(options, seed)
        return ((j, perturbed(base, options.deviation, Draws.of(seed, "classes", j))) for j in itertools.count())
    return ((j, _drawn(options, Draws.of(seed, "classes", j))) for j in itertools.count())


def _drawn(options: Ifs, draws: Draws) -> NDArray[np.float64]:
    low, high = options.maps
    n = low + draws.below(high - low + 1)
    return sample(n, draws, reach=options.reach, alpha=options.sigma)


def _base(options: Ifs, seed: int) -> NDArray[np.float64]:
    """The system whose perturbations are the classes: the first one drawn that passes the gates itself."""
    refused: dict[str, int] = {}
    for j in range(DROUGHT):
        maps = _drawn(options, Draws.of(seed, "classes", "base", j))
        judged = judge(maps, options)
        if isinstance(judged, Judged):
            return maps
        refused[judged] = refused.get(judged, 0) + 1
    raise SpecError(_dry(refused, options.gates, 0, 1, DROUGHT))


def _moments(system: System) -> Moments | None:
    try:
        return moments(system)
    except SpecError:
        return None


def _aspect(covariance: NDArray[np.float64]) -> float:
    """Smaller to larger standard deviation along the principal axes, 0 for a line or a point."""
    small, large = np.linalg.eigvalsh(covariance)
    return float(np.sqrt(max(small, 0.0) / large)) if large > 0.0 else 0.0


def _row(judged: Judged, number: int, candidate: int) -> dict[str, object]:
    system, exact, seen = judged.system, judged.moments, judged.survey
    return {
        "class": number,
        "system": name_of(system),
        "n": system.n,
        "maps": system.maps.reshape(-1).tolist(),
        "p": system.p.tolist(),
        "mean": None if exact is None else exact.mean.tolist(),
        "covariance": None if exact is None else exact.covariance[[0, 0, 1], [0, 1, 1]].tolist(),
        "low": list(seen.view.low),
        "high": list(seen.view.high),
        "fill": seen.fill,
        "box_dimension": seen.dimension,
        "p_min": float(system.p.min()),
        "s1_max": float(system.singular_values[:, 0].max()),
        "sigma_factor": system.sigma_factor,
        "candidate": candidate,
    }


def _dry(refused: dict[str, int], gates: Gates, found: int, classes: int, tried: int) -> str:
    worst = max(refused, key=lambda gate: refused[gate])
    setting = f" (gates.{worst}: {getattr(gates, worst)})" if worst != "degenerate" else ""
    return (
        f"the search found {found:,} of {classes:,} classes and then {DROUGHT:,} candidates in a row were refused; of "
        f"{tried:,} tried, {refused[worst]:,} failed {worst}{setting} first. Loosen it or ask for fewer classes."
    )
