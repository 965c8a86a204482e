"""What label_sets steps decided, as data and as lines of text, with what people must know to trust it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from curate.pipeline.api import Run
from curate.stages.label_sets import KNOWN, NO_LABELS

OUTCOMES = ("labelled", "undecided", "nothing")


def labelled(run: Run) -> Iterator[dict[str, Any]]:
    """Images by outcome, kept labels, suspect given labels, and warnings of each label_sets step. Memory: three columns
    of the samples.
    """
    for step in run.record.steps:
        if step.kind != "label_sets" or step.status != "done":
            continue
        told = run.artifacts(step.name)["label_sets"]
        found = run.columns(step.name).select("outcome", "n_labels", "suspect").collect()
        outcomes = dict(found["outcome"].drop_nulls().value_counts().iter_rows())
        yield {
            "step": step.name,
            **{outcome: outcomes.get(outcome, 0) for outcome in OUTCOMES},
            "kept": int(found["n_labels"].sum()),
            "suspect": int(found["suspect"].sum()),
            "calibrated": told["calibrated"],
            "warnings": list(_warnings(told, run.group(step.name).config)),
        }


def _warnings(told: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    precision = config["precision"]
    if not told["calibrated"]:
        limit = "" if config["keep"] is not None else f"; whether {precision:g} of what is kept is true is not known"
        yield f"no reviewed labels are given, so the classifier's scores count as probabilities{limit}"
    elif not told["precision_shown"] and config["keep"] is None:
        yield (
            f"{told['known']['images']:,} reviewed images are too few, or their labels too often wrong, to show a "
            f"limit from which {precision:g} are true; kept is what is true with a fitted probability of {precision:g}"
        )
    asked, here = (told["questions"][name] for name in ("answered", "of_this_input"))
    if here < asked:
        which = "none" if not here else f"only {here:,}"
        verb = "are" if here > 1 else "is"
        yield f"{which} of {asked:,} questions that votes answers {verb} about a sample of this input"
    if told["given"] not in (KNOWN, NO_LABELS):
        yield f"the given labels are not all compared with the new ones: {told['given']}"


def labelled_lines(found: list[dict[str, Any]]) -> Iterator[str]:
    """The same as text; nothing without such a step."""
    for one in found:
        told = ", ".join(f"{one[outcome]:,} {outcome}" for outcome in OUTCOMES)
        which = "given label is" if one["suspect"] == 1 else "given labels are"
        suspect = f"; {one['suspect']:,} {which} suspect" if one["suspect"] else ""
        yield f"{one['step']}: {told}; {one['kept']:,} labels kept{suspect}"
        yield from (f"warning: {one['step']}: {said}" for said in one["warnings"])
