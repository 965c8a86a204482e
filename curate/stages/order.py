"""The global order of samples in which the earlier one of a duplicate pair stays: `hard`, `easy` or by a column."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.stages.part import Part

PATTERN = r"^(hard|easy|\S+ (asc|desc))$"
"""What the option `order` may say."""
LAST = np.iinfo(np.int64).max
"""The key of a missing value."""
_NAMES = ("keep", "reason", "alive")


@dataclass(frozen=True)
class Order:
    """Samples by a key, smallest first; equal keys by uid, so that no two samples stand at the same place."""

    step: str
    """Step that writes the column."""
    column: str
    descending: bool

    @classmethod
    def of(cls, text: str, within: str, schema: Mapping[str, Mapping[str, pl.DataType]], where: str) -> Order:
        """What `text` means. within: the cluster step whose distances are `hard` and `easy`; schema: the columns of
        earlier steps; where: the stage, for messages. Raises SpecError for a column that is not there or holds no
        numbers.
        """
        if text in ("hard", "easy"):
            return cls(within, "distance", text == "hard")
        if not re.fullmatch(PATTERN, text):
            raise SpecError(f'{where}: order is "{text}"; give hard, easy, or a column and asc or desc')
        name, way = text.split(" ")
        step, _, column = name.rpartition(".")
        owners = [one for one in reversed(list(schema)) if column in schema[one] and step in ("", one)]
        numbers = sorted(
            {c for columns in schema.values() for c, dtype in columns.items() if dtype.is_numeric() and c not in _NAMES}
        )
        if not owners:
            raise SpecError(
                f"{where}: order is by {name}, which no earlier step writes; columns of numbers so far are "
                f"{', '.join(numbers)}"
            )
        dtype = schema[owners[0]][column]
        if not (dtype.is_integer() or dtype.is_float()):
            raise SpecError(
                f"{where}: order is by {name}, which holds {dtype}; columns of numbers so far are {', '.join(numbers)}"
            )
        return cls(owners[0], column, way == "desc")

    def keys(self, part: Part, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The keys of `rows` of a part; missing values come last."""
        values = part.columns(f"{self.step}.{self.column}").to_series()[rows.tolist()]
        return sortable(values, self.descending)


def sortable(values: pl.Series, descending: bool = False) -> NDArray[np.int64]:
    """Numbers as int64 in the same order, or in the opposite one; missing values are LAST either way.

    Floats go by their bits, so nothing is rounded. The extreme value of a 64-bit type may share the key of its
    neighbour.
    """
    missing = values.is_null().to_numpy()
    if values.dtype.is_float():
        floats = values.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0  # -0.0 becomes 0.0
        missing = missing | np.isnan(floats)
        bits = floats.view(np.int64)
        keys = np.where(bits < 0, bits ^ np.int64(LAST), bits)
    elif values.dtype == pl.UInt64:
        keys = (values.fill_null(0).to_numpy() ^ np.uint64(1 << 63)).view(np.int64)
    else:
        keys = values.cast(pl.Int64).fill_null(0).to_numpy()
    keys = ~keys if descending else keys  # ~ reverses the order without overflow
    return np.where(missing, np.int64(LAST), np.minimum(keys, LAST - 1))
