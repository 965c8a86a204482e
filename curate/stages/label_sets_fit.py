"""How sure a label is: calibration on known labels, and what people's answers add. Helper of `label_sets.py`.

What never lives here: which labels an image has, and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.decisions import Decisions, read_decisions
from curate.relabel.calibration import Calibrator, Curve, fit_calibrator, fit_thresholds
from curate.relabel.votes import UNKNOWN, Raters, Votes, dawid_skene, weigh

_TRUSTED = ((0, 0, 18), (0, 1, 1), (0, 2, 1), (1, 2, 18), (1, 1, 1), (1, 0, 1))
"""(truth, answer, how often): what is taken of a new rater, as known questions: right 18 times of 20, until their own
answers say more."""
OPEN = 0.05
"""A question that was asked was open: see `updated`."""
CURVES = {"class": pl.Int64(), "trust": pl.Float64(), "x": pl.List(pl.Float64()), "y": pl.List(pl.Float64())}
QUESTIONS = {
    "uid_hi": pl.UInt64(), "uid_lo": pl.UInt64(), "class": pl.UInt32(), "evidence": pl.Float64(), "votes": pl.UInt16(),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pairs:
    """(image, class) pairs whose truth is known: score float64, classes int64, truth bool, half bool; all [n]."""

    score: NDArray[np.float64]
    classes: NDArray[np.int64]
    truth: NDArray[np.bool_]
    half: NDArray[np.bool_]

    def where(self, rows: NDArray[np.bool_]) -> Pairs:
        """The pairs of a mask [n]."""
        return Pairs(self.score[rows], self.classes[rows], self.truth[rows], self.half[rows])


def weigh_answers(urls: Sequence[str]) -> pl.DataFrame:
    """What people said of each question (QUESTIONS): the log odds of yes that the answers alone give, and how many.

    Dawid and Skene 1979, each rater's confusion starting from that of a rater who is right 18 times of 20 (as that many
    known questions), so that the only answer to a question has evidence of log 18. Raters are rated by questions that
    several of them answered: one who is alone agrees with themselves, whatever they say. Memory: 500 bytes an answer.
    Raises InputError for files that are no decisions.
    """
    given = read_decisions(urls)
    uids, classes, items = given.questions()
    evidence = _evidence(given, items, len(classes)) if len(given) else np.zeros(0)
    return pl.DataFrame(
        [uids[:, 0], uids[:, 1], classes.astype(np.uint32), evidence, np.bincount(items, minlength=len(classes))],
        schema=QUESTIONS,
    )


def _evidence(given: Decisions, items: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    raters = len(given.names)
    own = Votes(items, given.raters, given.answers, n, raters)
    several = np.bincount(items, minlength=n)[items] > 1  # a rater has one answer to a question
    shared, place = np.unique(items[several], return_inverse=True)
    more = np.array([(truth, answer) for truth, answer, times in _TRUSTED for _ in range(times)], dtype=np.int64)
    known = np.concatenate([np.full(len(shared), UNKNOWN), np.tile(more[:, 0], raters)])
    with_known = Votes(
        np.concatenate([place, len(shared) + np.arange(raters * len(more))]),
        np.concatenate([given.raters[several], np.repeat(np.arange(raters), len(more))]),
        np.concatenate([given.answers[several], np.tile(more[:, 1], raters)]),
        len(known),
        raters,
    )
    rated = dawid_skene(with_known, known=known).raters
    return logit(weigh(own, Raters(rated.confusion, 0.5)))


def logit(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds; probabilities of 0 and 1 count as 1e-12 from there."""
    kept = np.clip(p, 1e-12, 1 - 1e-12)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def updated(p: NDArray[np.float64], evidence: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities after the evidence of people (log odds; 0 = nobody was asked, which leaves p as it is).

    Before it, a question that was asked counts as open, as no less than OPEN and no more than 1 - OPEN, however sure
    the classifier is: two people who agree overrule it.
    """
    before = logit(np.clip(p, OPEN, 1 - OPEN))
    return np.where(evidence == 0, p, 1 / (1 + np.exp(-np.clip(before + evidence, -700, 700))))


def fit(pairs: Pairs, n_classes: int, precision: float, step: str) -> tuple[pl.DataFrame, NDArray[np.float64], bool]:
    """Calibration curves (CURVES; class -1 = all), the keep limit of each class, float64 [n_classes], and whether the
    pairs show that some limit reaches the precision.

    Curves are fitted on one half of the pairs, limits on the other: on its own pairs a curve looks better than it is.
    Pairs that show no limit (25 true ones without a false one are the least for 0.9) leave the calibrated probability
    itself: kept is what is true with a probability of `precision`. Memory: 200 bytes a pair. Raises InputError when a
    half has no true or no false pair.
    """
    first, second = ~pairs.half, pairs.half
    for half in (first, second):
        told = pairs.truth[half]
        if not told.any() or told.all():
            raise InputError(
                f"stage {step}: {len(pairs.truth):,} labels of this input are known from reviewed, "
                f"{int(pairs.truth.sum()):,} of them true; too few to fit probabilities on one half and limits on the "
                "other. Review more images, or set keep and drop and leave reviewed out."
            )
    calibrator = fit_calibrator(pairs.score[first], pairs.classes[first], pairs.truth[first])
    p = calibrator(pairs.score[second], pairs.classes[second])
    truth, classes = pairs.truth[second], pairs.classes[second]
    limits = fit_thresholds(p, classes, truth, n_classes, precision=precision, otherwise=precision)
    rows = [(-1, 1.0, calibrator.overall.x.tolist(), calibrator.overall.y.tolist())]
    rows += [(n, trust, c.x.tolist(), c.y.tolist()) for n, (c, trust) in sorted(calibrator.by_class.items())]
    curves = pl.DataFrame(rows, schema=CURVES, orient="row")
    return curves, limits.by_class, bool(np.isfinite(limits.overall))


def calibrator_of(curves: pl.DataFrame) -> Calibrator:
    """The calibrator of a table of `fit`."""
    made = {
        number: (Curve(np.asarray(x), np.asarray(y)), trust)
        for number, trust, x, y in curves.select("class", "trust", "x", "y").iter_rows()
    }
    return Calibrator(made.pop(-1)[0], made)
