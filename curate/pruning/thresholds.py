"""Exact selection part by part: small counts from each part are summed, and a window around the cut shrinks.

Samples are ranked by the key (score, uid), 192 bits. A window is the range of keys in which the cut must lie: one for
the whole dataset or one per concept. Each pass over the parts counts the keys of every concept in the bins of its
window (`count`, int64 [k, bins], which add up over parts in any order); `to_quota` or `to_total` then moves into the
bin that holds the cut. Two or three passes are usual, because a pass divides the window by 2**bits and a bin with a
single candidate ends it. Memory O(k * bins), never the number of samples. The result equals `select` and `ssp_select`.
`search` puts several windows together for floors, limits and runs around a median.

    window = whole(k, lowest, highest, per_concept=True)
    while not window.done:
        window = to_quota(window, sum(count(window, *part) for part in parts), quota)
    keep = [inside(window, *part) for part in parts]
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from curate.errors import InputError, SpecError
from curate.pruning.select import Which, best_first, check_total

_SIGN = np.uint64(1 << 63)
_LAST = 2**64 - 1
_COUNTERS = 2**20  # counters of a pass (8 MiB), while two bins a concept allow it


@dataclass(frozen=True)
class Window:
    """Range of keys that holds the cut, per group (one group, or one per concept)."""

    which: Which
    bits: int
    """A pass counts 2**bits bins (fewer in the last steps of a word)."""
    word: int
    """The key word being searched: 0 score, 1 uid_hi, 2 uid_lo. Earlier words are settled in `low`."""
    width: int
    """The window spans 2**width values of that word."""
    low: NDArray[np.uint64]
    """[groups, 3] first key of the window; once settled, the last key that is kept."""
    before: NDArray[np.int64]
    """[k] samples of each concept certainly before the window."""
    settled: NDArray[np.bool_]
    """[groups] true once the cut is found."""
    nothing: NDArray[np.bool_]
    """[groups] true where the cut lies before every key."""

    passes: int = 0
    """Passes made so far."""

    @property
    def done(self) -> bool:
        """True when no further pass is needed."""
        return bool(self.settled.all())

    @property
    def step_bits(self) -> int:
        """log2 of the number of bins of the next pass."""
        return min(self.bits, self.width)


def whole(
    k: int, lowest: int, highest: int, *, per_concept: bool, which: Which = "hard", bits: int | None = None
) -> Window:
    """The window of all scores in lowest..highest (both included) and all uids, for k concepts.

    per_concept: one cut per concept (for `to_quota`) or one for all (for `to_total`). bits: 1 to 16; by default
    such that k * 2**bits counters take 8 MiB. which: "hard" or "easy". Raises SpecError for an empty range.
    """
    if lowest > highest or k < 1:
        raise SpecError(f"no samples to rank: {k} concepts with scores {lowest}..{highest}.")
    if bits is None:
        bits = max(1, min(16, (_COUNTERS // k).bit_length() - 1))
    if not 1 <= bits <= 16:
        raise SpecError(f"a pass uses 1 to 16 bits, not {bits}.")
    ends = _first_word(np.array([lowest, highest], dtype=np.int64), which)
    groups = k if per_concept else 1
    low = np.zeros((groups, 3), dtype=np.uint64)
    low[:, 0] = ends.min()
    none = np.zeros(groups, dtype=np.bool_)
    width = int(ends.max() - ends.min()).bit_length()
    window = Window(which, bits, 0, width, low, np.zeros(k, dtype=np.int64), none, none.copy())
    return _next_word(window) if width == 0 else window


def count(
    window: Window,
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Samples of one part in each bin of the window, int64 [k, bins]; arguments as in `select`. Add over the parts.

    Raises SpecError for a score outside the range given to `whole` or a concept out of range.
    """
    flat = _flat(window, concept, score, uid_hi, uid_lo)
    shape = len(window.before), 1 << window.step_bits
    return np.bincount(flat, minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)


def count_sparse(
    window: Window,
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The counters of `count` that are not 0: their places in the flat array and their values, int64 each.

    At most one a sample: a small part is counted in time and memory of its own size, however many concepts there are.
    """
    at, n = np.unique(_flat(window, concept, score, uid_hi, uid_lo), return_counts=True)
    return at, n.astype(np.int64)


def _flat(
    window: Window,
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """Counter (concept, bin) of every sample inside its window, in the flat array."""
    k, bins = len(window.before), 1 << window.step_bits
    if concept.size and (int(concept.min()) < 0 or int(concept.max()) >= k):
        raise SpecError(f"concepts lie in {concept.min()}..{concept.max()}, the window has {k} of them.")
    words = (_first_word(score, window.which), uid_hi, uid_lo)
    group = concept if len(window.low) > 1 else np.zeros(len(concept), dtype=np.int32)
    offset = words[window.word] - window.low[group, window.word]  # wraps around below the window
    span_end = np.uint64((1 << window.width) - 1)
    hit = offset <= span_end
    for word in range(window.word):
        hit &= words[word] == window.low[group, word]
    if window.passes == 0 and not hit.all():
        raise SpecError("a score lies outside the range the window was made for; pass the true lowest and highest.")
    hit &= ~window.settled[group]
    bin_ = (offset[hit] >> np.uint64(window.width - window.step_bits)).astype(np.int64)
    return np.asarray(concept[hit].astype(np.int64) * bins + bin_, dtype=np.int64)


def to_quota(window: Window, counts: NDArray[np.int64], quota: NDArray[np.int64]) -> Window:
    """Shrink each concept's window to the bin where its quota (int64 [k]) is reached. counts: the sum of `count`.

    A quota above the size keeps the whole concept. Raises InputError when two samples share score and uid at a cut.
    """
    upto = window.before[:, None] + np.cumsum(counts, axis=1)
    return _enter(window, counts, upto, np.minimum(quota, upto[:, -1]), upto, window.before)


def to_total(window: Window, counts: NDArray[np.int64], total: int, floor: NDArray[np.int64]) -> Window:
    """Shrink the one window to the bin where sum_j max(floor_j, samples of j before the cut) reaches total.

    floor int64 [k] must not exceed the sizes (`lower_bounds` gives such floors). When done, `quotas` has the result.
    Raises SpecError when total is out of reach and InputError when two samples share score and uid at the cut.
    """
    upto = window.before[:, None] + np.cumsum(counts, axis=1)
    if window.passes == 0:
        check_total(total, upto[:, -1], floor)
        if (floor > upto[:, -1]).any():
            raise SpecError("a floor exceeds the size of its concept; use the smaller of the two.")
    kept = np.maximum(floor[:, None], upto).sum(axis=0, keepdims=True)
    before = np.maximum(floor, window.before).sum(keepdims=True)
    return _enter(window, counts, kept, np.array([total]), upto, before)


def quotas(window: Window, floor: NDArray[np.int64]) -> NDArray[np.int64]:
    """Exact quota of each concept, int64 [k], once `to_total` is done; `select` with it equals `ssp_select`."""
    return np.maximum(floor, window.before)


def inside(
    window: Window,
    concept: NDArray[np.int32],
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
) -> NDArray[np.bool_]:
    """True for the samples of one part up to the cut, bool [n], once the window is done."""
    words = (_first_word(score, window.which), uid_hi, uid_lo)
    group = concept if len(window.low) > 1 else np.zeros(len(concept), dtype=np.int32)
    keep = np.ones(len(concept), dtype=np.bool_)
    for word in (2, 1, 0):
        limit = window.low[group, word]
        keep = (words[word] < limit) | ((words[word] == limit) & keep)
    return keep & ~window.nothing[group]


def cut_keys(window: Window) -> tuple[NDArray[np.int64], NDArray[np.uint64], NDArray[np.uint64]]:
    """(score, uid_hi, uid_lo) of the last key kept in each group, [groups] each, once done; see also `nothing`."""
    first = np.ascontiguousarray(window.low[:, 0] ^ _SIGN).view(np.int64)
    return best_first(first, window.which), window.low[:, 1].copy(), window.low[:, 2].copy()


def settled(
    score: NDArray[np.int64],
    uid_hi: NDArray[np.uint64],
    uid_lo: NDArray[np.uint64],
    nothing: NDArray[np.bool_],
    which: Which,
    k: int,
) -> Window:
    """The done window whose `cut_keys` these are, for k concepts: what `inside` needs."""
    low = np.stack([_first_word(score, which), uid_hi, uid_lo], axis=1)
    return Window(which, 1, 2, 0, low, np.zeros(k, dtype=np.int64), np.ones(len(low), dtype=np.bool_), nothing)


def _first_word(score: NDArray[np.int64], which: Which) -> NDArray[np.uint64]:
    """Score as uint64 whose ascending order is the order of preference."""
    return np.ascontiguousarray(best_first(np.asarray(score, dtype=np.int64), which)).view(np.uint64) ^ _SIGN


def _enter(
    window: Window,
    counts: NDArray[np.int64],
    reached: NDArray[np.int64],
    goal: NDArray[np.int64],
    upto: NDArray[np.int64],
    start: NDArray[np.int64],
) -> Window:
    """Move each open group into the first bin where reached [groups, bins] >= goal [groups]; settle exact hits."""
    low, settled, nothing = window.low.copy(), window.settled.copy(), window.nothing.copy()
    open_ = ~settled
    at_start = open_ & (start >= goal)  # the cut is just before the window
    bin_ = np.minimum((reached < goal[:, None]).sum(axis=1), reached.shape[1] - 1)
    hit = open_ & ~at_start & (np.take_along_axis(reached, bin_[:, None], axis=1)[:, 0] == goal)
    step = np.uint64(window.width - window.step_bits)
    value = low[:, window.word] + (bin_.astype(np.uint64) << step)
    moved = open_ & ~at_start
    low[moved, window.word] = value[moved]
    # a settled group stores the last kept key: the end of the bin, or the key before the window
    end_of_bin = value + np.uint64((1 << int(step)) - 1)
    low[hit, window.word] = np.where(end_of_bin < value, np.uint64(_LAST), end_of_bin)[hit]
    low[hit, window.word + 1 :] = _LAST
    for g in np.flatnonzero(at_start):
        nothing[g] = not _step_back(low[g])
    settled |= at_start | hit
    line = np.arange(len(window.before))
    group = line if len(low) > 1 else np.zeros_like(line)
    end = upto[line, bin_[group]]
    before = np.where(hit[group], end, end - counts[line, bin_[group]])
    before = np.where(moved[group], before, window.before)
    passes = window.passes + 1
    shrunk = replace(window, low=low, before=before, settled=settled, nothing=nothing, width=int(step), passes=passes)
    return _next_word(shrunk) if int(step) == 0 and not shrunk.done else shrunk


def _next_word(window: Window) -> Window:
    if window.word == 2:
        raise InputError("two samples have the same uid and score at a quota's edge; drop duplicate uids at index.")
    return replace(window, word=window.word + 1, width=64)


def _step_back(key: NDArray[np.uint64]) -> bool:
    """Replace a 192-bit key by the one before it in place; False if there is none."""
    for word in (2, 1, 0):
        if key[word] > 0:
            key[word] -= np.uint64(1)
            return True
        key[word] = _LAST
    return False
