"""Counts of hand-sorted mistakes: by category and severity, and what label sets say of them.

Categories and severities: Vasudevan et al. 2022, sections 3 and 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curate.evaluate.sets import Sets

SAME = {"fine-grained with oov": "Fine-grained error with OOV"}
"""Spellings that published lists use for a category of another name, in lower case."""
FOLDED = {"borderline": "Minor"}
"""Severities that count as another one when they are folded."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake of a list: the image, the class that was predicted, and how people sorted it."""

    image: str
    prediction: int
    category: str
    severity: str


def normalised(mistake: Mistake, *, fold: bool = False) -> Mistake:
    """The same with one spelling of a category, and Borderline folded into Minor when asked."""
    category = " ".join(mistake.category.split())
    severity = " ".join(mistake.severity.split())
    return Mistake(
        mistake.image,
        mistake.prediction,
        SAME.get(category.lower(), category),
        FOLDED.get(severity.lower(), severity) if fold else severity,
    )


def tally(mistakes: Iterable[Mistake], *, fold: bool = False) -> dict[str, dict[str, int]]:
    """Category -> severity -> count, the most frequent categories first; spellings are normalised."""
    counts = Counter((m.category, m.severity) for m in (normalised(one, fold=fold) for one in mistakes))
    totals: Counter[str] = Counter()
    for (category, _), count in counts.items():
        totals[category] += count
    severities = sorted({severity for _, severity in counts})
    return {
        category: {severity: counts[category, severity] for severity in severities}
        for category, _ in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    }


def severities(table: dict[str, dict[str, int]]) -> dict[str, int]:
    """Severity -> count over all categories of a tally."""
    total: Counter[str] = Counter()
    for row in table.values():
        total.update(row)
    return dict(total)


@dataclass(frozen=True, slots=True)
class Verdicts:
    """What label sets say of listed mistakes: listed images that have sets, right after all, without any label."""

    images: int
    right: int
    without_labels: int


def judged(rows: NDArray[np.int64], predictions: NDArray[np.int32], sets: Sets) -> Verdicts:
    """Look up mistakes: rows (int64 [m], below 0 = image without a set) and the classes that were predicted."""
    known = rows >= 0
    right = sets.contain(rows[known], predictions[known])
    return Verdicts(int(known.sum()), int(right.sum()), int((sets.sizes[rows[known]] == 0).sum()))


def shared(one: Sequence[Mistake], other: Sequence[Mistake]) -> list[tuple[Mistake, Mistake]]:
    """Mistakes of two lists on the same image, in the order of the first list."""
    by_image = {m.image: m for m in other}
    return [(m, by_image[m.image]) for m in one if m.image in by_image]


def repeated(mistakes: Sequence[Mistake], rows: NDArray[np.int64], best: NDArray[np.int32]) -> list[Mistake]:
    """The mistakes that a model makes again: same image, same class. rows: int64 [m] into best, below 0 = not there."""
    return [m for m, row in zip(mistakes, rows.tolist(), strict=True) if row >= 0 and best[row] == m.prediction]
