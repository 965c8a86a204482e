"""Metrics that rank samples: plain functions of int64 columns, all with one orientation.

A score is int64 fixed point; HIGH means "keep first when the hard samples are kept" (which="hard" in `select`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError


def by_distance(distance: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distance to the nearest centroid: the farthest sample is the hardest (Sorscher et al. 2022, arXiv 2206.14486)."""
    return np.asarray(distance, dtype=np.int64)


def by_random(draw: NDArray[np.uint64]) -> NDArray[np.int64]:
    """A uniform control: the top 63 bits of a 64-bit hash of (seed, stage, uid) that the caller drew."""
    return (np.asarray(draw, dtype=np.uint64) >> np.uint64(1)).astype(np.int64)


@dataclass(frozen=True)
class Metric:
    """How a metric scores samples and how its budget is shared out."""

    name: str
    needs: Literal["distance", "draw"]
    """The column the score is made from: fixed-point distance int64, or random draw uint64."""
    score: Callable[[NDArray[Any]], NDArray[np.int64]]
    budget: Literal["complexity", "global"]
    """complexity: quotas from `allocate` by concept complexity; global: one ranking with a floor per concept."""
    source: str
    """Paper and section."""


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        m.name: m
        for m in (
            Metric("dbp", "distance", by_distance, "complexity", "Abbas et al. 2024, arXiv 2401.04578, section 3"),
            Metric("ssp", "distance", by_distance, "global", "Sorscher et al. 2022, arXiv 2206.14486, section 5"),
            Metric("random", "draw", by_random, "global", "control of equal size"),
        )
    }
)


def metric(name: str) -> Metric:
    """The metric of that name; raises SpecError with the known names."""
    if name not in METRICS:
        raise SpecError(f'there is no metric "{name}"; known are {", ".join(sorted(METRICS))}.')
    return METRICS[name]
