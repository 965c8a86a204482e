"""Colour tables: from a byte, such as a tone, to red, green and blue, decided by a few numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from curate.fractal.randomness import Draws


def palette(draws: Draws) -> tuple[NDArray[np.uint8], dict[str, Any]]:
    """Table of an object's colours, uint8 [256, 3], and the facts it is made from, see `palette_of`.

    Hue uniform over the turn, saturation in [0.3, 1), value in [0.5, 1): the ranges of Anderson & Farrell (2022).
    """
    facts = {"hue": draws.one(), "saturation": draws.one(0.3, 1.0), "value": draws.one(0.5, 1.0)}
    return palette_of(facts), facts


def palette_of(facts: dict[str, Any]) -> NDArray[np.uint8]:
    """The table of `palette` again. The hue of tone t is facts["hue"] + t / 256 turns: all tones make one turn, and
    every hue is met once.
    """
    return ramp((facts["hue"], 1.0 / 256.0), (facts["saturation"], 0.0), (facts["value"], 0.0))


def gray(channels: int = 1) -> NDArray[np.uint8]:
    """Table of a gray object, whose brightness is its tone: uint8 [256], or [256, channels] for more than one."""
    level = np.arange(256, dtype=np.uint8)
    return level if channels == 1 else np.repeat(level[:, None], channels, axis=1)


def ramp(hue: tuple[float, float], saturation: tuple[float, float], value: tuple[float, float]) -> NDArray[np.uint8]:
    """Colours whose hue (in turns), saturation and value start at the first number and grow by the second from one
    entry to the next; saturation and value are held in [0, 1]. uint8 [256, 3], each rounded to the nearest.
    """
    out = np.empty((256, 3), dtype=np.uint8)
    _fill(*hue, *saturation, *value, out)
    return out


@njit(cache=True, nogil=True, inline="always")
def _channel(n, hue, saturation, value):  # type: ignore[no-untyped-def]
    """Red, green or blue of a colour, for n = 5, 3 or 1: value (1 - saturation max(0, min(k, 4 - k, 1))), where k is
    n + 6 hue, modulo 6. The hexcone of Smith (1978) without its six cases.
    """
    k = n + 6.0 * hue
    k -= 6.0 * np.floor(k / 6.0)
    return np.uint8(255.0 * (value * (1.0 - saturation * max(0.0, min(k, min(4.0 - k, 1.0))))) + 0.5)


@njit(cache=True, nogil=True)
def _fill(hue, hue_step, saturation, saturation_step, value, value_step, out):  # type: ignore[no-untyped-def]
    for i in range(256):
        h = hue + i * hue_step
        s = min(max(saturation + i * saturation_step, 0.0), 1.0)
        v = min(max(value + i * value_step, 0.0), 1.0)
        out[i, 0] = _channel(5.0, h, s, v)
        out[i, 1] = _channel(3.0, h, s, v)
        out[i, 2] = _channel(1.0, h, s, v)
