"""Counter-based randomness: a draw is a hash of its address (seed, what it is for, index, position), never of history.

So image i is the same whether it is rendered alone, in a shard, on four workers or after a kill, and a scalar loop, a
SIMD loop and a GPU draw the same symbols. The hash is the finaliser of SplitMix64 (Steele, Lea & Flood 2014), applied
once for each word of the address.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MUL_1, _MUL_2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_FEW = 12
"""Up to so many draws Python's integers are faster than numpy's arrays."""


def mix(value: int) -> int:
    """SplitMix64's finaliser of an integer below 2**64: a bijection whose output bits all depend on all input bits."""
    value = ((value ^ (value >> 30)) * _MUL_1) & _MASK
    value = ((value ^ (value >> 27)) * _MUL_2) & _MASK
    return value ^ (value >> 31)


def key(*address: int | str) -> int:
    """A 64-bit key of an address, such as (seed, "systems", 17). Words are integers (taken modulo 2**64) or text."""
    value = 0
    for word in address:
        if isinstance(word, str):
            letters, last = _letters(word)
            value ^= _MUL_1  # text is told from the number of its letters
            for letter in letters:
                value = (value + letter) & _MASK  # `mix`, written out: a call costs as much as the hash
                value = ((value ^ (value >> 30)) * _MUL_1) & _MASK
                value = ((value ^ (value >> 27)) * _MUL_2) & _MASK
                value ^= value >> 31
        else:
            last = mix((word + _GOLDEN) & _MASK)
        value = mix((value + _GOLDEN + last) & _MASK)
    return value


@lru_cache(maxsize=256)
def _letters(text: str) -> tuple[tuple[int, ...], int]:
    """What each byte of a text, at its place, adds to a key, and the hash of their number: texts come again."""
    data = text.encode()
    letters = tuple((letter + 257 * (at + 1)) * _GOLDEN & _MASK for at, letter in enumerate(data))
    return letters, mix((len(text) + _GOLDEN) & _MASK)


def words(start: int, count: int, first: int = 0) -> NDArray[np.uint64]:
    """Words first..first+count-1 of the stream of a key, uint64 [count]."""
    value = (np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(_GOLDEN)) + np.uint64(start)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_MUL_1)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_MUL_2)
    return np.asarray(value ^ (value >> np.uint64(31)), dtype=np.uint64)


@dataclass
class Draws:
    """Draws of one address, one after the other. Equal addresses give equal draws on every machine."""

    key: int
    _at: int = field(default=0)

    @classmethod
    def of(cls, *address: int | str) -> Draws:
        """The draws of an address, see `key`."""
        return cls(key(*address))

    def uniform(self, count: int, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """float64 [count], uniform in [low, high), multiples of 2**-53 of the width."""
        if count <= _FEW:
            return np.array([self.one(low, high) for _ in range(count)], dtype=np.float64)
        raw = words(self.key, count, self._at)
        self._at += count
        return np.asarray(low + (high - low) * ((raw >> np.uint64(11)) * 2.0**-53), dtype=np.float64)

    def one(self, low: float = 0.0, high: float = 1.0) -> float:
        """One such draw, bit for bit."""
        return float(low + (high - low) * ((self._word() >> 11) * 2.0**-53))

    def below(self, n: int) -> int:
        """An integer in 0..n-1; the bias is below n / 2**64."""
        return (self._word() * n) >> 64

    def _word(self) -> int:
        """The next word of `words`, with `mix` written out."""
        self._at = at = self._at + 1
        value = (self.key + at * _GOLDEN) & _MASK
        value = ((value ^ (value >> 30)) * _MUL_1) & _MASK
        value = ((value ^ (value >> 27)) * _MUL_2) & _MASK
        return value ^ (value >> 31)

    def permutation(self, n: int) -> NDArray[np.int64]:
        """A uniform order of 0..n-1, int64 [n] (ties of 64-bit draws go to the smaller number)."""
        raw = words(self.key, n, self._at)
        self._at += n
        return np.argsort(raw, kind="stable").astype(np.int64)
