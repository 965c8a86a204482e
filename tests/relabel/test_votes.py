"""Aggregated votes against ReaL's published scores, a plain written-out EM, closed forms and made raters."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from curate.errors import InputError
from curate.relabel import votes as v
from tests.reference_data import reference


@dataclass
class Real:
    votes: v.Votes
    scores: NDArray[np.float64]

    def mismatches(self, yes: NDArray[np.bool_]) -> int:
        return int((yes != (self.scores >= 0.8)).sum())


@pytest.fixture(scope="module")
def real() -> Iterator[Real]:
    """The 924,810 answers of 85 people about 184,962 pairs of ImageNet, and the authors' aggregate."""
    with np.load(reference("imagenet/raters.npz")) as held:
        votes = v.from_answers(held["tensor"])
    with np.load(reference("imagenet/scores.npz")) as held:
        yield Real(votes, held["tensor"])


def test_counts_of_real(real: Real) -> None:
    counts = v.tally(real.votes)
    assert counts.shape == (184_962, 3)
    assert (counts.sum(axis=1) == 5).all()
    assert counts.sum(axis=0).tolist() == [729_424, 78_942, 116_444]


def test_real_is_reproduced(real: Real) -> None:
    told = v.dawid_skene(real.votes)
    assert real.mismatches(told.posterior >= 0.8) == 3_236
    assert np.corrcoef(told.posterior, real.scores)[0, 1] == pytest.approx(0.9848, abs=5e-5)
    assert np.median(np.abs(told.posterior - real.scores)) == pytest.approx(6e-4, abs=5e-5)
    assert told.raters.confusion.sum(axis=2) == pytest.approx(np.ones((85, 2)))


def test_real_with_smoothing_and_with_one_confusion_for_all(real: Real) -> None:
    assert real.mismatches(v.dawid_skene(real.votes, smoothing=10).posterior >= 0.8) == 3_045
    # who answered does not matter then, so counts say the same; 10 iterations decide as 60 do
    shared = v.dawid_skene(v.from_counts(v.tally(real.votes)), iterations=10)
    assert real.mismatches(shared.posterior >= 0.8) == 3_637


def test_real_by_plain_rules(real: Real) -> None:
    assert real.mismatches(v.tally(real.votes)[:, 2] >= 3) == 12_909
    assert real.mismatches(v.shares(real.votes) >= 0.6) == 9_448


def test_real_with_raters_rated_by_golden_questions(real: Real) -> None:
    with np.load(reference("imagenet/golden.npz")) as held:
        experts = held["tensor"]
    with np.load(reference("imagenet/raters_golden.npz")) as held:
        answered, ids = held["tensor"], held["ids"]
    with np.load(reference("imagenet/raters.npz")) as held:
        all_ids = held["ids"].tolist()
    truth = v.tally(v.from_answers(experts))[:, 2] >= 3
    assert truth.sum() == 248
    few = v.from_answers(answered)
    places = np.array([all_ids.index(one) for one in ids.tolist()])
    golden = v.Votes(few.items, places[few.raters], few.answers, few.n_items, 85)
    raters = v.estimate(golden, truth, smoothing=1)
    assert raters.prior == pytest.approx(248 / 1135)
    # the seven people who saw no golden question tell nothing, rather than failing
    unseen = np.setdiff1d(np.arange(85), places)
    assert len(unseen) == 7
    assert raters.confusion[unseen] == pytest.approx(np.full((7, 2, 3), 1 / 3))
    assert real.mismatches(v.weigh(real.votes, raters) >= 0.8) == 2_409


# --- small cases ------------------------------------------------------------------------------------------------------


def made(seed: int, items: int = 200, raters: int = 6, share: float = 0.7) -> tuple[v.Votes, NDArray[np.bool_]]:
    """Answers of made raters of different quality about made truths."""
    rng = np.random.default_rng(seed)
    truth = rng.random(items) < 0.3
    confusion = np.stack([rng.dirichlet([8, 2, 1], raters), rng.dirichlet([1, 2, 8], raters)], axis=1)
    asked = np.argwhere(rng.random((items, raters)) < share)
    rows = confusion[asked[:, 1], truth[asked[:, 0]].astype(int)]
    answers = (rng.random(len(asked))[:, None] > rows.cumsum(axis=1)).sum(axis=1).clip(max=2)
    return v.Votes(asked[:, 0], asked[:, 1], answers, items, raters), truth


def plain(votes: v.Votes, iterations: int, smoothing: float) -> list[float]:
    """The same EM written out as sums over lists, with logarithms of math only."""
    by_item: list[list[tuple[int, int]]] = [[] for _ in range(votes.n_items)]
    for i, r, a in zip(votes.items.tolist(), votes.raters.tolist(), votes.answers.tolist(), strict=True):
        by_item[i].append((r, a))
    q = [sum(a / 2 for _, a in held) / len(held) for held in by_item]
    for _ in range(iterations):
        table = [[[smoothing] * 3 for _ in range(2)] for _ in range(votes.n_raters)]
        for held, p in zip(by_item, q, strict=True):
            for r, a in held:
                table[r][0][a] += 1 - p
                table[r][1][a] += p
        prior = sum(q) / len(q)
        q = []
        for held in by_item:
            no = (1 - prior) * math.prod(table[r][0][a] / sum(table[r][0]) for r, a in held)
            yes = prior * math.prod(table[r][1][a] / sum(table[r][1]) for r, a in held)
            q.append(yes / (yes + no))
    return q


@pytest.mark.parametrize("smoothing", [0.0, 1.0, 10.0])
def test_a_written_out_em_says_the_same(smoothing: float) -> None:
    votes, _ = made(1, share=0.95)
    told = v.dawid_skene(votes, iterations=7, smoothing=smoothing)
    assert told.posterior == pytest.approx(plain(votes, 7, smoothing), abs=1e-12)


def test_known_raters_by_bayes_rule() -> None:
    confusion = np.array([[[0.8, 0.1, 0.1], [0.1, 0.2, 0.7]], [[0.5, 0.3, 0.2], [0.4, 0.3, 0.3]]])
    votes = v.Votes(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([2, 0, 1]), 3, 2)
    told = v.weigh(votes, v.Raters(confusion, 0.25))
    yes, no = 0.25 * 0.7 * 0.4, 0.75 * 0.1 * 0.5
    # question 1 got an answer that tells nothing, question 2 none
    assert told == pytest.approx([yes / (yes + no), 0.25, 0.25])


def test_a_better_rater_counts_more() -> None:
    votes, truth = made(3, items=3000, raters=5, share=1.0)
    told = v.dawid_skene(votes, smoothing=0.5)
    right = ((told.posterior >= 0.5) == truth).mean()
    assert right >= ((v.shares(votes) >= 0.5) == truth).mean()
    assert abs(told.raters.prior - truth.mean()) < 0.03
    honest = v.estimate(votes, truth)
    assert np.abs(told.raters.confusion - honest.confusion).max() < 0.06


def test_without_smoothing_no_iteration_lowers_the_likelihood() -> None:
    votes, _ = made(4)
    held = []
    for n in range(1, 15):
        raters = v.dawid_skene(votes, iterations=n).raters
        held.append(v.log_likelihood(votes, raters))
    assert (np.diff(held) >= -1e-9).all()
    assert held[-1] > held[0]


def test_the_likelihood_written_out() -> None:
    votes, _ = made(5, items=20)
    raters = v.dawid_skene(votes, iterations=3, smoothing=1).raters
    total = 0.0
    for item in range(20):
        mine = votes.items == item
        each = raters.confusion[votes.raters[mine], :, votes.answers[mine]].prod(axis=0)
        total += math.log(each[0] * (1 - raters.prior) + each[1] * raters.prior)
    assert v.log_likelihood(votes, raters) == pytest.approx(total)


def test_golden_questions_stay_and_turn_a_liar_round() -> None:
    rng = np.random.default_rng(6)
    truth = rng.random(400) < 0.4
    # one rater alone, who says the opposite: only known answers can tell
    votes = v.Votes(np.arange(400), np.zeros(400, dtype=np.int64), np.where(truth, 0, 2), 400, 1)
    assert ((v.dawid_skene(votes).posterior >= 0.5) == truth).mean() == 0
    known = np.where(np.arange(400) < 150, truth, v.UNKNOWN)
    told = v.dawid_skene(votes, known=known, smoothing=0.01, iterations=400)
    assert np.array_equal(told.posterior[:150], truth[:150])
    with pytest.raises(InputError, match="known answers"):
        v.dawid_skene(votes, known=known[:10])


def test_known_answers_of_every_question_are_an_estimate() -> None:
    votes, truth = made(7)
    told = v.dawid_skene(votes, known=truth.astype(int), smoothing=2)
    assert np.array_equal(told.raters.confusion, v.estimate(votes, truth, smoothing=2).confusion)
    assert np.array_equal(told.posterior, truth)


def test_all_of_one_mind_gives_no_nan() -> None:
    for answer in (0, 2):
        votes = v.Votes(np.arange(5), np.zeros(5, dtype=np.int64), np.full(5, answer), 6, 2)
        told = v.dawid_skene(votes)
        assert told.posterior == pytest.approx(np.full(6, answer / 2))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), smoothing=st.sampled_from([0.0, 0.1, 3.0]), shared=st.booleans())
def test_order_and_names_do_not_matter(seed: int, smoothing: float, shared: bool) -> None:
    votes, _ = made(seed, items=30, raters=4, share=0.6)
    rng = np.random.default_rng(seed)
    told = v.dawid_skene(votes, iterations=8, smoothing=smoothing, shared=shared)
    assert np.isfinite(told.posterior).all()
    assert ((told.posterior >= 0) & (told.posterior <= 1)).all()
    assert told.raters.confusion.sum(axis=2) == pytest.approx(np.ones((4, 2)))
    mixed, items, raters = rng.permutation(len(votes)), rng.permutation(30), rng.permutation(4)
    other = v.Votes(items[votes.items[mixed]], raters[votes.raters[mixed]], votes.answers[mixed], 30, 4)
    again = v.dawid_skene(other, iterations=8, smoothing=smoothing, shared=shared)
    assert again.posterior[items] == pytest.approx(told.posterior, abs=1e-6)
    assert again.raters.confusion[raters] == pytest.approx(told.raters.confusion, abs=1e-6)


# --- tables -----------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_dense_table_comes_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = np.eye(4)[rng.integers(0, 4, (3, 7))][:, :, :3]
    votes = v.from_answers(table)
    back = np.zeros((3, 7, 3))
    back[votes.raters, votes.items, votes.answers] = 1
    assert np.array_equal(back, table)
    assert np.array_equal(v.tally(votes), table.sum(axis=0))
    assert np.array_equal(v.tally(v.from_counts(table.sum(axis=0).astype(int))), table.sum(axis=0))


def test_tables_that_are_no_votes_are_refused() -> None:
    with pytest.raises(InputError, match="rater 1 gave two answers about question 2"):
        v.from_answers(np.array([[[0, 1]] * 3, [[1, 0], [0, 1], [1, 1]]]))
    with pytest.raises(InputError, match="zeros and ones"):
        v.from_answers(np.full((1, 1, 3), 0.5))
    with pytest.raises(InputError, match="vote 1 has answer 3"):
        v.Votes(np.array([0, 0]), np.array([0, 1]), np.array([0, 3]), 1, 2)
    with pytest.raises(InputError, match="none to weigh"):
        v.dawid_skene(v.from_counts(np.zeros((3, 3), dtype=int)))


def test_models_as_raters() -> None:
    first = np.array([[3, 1, -1], [2, 0, 1], [-1, -1, -1]])
    second = np.array([[1, 3, 4], [2, 4, 3], [0, 1, 2]])
    images, classes, votes = v.from_models([first, second], 5)
    assert list(zip(images.tolist(), classes.tolist(), strict=True)) == [
        (0, 1), (0, 3), (0, 4), (1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    table = np.full((2, 11), -1)
    table[votes.raters, votes.items] = votes.answers
    # the first model did not see image 2
    assert table.tolist() == [[1, 2, 0, 1, 1, 2, 0, 0, -1, -1, -1], [2, 1, 1, 0, 0, 2, 1, 1, 2, 1, 1]]
    with pytest.raises(InputError, match="names class 4, of 4 classes"):
        v.from_models([second], 4)
    with pytest.raises(InputError, match="twice for one image"):
        v.from_models([np.array([[1, 1]])], 4)


def test_six_models_about_imagenet() -> None:
    """5,000 real images: weighed votes rank the labels of real.json better than equal votes, and AlexNet is found out.

    A tenth of the images are golden, the rest is judged.
    """
    names = ("alexnet", "densenet161", "inceptionv4", "resnet50", "se_resnext50_32x4d", "vgg19_bn")
    best = [np.load(reference(f"imagenet/predictions/{name}.npy"), mmap_mode="r")[::10] for name in names]
    rows = json.loads(Path(reference("imagenet/imagenet-validation-original.json")).read_text())["image_filenames"]
    sets = json.loads(Path(reference("imagenet/real.json")).read_text())
    labels = [sets[int(name[-13:-5]) - 1] for name, _ in rows[::10]]
    images, classes, votes = v.from_models(best, 1000)
    truth = np.array([c in labels[i] for i, c in zip(images.tolist(), classes.tolist(), strict=True)])
    usable = np.array([bool(one) for one in labels])[images]
    golden = usable & (images % 10 == 0)
    told = v.dawid_skene(votes, iterations=30, known=np.where(golden, truth, v.UNKNOWN))
    judged = usable & ~golden
    weighed = average_precision_score(truth[judged], told.posterior[judged])
    assert weighed > 0.84
    assert weighed > 0.01 + average_precision_score(truth[judged], v.shares(votes)[judged])
    assert told.raters.confusion[0, 1, 2] < 0.7 < told.raters.confusion[1:, 1, 2].min()
