from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from discs import Discs, specification
from numpy.typing import NDArray

from curate.fractal import masks
from curate.fractal.families.base import Drawing
from curate.fractal.families.choose import open_family, search
from curate.fractal.image import render, truth
from curate.fractal.randomness import Draws, key
from curate.fractal.scene import SYMMETRIES, Layer, Placement, compose_scene, flipped, place
from curate.fractal.specification import Specification


def ink_of(entry: dict[str, Any], family: Any, k: int) -> NDArray[np.bool_]:
    """The object drawn again from what its entry says, flipped, [side, k, side, k]."""
    side = entry["side"]
    ink = family.draw(entry["class"], side * k, Draws(int(entry["key"], 16))).counts > 0
    for name in entry["flips"]:
        ink = {"transpose": np.transpose, "rows": np.flipud, "columns": np.fliplr}[name](ink)
    return ink.reshape(side, k, side, k)


def labels_by_hand(spec: Specification, family: Any, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Boxes, visible fractions, masks and labels from the layers, on a canvas with room for all that hangs over."""
    size, scene = spec.options.size, spec.options.scene
    assert scene is not None
    k, wholes = scene.antialias, []
    for entry in entries:
        covered = ink_of(entry, family, k).sum(axis=(1, 3))
        room = np.zeros((3 * size, 3 * size), dtype=np.bool_)
        top, left, side = size + entry["top"], size + entry["left"], entry["side"]
        room[top : top + side, left : left + side] = covered >= max(1, k * k / 2)
        wholes.append(room)
    found = []
    for i, whole in enumerate(wholes):
        covered = np.any(wholes[i + 1 :], axis=0) if i + 1 < len(wholes) else np.zeros_like(whole)
        mask = (whole & ~covered)[size : 2 * size, size : 2 * size]
        visible = int(mask.sum()) / int(whole.sum()) if whole.any() else 0.0
        found.append(
            {
                "box": tight(mask),
                "full_box": None if (full := tight(whole)) is None else [full[0] - size, full[1] - size, *full[2:]],
                "visible": visible,
                "labelled": bool(mask.any()) and visible >= scene.visible,
                "mask": mask,
            }
        )
    return found


def tight(mask: NDArray[np.bool_]) -> list[int] | None:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]


def check(spec: Specification, family: Any, index: int) -> list[str]:
    """Compares image `index` with the labels by hand; says what was met."""
    made = render(spec, family, index)
    expected = labels_by_hand(spec, family, made.objects)
    for entry, by_hand, layer in zip(made.objects, expected, truth(spec, family, index), strict=True):
        mask = by_hand.pop("mask")
        assert {name: entry[name] for name in by_hand} == by_hand
        np.testing.assert_array_equal(masks.decode(entry["mask"]), mask)
        assert masks.encode(mask) == entry["mask"]
        np.testing.assert_array_equal(made.owner == made.objects.index(entry) + 1, mask)
        assert masks.box(layer.mask) == (
            None
            if (full := entry["full_box"]) is None
            else [full[0] - entry["left"], full[1] - entry["top"], *full[2:]]
        )
    assert made.labels == tuple(sorted({entry["class"] for entry in made.objects if entry["labelled"]}))
    assert made.label is None
    met = []
    for entry in made.objects:
        whole, box = entry["full_box"], entry["box"]
        met.append(
            "empty" if whole is None
            else "hidden" if box is None
            else "below the threshold" if not entry["labelled"]
            else "in part" if entry["visible"] < 1 else "whole"
        )  # fmt: skip
    return met


@pytest.mark.parametrize("antialias", [1, 2])
def test_labels_are_true_on_a_thousand_scenes(antialias: int) -> None:
    """Every label equals that recomputed from the composed layers by plain numpy (500 scenes each way)."""
    scene = {"objects": [1, 9], "size": [0.05, 0.7], "antialias": antialias}
    spec, family = specification(scene=scene, background="black"), Discs(10)
    met = [what for index in range(500) for what in check(spec, family, index)]
    counted = {what: met.count(what) for what in set(met)}
    assert len(met) > 2300
    assert min(counted[what] for what in ("empty", "hidden", "below the threshold", "in part", "whole")) >= 10, counted


@pytest.mark.parametrize("name", ["ifs", "contours", "sinusoids"])
def test_labels_are_true_of_the_real_families(name: str) -> None:
    """With jitter, patches and colours, on 30 scenes of 96 pixels."""
    others = {"ifs": None, "contours": None, "sinusoids": None}
    spec = specification(**others | {name: {"points": 3000} if name == "ifs" else {}}, scene={}, classes=6, size=96)
    family = open_family(spec.options, search(spec.options, spec.seed))
    met = [what for index in range(30) for what in check(spec, family, index)]
    assert {"in part", "whole"} <= set(met)


@pytest.mark.parametrize(
    ("colour", "background", "antialias"), list(product(["random", "gray"], ["black", "diamond_square"], [1, 2]))
)
def test_pixels_are_the_layers_pasted_in_order(colour: str, background: str, antialias: int) -> None:
    """(sum of the colours of the ink + what lies behind for the rest) / subpixels, rounded half up, later in front."""
    scene = {"objects": [3, 5], "antialias": antialias}
    spec = specification(scene=scene, colour=colour, background=background, blur=0.0)
    family, k = Discs(10), antialias
    for index in range(8):
        made = render(spec, family, index)
        assert made.image.ndim == (2 if (colour, background) == ("gray", "black") else 3)
        canvas = behind(spec, index).astype(np.int64)
        for layer in truth(spec, family, index):
            paste(canvas, layer, k)
        np.testing.assert_array_equal(made.image, canvas)


class Nothing(Discs):
    """Objects without ink."""

    def draw(self, number: int, size: int, draws: Draws) -> Drawing:
        return Drawing(np.zeros((size, size), dtype=np.uint32))


def behind(spec: Specification, index: int) -> NDArray[np.uint8]:
    """The background of an image: the same image when nothing of its objects is drawn."""
    return render(spec, Nothing(10), index).image


def paste(canvas: NDArray[np.int64], layer: Layer, k: int) -> None:
    size = len(canvas)
    for row, column in product(range(layer.placement.side), repeat=2):
        i, j = layer.placement.top + row, layer.placement.left + column
        if 0 <= i < size and 0 <= j < size:
            tones = layer.tone[k * row : k * row + k, k * column : k * column + k].ravel()
            ink = tones[tones > 0]
            if len(ink):
                total = layer.lut[ink].astype(np.int64).sum(axis=0) + (k * k - len(ink)) * canvas[i, j]
                canvas[i, j] = (2 * total + k * k) // (2 * k * k)


def layer(ink: NDArray[Any], top: int, left: int, *, scale: int = 1, number: int = 0) -> Layer:
    tone = np.where(ink, 200, 0).astype(np.uint8)
    lut = np.arange(256, dtype=np.uint8)
    return Layer(Placement(number, len(ink) // scale, left, top, (), 1), scale, tone, lut, {}, {})


def composed(*layers: Layer, least: float = 0.1, size: int = 20) -> list[dict[str, Any]]:
    return compose_scene(np.zeros((size, size), dtype=np.uint8), iter(layers), Discs(3), least).objects


def test_objects_that_are_not_seen() -> None:
    """Behind another, outside the image, or without ink: no box and no label, even with a threshold of 0."""
    small, large = np.ones((4, 4)), np.ones((6, 6))
    for entry, full in zip(
        composed(
            layer(small, 5, 5), layer(large, 4, 4), layer(small, -4, 0), layer(small, 3, 20), layer(small * 0, 9, 9),
            least=0.0,
        ),
        ([5, 5, 4, 4], [4, 4, 6, 6], [0, -4, 4, 4], [20, 3, 4, 4], None),
        strict=True,
    ):  # fmt: skip
        seen = full == [4, 4, 6, 6]
        assert entry["full_box"] == full
        assert entry["box"] == (full if seen else None)
        assert entry["visible"] == float(seen)
        assert entry["labelled"] is seen
        assert masks.area(masks.decode(entry["mask"])) == 36 * seen


def test_the_threshold_counts_the_whole_object() -> None:
    """A square of 100 pixels of which 10 are seen has its label at a threshold of 0.1 and none above it."""
    square = np.ones((10, 10))
    for least, labelled in [(0.1, True), (0.1000001, False), (0.0, True)]:
        assert [entry["labelled"] for entry in composed(layer(square, -9, 3), least=least)] == [labelled]
        covered = composed(layer(square, 0, 0), layer(square, 1, 0), least=least)
        assert [(entry["visible"], entry["labelled"]) for entry in covered] == [(0.1, labelled), (1.0, True)]
        assert covered[0]["box"] == [0, 0, 10, 1]


def test_half_covered_pixels_belong_to_the_object() -> None:
    ink = np.zeros((8, 8))
    ink[0, 0] = ink[0, 2:4] = ink[2, 0] = ink[3, 1] = 1  # a quarter, a half, a half on the diagonal
    entry = composed(layer(ink, 1, 1, scale=2))[0]
    assert np.argwhere(masks.decode(entry["mask"])).tolist() == [[1, 2], [2, 1]]
    assert layer(ink, 1, 1, scale=2).mask.sum() == 2


def test_places_are_uniform() -> None:
    """Number, class and the eight flips by chi-squared; side and centre within their ranges, both ends reached."""
    options = specification(scene={"objects": [2, 4], "size": [0.1, 0.5]}, size=40, classes=5).options
    assert options.scene is not None
    scenes = [place(options.scene, options, key(3, "image", i)) for i in range(1500)]
    objects = [one for scene in scenes for one in scene]
    for values, n in [
        ([len(scene) - 2 for scene in scenes], 3),
        ([one.number for one in objects], 5),
        ([sum(1 << i for i, f in enumerate(("transpose", "rows", "columns")) if f in one.flips) for one in objects], 8),
        ([one.top + one.side // 2 for one in objects], 40),
        ([one.left + one.side // 2 for one in objects], 40),
        ([one.side - 4 for one in objects], 16),
    ]:
        counts = np.bincount(values, minlength=n)
        assert len(counts) == n
        expected = len(values) / n
        assert ((counts - expected) ** 2 / expected).sum() < n - 1 + 4.5 * np.sqrt(2 * (n - 1))
    assert len({one.key for one in objects}) == len(objects)
    for one in objects:
        assert 0 <= one.left + one.side / 2 < 40
        assert 0 <= one.top + one.side / 2 < 40
    straight = options.model_copy(update={"flips": False})
    assert options.scene is not None
    for index in range(20):  # without flips all else stays
        mirrored, plain = (place(options.scene, some, key(3, "image", index)) for some in (options, straight))
        assert plain == [replace(one, flips=()) for one in mirrored]


def test_the_flips_are_the_eight_symmetries() -> None:
    plane = np.arange(9).reshape(3, 3)
    made = {flipped(plane, which).tobytes() for which in SYMMETRIES}
    turns = {np.ascontiguousarray(np.rot90(p, i)).tobytes() for p in (plane, plane.T) for i in range(4)}
    assert made == turns
    assert len(made) == 8
