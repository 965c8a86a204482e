"""Image i of a specification: its pixels, its labels and everything that was drawn to make it.

A pure function of the specification, the table of classes and i, so image i is the same alone, in a shard, on any
worker or after a kill. All draws hang on key(seed, "image", i): "background", "blur", "objects" and, for object j,
key(.., "object", j) with "place", "colour" and whatever the family names; none depends on another's number.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.errors import SpecError
from curate.fractal import background, compose
from curate.fractal.encode import encode
from curate.fractal.families.base import Family
from curate.fractal.masks import extent
from curate.fractal.randomness import Draws, key
from curate.fractal.scene import Composed, Layer, Placement, about, compose_scene, draw, flips, layers
from curate.fractal.specification import FractalOptions, Specification

RENDERER = 1
"""Version of the drawing: raised whenever any image of an older specification would come out otherwise."""


@dataclass(frozen=True)
class Rendered:
    """An image before it is encoded, and what is true of it."""

    image: NDArray[np.uint8]
    """[S, S, 3], or [S, S] when the colour is gray and the background black."""
    label: int | None
    """Class of an image of one object; None for scenes, which have any number of `labels`."""
    labels: tuple[int, ...]
    """Distinct classes of the labelled objects, ascending."""
    objects: list[dict[str, Any]]
    """In order of pasting, later in front; docs/fractal.md lists the fields. Scenes: with run lengths, if asked for."""
    owner: NDArray[np.uint8]
    """[S, S]: which object each pixel shows, from 1 in their order; 0 is the background."""
    facts: dict[str, Any]
    """background: key and colours, None for black; blur: sigma in pixels, None for none."""


def render(spec: Specification, family: Family, index: int, *, masks: bool = True) -> Rendered:
    """Image `index`. masks: whether the objects of scenes hold run lengths (`owner` says the same in pixels).

    Raises SpecError for an index that the specification does not have and for a specification of another renderer.
    Memory: some 20 bytes a pixel, and one object of a scene at a time.
    """
    options, image = spec.options, _address(spec, index)
    gray = options.colour == "gray" and options.background == "black"
    facts: dict[str, Any] = {"background": None, "blur": None}
    field = lut = None
    if options.background == "diamond_square":
        draws = Draws.of(image, "background")
        facts["background"] = {"key": f"{draws.key:016x}"}
        field = background.field(options.size, draws)
        lut, colours = background.palette(Draws.of(draws.key, "colour"))
        facts["background"] |= colours
    if options.scene is None:
        made = _single(_alone(options, family, image, index), family, field, lut)
    else:
        if field is not None and lut is not None:
            canvas = compose.canvas(field, lut)
        else:
            canvas = np.zeros((options.size, options.size) if gray else (options.size, options.size, 3), dtype=np.uint8)
        pasted = layers(options.scene, options, family, image)
        made = compose_scene(canvas, pasted, family, options.scene.visible, runs=masks)
    pixels = made.image
    draws = Draws.of(image, "blur")
    if draws.one() < options.blur:
        facts["blur"] = draws.one(0.5, 1.0)
        pixels = compose.blur(pixels, facts["blur"])
    labels = tuple(sorted({entry["class"] for entry in made.objects if entry["labelled"]}))
    return Rendered(pixels, labels[0] if options.scene is None else None, labels, made.objects, made.owner, facts)


def truth(spec: Specification, family: Family, index: int) -> list[Layer]:
    """The objects of image `index` in order of pasting, each with its whole mask before others covered it.

    What `render` composes, for those who want whole (amodal) masks or check the labels. Memory: all objects.
    """
    options, image = spec.options, _address(spec, index)
    if options.scene is None:
        return [_alone(options, family, image, index)]
    return list(layers(options.scene, options, family, image))


def members(spec: Specification, family: Family, index: int) -> dict[str, bytes]:
    """The files of a sample by extension: the image, `cls` (the class; not for scenes) and `json`, all that is known.

    json has no blanks, its fields are always in the same order and its numbers are exact. Raises as `render`.
    """
    options, made = spec.options, render(spec, family, index)
    out: dict[str, bytes] = {options.format: encode(made.image, options.format, options.quality)}
    if made.label is not None:
        out["cls"] = str(made.label).encode()
    out["json"] = json.dumps(described(spec, index, made), separators=(",", ":"), allow_nan=False).encode()
    return out


def described(spec: Specification, index: int, made: Rendered) -> dict[str, Any]:
    """The content of a sample's json."""
    return {
        "uid": uid(spec, index),
        "index": index,
        "renderer": spec.renderer,
        "classes": spec.options.classes,
        "label": made.label,
        "labels": made.labels,
        **made.facts,
        "objects": made.objects,
    }


def _address(spec: Specification, index: int) -> int:
    """The key of an image's draws."""
    if spec.renderer != RENDERER:
        raise SpecError(
            f"the specification was drawn by renderer {spec.renderer}, and this curate has {RENDERER}: the pixels "
            "would differ; use the version that wrote it."
        )
    if not 0 <= index < spec.options.images:
        raise SpecError(f"there is no image {index}: the specification has images 0 to {spec.options.images - 1}.")
    return key(spec.seed, "image", index)


def _alone(options: FractalOptions, family: Family, image: int, index: int) -> Layer:
    """The one object of an image that it fills."""
    address = key(image, "object", 0)
    turned = flips(options, Draws.of(address, "place"))
    return draw(options, family, Placement(index % options.classes, options.size, 0, 0, turned, address), 1)


def _single(
    layer: Layer, family: Family, field: NDArray[np.uint8] | None, colours: NDArray[np.uint8] | None
) -> Composed:
    """An image of one object. It has its label whatever it shows, and no run lengths: they would be its tone again, a
    tenth of the bytes of the image."""
    owner = (layer.tone != 0).view(np.uint8)
    size = len(owner)
    entry = about(layer, family)
    box, shown = extent(owner, 1, (0, 0, size, size))
    entry |= {"box": box, "full_box": box, "visible": 1.0 if shown else 0.0, "labelled": True}
    image = layer.tone if layer.lut.ndim == 1 else compose.paint(layer.tone, layer.lut, field, colours)
    return Composed(image, owner, [entry])


def uid(spec: Specification, index: int) -> str:
    """32 hex digits from the dataset's name, its seed, the index and the options other than the number of images.

    So a dataset of more images holds the smaller one, with the same uids. Options at their default do not count: an
    option that is added later with a default that changes nothing leaves uids as they are.
    """
    return hashlib.blake2b(_prefix(spec) + str(index).encode(), digest_size=16).hexdigest()


@lru_cache(maxsize=8)
def _prefix(spec: Specification) -> bytes:
    options = spec.options.model_dump(mode="json", exclude_defaults=True, exclude={"images"})
    return json.dumps([spec.name, spec.seed, options], sort_keys=True, separators=(",", ":")).encode() + b" "
