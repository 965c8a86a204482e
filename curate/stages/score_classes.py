"""Which class a label is: the number of a model's output. Helper of `score_table.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import polars as pl

from curate.errors import InputError
from curate.formats.score_tables import read_table
from curate.stages.score_sources import open_order


def read_classes(url: str, shas: list[str]) -> dict[str, int]:
    """Labels in the order of the model's outputs, from a list file, with their numbers. Its sha256 is added to shas.

    Raises InputError for a label that stands there twice. Memory: the labels.
    """
    table, column = open_order(url)
    shas.append(f"classes {table.sha256}")
    names: list[str] = []
    for _, batch in read_table(table, [column], 0, table.rows):
        names += [str(value).strip() for value in pl.Series(batch[column]).to_list()]
    if len(set(names)) != len(names):
        raise InputError(
            f"{url}: a class stands there twice; the list has each label once, in the order of the outputs"
        )
    return {name: place for place, name in enumerate(names)}


def class_numbers(labels: Collection[str], given: Mapping[str, int] | None, width: int, step: str) -> dict[str, int]:
    """Number of each label: that of the list, the number itself, or its place among all, sorted.

    width: outputs of the model, 0 when not known; labels that are no numbers must then be as many. Raises InputError.
    """
    if given is not None:
        if lost := sorted(set(labels) - set(given)):
            raise InputError(f"stage {step}: the label {lost[0]!r} is not in the list classes; add it")
        numbered = {label: given[label] for label in labels}
    elif all(label.isdecimal() for label in labels):
        numbered = {label: int(label) for label in labels}
    elif width and len(labels) != width:
        raise InputError(
            f"stage {step}: the samples have {len(labels):,} labels but the predictions {width:,} classes, so which is "
            "which? Give classes: FILE, the labels in the order of the model's outputs, one a line"
        )
    else:
        numbered = {label: place for place, label in enumerate(sorted(labels))}
    if width and (high := max(numbered.values(), default=0)) >= width:
        raise InputError(f"stage {step}: a label is class {high:,}, but the predictions have {width:,} classes")
    return dict(sorted(numbered.items()))
