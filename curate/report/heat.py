"""Pictures of where a class is: a photo in grey under the colours of a grid of probabilities.

    heat(photo, probabilities)      # photo: a Pillow image; probabilities [H, W], 0 to 1

Colours go from blue over red to yellow and get lighter all the way, so that people who do not tell red from green, and
prints in grey, show the same order. The scale is always 0 to 1: pictures of different classes and photos compare. What
never lives here: which probabilities, and files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

STOPS = ((30, 20, 150), (126, 3, 168), (204, 71, 120), (248, 149, 64), (250, 250, 60))
"""Colours (red, green, blue) at 0, 1/4, 1/2, 3/4 and 1, straight lines between."""
_COVER = 0.82
"""How much of the photo the colour of a probability of 1 covers."""


def colours(shares: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Colours, float32 [..., 3] of 0 to 255, of shares of any shape; what is beyond 0 to 1 counts as 0 or 1."""
    at = np.linspace(0.0, 1.0, len(STOPS))
    return np.stack([np.interp(shares, at, channel) for channel in zip(*STOPS, strict=True)], axis=-1).astype(
        np.float32
    )


def cover(shares: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """How much of the photo the colour hides, 0 to 0.82: by the square root, so that 0.05 is seen and 0 is grey."""
    return np.asarray(_COVER * np.sqrt(np.clip(shares, 0.0, 1.0)), dtype=np.float32)


def enlarged(values: NDArray[np.floating[Any]], width: int, height: int) -> NDArray[np.float32]:
    """A grid [H, W] on height x width pixels: bilinear between the centres of cells, constant beyond the outer ones.

    Memory: what is returned and one array of H x width.
    """
    rows, columns = values.shape
    across = _between(columns, width)
    down = _between(rows, height)
    wide = values[:, across[0]] * (1 - across[2]) + values[:, across[1]] * across[2]
    out: NDArray[np.float32] = (wide[down[0]] * (1 - down[2])[:, None] + wide[down[1]] * down[2][:, None]).astype(
        np.float32
    )
    return out


def _between(cells: int, pixels: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """The cells to the left and right of each pixel, and how far between their centres it is."""
    place = np.clip((np.arange(pixels) + 0.5) * cells / pixels - 0.5, 0, cells - 1)
    left = np.floor(place).astype(np.int64)
    return left, np.minimum(left + 1, cells - 1), place - left


def heat(photo: Image.Image, probabilities: NDArray[np.floating[Any]]) -> Image.Image:
    """The photo in grey with the probabilities [H, W] of a grid over the whole of it in colour; of the photo's size.

    Memory: 40 bytes a pixel.
    """
    grey = np.asarray(photo.convert("L"), dtype=np.float32)
    share = enlarged(probabilities, photo.width, photo.height)
    hidden = cover(share)[..., None]
    mixed = grey[..., None] * (1 - hidden) + colours(share) * hidden
    return Image.fromarray(np.rint(mixed).astype(np.uint8), "RGB")


def scale(steps: int = 21, grey: float = 128.0) -> list[str]:
    """The legend: colours, as `#rrggbb`, that `heat` gives to 0, ... 1 on a photo of this grey."""
    share = np.linspace(0.0, 1.0, steps)
    hidden = cover(share)[:, None]
    mixed = np.rint(grey * (1 - hidden) + colours(share) * hidden).astype(np.uint8)
    return ["#" + bytes(row).hex() for row in mixed]
