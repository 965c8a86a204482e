"""Lists of mistakes that people sorted by category and severity (imagenet-mistakes): read only."""

from __future__ import annotations

from dataclasses import dataclass

from curate.errors import InputError
from curate.formats.row_orders import parse_json, read_bytes

CATEGORY, SEVERITY, PREDICTION = "failure category", "failure severity", "top_prediction"


@dataclass(frozen=True, slots=True)
class ListedMistake:
    """One entry, as the file spells it."""

    image: str
    prediction: int
    category: str
    severity: str


def read_mistakes(url: str) -> list[ListedMistake]:
    """Entries of {file: {top_prediction, "failure category", "failure severity"}}, in the order of the file.

    Raises InputError naming the entry that is wrong.
    """
    value = parse_json(read_bytes(url), url)
    if not isinstance(value, dict) or not value:
        raise InputError(f"{url}: is no list of mistakes; wanted an object with one entry an image.")
    told = []
    for image, entry in value.items():
        held = entry if isinstance(entry, dict) else {}
        prediction, category, severity = held.get(PREDICTION), held.get(CATEGORY), held.get(SEVERITY)
        if type(prediction) is not int or not isinstance(category, str) or not isinstance(severity, str):
            raise InputError(f"{url}: the entry of {image} lacks {PREDICTION}, {CATEGORY} or {SEVERITY}.")
        told.append(ListedMistake(image, prediction, category, severity))
    return told
