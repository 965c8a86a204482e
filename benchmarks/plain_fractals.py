"""Fractal images the plain way, for benchmarks/fractal.py: each step written from its formula, compiled by numba where
it loops (Anderson & Farrell 2022, arXiv 2110.03091). Nothing here is of curate.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numba import njit, uint64
from numpy.typing import NDArray
from PIL import Image

POINTS = 100_000
CACHED = 512
"""Fractals and backgrounds that the scenes of the paper choose from."""


@njit(cache=True)
def orbit(maps, p, points):  # type: ignore[no-untyped-def]
    """The chaos game: a random number a step, a linear search of the cumulative p, an array of float64 points."""
    cumulative = np.cumsum(p)
    a, b, c, d = 1 - maps[0, 0, 0], -maps[0, 0, 1], -maps[0, 1, 0], 1 - maps[0, 1, 1]
    e, f, det = maps[0, 0, 2], maps[0, 1, 2], a * d - b * c
    x, y = (d * e - b * f) / det, (a * f - c * e) / det
    out = np.empty((points, 2))
    for i in range(points):
        r, k = np.random.random(), 0
        while k < len(p) - 1 and r >= cumulative[k]:
            k += 1
        m = maps[k]
        x, y = m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]
        out[i, 0], out[i, 1] = x, y
    return out


@njit(cache=True)
def fast_orbit(maps, p, points, key):  # type: ignore[no-untyped-def]
    """The same loop with a generator that costs next to nothing: a multiplied and folded counter."""
    cumulative = np.cumsum(p)
    x = y = 0.0
    out = np.empty((points, 2))
    counter = uint64(key)
    for i in range(points):
        counter += uint64(0x9E3779B97F4A7C15)
        z = (counter ^ (counter >> uint64(32))) * uint64(0xD6E8FEB86659FD93)
        r, k = float((z ^ (z >> uint64(32))) >> uint64(11)) * 2.0**-53, 0
        while k < len(p) - 1 and r >= cumulative[k]:
            k += 1
        m = maps[k]
        x, y = m[0, 0] * x + m[0, 1] * y + m[0, 2], m[1, 0] * x + m[1, 1] * y + m[1, 2]
        out[i, 0], out[i, 1] = x, y
    return out


@njit(cache=True)
def extent(points):  # type: ignore[no-untyped-def]
    """The box of the points: low x, low y, high x, high y."""
    box = np.array([np.inf, np.inf, -np.inf, -np.inf])
    for i in range(len(points)):
        for at in range(2):
            box[at] = min(box[at], points[i, at])
            box[at + 2] = max(box[at + 2], points[i, at])
    return box


@njit(cache=True)
def count(points, box, size):  # type: ignore[no-untyped-def]
    """Points in each pixel of a box."""
    out = np.zeros((size, size), dtype=np.uint32)
    u, v = (size - 1) / (box[2] - box[0]), (size - 1) / (box[3] - box[1])
    for i in range(len(points)):
        row, column = int((points[i, 0] - box[0]) * u), int((points[i, 1] - box[1]) * v)
        if 0 <= row < size and 0 <= column < size:
            out[row, column] += 1
    return out


@njit(cache=True)
def count_patches(points, box, size, patch):  # type: ignore[no-untyped-def]
    """The same, each point a 3 x 3 pattern."""
    out = np.zeros((size, size), dtype=np.uint32)
    u, v = (size - 1) / (box[2] - box[0]), (size - 1) / (box[3] - box[1])
    for i in range(len(points)):
        row, column = int((points[i, 0] - box[0]) * u), int((points[i, 1] - box[1]) * v)
        if 0 <= row < size and 0 <= column < size:
            for r in range(3):
                for c in range(3):
                    if patch[r, c] and 0 <= row + r - 1 < size and 0 <= column + c - 1 < size:
                        out[row + r - 1, column + c - 1] += 1
    return out


@njit(cache=True)
def to_rgb(h, s, v):  # type: ignore[no-untyped-def]
    """One pixel from hue (turns), saturation and value in 0..1 to red, green and blue in 0..255."""
    h = (h % 1.0) * 6.0
    sector = int(h)
    rest = h - sector
    low, falling, rising = v * (1 - s), v * (1 - s * rest), v * (1 - s * (1 - rest))
    if sector == 0:
        r, g, b = v, rising, low
    elif sector == 1:
        r, g, b = falling, v, low
    elif sector == 2:
        r, g, b = low, v, rising
    elif sector == 3:
        r, g, b = low, falling, v
    elif sector == 4:
        r, g, b = rising, low, v
    else:
        r, g, b = v, low, falling
    return np.uint8(255 * r), np.uint8(255 * g), np.uint8(255 * b)


@njit(cache=True)
def coloured(gray, hue, saturation, value):  # type: ignore[no-untyped-def]
    """Hue runs with the density; what is empty stays black."""
    out = np.zeros((*gray.shape, 3), dtype=np.uint8)
    for i in range(gray.shape[0]):
        for j in range(gray.shape[1]):
            if gray[i, j] > 0:
                out[i, j] = to_rgb(gray[i, j] + hue, saturation, value)
    return out


@njit(cache=True)
def diamond_square(size, decay):  # type: ignore[no-untyped-def]
    """A field [size, size] around 0..1; noise of level k is uniform in +-0.5 exp(decay (1 - k)), borders wrap."""
    levels = 0
    while 1 << levels < size:
        levels += 1
    n = 1 << levels
    field = np.zeros((n + 1, n + 1))
    for i in (0, n):
        for j in (0, n):
            field[i, j] = np.random.random()
    step = n
    for level in range(1, levels + 1):
        half, most = step // 2, 0.5 * np.exp(decay * (1 - level))
        for i in range(half, n, step):
            for j in range(half, n, step):
                around = field[i - half, j - half] + field[i - half, j + half]
                around += field[i + half, j - half] + field[i + half, j + half]
                field[i, j] = around / 4 + np.random.uniform(-most, most)
        for i in range(0, n + 1, half):
            for j in range(half if (i // half) % 2 == 0 else 0, n + 1, step):
                up, down = field[i - half if i > 0 else n - half, j], field[i + half if i < n else half, j]
                left, right = field[i, j - half if j > 0 else n - half], field[i, j + half if j < n else half]
                field[i, j] = (up + down + left + right) / 4 + np.random.uniform(-most, most)
        step = half
    return field[:size, :size].copy()


@njit(cache=True)
def coloured_field(field, h, s, v):  # type: ignore[no-untyped-def]
    """Hue, saturation and value each a line in the field: slope and start."""
    out = np.empty((*field.shape, 3), dtype=np.uint8)
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            x = min(max(field[i, j], 0.0), 1.0)
            out[i, j] = to_rgb(x * h[0] + h[1], min(x * s[0] + s[1], 1.0), min(x * v[0] + v[1], 1.0))
    return out


@njit(cache=True)
def blurred(image, sigma):  # type: ignore[no-untyped-def]
    """A 3 x 3 Gaussian; borders repeat."""
    side = np.exp(-0.5 / sigma**2)
    weights = np.array([side, 1.0, side]) / (1 + 2 * side)
    high, wide, channels = image.shape
    out = np.empty_like(image)
    for i in range(high):
        for j in range(wide):
            for c in range(channels):
                total = 0.0
                for r in range(-1, 2):
                    for q in range(-1, 2):
                        at, to = min(max(i + r, 0), high - 1), min(max(j + q, 0), wide - 1)
                        total += weights[r + 1] * weights[q + 1] * image[at, to, c]
                out[i, j, c] = np.uint8(total + 0.5)
    return out


def jpeg(image: NDArray[np.uint8]) -> bytes:
    """Quality 95 and Pillow's own subsampling, 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


class Plain:
    """Images of systems, each drawn as the paper draws it, with numpy's generator."""

    def __init__(self, systems: list[tuple[NDArray[np.float64], NDArray[np.float64]]], size: int, points: int) -> None:
        self.systems, self.size, self.points = systems, size, points
        self.rng = np.random.default_rng(0)
        self.cache: list[tuple[NDArray[np.float64], NDArray[np.uint8]]] = []
        self.calls = 0

    def density(self, size: int) -> NDArray[np.float64]:
        """One system in its own box, jittered, with a pattern and a random symmetry: shares of the fullest pixel."""
        rng = self.rng
        maps, p = self.systems[int(rng.integers(len(self.systems)))]
        jittered = maps.copy()
        jittered[int(rng.integers(len(maps)))] *= rng.uniform(0.8, 1.1)
        if np.linalg.svd(jittered[:, :, :2], compute_uv=False).max() > 1:
            jittered = maps
        points = orbit(jittered, p, self.points)
        box = extent(points)
        middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
        middle = middle + rng.uniform(-0.2, 0.2, 2) * 2 * half
        half = half * rng.uniform(0.5, 2.0, 2)
        counts = count_patches(
            points, np.concatenate([middle - half, middle + half]), size, rng.integers(0, 2, (3, 3)).astype(np.bool_)
        )
        gray = counts / max(1, counts.max())
        for turn in (np.transpose, np.flipud, np.fliplr):
            if rng.random() < 0.5:
                gray = turn(gray)
        return np.ascontiguousarray(gray)

    def colours(self, gray: NDArray[np.float64]) -> NDArray[np.uint8]:
        """A density in random colours on black."""
        rng = self.rng
        return np.asarray(coloured(gray, rng.random(), rng.uniform(0.3, 1), rng.uniform(0.5, 1)))

    def background(self) -> NDArray[np.uint8]:
        """A fresh background in random colours."""
        rng = self.rng
        field = diamond_square(self.size, rng.uniform(0.4, 0.8))
        h, s = (rng.uniform(0.25, 1), rng.random()), (rng.uniform(0.1, 0.3), rng.uniform(0.4, 0.6))
        return np.asarray(coloured_field(field, h, s, (rng.uniform(0.3, 0.6), rng.uniform(0.4, 0.6))))

    def finished(self, image: NDArray[np.uint8]) -> bytes:
        """Blurred half of the time, then a JPEG."""
        if self.rng.random() < 0.5:
            three = image if image.ndim == 3 else image[:, :, None]
            image = blurred(three, self.rng.uniform(0.5, 1.0)).reshape(image.shape)
        return jpeg(image)

    def gray(self) -> bytes:
        """One fractal, white to gray on black."""
        return self.finished((self.density(self.size) * 255).astype(np.uint8))

    def colour(self) -> bytes:
        """One fractal in colours on a background."""
        front = self.colours(self.density(self.size))
        return self.finished(np.where(front.any(axis=2)[:, :, None], front, self.background()))

    def multi(self) -> bytes:
        """One to five fractals, each drawn anew at half size, coloured, resized and pasted."""
        grays = [self.density(self.size // 2) for _ in range(int(self.rng.integers(1, 6)))]
        return self.finished(self.pasted(self.background(), grays))

    def multi_cached(self) -> bytes:
        """The same from a cache, as the paper does: every second image brings one new fractal and background."""
        if self.calls % 2 == 0:
            fresh = (self.density(self.size // 2), self.background())
            if len(self.cache) < CACHED:
                self.cache.append(fresh)
            else:
                self.cache[self.calls // 2 % CACHED] = fresh
        self.calls += 1
        picked = [self.cache[int(i)] for i in self.rng.integers(len(self.cache), size=int(self.rng.integers(2, 7)))]
        return self.finished(self.pasted(picked[0][1].copy(), [gray for gray, _ in picked[1:]]))

    def pasted(self, canvas: NDArray[np.uint8], grays: list[NDArray[np.float64]]) -> NDArray[np.uint8]:
        """Paste fractals with their centres inside."""
        rng, size = self.rng, self.size
        for gray in grays:
            side = max(1, int(rng.uniform(0.15, 0.6) * size))
            small: Any = Image.fromarray(self.colours(gray)).resize((side, side), Image.Resampling.BILINEAR)
            front = np.asarray(small)
            top, left = (int(z) for z in rng.integers(-(side // 2), size - side // 2, 2))
            low, first = max(0, -top), max(0, -left)
            shown = front[low : size - top, first : size - left]
            target = canvas[max(top, 0) : top + side, max(left, 0) : left + side]
            np.copyto(target, shown, where=shown.any(axis=2)[:, :, None])
        return canvas
