"""What a gallery of a fractal specification shows: some classes, some of each, and images with their labels."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curate.fractal.encode import encode
from curate.fractal.image import Rendered, render
from curate.fractal.specification import FractalOptions, Specification
from curate.pipeline.fractals import Opened
from curate.report.gallery import Box, Class, GalleryData, Picture

_COLOURS = np.array([(255, 196, 0), (0, 200, 255), (255, 90, 160), (120, 230, 90), (190, 140, 255)], dtype=np.uint8)
_HIDDEN = np.array((150, 150, 150), dtype=np.uint8)


def gallery_data(opened: Opened, title: str, classes: int, instances: int, images: int) -> GalleryData:
    """Pictures for `curate.report.gallery.render`. Memory: the encoded pictures."""
    specification, options = opened.specification, opened.specification.options
    alone = _alone(specification)
    shown = _spread(options.classes, classes)
    rows = []
    for number in shown:
        pictures = tuple(
            _picture(render(alone, opened.family, number + options.classes * i)) for i in _instances(alone, instances)
        )
        rows.append(
            Class(
                number=number,
                system=str(opened.family.table["system"][number]),
                facts=_facts(opened, number),
                pictures=pictures,
            )
        )
    scenes = tuple(
        _picture(render(specification, opened.family, i), i, options.scene is not None)
        for i in range(min(images, options.images))
    )
    return GalleryData(
        title=title,
        family=next(name for name in ("ifs", "contours", "sinusoids") if getattr(options, name) is not None),
        classes=options.classes,
        images=options.images,
        size=options.size,
        seed=specification.seed,
        several=options.scene is not None,
        shown=tuple(rows),
        pictures=scenes,
    )


def contact_sheet(opened: Opened, classes: int, instances: int, images: int) -> NDArray[np.uint8]:
    """The same as one picture, uint8 [height, width, 3]: classes in rows of `instances`, then images with boxes.

    Memory: the sheet.
    """
    specification, options = opened.specification, opened.specification.options
    alone = _alone(specification)
    tiles = [
        _colour(render(alone, opened.family, number + options.classes * i).image)
        for number in _spread(options.classes, classes)
        for i in _instances(alone, instances)
    ]
    across = max(1, 12 // max(1, instances)) * max(1, len(_instances(alone, instances)))
    drawn = [render(specification, opened.family, i) for i in range(min(images, options.images))]
    seen = [one.objects if options.scene is not None else () for one in drawn]
    boxed = [with_boxes(_colour(one.image), objects) for one, objects in zip(drawn, seen, strict=True)]
    return _stacked([_grid(tiles, across, options.size), _grid(boxed, across, options.size)])


def with_boxes(image: NDArray[np.uint8], objects: Sequence[dict[str, Any]]) -> NDArray[np.uint8]:
    """A copy with the outline of each seen object's box: coloured where it is labelled, gray where it is not."""
    out = image.copy()
    for number, one in enumerate(objects):
        if one["box"] is None:
            continue
        left, top, width, height = one["box"]
        colour = _COLOURS[number % len(_COLOURS)] if one["labelled"] else _HIDDEN
        right, bottom = left + width - 1, top + height - 1
        out[[top, bottom], left : right + 1] = colour
        out[top : bottom + 1, [left, right]] = colour
    return out


def _alone(specification: Specification) -> Specification:
    """The same classes, one to an image."""
    options = specification.options
    if options.scene is None:
        return specification
    # a fresh view of the options: as many images as every class needs to be met
    fields = options.model_dump() | {"scene": None, "images": max(options.images, options.classes)}
    return specification.model_copy(update={"options": FractalOptions.model_validate(fields)})


def _instances(specification: Specification, instances: int) -> list[int]:
    there = specification.options.images // specification.options.classes
    return list(range(max(1, min(instances, there))))


def _spread(classes: int, wanted: int) -> list[int]:
    """Numbers of some classes, evenly over all."""
    n = min(classes, wanted)
    return [classes * i // n for i in range(n)]


def _facts(opened: Opened, number: int) -> dict[str, str]:
    """What the table says of a class in single numbers."""
    row = opened.family.table.row(number, named=True)
    plain = {name: value for name, value in row.items() if isinstance(value, int | float) and name != "class"}
    return {name: f"{value:.3g}" if isinstance(value, float) else str(value) for name, value in plain.items()}


def _picture(drawn: Rendered, index: int | None = None, several: bool = False) -> Picture:
    kind, mime = ("png", "png") if drawn.image.ndim == 2 else ("jpg", "jpeg")
    data = base64.b64encode(encode(drawn.image, kind, 90)).decode()
    boxes = tuple(
        Box(number=one["class"], box=tuple(one["box"]), visible=one["visible"], labelled=one["labelled"])
        for one in drawn.objects
        if several and one["box"] is not None
    )
    height, width = drawn.image.shape[:2]
    uri = f"data:image/{mime};base64,{data}"
    return Picture(uri=uri, width=width, height=height, index=index, label=drawn.label, boxes=boxes)


def _colour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.repeat(image[:, :, None], 3, axis=2)) if image.ndim == 2 else image


def _grid(tiles: Sequence[NDArray[np.uint8]], across: int, size: int) -> NDArray[np.uint8]:
    gap = max(2, size // 64)
    down = math.ceil(len(tiles) / across)
    sheet = np.full((down * (size + gap) + gap, across * (size + gap) + gap, 3), 255, dtype=np.uint8)
    for i, tile in enumerate(tiles):
        top, left = gap + i // across * (size + gap), gap + i % across * (size + gap)
        sheet[top : top + size, left : left + size] = tile
    return sheet


def _stacked(sheets: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    width = max(sheet.shape[1] for sheet in sheets)
    padded = [np.pad(s, ((0, 0), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in sheets]
    return np.concatenate(padded)
