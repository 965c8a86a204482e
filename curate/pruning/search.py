"""`ssp_select` part by part, in bounded memory: floors of each concept first, then the best of all others.

A search is a few windows (`thresholds`) that shrink together. Each pass counts every part's keys in the bins of the
open windows; sums of these counts, in any order, move the windows on. First each concept's cuts are found (its floor
and its limit), then the cut through the one ranking of all others. No sort, no exchange of rows.

    search = start(...)
    while not search.done:
        search = search.narrowed(sums of search.count(*part) over the parts)
    keep = [search.keep(*part) for part in parts]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.pruning import thresholds
from curate.pruning.select import Which, check_total, run_of
from curate.pruning.thresholds import Window

Sparse = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Counters that are not 0: places in the flat array, and counts."""
_NUMBERS = ("width", "word", "bits", "passes")
_ARRAYS = ("low", "before", "settled", "nothing")


@dataclass(frozen=True)
class Search:
    """Which samples stay, as far as it is known. Small: O(k) numbers."""

    which: Which
    lowest: int
    highest: int
    sizes: NDArray[np.int64]
    """[k] samples of each concept."""
    floor: NDArray[np.int64]
    """[k] samples that each concept keeps in any case."""
    limit: NDArray[np.int64]
    """[k] most that each concept keeps."""
    total: int
    """Samples kept in all."""
    windows: Mapping[str, Window]
    """By what their cut ends: `floor.end`, `limit.end`, `others.end`, and the `.begin` of each for "middle"."""
    bits: int | None = None
    """Of each pass; None: as many as memory allows. Decides the number of passes, nothing else."""

    @property
    def done(self) -> bool:
        """True when no further pass is needed."""
        return all(window.done for window in self.windows.values()) and (self._ranked or not self._rest)

    @property
    def _ranked(self) -> bool:
        return "others.end" in self.windows

    @property
    def _rest(self) -> int:
        """Samples kept beyond the floors."""
        return self.total - int(self.floor.sum())

    @property
    def open(self) -> tuple[str, ...]:
        """Windows that the next pass counts."""
        return tuple(name for name, window in self.windows.items() if not window.done)

    def shape(self, name: str) -> tuple[int, int]:
        """Concepts and bins of a window's next pass."""
        return len(self.sizes), 1 << self.windows[name].step_bits

    def quotas(self) -> NDArray[np.int64]:
        """Samples kept of each concept, int64 [k], once done; they sum to total."""
        if not self._ranked:
            return self.floor.copy()
        others = self.windows["others.end"].before
        if "others.begin" in self.windows:
            others = others - self.windows["others.begin"].before
        return np.asarray(self.floor + others, dtype=np.int64)

    def count(
        self,
        concept: NDArray[np.int32],
        score: NDArray[np.int64],
        uid_hi: NDArray[np.uint64],
        uid_lo: NDArray[np.uint64],
    ) -> dict[str, Sparse]:
        """One part's counts for each open window. Arguments as in `select`; for "random" score is the draw as int64.

        Time O(n log n), memory O(n).
        """
        rows = (concept, score, uid_hi, uid_lo)
        if self._ranked:
            others = self._inside("limit", *rows) & ~self._inside("floor", *rows)
            rows = (concept[others], score[others], uid_hi[others], uid_lo[others])
        return {name: thresholds.count_sparse(self.windows[name], *rows) for name in self.open}

    def narrowed(self, counts: Mapping[str, NDArray[np.int64]]) -> Search:
        """One step on. counts: int64 [k, bins] for each open window, the sums of `count` over all parts."""
        windows = dict(self.windows)
        for name in self.open:
            goal = self._goal(name)
            if isinstance(goal, int):
                none = np.zeros_like(self.sizes)
                windows[name] = thresholds.to_total(windows[name], counts[name], goal, none)
            else:
                windows[name] = thresholds.to_quota(windows[name], counts[name], goal)
        return replace(self, windows=windows)._ranking()

    def keep(
        self,
        concept: NDArray[np.int32],
        score: NDArray[np.int64],
        uid_hi: NDArray[np.uint64],
        uid_lo: NDArray[np.uint64],
    ) -> NDArray[np.bool_]:
        """Which samples of one part stay, bool [n], once the search is done; arguments as in `count`."""
        rows = (concept, score, uid_hi, uid_lo)
        keep = self._inside("floor", *rows)
        if self._ranked:
            keep |= self._inside("limit", *rows) & self._inside("others", *rows)
        return keep

    def _inside(self, run: str, *rows: NDArray[Any]) -> NDArray[np.bool_]:
        if f"{run}.end" not in self.windows:
            # a limit that was never searched holds nobody back, a floor that was not searched is 0
            return np.full(len(rows[0]), run == "limit")
        inside = thresholds.inside(self.windows[f"{run}.end"], *rows)
        if f"{run}.begin" in self.windows:
            inside &= ~thresholds.inside(self.windows[f"{run}.begin"], *rows)
        return inside

    def _goal(self, name: str) -> NDArray[np.int64] | int:
        """Samples before the cut: of each concept, or of all others."""
        run, _, end = name.partition(".")
        if run == "others":
            there = int(self.limit.sum()) - int(self.floor.sum())
            begin = int(run_of(np.asarray(there), np.asarray(self._rest), self.which))
            return begin + (self._rest if end == "end" else 0)
        quota = self.floor if run == "floor" else self.limit
        begins = run_of(self.sizes, quota, self.which)
        return begins + quota if end == "end" else begins

    def _ranking(self) -> Search:
        """Open the ranking of the others, once the cuts of the concepts are known."""
        if self._ranked or not self._rest or not all(window.done for window in self.windows.values()):
            return self
        return replace(self, windows={**self.windows, **self._new("others", per_concept=False)})

    def _new(self, run: str, *, per_concept: bool) -> dict[str, Window]:
        k, order = len(self.sizes), ranking(self.which)
        window = thresholds.whole(k, self.lowest, self.highest, per_concept=per_concept, which=order, bits=self.bits)
        ends = ("begin", "end") if self.which == "middle" else ("end",)
        return {f"{run}.{end}": window for end in ends}

    def arrays(self, prefix: str = "") -> dict[str, NDArray[Any]]:
        """All of it as arrays, for storage between passes."""
        out: dict[str, NDArray[Any]] = {
            "which": np.asarray(self.which),
            "ends": np.asarray([self.lowest, self.highest, self.total, self.bits or 0], dtype=np.int64),
            "sizes": self.sizes,
            "floor": self.floor,
            "limit": self.limit,
            "names": np.asarray(list(self.windows), dtype=np.str_),
        }
        for name, window in self.windows.items():
            out[f"{name}.numbers"] = np.asarray([getattr(window, n) for n in _NUMBERS], dtype=np.int64)
            out |= {f"{name}.{n}": getattr(window, n) for n in _ARRAYS}
        return {prefix + name: array for name, array in out.items()}


def start(
    sizes: NDArray[np.int64],
    lowest: int,
    highest: int,
    total: int,
    *,
    floor: NDArray[np.int64] | None = None,
    limit: NDArray[np.int64] | None = None,
    which: Which = "hard",
    bits: int | None = None,
) -> Search:
    """A search for `total` of the samples whose scores lie in lowest..highest, sizes int64 [k] of them in each concept.

    floor, limit: int64 [k] as in `ssp_select`, by default 0 and the sizes; with both equal to a quota this is `select`.
    For which="random" scores are draws as int64 (`select.best_first`). Raises SpecError when total is out of reach.
    """
    limit = np.minimum(sizes, sizes if limit is None else limit)
    floor = np.minimum(limit, np.zeros_like(sizes) if floor is None else floor)
    check_total(total, limit, floor)
    if len(sizes) == 1 and (which != "middle" or limit[0] == sizes[0]):
        # one search in place of two; a run in the middle of a limit's run may be off by one from that of all
        floor = limit = np.asarray([total], dtype=np.int64)
    search = Search(which, lowest, highest, sizes, floor, limit, total, {}, bits)
    windows: dict[str, Window] = {}
    if floor.any():
        windows |= search._new("floor", per_concept=True)
    if (limit < sizes).any() and search._rest:
        windows |= search._new("limit", per_concept=True)
    return replace(search, windows=windows)._ranking()


def restored(arrays: Mapping[str, NDArray[Any]], prefix: str = "") -> Search:
    """The search that `arrays` gave."""
    found = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    which: Which = str(found["which"])  # type: ignore[assignment]
    windows = {}
    for name in found["names"].tolist():
        width, word, bits, passes = (int(value) for value in found[f"{name}.numbers"])
        low, before, settled, nothing = (found[f"{name}.{n}"] for n in _ARRAYS)
        windows[name] = Window(ranking(which), bits, word, width, low, before, settled, nothing, passes)
    lowest, highest, total, given = (int(value) for value in found["ends"])
    sizes, floor, limit = found["sizes"], found["floor"], found["limit"]
    return Search(which, lowest, highest, sizes, floor, limit, total, windows, given or None)


def ranking(which: Which) -> Which:
    """The ranking that samples are taken of: "hard", or "easy"; draws are ranked as easy scores, smallest first."""
    return "easy" if which in ("easy", "random") else "hard"
