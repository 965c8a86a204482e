"""What a drawing of lines shows, however it is turned: shared by the tests of contours and sinusoids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import label

from curate.fractal.families.base import Family
from curate.fractal.randomness import Draws


def connected(mask: NDArray[np.bool_], *, corners: bool) -> tuple[NDArray[np.int32], int]:
    """Connected parts of a mask, numbered from 1 in the order of their first pixel, and how many there are.

    corners: whether pixels that only share a corner are connected.
    """
    numbers, parts = label(mask, structure=np.ones((3, 3)) if corners else None)
    return numbers, parts


def portrait(counts: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Ink by distance from its middle (24 rings), and how strongly it waves around it (frequencies 1 to 32)."""
    ink = np.asarray(counts, dtype=np.float64)
    ink /= ink.sum()
    rows, columns = np.nonzero(ink)
    x, y = rows - (rows.min() + rows.max()) / 2.0, columns - (columns.min() + columns.max()) / 2.0
    far, weight = np.hypot(x, y), ink[rows, columns]
    rings = np.histogram(far / far.max(), bins=24, range=(0.0, 1.0), weights=weight)[0]
    angles = np.histogram(np.arctan2(y, x), bins=128, range=(-np.pi, np.pi), weights=weight * far / far.mean())[0]
    waves: NDArray[np.float64] = np.abs(np.fft.rfft(angles))[1:33]
    return np.concatenate([rings, waves])


def apart(family: Family, classes: int, images: int, size: int) -> tuple[float, float]:
    """Mean distance of the portraits of different images of a class over that of different classes, and the share of
    images whose nearest other image is of their class."""
    drawn = [family.draw(c, size, Draws.of("apart", c, i)).counts for c in range(classes) for i in range(images)]
    seen = np.stack([portrait(counts) for counts in drawn])
    label = np.repeat(np.arange(classes), images)
    distance = np.sqrt(((seen[:, None] - seen[None]) ** 2).sum(axis=-1))
    same, self_ = label[:, None] == label[None], np.eye(len(seen), dtype=bool)
    nearest = np.where(self_, np.inf, distance).argmin(axis=1)
    return float(distance[same & ~self_].mean() / distance[~same].mean()), float((label[nearest] == label).mean())
