"""What the notes of the index add up to over the parts of a run, as data and as lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from curate.formats.img2dataset import add_up

SHOWN = 5
"""Reasons, and things that do not add up, that the lines tell."""


def noted(notes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """`upstream`: a downloader's totals, null without one; `unlabelled`: samples that a table of labels does not name;
    `misfits`: values that do not fit their field, by field. Broken shards are not among them. Memory: the notes.
    """
    notes = list(notes)
    misfits: Counter[str] = Counter()
    for note in notes:
        if note.get("kind") == "fields":
            misfits.update(note["values"])
    unlabelled = [note for note in notes if note.get("kind") == "labels"]
    return {
        "upstream": add_up(notes),
        "unlabelled": sum(note["samples"] for note in unlabelled),
        "unlabelled_keys": [key for note in unlabelled for key in note["keys"]][:SHOWN],
        "misfits": dict(sorted(misfits.items())),
    }


def noted_lines(found: dict[str, Any]) -> Iterator[str]:
    """The same as text; nothing when there is nothing to tell."""
    if found["upstream"]:
        yield from _upstream(found["upstream"])
    if found["unlabelled"]:
        keys = ", ".join(found["unlabelled_keys"])
        yield f"no label: {found['unlabelled']:,} samples that input.labels does not name, such as {keys}"
    if found["misfits"]:
        told = ", ".join(f"{name} {n:,}" for name, n in found["misfits"].items())
        yield f"null instead of a value of another type than input.fields says: {told}"


def _upstream(found: dict[str, Any]) -> Iterator[str]:
    told = [f"{reason} {n:,}" for reason, n in list(found["reasons"].items())[:SHOWN]]
    if rest := found["failed"] - sum(list(found["reasons"].values())[:SHOWN]):
        told.append(f"others {rest:,}")
    yield (
        f"downloaded before: {found['attempted']:,} tried = {found['successes']:,} got + {found['failed']:,} failed"
        f"{' (' + ', '.join(told) + ')' if told else ''}"
    )
    for sentence in found["details"][:SHOWN]:
        yield f"  {sentence}"
    if more := found["problems"] - len(found["details"][:SHOWN]):
        yield f"  and {more:,} more that do not add up; see notes in run.json"
