"""Classes that are points of a space of parameters: spread evenly, named by their values, checked when read again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import SpecError

NAME_DIGITS = 12


def steps(dimensions: int) -> NDArray[np.uint64]:
    """Steps of an even spread in [0, 1) of so many dimensions, uint64 [dimensions] in units of 2**-64.

    Step i is g**-i for the root g > 1 of g**(dimensions + 1) = g + 1, the golden ratio for one (Roberts 2018, "The
    unreasonable effectiveness of quasirandom sequences"): multiples of the steps, from any start and without their
    whole part, fill the cube far more evenly than independent draws, and each number is uniform by itself.
    """
    low, high = 1.0, 2.0
    for _ in range(60):  # plain halving: no library's power or root has a say in the last bit
        middle = 0.5 * (low + high)
        power = middle
        for _ in range(dimensions):
            power *= middle
        low, high = (middle, high) if power < middle + 1.0 else (low, middle)
    out, value = [], 1.0
    for _ in range(dimensions):
        value /= low
        out.append(int(value * 2.0**64))
    return np.array(out, dtype=np.uint64)


def spread(starts: NDArray[np.uint64], turns: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Points of the even spread: float64 [n, dimensions] in [0, 1).

    starts: uint64 [n, dimensions] or [dimensions], in units of 2**-64. turns: uint64 [n], how many steps from there.
    """
    raw = starts + turns[:, None] * steps(starts.shape[-1])
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def whole(shares: NDArray[np.float64], low: int, high: int) -> NDArray[np.int64]:
    """Integers low to high, each from an equal part of [0, 1)."""
    return np.minimum(low + np.floor(shares * (high - low + 1)).astype(np.int64), high)


def fineness(
    shares: NDArray[np.float64], low: int, high: int, strength: NDArray[np.float64], vertices: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Steps of the noise of each class: low to high, but fewer than its vertices; 0 where its strength is 0.

    Vertices can show no finer noise; and as many steps as vertices would have all of them meet the noise at the same
    place of a step, where it is strong in one image and nothing in another.
    """
    most = np.minimum(vertices - 1, high)
    least = np.minimum(vertices - 1, low)
    drawn = np.minimum(least + np.floor(shares * (most - least + 1)).astype(np.int64), most)
    return np.asarray(np.where(strength > 0.0, drawn, 0), dtype=np.int64)


def table_of(family: str, columns: Mapping[str, NDArray[np.int64] | NDArray[np.float64]]) -> pl.DataFrame:
    """The table of classes with these parameters: class, system, then the columns.

    Raises SpecError when two classes are equal, which means that the options leave too few to choose from.
    """
    parameters = pl.DataFrame(columns)
    names = _names(family, parameters)
    distinct = len(set(names))
    if distinct < len(names):
        raise SpecError(
            f"the options of {family} give {distinct:,} different classes, not {len(names):,}: widen their ranges or "
            "ask for fewer classes."
        )
    return pl.DataFrame({"class": pl.int_range(len(names), dtype=pl.Int64, eager=True), "system": names}).hstack(
        parameters
    )


def check(family: str, table: pl.DataFrame, schema: Mapping[str, pl.DataType]) -> None:
    """Raises SpecError unless the table is one that `table_of` made for this family with columns of these types."""
    needed = {"class": pl.Int64(), "system": pl.String(), **schema}
    if missing := [name for name, type_ in needed.items() if table.schema.get(name) != type_]:
        raise SpecError(f"the table of classes has no {', '.join(missing)} of the type that {family} needs.")
    if table["class"].to_list() != list(range(table.height)):
        raise SpecError("the table of classes is damaged: class does not count from 0, row by row.")
    for name in schema:
        if table[name].null_count():
            raise SpecError(f"the table of classes is damaged: {name} is missing in some row.")
    for number, (said, found) in enumerate(
        zip(table["system"], _names(family, table.select(list(schema))), strict=True)
    ):
        if said != found:
            raise SpecError(f"the table of classes is damaged: the parameters of class {number} are not system {said}.")


def _names(family: str, parameters: pl.DataFrame) -> list[str]:
    """Of each row, digits of the SHA-256 of the family's name and the parameters as little-endian float64."""
    rows = np.ascontiguousarray(parameters.cast(pl.Float64).to_numpy(), dtype="<f8")
    start = family.encode()
    return [hashlib.sha256(start + row.tobytes()).hexdigest()[:NAME_DIGITS] for row in rows]
