"""Decisions about labels (curate/relabel/sets.py): real.json from its scores, rules by hand, brute force."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.errors import InputError
from curate.relabel import sets as s
from curate.relabel.relations import Relations
from tests.reference_data import reference


def test_real_json_comes_out_of_its_scores() -> None:
    """0 differences of 184,962 pairs at .8, on the 24,889 images that were rated; images without a label among them."""
    with np.load(reference("imagenet/scores.npz")) as held:
        scores, info = held["tensor"], held["info"]
    real = json.loads(Path(reference("imagenet/real.json")).read_text())
    number, images = np.unique([int(name[-13:-5]) for name in info[:, 0].tolist()], return_inverse=True)
    assert len(number) == 24_889
    told = s.decide(images, info[:, 1].astype(np.int32), scores, len(number), keep=0.8, drop=0.5)
    offsets, labels = told.chosen()
    flat = labels.tolist()
    want = [sorted(real[n - 1]) for n in number.tolist()]
    assert [sorted(flat[a:b]) for a, b in pairwise(offsets.tolist())] == want
    assert (told.outcome != s.LABELLED).sum() == sum(not one for one in want) == 3_163
    assert (told.decision == s.UNSURE).sum() == ((scores >= 0.5) & (scores < 0.8)).sum()


A, B, C, CAR, TAXI, WHEEL = range(6)
RELATIONS = Relations.build({(A, B): "synonym", (TAXI, CAR): "subclass", (WHEEL, CAR): "part-of"})


def test_by_hand() -> None:
    images = np.array([2, 0, 0, 0, 1, 2, 4])
    classes = np.array([C, A, CAR, C, A, A, B])
    p = np.array([0.95, 0.3, 0.9, 0.05, 0.09, 0.95, 0.5])
    told = s.decide(images, classes, p, 5, keep=0.9, drop=0.1)
    assert told.images.tolist() == [0, 0, 0, 1, 2, 2, 4]
    assert told.classes.tolist() == [CAR, A, C, A, A, C, B]
    assert told.decision.tolist() == [s.KEEP, s.UNSURE, s.DROP, s.DROP, s.KEEP, s.KEEP, s.UNSURE]
    assert told.source.tolist() == [2, 1, 3, 4, 5, 0, 6]
    # an image without candidates has no valid label, as one whose candidates are all dropped
    assert told.outcome.tolist() == [s.LABELLED, s.NOTHING, s.LABELLED, s.NOTHING, s.UNDECIDED]
    assert told.nothing == pytest.approx([0.1, 0.91, 0.05, 1, 0.5])
    assert [one.tolist() for one in told.chosen()] == [[0, 1, 1, 3, 3, 3], [CAR, A, C]]
    assert [one.tolist() for one in told.chosen(s.UNSURE)] == [[0, 1, 1, 1, 1, 2], [A, B]]


def test_a_kept_label_keeps_its_synonyms_and_what_it_is_one_of() -> None:
    images, classes = np.array([0, 0, 1, 1, 1, 2, 2]), np.array([A, B, TAXI, CAR, WHEEL, CAR, TAXI])
    p = np.array([0.2, 0.95, 0.92, 0.5, 0.02, 0.99, 0.4])
    told = s.decide(images, classes, p, 3, keep=0.9, drop=0.1, relations=RELATIONS)
    assert list(zip(told.images.tolist(), told.classes.tolist(), told.decision.tolist(), strict=True)) == [
        (0, A, s.KEEP), (0, B, s.KEEP),
        (1, CAR, s.KEEP), (1, TAXI, s.KEEP), (1, WHEEL, s.DROP),
        (2, CAR, s.KEEP), (2, TAXI, s.UNSURE),
    ]  # fmt: skip
    assert told.probability.tolist() == [0.95, 0.95, 0.92, 0.92, 0.02, 0.99, 0.4]


def test_a_near_synonym_is_no_label_error() -> None:
    images, classes = np.arange(6), np.array([B, C, CAR, TAXI, C, C])
    p = np.array([0.95, 0.95, 0.95, 0.95, 0.5, 0.95])
    original = np.array([A, A, WHEEL, CAR, A, -1])
    told = s.decide(images, classes, p, 6, keep=0.9, drop=0.1, relations=RELATIONS, original=original)
    assert told.suspect.tolist() == [False, True, False, False, False, False]
    plain = s.decide(images, classes, p, 6, keep=0.9, drop=0.1, original=original)
    assert plain.suspect.tolist() == [True, True, True, True, False, False]


def test_limits_of_classes() -> None:
    keep = np.array([0.5, math.inf, 0.9])
    told = s.decide(np.zeros(3, int), np.arange(3), np.array([0.6, 1.0, 0.6]), 1, keep=keep, drop=np.array([0, 0, 0.7]))
    decided = dict(zip(told.classes.tolist(), told.decision.tolist(), strict=True))
    assert decided == {0: s.KEEP, 1: s.UNSURE, 2: s.DROP}


def test_no_images_and_no_labels() -> None:
    none = np.zeros(0, dtype=np.int64)
    told = s.decide(none, none, none.astype(float), 3, keep=0.9, drop=0.1, relations=RELATIONS, original=np.arange(3))
    assert told.outcome.tolist() == [s.NOTHING] * 3
    assert told.chosen()[0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("images", "classes", "p", "keep", "message"),
    [
        ([0, 0], [1, 1], [0.1, 0.2], 0.9, "image 0 has class 1 twice"),
        ([0, 3], [1, 1], [0.1, 0.2], 0.9, "images 0 to 3; wanted 0 to 2"),
        ([0, 1], [1, -1], [0.1, 0.2], 0.9, "class -1"),
        ([0, 1], [1, 2], [0.1, math.nan], 0.9, "class 2 of image 1 has probability nan"),
        ([0, 1], [1, 2], [0.1, 0.2], 0.05, "wanted drop <= keep"),
        ([0, 1], [1, 2], [0.1, 0.2], np.array([0.9, 0.9]), "class 2 has no keep limit"),
        ([0], [1, 2], [0.1, 0.2], 0.9, "one of each a label"),
    ],
)
def test_what_makes_no_sense_is_refused(
    images: list[int], classes: list[int], p: list[float], keep: s.Limit, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        s.decide(np.array(images), np.array(classes), np.array(p), 3, keep=keep, drop=0.1)


@settings(max_examples=50, deadline=None)
@given(
    labels=st.dictionaries(st.tuples(st.integers(0, 4), st.integers(0, 5)), st.integers(0, 20), max_size=20),
    seed=st.integers(0, 1000),
    related=st.booleans(),
)
def test_brute_force_says_the_same(labels: dict[tuple[int, int], int], seed: int, related: bool) -> None:
    rng = np.random.default_rng(seed)
    pairs = sorted(labels)
    rng.shuffle(pairs)
    original = rng.integers(-1, 6, 5)
    told = s.decide(
        np.array([i for i, _ in pairs], dtype=np.int64),
        np.array([k for _, k in pairs], dtype=np.int32),
        np.array([labels[i, k] / 20 for i, k in pairs], dtype=np.float64),
        5,
        keep=0.7,
        drop=0.3,
        relations=RELATIONS if related else None,
        original=original,
    )
    implied = {A: (A, B), B: (A, B), C: (C,), CAR: (CAR, TAXI), TAXI: (TAXI,), WHEEL: (WHEEL,)}
    wanted = []
    for i in range(5):
        mine = {k: labels[i, k] / 20 for j, k in labels if j == i}
        p = {k: max(mine[x] for x in (implied[k] if related else (k,)) if x in mine) for k in mine}
        rows = sorted((-value, k) for k, value in p.items())
        wanted += [(i, k, -value) for value, k in rows]
        best = max(p.values(), default=0.0)
        assert told.outcome[i] == (s.LABELLED if best >= 0.7 else s.UNDECIDED if best >= 0.3 else s.NOTHING)
        kept = [k for k, value in p.items() if value >= 0.7]
        agree = [k for k in kept if not (RELATIONS.conflict(original[i], k) if related else original[i] != k)]
        assert told.suspect[i] == (bool(kept) and original[i] >= 0 and not agree)
    held = zip(told.images.tolist(), told.classes.tolist(), told.probability.tolist(), strict=True)
    assert list(held) == wanted
