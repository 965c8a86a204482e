"""Which question a person should answer next: the one whose true answer most likely changes the released sets.

A question is a pair (image, class) with a probability p. Released sets hold it when it is kept; a true answer changes
that with probability 1 - p when it is kept and p when it is not. That, times the weight of its class, is its priority:
the expected change of the sets by one true answer. Never here: what an answer is worth (votes.py), and files.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError


def priorities(
    probability: NDArray[np.floating],
    kept: NDArray[np.bool_],
    classes: NDArray[np.integer],
    *,
    suspect: NDArray[np.bool_] | None = None,
    weight: NDArray[np.floating] | None = None,
    least: float = 0.05,
    most: float = 0.95,
) -> NDArray[np.float64]:
    """Expected change of the sets by a true answer to each question, float64 [n]; 0 = not worth asking.

    Not asked: probabilities below `least` or above `most`, which earlier answers or the classifier have settled; but of
    images whose given label is suspect, kept labels are asked however sure, as if they were as unsure as `most`.
    probability [n], kept bool [n], classes int [n]; suspect bool [n], of the question's image; weight float [classes].
    Raises InputError for probabilities outside [0, 1] or limits that cross.
    """
    if not 0 <= least <= most <= 1:
        raise InputError(f"questions: asked from probability {least:g} to {most:g}; wanted 0 <= least <= most <= 1.")
    p = probability.astype(np.float64)
    if len(p) and not (p.min() >= 0 and p.max() <= 1):
        raise InputError("questions: a probability lies outside 0 to 1.")
    change = np.where(kept, 1 - p, p)
    asked = (p >= least) & (p <= most)
    if suspect is not None:
        doubted = suspect & kept
        change = np.where(doubted, np.maximum(change, 1 - most), change)
        asked |= doubted
    if weight is not None:
        change = change * weight[classes]
    return np.where(asked, change, 0.0)


def ranked(
    priority: NDArray[np.floating],
    classes: NDArray[np.integer],
    images: NDArray[np.integer],
    *,
    limit: int | None = None,
    per_class: int | None = None,
) -> NDArray[np.int64]:
    """Questions in the order in which they are asked, int64 [m]: highest priority first, at most `limit`.

    Of equal ones the lower image, then the lower class; at most `per_class` of one class, so that a class that is hard
    for the classifier does not fill the queue. Questions with priority 0 are left out. Memory: 60 bytes a question.
    """
    order = np.lexsort((classes, images, -priority))
    order = order[priority[order] > 0]
    if per_class is not None:
        by_class = np.argsort(classes[order], kind="stable")
        sorted_classes = classes[order][by_class]
        starts = (
            np.concatenate([[True], sorted_classes[1:] != sorted_classes[:-1]]) if len(order) else np.zeros(0, bool)
        )
        first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
        rank = np.empty(len(order), dtype=np.int64)
        rank[by_class] = np.arange(len(order)) - first
        order = order[rank < per_class]
    return order[:limit].astype(np.int64)


def mixed(questions: int, golden: int, every: int, seed: int) -> list[tuple[bool, int]]:
    """The order of `questions` with known questions among them: (is golden, its number), one golden in each `every`.

    A golden question stands at a place of each stretch that the seed decides, so that nobody sees it coming; each is
    used once, in order. Raises InputError for every < 2.
    """
    if every < 2:
        raise InputError(f"questions: one known question in {every} leaves no room for others; wanted 2 or more.")
    out: list[tuple[bool, int]] = []
    asked = used = stretch = 0
    while asked < questions:
        digest = hashlib.blake2b(f"{seed}:{stretch}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest, "little") % every
        for slot in range(every):
            if slot == place and used < golden:
                out.append((True, used))
                used += 1
            elif asked < questions:
                out.append((False, asked))
                asked += 1
        stretch += 1
    return out
