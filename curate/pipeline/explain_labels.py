"""What `curate explain` tells of an image's label map and of its labels.

What never lives here: how labels are decided (stages/label_sets.py).
"""

from __future__ import annotations

from typing import Any

from curate.formats.label_maps import unpack
from curate.pipeline.api import Run
from curate.pipeline.write_labels import best_classes, cells_of, known_of, steps_of
from curate.relabel.maps import LabelMap
from curate.store.columns import read_vectors

BEST, UNSURE = 5, 4
"""Classes told of a map, and labels that are unsure told in a sentence."""


def explain_map(run: Run, step: str, part: int, map_row: int) -> dict[str, Any]:
    """The classes with the highest probability in any cell, with that probability and its cell (row, column).

    Their names are those of the run's last label_sets step, the number where there is none.
    """
    names, group = known_of(run, steps_of(run)[1]).classes, run.group(step)
    entry = group.parts[part]
    records = read_vectors(run.workspace, group.folder, entry.part, entry.fingerprint, "maps")
    label_map = LabelMap(*unpack(records[map_row]))
    _, height, width = label_map.shape
    told = []
    for number in best_classes(label_map, BEST):
        cells = cells_of(label_map, number)
        row, column = divmod(int(cells.argmax()), width)
        found = {"probability": float(cells.max()), "row": row, "column": column}
        told.append({"class": number, "name": names.name(number), **found})
    return {"best": told, "rows": height, "columns": width}


def explain_labels(run: Run, step: str, values: dict[str, Any], label: str | None) -> dict[str, Any]:
    """The labels that were not dropped, best first, and the one that the image came with; with names and boxes.

    values: the columns of the step. Boxes are (top, left, bottom, right) as shares of the image; None = nowhere.
    """
    known = known_of(run, step)
    own = known.numbers.get(label, -1) if label is not None else -1
    labels = []
    for one in values.get("labels") or ():
        if one["decision"] == "drop" and one["class"] != own:
            continue
        box = [one[name] for name in ("y0", "x0", "y1", "x1")]
        labels.append(
            {
                "class": one["class"],
                "name": known.classes.name(one["class"]),
                "decision": one["decision"],
                "probability": one["probability"],
                "votes": one["votes"],
                "box": None if box[0] is None else box,
                "given": one["class"] == own,
            }
        )
    return {"labels": labels, "given": known.given(label)}


def map_sentence(evidence: dict[str, Any]) -> str:
    """What a map says, in one line."""
    best = ", ".join(
        f"{_called(one)} {one['probability']:.2f} in cell ({one['row']}, {one['column']})" for one in evidence["best"]
    )
    return f"a map of {evidence['rows']} x {evidence['columns']} cells; the most probable: {best}"


def labels_sentence(values: dict[str, Any], evidence: dict[str, Any]) -> str:
    """The labels in one line: the outcome, those kept with their place, those that a person should look at."""
    by: dict[str, list[str]] = {"keep": [], "unsure": []}
    for one in evidence["labels"]:
        if one["decision"] in by:
            by[one["decision"]].append(f"{_called(one)} {one['probability']:.2f}{_place(one['box'])}")
    told = [str(values["outcome"])]
    told += [f"keeps {', '.join(by['keep'])}"] if by["keep"] else []
    more = f" and {len(by['unsure']) - UNSURE} more" if len(by["unsure"]) > UNSURE else ""
    told += [f"unsure of {', '.join(by['unsure'][:UNSURE])}{more}"] if by["unsure"] else []
    if evidence["given"] is not None:
        own = next((one["decision"] for one in evidence["labels"] if one["given"]), None)
        what = {"keep": "kept", "unsure": "unsure", "drop": "dropped", None: "not among the classes"}[own]
        told.append(f"the given label {evidence['given']} is {'suspect' if values['suspect'] else what}")
    return "; ".join(told)


def _called(one: dict[str, Any]) -> str:
    return f"class {one['class']}" if one["name"] == str(one["class"]) else str(one["name"])


def _place(box: list[float] | None) -> str:
    """A box in per cent of the height and of the width."""
    if box is None:
        return ""
    top, left, bottom, right = (round(100 * side) for side in box)
    return f" (rows {top} to {bottom} %, columns {left} to {right} %)"
