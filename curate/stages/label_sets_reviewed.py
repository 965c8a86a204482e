"""Which reviewed image a sample is, by its name. Helper of `label_sets.py`.

What never lives here: what is fitted on reviewed labels (label_sets_fit.py), and files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError
from curate.formats.row_orders import some_of, stem

Truth = tuple[set[int], set[int]]
"""True classes of an image, and classes of which nothing is known."""


class Reviewed:
    """Truths by name. Names are compared without extension: whole, and where no sample of the input has such a name, by
    their last part. Memory: 300 bytes an image. Raises InputError, naming `url`, for two names that differ by nothing
    but the extension.
    """

    def __init__(self, truths: Mapping[str, Truth], url: str = "reviewed") -> None:
        self.truths: dict[str, Truth] = {}
        for name, truth in truths.items():
            if bare(name) in self.truths:
                raise InputError(
                    f"{url}: two images are {bare(name)} but for the extension; samples do not tell which."
                )
            self.truths[bare(name)] = truth
        self._last: dict[str, list[str]] = {}
        for name in self.truths:
            self._last.setdefault(stem(name + "."), []).append(name)

    def __len__(self) -> int:
        return len(self.truths)

    @property
    def highest(self) -> int:
        """The highest class that is named; -1 for none."""
        return max((max(a | b, default=-1) for a, b in self.truths.values()), default=-1)

    def whole(self, key: str) -> str | None:
        """The image with the name of a sample."""
        return next((name for name in (key, bare(key)) if name in self.truths), None)

    def last(self, key: str) -> list[str]:
        """Images whose name has the same last part."""
        return self._last.get(stem(key), []) or self._last.get(key.rpartition("/")[2], [])


def bare(name: str) -> str:
    """A name without extension: `c0/000.jpg` -> `c0/000`."""
    folder, slash, last = name.removeprefix("./").rpartition("/")
    return folder + slash + stem(last)


def by_whole_names(whole: Iterable[NDArray[np.str_]], last: Iterable[NDArray[np.str_]], url: str, step: str) -> bool:
    """How samples are told: True by whole names, False by last parts. whole, last: names of the reviewed images that
    the samples of each part are, either way, once a sample; last with an image more than one for one that may be each.

    Raises InputError when samples share an image, or a sample may be several.
    """
    found = Counter(name for part in whole for name in part.tolist())
    by_name = bool(found)
    if not by_name:
        found = Counter(name for part in last for name in part.tolist())
    if twice := [name for name, n in found.items() if n > 1]:
        how = "are called" if by_name else "end as the reviewed images"
        raise InputError(
            f"stage {step}: several samples {how} {some_of(sorted(twice))}, so what {url} says may be of another one; "
            "give names that tell the samples apart, with their folders."
        )
    return by_name
