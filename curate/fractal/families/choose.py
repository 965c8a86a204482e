"""Which family the options name: the one place that knows them all."""

from __future__ import annotations

import polars as pl

from curate.errors import SpecError
from curate.fractal import classes
from curate.fractal.families import contours, sinusoids
from curate.fractal.families.base import Family
from curate.fractal.families.ifs import IfsFamily
from curate.fractal.specification import FractalOptions


def search(options: FractalOptions, seed: int) -> pl.DataFrame:
    """The table of classes of the family that the options name, `options.classes` rows; see `base.Family.table`.

    Pure: the same options and seed give the same table. Raises SpecError when the gates refuse nearly everything.
    """
    return find(options, seed).table


def find(options: FractalOptions, seed: int) -> classes.Found:
    """The same, with how many candidates were tried and which gates refused how many (none where none are judged)."""
    if options.ifs is not None:
        return classes.find(options.ifs, options.classes, seed)
    if options.contours is not None:
        return classes.Found(contours.search(options.contours, options.classes, seed), options.classes, {})
    if options.sinusoids is not None:
        return classes.Found(sinusoids.search(options.sinusoids, options.classes, seed), options.classes, {})
    raise SpecError("the options name no family: give one of ifs, contours and sinusoids.")


def open_family(options: FractalOptions, table: pl.DataFrame) -> Family:
    """The family of the options over a table that `search` returned, also after a round trip through Parquet.

    Raises SpecError when the table is damaged, of another family or has another number of classes.
    """
    if table.height != options.classes:
        raise SpecError(f"the options say {options.classes:,} classes, the table of classes has {table.height:,} rows.")
    if options.ifs is not None:
        return IfsFamily(options, table)
    if options.contours is not None:
        return contours.ContoursFamily(options, table)
    if options.sinusoids is not None:
        return sinusoids.SinusoidsFamily(options, table)
    raise SpecError("the options name no family: give one of ifs, contours and sinusoids.")
