import math

import numpy as np
import pytest

from curate.errors import SpecError
from curate.fractal import randomness
from curate.fractal.background import field, palette, palette_of
from curate.fractal.randomness import Draws


def plainly(size: int, draws: Draws) -> np.ndarray:
    """Diamond-square written out, point by point, on one grid, in float32."""
    levels = max(1, math.ceil(math.log2(size)))
    corners, decay = draws.uniform(4).astype(np.float32), draws.one(0.4, 0.8)
    fall, reach = np.float32(round(math.exp(-decay) * 65536) / 65536), np.float32(0.5)
    side = 2**levels
    grid = {(0, 0): corners[0], (0, side): corners[1], (side, 0): corners[2], (side, side): corners[3]}
    stream = iter(randomness.words(Draws.of(draws.key, "noise").key, 3 * side * side).tolist())

    def set_all(points: list[tuple[int, int]], around: list[list[tuple[int, int]]], draw: list[int]) -> None:
        scale, shift = reach * np.float32(2.0**-15), reach * np.float32(2.0**-16) - reach
        for point, (a, b, c, d) in zip(points, around, strict=True):
            mean = ((grid[a] + grid[b]) + (grid[c] + grid[d])) * np.float32(0.25)
            grid[point] = mean + (np.float32(draw.pop(0)) * scale + shift)

    for level in range(levels):
        step = side >> level
        half, cells = step // 2, 2**level
        blocks = -(-(cells * cells + 2 * cells * (cells + 1)) // 4)
        draw = [word >> bits & 0xFFFF for word in (next(stream) for _ in range(blocks)) for bits in (0, 16, 32, 48)]
        odd, even = range(half, side, step), range(0, side + 1, step)
        points = [(i, j) for i in odd for j in odd]
        square = [[(i - half, j - half), (i - half, j + half), (i + half, j - half), (i + half, j + half)]
                  for i, j in points]  # fmt: skip
        set_all(points, square, draw)

        def beyond(at: int, half: int = half) -> tuple[int, int]:
            return at - half if at else side - half, at + half if at < side else half

        points = [(i, j) for i in even for j in odd]
        set_all(points, [[(i, j - half), (i, j + half), *((v, j) for v in beyond(i))] for i, j in points], draw)
        points = [(i, j) for i in odd for j in even]
        set_all(points, [[(i - half, j), (i + half, j), *((i, v) for v in beyond(j))] for i, j in points], draw)
        reach *= fall
    values = np.array([[grid[i, j] for j in range(size)] for i in range(size)], dtype=np.float32)
    return (np.clip(values, 0, 1) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)


@pytest.mark.parametrize("size", [1, 2, 8, 13, 32])
def test_the_field_is_diamond_square(size: int) -> None:
    for seed in range(5):
        assert np.array_equal(field(size, Draws.of(seed, "field")), plainly(size, Draws.of(seed, "field")))


def test_the_top_left_corner_is_drawn_and_uniform() -> None:
    corners = np.array([field(2, Draws.of(6, i))[0, 0] for i in range(4000)])
    drawn = np.array([Draws.of(6, i).one() for i in range(4000)])
    assert np.abs(corners - 255.0 * drawn).max() <= 0.5 + 1e-4
    observed = np.bincount(corners // 16, minlength=16)
    assert float(((observed - 250.0) ** 2 / 250.0).sum()) < 37.7  # 0.1 % point of chi-squared with 15 degrees


def test_both_ends_are_held() -> None:
    """What falls below 0 is 0, not 255 less something: neighbours on a smooth field never jump across the range."""
    fields = [field(128, Draws.of(8, i)).astype(int) for i in range(60)]
    held = [f for f in fields if (f == 0).mean() > 0.02 or (f == 255).mean() > 0.02]
    assert len(held) > 5
    assert max(np.abs(np.diff(f[1:, 1:], axis=axis)).max() for f in held for axis in (0, 1)) < 128


def test_no_pixels_are_refused() -> None:
    with pytest.raises(SpecError, match="not 0"):
        field(0, Draws.of(1))


def test_fields_differ_and_come_again() -> None:
    a, b = field(64, Draws.of(1)), field(64, Draws.of(2))
    assert not np.array_equal(a, b)
    assert np.array_equal(a, field(64, Draws.of(1)))


def test_roughness_falls_with_the_level() -> None:
    """At the last of 8 levels noise is below exp(-0.4 * 7) / 2 = 0.03, at the first it reaches 0.5."""
    steps = [np.abs(np.diff(field(256, Draws.of(i)).astype(int), axis=1)).mean() for i in range(20)]
    wide = [np.abs(f[:, 64:].astype(int) - f[:, :-64]).mean() for f in (field(256, Draws.of(i)) for i in range(20))]
    assert np.mean(steps) < 5.0 < 15.0 < np.mean(wide)


def test_colours_move_as_their_facts_say() -> None:
    table, facts = palette(Draws.of(5))
    assert np.array_equal(palette_of(facts), table)
    assert 0.25 <= facts["hue"][1] < 1.0
    for name, reach in (("saturation", (0.1, 0.3)), ("value", (0.3, 0.6))):
        assert 0.4 <= facts[name][0] < 0.6
        assert reach[0] <= facts[name][1] < reach[1]
    brightest = table.max(axis=1) / 255.0
    assert abs(brightest[0] - facts["value"][0]) < 0.003
    assert abs(brightest[255] - min(1.0, sum(facts["value"]))) < 0.003
