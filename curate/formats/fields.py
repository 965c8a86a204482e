"""Further columns of the index: which types they may have, and whether a value of a json member or table fits."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

#: Type of a column by the name that `input.fields` gives it.
FIELD_TYPES: dict[str, pl.DataType] = {
    "string": pl.String(),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "bool": pl.Boolean(),
}
_INT64 = 2**63


def fit(kind: str, value: Any) -> tuple[Any, bool]:
    """``(value as the type of kind, whether it fits)``; a value that does not fit gives None.

    None and NaN are missing values, which fit every type. Whole numbers fit ``float``; texts of digits, and numbers
    for ``bool``, do not fit. Infinity, and whole numbers beyond 64 bits, do not fit.
    """
    if value is None or value != value:
        return None, True
    if kind == "bool" and isinstance(value, bool):
        return value, True
    if kind == "string" and isinstance(value, str):
        return value.encode("utf-8", "replace").decode(), True
    if isinstance(value, bool):
        return None, False
    if kind == "int" and isinstance(value, int) and -_INT64 <= value < _INT64:
        return value, True
    if kind == "float" and isinstance(value, int | float) and _finite(value):
        return float(value), True
    return None, False


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the largest float
        return False
