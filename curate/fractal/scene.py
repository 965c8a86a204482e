"""Scenes: several objects in one image, later ones in front, and what is true of each of them.

Objects are drawn at the size they have in the image (times `antialias`), never resized, so that their masks are exact
and no edge holds a colour that is not theirs. An object's mask is where at least half of a pixel is covered; what is
seen of it is its mask without the masks of later objects and without what lies outside the image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit, uint8
from numpy.typing import NDArray

from curate.fractal import colour, compose
from curate.fractal.families.base import Family
from curate.fractal.masks import Window, extent, seen
from curate.fractal.randomness import Draws, key
from curate.fractal.specification import FractalOptions, Scene
from curate.fractal.tones import tone

SYMMETRIES = tuple(
    tuple(name for bit, name in enumerate(("transpose", "rows", "columns")) if which >> bit & 1) for which in range(8)
)
"""Which flips, applied in this order, make each of the symmetries of the square."""


@dataclass(frozen=True)
class Placement:
    """Where an object stands, before it is drawn."""

    number: int
    """Class."""
    side: int
    """Pixels."""
    left: int
    top: int
    """Of its upper left pixel in the image; below 0 when it begins outside."""
    flips: tuple[str, ...]
    """Of "transpose" (rows become columns), "rows" (upside down) and "columns" (left to right), in this order."""
    key: int
    """Of its draws: the family draws it with `Draws(key)`."""


@dataclass(frozen=True)
class Layer:
    """An object as it is pasted."""

    placement: Placement
    scale: int
    """Subpixels along a pixel: 1 or 2."""
    tone: NDArray[np.uint8]
    """[scale x side, scale x side], flipped; 0 is empty."""
    lut: NDArray[np.uint8]
    """Colour of each tone, [256, 3], or [256] for an image of one channel."""
    drawing: dict[str, Any]
    """Facts of the drawing."""
    colour: dict[str, Any]
    """Facts of the colour; {} is gray."""

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The whole object, also what lies outside the image, bool [side, side]: at least half of a pixel is covered,
        and without subpixels all that is not empty."""
        covered = compose.coverage(self.tone, self.scale)
        return np.asarray(covered >= (self.scale**2 + 1) // 2, dtype=np.bool_)


@dataclass(frozen=True)
class Composed:
    """A scene and what is true of it."""

    image: NDArray[np.uint8]
    """[S, S, 3] or [S, S]"""
    owner: NDArray[np.uint8]
    """[S, S]: whose mask is in front, the number of the object from 1 in order of pasting; 0 for the background."""
    objects: list[dict[str, Any]]
    """In order of pasting; docs/fractal.md lists the fields."""


def place(scene: Scene, options: FractalOptions, image: int) -> list[Placement]:
    """The objects of a scene in order of pasting; `image`: the key of its draws.

    Their number is uniform, and so is the class of each (a class may come twice), its side as a share of the image's,
    and its place among all whose centre lies in the image.
    """
    size, (least, most), (small, large) = options.size, scene.objects, scene.size
    found = []
    for i in range(least + Draws.of(image, "objects").below(most - least + 1)):
        address = key(image, "object", i)
        draws = Draws.of(address, "place")
        turned = flips(options, draws)
        number = draws.below(options.classes)
        side = max(1, int(draws.one(small, large) * size))
        top, left = (draws.below(size) - side // 2 for _ in range(2))
        found.append(Placement(number, side, left, top, turned, address))
    return found


def flips(options: FractalOptions, draws: Draws) -> tuple[str, ...]:
    """One of the eight symmetries of the square, each as likely; one draw, whether or not options have flips."""
    which = draws.below(8)
    return SYMMETRIES[which] if options.flips else ()


def flipped(plane: NDArray[Any], which: tuple[str, ...]) -> NDArray[Any]:
    """A square [s, s] after these flips, contiguous; the same array when there are none."""
    for name in which:
        plane = plane.T if name == "transpose" else plane[::-1] if name == "rows" else plane[:, ::-1]
    return np.ascontiguousarray(plane)


def draw(options: FractalOptions, family: Family, placement: Placement, scale: int) -> Layer:
    """One object, toned and coloured: white to gray, or by the draws of its key."""
    drawing = family.draw(placement.number, placement.side * scale, Draws(placement.key))
    toned = flipped(tone(drawing.counts, options.tone), placement.flips)
    facts: dict[str, Any] = {}
    if options.colour == "random":
        lut, facts = colour.palette(Draws.of(placement.key, "colour"))
    else:
        lut = colour.gray(1 if options.background == "black" else 3)
    return Layer(placement, scale, toned, lut, drawing.facts, facts)


def layers(scene: Scene, options: FractalOptions, family: Family, image: int) -> Iterator[Layer]:
    """The objects of a scene in order of pasting, drawn one at a time; `image`: the key of its draws."""
    for placement in place(scene, options, image):
        yield draw(options, family, placement, scene.antialias)


def compose_scene(
    canvas: NDArray[np.uint8], objects: Iterator[Layer], family: Family, least: float, *, runs: bool = True
) -> Composed:
    """Paste objects into `canvas`, uint8 [S, S, 3] or [S, S], which becomes the image.

    least: share of its area of which an object must show at least, and one pixel, to have a label. runs: whether
    objects hold their run lengths. Memory: the canvas, a byte a pixel, and one object at a time.
    """
    height, width = canvas.shape[0], canvas.shape[1]
    owner = np.zeros((height, width), dtype=np.uint8)
    pasted: list[tuple[dict[str, Any], int, Window]] = []
    for number, layer in enumerate(objects, 1):
        top, left = layer.placement.top, layer.placement.left
        compose.over(canvas, layer.tone, layer.lut, top, left, layer.scale)
        whole, first, low, last, high = _claim(owner, layer.tone, layer.scale, number, top, left)
        pasted.append((about(layer, family), whole, (top + first, left + low, top + last, left + high)))
    for number, (entry, whole, (top, left, bottom, right)) in enumerate(pasted, 1):
        window = (max(top, 0), max(left, 0), min(bottom, height), min(right, width))
        mask: dict[str, Any] = {}
        if runs:
            box, shown, mask["mask"] = seen(owner, number, window)
        else:
            box, shown = extent(owner, number, window)
        visible = shown / whole if whole else 0.0
        full_box = [left, top, right - left, bottom - top] if whole else None
        labelled = shown > 0 and visible >= least
        entry |= {"box": box, "full_box": full_box, "visible": visible, "labelled": labelled} | mask
    return Composed(canvas, owner, [entry for entry, _, _ in pasted])


def about(layer: Layer, family: Family) -> dict[str, Any]:
    """The fields of an object, without those that only the finished image knows."""
    placed = layer.placement
    return {
        "class": placed.number,
        "system": family.table["system"][placed.number],
        "box": None,
        "full_box": None,
        "visible": 0.0,
        "labelled": False,
        "side": placed.side,
        "left": placed.left,
        "top": placed.top,
        "flips": list(placed.flips),
        "key": f"{placed.key:016x}",
        "colour": layer.colour,
        "drawing": layer.drawing,
    }


@njit(cache=True, nogil=True)
def _claim(owner, tone, scale, number, top, left):  # type: ignore[no-untyped-def]
    """Write `number` into `owner` wherever at least half of a pixel is covered.

    Returns the pixels of the whole mask, also outside the canvas, and the rows and columns that hold them.
    """
    side = tone.shape[0] // scale
    height, width = owner.shape
    mark = uint8(number)
    begin, end = max(0, -left), min(side, width - left)
    line = np.empty(side, dtype=np.uint8)
    inside, first, last, low, high = 0, side, 0, side, 0
    for row in range(side):
        if scale == 1:
            plain = tone[row]
            for column in range(side):
                line[column] = uint8(1) if plain[column] != 0 else uint8(0)
        else:
            upper, lower = tone[2 * row], tone[2 * row + 1]
            for column in range(side):
                covered = uint8(0)
                covered += uint8(upper[2 * column] != 0)
                covered += uint8(upper[2 * column + 1] != 0)
                covered += uint8(lower[2 * column] != 0)
                covered += uint8(lower[2 * column + 1] != 0)
                line[column] = uint8(1) if covered >= 2 else uint8(0)
        here = 0
        for column in range(side):
            here += line[column]
        if here == 0:
            continue
        inside += here
        first, last = min(first, row), row + 1
        column = 0
        while line[column] == 0:
            column += 1
        low = min(low, column)
        column = side - 1
        while line[column] == 0:
            column -= 1
        high = max(high, column + 1)
        if 0 <= top + row < height and begin < end:
            under, claim = owner[top + row, left + begin : left + end], line[begin:end]
            for column in range(end - begin):
                under[column] = mark if claim[column] != 0 else under[column]
    if inside == 0:
        first, low = 0, 0
    return inside, first, low, last, high
