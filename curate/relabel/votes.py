"""Votes of people or models about questions with a yes or no truth, weighed by how reliable each voter is.

Model: Dawid and Skene 1979 (Maximum likelihood estimation of observer error-rates using the EM algorithm), with two
true classes. A rater of true class k gives answer l with probability pi[rater, k, l], independently of the others; one
share of questions is truly yes. Everything here is float64 and deterministic: no random start, sums in the order of the
votes. What never lives here: which question to ask next, and files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError

PEOPLE = ("no", "maybe", "yes")
"""Answers of people, by number."""
MODELS = ("absent", "top-5", "top-1")
"""Answers of models about a class of an image, by number: not among the best five, among them, the best."""
UNKNOWN = -1
_LEAST = -690.0
"""Logarithm that stands for log 0 (1e-300): an answer that a class never gave decides, and two such ones cancel."""


@dataclass(frozen=True, slots=True)
class Votes:
    """Vote j: rater ``raters[j]`` gave ``answers[j]`` about question ``items[j]``; all int64 [v], from 0.

    A rater may vote about any part of the questions, in any order; ``n_answers`` kinds of answers, from a clear no to a
    clear yes. Memory: 24 bytes a vote.
    """

    items: NDArray[np.int64]
    raters: NDArray[np.int64]
    answers: NDArray[np.int64]
    n_items: int
    n_raters: int
    n_answers: int = 3

    def __post_init__(self) -> None:
        if not self.items.shape == self.raters.shape == self.answers.shape or self.items.ndim != 1:
            raise InputError(
                f"votes: {self.items.shape} questions, {self.raters.shape} raters and {self.answers.shape} answers; "
                "wanted one of each a vote."
            )
        for what, held, n in (
            ("question", self.items, self.n_items),
            ("rater", self.raters, self.n_raters),
            ("answer", self.answers, self.n_answers),
        ):
            wrong = np.flatnonzero((held < 0) | (held >= n))
            if len(wrong):
                raise InputError(f"votes: vote {wrong[0]} has {what} {held[wrong[0]]}; wanted 0 to {n - 1}.")

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Raters:
    """What is known of the voters.

    ``confusion``: float64 [raters, 2, answers], row k = how often each answer is given when the truth is no (0) or yes
    (1); rows sum to 1. ``prior``: share of questions that are truly yes.
    """

    confusion: NDArray[np.float64]
    prior: float


@dataclass(frozen=True, slots=True)
class Verdicts:
    """``posterior``: float64 [n_items], probability that the truth is yes. ``raters``: what it was computed with."""

    posterior: NDArray[np.float64]
    raters: Raters


def from_answers(answered: NDArray[np.generic]) -> Votes:
    """Votes of a dense table [raters, items, answers] of zeros and ones, all zeros = not asked.

    The layout of reassessed-imagenet's raters.npz. Memory: one byte a cell besides the table, and the votes.
    Raises InputError for other numbers, or two answers of one rater about one question.
    """
    given = answered.astype(bool)
    if answered.ndim != 3 or not np.array_equal(given, answered):
        raise InputError("votes: wanted a table [raters, items, answers] of zeros and ones.")
    raters, items, answers = np.nonzero(given)
    cell = raters * answered.shape[1] + items
    if (np.diff(cell) == 0).any():
        place = int(np.flatnonzero(np.diff(cell) == 0)[0])
        raise InputError(f"votes: rater {raters[place]} gave two answers about question {items[place]}.")
    return Votes(items, raters, answers, answered.shape[1], answered.shape[0], answered.shape[2])


def from_counts(counts: NDArray[np.integer]) -> Votes:
    """Votes of a table [items, answers] of how many gave each answer, where who did is not known: one shared rater."""
    times = counts.ravel()
    items, answers = np.divmod(np.repeat(np.arange(len(times)), times), counts.shape[1])
    return Votes(items, np.zeros(len(items), dtype=np.int64), answers, len(counts), 1, counts.shape[1])


def from_models(
    best: Sequence[NDArray[np.integer]], n_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int32], Votes]:
    """Models as raters: each says of a class of an image absent, top-5 or top-1 (MODELS).

    best: for each model int [n, k], class numbers, best first, of the same n images; below 0 = none, and a row that
    starts with none is an image the model has not seen (no vote). Only the first five columns are used. Questions are
    the (image, class) pairs that at least one model names, ascending: images int64 [m], classes int32 [m].
    Memory: 40 bytes a pair and model. Raises InputError for shapes that differ, classes beyond n_classes or repeated.
    """
    if not best or any(one.ndim != 2 or len(one) != len(best[0]) for one in best):
        raise InputError(f"votes: models with shapes {[one.shape for one in best]}; wanted [n, k], the same n for all.")
    keys = []
    for number, one in enumerate(best):
        top = one[:, :5].astype(np.int64)
        if top.max(initial=0) >= n_classes:
            raise InputError(f"votes: model {number} names class {top.max()}, of {n_classes} classes.")
        key = np.where(top >= 0, np.arange(len(top))[:, None] * n_classes + top, -1)
        ordered = np.sort(key, axis=1)
        if ((np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)).any():
            raise InputError(f"votes: model {number} names a class twice for one image.")
        keys.append(key)
    pairs = np.unique(np.concatenate([key[key >= 0] for key in keys]))
    images = pairs // n_classes
    items, raters, answers = [], [], []
    for number, key in enumerate(keys):
        answer = np.zeros(len(pairs), dtype=np.int64)
        answer[np.searchsorted(pairs, key[key >= 0])] = 1
        first = key[:, 0]
        answer[np.searchsorted(pairs, first[first >= 0])] = 2
        seen = np.flatnonzero((first >= 0)[images])
        items.append(seen)
        raters.append(np.full(len(seen), number))
        answers.append(answer[seen])
    votes = Votes(np.concatenate(items), np.concatenate(raters), np.concatenate(answers), len(pairs), len(best))
    return images, (pairs % n_classes).astype(np.int32), votes


def tally(votes: Votes) -> NDArray[np.int64]:
    """How many gave each answer about each question, int64 [items, answers]."""
    cells = votes.items * votes.n_answers + votes.answers
    return np.bincount(cells, minlength=votes.n_items * votes.n_answers).reshape(votes.n_items, votes.n_answers)


def shares(votes: Votes) -> NDArray[np.float64]:
    """The plain rule: mean answer of each question, from 0 (all no) to 1 (all yes); a maybe counts one half.

    Float64 [items]; a question without votes gets the mean of the others.
    """
    counts = tally(votes)
    n = counts.sum(axis=1)
    total = counts @ np.linspace(0.0, 1.0, votes.n_answers)
    told = n > 0
    mean = float(np.mean(total[told] / n[told])) if told.any() else 0.5
    return np.asarray(np.divide(total, n, out=np.full(votes.n_items, mean), where=told), dtype=np.float64)


def dawid_skene(
    votes: Votes,
    *,
    iterations: int = 60,
    smoothing: float = 0.0,
    shared: bool = False,
    known: NDArray[np.integer] | None = None,
) -> Verdicts:
    """Probability of yes for each question and confusion matrices of the raters, by expectation maximisation.

    Start: `shares`, which also says which of the two classes is the yes. Each iteration estimates confusions and prior
    from the posteriors (`estimate`), then posteriors from these (`weigh`).
    iterations: at least 1; 60 leave changes below 1e-3 on 185,000 questions of five people. A few models err together
    more than independent raters would: there it can take 150, or some known answers.
    smoothing: added to every count of a confusion matrix, for raters with few votes. shared: one matrix for all raters.
    known: int [items], 0 = no, 1 = yes, UNKNOWN (-1) else; golden questions, whose posterior stays at the answer.
    Time: 20 ns a vote and iteration on one core. Memory: 40 bytes a vote besides the votes, 50 a question.
    Raises InputError for no votes, or known answers of another length or value.
    """
    if not len(votes):
        raise InputError("votes: there are none to weigh.")
    if iterations < 1 or smoothing < 0:
        raise InputError(f"votes: {iterations} iterations with smoothing {smoothing}; wanted at least 1 and 0.")
    fixed = _fixed(votes, known)
    cells = _cells(votes, shared)
    posterior = np.where(fixed == UNKNOWN, shares(votes), fixed)
    for _ in range(iterations):
        table = _confusion(votes, cells, posterior, smoothing, shared)
        prior = float(posterior.mean())
        posterior = np.where(fixed == UNKNOWN, _posterior(votes, cells, table, prior), fixed)
    return Verdicts(posterior, Raters(_of_each(table, votes.n_raters), prior))


def estimate(
    votes: Votes, truth: NDArray[np.floating | np.integer | np.bool_], *, smoothing: float = 0.0, shared: bool = False
) -> Raters:
    """Confusions and prior from (probable) truths [items], bool or numbers in [0, 1]: Dawid and Skene, eq. 2.3 and 2.4.

    With answers of golden questions this alone rates the raters. Rows without any count are uniform (no information).
    """
    table = _confusion(votes, _cells(votes, shared), truth.astype(np.float64), smoothing, shared)
    return Raters(_of_each(table, votes.n_raters), float(truth.mean()))


def weigh(votes: Votes, raters: Raters) -> NDArray[np.float64]:
    """Probability of yes of each question, float64 [items], for given raters: Dawid and Skene, eq. 2.5.

    A question without votes gets the prior. Raises InputError when raters do not fit the votes.
    """
    _fitting(votes, raters)
    return _posterior(votes, _cells(votes, shared=False), raters.confusion, raters.prior)


def log_likelihood(votes: Votes, raters: Raters) -> float:
    """Logarithm of the probability of all votes; without smoothing and known answers no iteration lowers it."""
    _fitting(votes, raters)
    cells = _cells(votes, shared=False)
    odds = _odds(votes, cells, raters.confusion, raters.prior)
    no = _log(raters.confusion[:, 0]).ravel()[cells]
    base = np.bincount(votes.items, no, votes.n_items) + float(_log(np.array(1 - raters.prior)))
    return float((base + np.logaddexp(0.0, odds)).sum())


def _cells(votes: Votes, shared: bool) -> NDArray[np.int64]:
    """Place of each vote in a table [raters, answers], or [1, answers] when shared."""
    return votes.answers if shared else votes.raters * votes.n_answers + votes.answers


def _confusion(
    votes: Votes, cells: NDArray[np.int64], truth: NDArray[np.float64], smoothing: float, shared: bool
) -> NDArray[np.float64]:
    """Confusion matrices [raters or 1, 2, answers]."""
    held, answers = 1 if shared else votes.n_raters, votes.n_answers
    yes = truth[votes.items]
    counts = np.stack([np.bincount(cells, weight, held * answers) for weight in (1 - yes, yes)])
    table = counts.reshape(2, held, answers).transpose(1, 0, 2) + smoothing
    total = table.sum(axis=2, keepdims=True)
    return np.asarray(np.divide(table, total, out=np.full_like(table, 1 / answers), where=total > 0))


def _of_each(table: NDArray[np.float64], raters: int) -> NDArray[np.float64]:
    return np.repeat(table, raters, axis=0) if len(table) < raters else table


def _odds(votes: Votes, cells: NDArray[np.int64], table: NDArray[np.float64], prior: float) -> NDArray[np.float64]:
    """Log odds of yes: the prior's, and log P(answer | yes) - log P(answer | no) of each vote about the question."""
    ratio = (_log(table[:, 1]) - _log(table[:, 0])).ravel()
    start = float(_log(np.array(prior)) - _log(np.array(1 - prior)))
    return np.asarray(np.bincount(votes.items, ratio[cells], votes.n_items) + start, dtype=np.float64)


def _posterior(votes: Votes, cells: NDArray[np.int64], table: NDArray[np.float64], prior: float) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-np.clip(_odds(votes, cells, table, prior), -700, 700))))


def _fitting(votes: Votes, raters: Raters) -> None:
    if raters.confusion.shape != (votes.n_raters, 2, votes.n_answers):
        raise InputError(
            f"votes: confusions are {list(raters.confusion.shape)}; "
            f"wanted [{votes.n_raters}, 2, {votes.n_answers}], one matrix a rater."
        )


def _log(p: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(np.log(p, out=np.full_like(p, _LEAST), where=p > 0), _LEAST)


def _fixed(votes: Votes, known: NDArray[np.integer] | None) -> NDArray[np.int64]:
    if known is None:
        return np.full(votes.n_items, UNKNOWN)
    if known.shape != (votes.n_items,) or not np.isin(known, (UNKNOWN, 0, 1)).all():
        raise InputError(f"votes: known answers have shape {known.shape}; wanted {votes.n_items:,} of -1, 0 or 1.")
    return known.astype(np.int64)
