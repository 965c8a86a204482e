"""What score steps made of tables and columns, as data and as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curate.pipeline.api import Run


def scored(run: Run) -> Iterator[dict[str, Any]]:
    """The report of each score step that has one, and what did not fit about its tables."""
    for step in run.record.steps:
        if step.kind == "score" and step.status == "done":
            summary = run.artifacts(step.name).get("summary")
            table = f"{step.name}-table"
            said = [n["said"] for n in run.record.notes if n.get("kind") == "scores" and n["step"] == table]
            yield from [{"step": step.name, **summary, "notes": said}] if summary else []


def scored_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """The same as text; nothing without such a step."""
    for one in found:
        told = f"{one['step']}: {one['scored']:,} of {one['alive']:,} alive samples have a score by {one['metric']}"
        if one.get("unmatched"):
            told += f"; {one['unmatched']:,} of {one['rows']:,} rows of its tables name no sample"
        yield told
        yield from (f"  {said}" for said in one["notes"])
