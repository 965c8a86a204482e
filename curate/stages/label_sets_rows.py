"""The rows of label sets: which classes of an image are looked at, and the columns of what was decided. Helper of
`label_sets.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.relabel.maps import LabelMap
from curate.relabel.peaks import label_peaks
from curate.relabel.scores import Rule, sparse_scores
from curate.relabel.sets import DROP, KEEP, UNSURE, LabelDecisions

LABEL = pl.Struct(
    {
        "class": pl.UInt32(), "probability": pl.Float32(), "score": pl.Float32(), "decision": pl.String(),
        "votes": pl.UInt16(), "peak": pl.Float32(), "y0": pl.Float32(), "x0": pl.Float32(), "y1": pl.Float32(),
        "x1": pl.Float32(),
    }
)  # fmt: skip
"""One label of an image; peak and box (shares of the image's height and width) are null for dropped ones."""
_DECISIONS = {DROP: "drop", UNSURE: "unsure", KEEP: "keep"}
_OUTCOMES = np.array(["nothing", "undecided", "labelled"])
_ASKED = ["uid_hi", "uid_lo", "class"]


def candidates(
    held: Mapping[int, LabelMap],
    frame: pl.DataFrame,
    answers: pl.DataFrame,
    original: NDArray[np.int64] | None = None,
    *,
    rule: Rule,
    share: float,
    most: int,
    least: float,
) -> pl.DataFrame:
    """row, class, score, evidence and votes of the classes that are looked at, by row, the best first.

    A given label (`original`, below 0 = none), and a class that somebody was asked about, is always looked at.
    held: maps by row. frame: row, uid_hi, uid_lo. answers: what people said (QUESTIONS). rule, share: score of a class;
    of those with at least `least` the `most` best. Memory: 60 bytes a candidate.
    """
    wanted: dict[int, set[int]] = {}
    uids = frame.select("row", "uid_hi", "uid_lo")
    for row, number in uids.join(answers, on=["uid_hi", "uid_lo"]).select("row", "class").iter_rows():
        wanted.setdefault(row, set()).add(number)
    rows: list[int] = []
    classes: list[int] = []
    scores: list[float] = []
    for row, one in held.items():
        found = sparse_scores(one, rule, share)
        best = np.lexsort((found.classes, -found.scores))[:most]
        best = best[found.scores[best] >= least]
        mine = dict(zip(found.classes[best].tolist(), found.scores[best].tolist(), strict=True))
        more = wanted.get(row, set())
        if original is not None and original[row] >= 0:
            more = more | {int(original[row])}
        for number in sorted(more - set(mine)):
            at = int(np.searchsorted(found.classes, number))
            stored = at < len(found.classes) and found.classes[at] == number
            mine[number] = float(found.scores[at]) if stored else 0.0
        rows += [row] * len(mine)
        classes += mine
        scores += mine.values()
    made = pl.DataFrame(
        {"row": rows, "class": classes, "score": scores},
        schema={"row": pl.UInt32, "class": pl.UInt32, "score": pl.Float32},
    )
    joined = made.join(uids, on="row", how="left", maintain_order="left").join(
        answers, on=_ASKED, how="left", maintain_order="left"
    )
    return joined.with_columns(pl.col("evidence").fill_null(0.0), pl.col("votes").fill_null(0))


def label_frame(
    held: Mapping[int, LabelMap], height: int, pairs: pl.DataFrame, decided: LabelDecisions, names: Mapping[int, str]
) -> pl.DataFrame:
    """The columns of the stage, one row a sample; null where there is no map. pairs: rows of `candidates`."""
    boxes = np.full((len(decided.images), 5), np.nan, dtype=np.float32)
    told = zip(decided.images.tolist(), decided.classes.tolist(), decided.decision.tolist(), strict=True)
    for place, (row, number, decision) in enumerate(told):
        if decision != DROP and (found := label_peaks(held[row], number)):
            top, left, tall, wide = found[0].box
            boxes[place] = found[0].value, top, left, top + tall, left + wide
    source = decided.source.tolist()
    flat = pl.DataFrame(
        {
            "row": pl.Series(decided.images, dtype=pl.UInt32),
            "class": pl.Series(decided.classes, dtype=pl.UInt32),
            "probability": pl.Series(decided.probability, dtype=pl.Float32),
            "score": pairs["score"].gather(source),
            "decision": pl.Series([_DECISIONS[one] for one in decided.decision.tolist()], dtype=pl.String),
            "votes": pairs["votes"].gather(source),
            **{name: pl.Series(boxes[:, i]).fill_nan(None) for i, name in enumerate(("peak", "y0", "x0", "y1", "x1"))},
        }
    )
    structs = pl.struct(field.name for field in LABEL.fields)
    lists = flat.select("row", structs.alias("labels")).group_by("row", maintain_order=True).agg("labels")
    kept = flat.filter(pl.col("decision") == "keep").group_by("row", maintain_order=True)
    numbered = kept.agg(pl.col("class").first().alias("best"), pl.len().cast(pl.UInt16).alias("n_labels"))
    has = np.zeros(height, dtype=bool)
    has[list(held)] = True
    judged = pl.Series(has)
    out = pl.DataFrame({"row": pl.Series(np.arange(height), dtype=pl.UInt32)})
    for more in (lists, numbered):
        out = out.join(more, on="row", how="left", maintain_order="left")
    return out.with_columns(
        labels=pl.when(judged).then(pl.col("labels").fill_null([])).cast(pl.List(LABEL)),
        n_labels=pl.when(judged).then(pl.col("n_labels").fill_null(0)),
        best_name=pl.Series([None if n is None else names.get(n, str(n)) for n in out["best"]], dtype=pl.String),
        outcome=pl.when(judged).then(pl.Series(_OUTCOMES[decided.outcome], dtype=pl.String)),
        nothing=pl.when(judged).then(pl.Series(decided.nothing, dtype=pl.Float32)),
        suspect=pl.when(judged).then(pl.Series(decided.suspect)),
    )
