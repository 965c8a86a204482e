"""Looking at image bytes safely: a header-only probe, a full decode to 8-bit RGB, and a fast one to grey levels.

The plugin class is chosen by the file's magic bytes and constructed directly. That reads only the header, tries no
other format, and leaves Pillow's process-wide decompression-bomb limit alone: our own pixel limit is checked before
anything is decoded. EXIF orientation is not applied, because the training loaders of open_clip and timm do not either.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

# Corrupt EXIF and the like are Pillow's remarks on data we report ourselves; filtering here, once, is thread-safe.
warnings.filterwarnings("ignore", module=r"PIL\..*")

ImageStatus = Literal["ok", "empty_image", "not_an_image", "too_many_pixels", "bad_image"]

_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": JpegImagePlugin.JpegImageFile,
    "png": PngImagePlugin.PngImageFile,
    "gif": GifImagePlugin.GifImageFile,
    "bmp": BmpImagePlugin.BmpImageFile,
    "tiff": TiffImagePlugin.TiffImageFile,
    "webp": WebPImagePlugin.WebPImageFile,
}
#: Formats this module reads, as they appear in the ``format`` column.
FORMATS = tuple(_PLUGINS)
#: Segments of a JPEG that hold its size, those that may be passed over, and beginnings of such that may not.
_JPEG_FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")
_JPEG_PLAIN = frozenset(bytes([0xFF, n]) for n in (0xC4, 0xDD, *range(0xE0, 0xF0), 0xFE))
_JPEG_HARD = (b"Exif", b"Photoshop")
_JPEG_HARD_IF_SHORT = (*_JPEG_HARD, b"JFIF", b"ICC_PROFILE")
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)


class DecodeError(Exception):
    """One image cannot be decoded; the message says why. A row status, never the end of a run."""


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the header says. ``width`` and ``height`` in pixels as stored; None when the header does not tell."""

    format: str | None
    width: int | None
    height: int | None
    status: ImageStatus
    detail: str | None = None


def sniff(data: bytes) -> str | None:
    """The image format by its magic bytes (one of :data:`FORMATS`), or None."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "tiff"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    return None


def probe(data: bytes, max_pixels: int) -> ImageInfo:
    """Format and size of an image from its header; nothing is decoded, so damage further in is found by decoding.

    More than ``max_pixels`` (width x height) gives ``too_many_pixels`` with the declared size.
    """
    if not data:
        return ImageInfo(None, None, None, "empty_image", "the image has 0 bytes")
    fmt = sniff(data)
    if fmt is None:
        return ImageInfo(None, None, None, "not_an_image", f"the bytes are {_describe(data)}, not an image")
    try:
        width, height = _size(data, fmt)
    except Image.DecompressionBombError:
        return ImageInfo(fmt, None, None, "too_many_pixels", f"a {fmt} frame is far larger than {max_pixels:,} pixels")
    except Exception as err:  # any parser of untrusted bytes may fail in any way; the row says how
        return ImageInfo(fmt, None, None, "bad_image", f"the {fmt} header is damaged ({_reason(err)})")
    if width <= 0 or height <= 0:
        return ImageInfo(fmt, None, None, "bad_image", f"the {fmt} header declares {width} x {height} pixels")
    if width * height > max_pixels:
        detail = f"the {fmt} declares {width} x {height} pixels, more than {max_pixels:,}"
        return ImageInfo(fmt, width, height, "too_many_pixels", detail)
    return ImageInfo(fmt, width, height, "ok")


def decode_rgb(data: bytes, max_pixels: int) -> Image.Image:
    """Decode to an 8-bit RGB image of the stored size (first frame of an animation).

    Conversion is Pillow's plain ``convert("RGB")``, as in open_clip and timm: alpha is dropped, CMYK and palettes are
    converted. Greyscale deeper than 8 bits, which ``convert`` would clip, is scaled: 16 bits by 255/65535; 32-bit
    integers likewise when they exceed 255 (by 255/max above 65535); floats in 0..1 by 255, other floats are clipped.

    Raises :class:`DecodeError` when the bytes are no image, too large, truncated or damaged.
    Memory: about 8 bytes a pixel, at most ``8 * max_pixels`` (16 for 32-bit greyscale).
    """
    info = probe(data, max_pixels)
    if info.status != "ok" or info.format is None:
        raise DecodeError(info.detail or info.status)
    try:
        with _PLUGINS[info.format](io.BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                raise DecodeError(
                    f"the {info.format} has {image.width} x {image.height} pixels, more than {max_pixels:,}"
                )
            image.load()
            return _to_rgb(image)
    except DecodeError:
        raise
    except Exception as err:
        raise DecodeError(f"the {info.format} cannot be decoded ({_reason(err)})") from err


def decode_grey(data: bytes, max_pixels: int, side: int) -> NDArray[np.uint8]:
    """Decode to grey levels (ITU-R 601 luma), uint8 [height, width], for looking at a picture as a whole.

    A JPEG whose shorter side is at least twice `side` is decoded at a half, a quarter or an eighth of its size, as long
    as both sides stay at least `side`: several times as fast, each pixel about the average of those it stands for.
    Other formats as :func:`decode_rgb`, but on white where the picture is transparent.

    Raises :class:`DecodeError` likewise. Memory: about 8 bytes a pixel (JPEG: 2 a decoded pixel).
    """
    info = probe(data, max_pixels)
    if info.status != "ok" or info.format is None:
        raise DecodeError(info.detail or info.status)
    try:
        with _PLUGINS[info.format](io.BytesIO(data)) as image:
            if image.width * image.height > max_pixels:
                raise DecodeError(
                    f"the {info.format} has {image.width} x {image.height} pixels, more than {max_pixels:,}"
                )
            if info.format == "jpeg":
                image.draft("L", (side, side))
            image.load()
            grey = image if image.mode == "L" and "transparency" not in image.info else _on_white(image).convert("L")
            return np.array(grey)
    except DecodeError:
        raise
    except Exception as err:
        raise DecodeError(f"the {info.format} cannot be decoded ({_reason(err)})") from err


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return _to_rgb(image)
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith("I;16"):
        return _grey((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535)
    if image.mode == "I":
        values = np.maximum(np.asarray(image).astype(np.int64), 0)
        top = int(values.max(initial=0))
        scale = 255 if top <= 255 else 65535 if top <= 65535 else top
        return _grey((values * 255 + scale // 2) // scale)
    if image.mode == "F":
        floats = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=255.0, neginf=0.0)
        if floats.max(initial=0.0) <= 1.0:
            floats = floats * 255.0
        return _grey(np.rint(np.clip(floats, 0.0, 255.0)))
    return image.convert("RGB")


def _grey(values: NDArray[Any]) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _size(data: bytes, fmt: str) -> tuple[int, int]:
    if fmt == "webp":  # Pillow would set up a decoder with two full frames
        return _webp_size(data)
    if fmt == "jpeg" and (size := _plain_jpeg_size(data)) is not None:
        return size
    with _PLUGINS[fmt](io.BytesIO(data)) as image:
        return image.size


def _plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Size of a JPEG whose header has only what Pillow is sure to accept; None: let Pillow judge.

    Walks the segments up to the first scan (ITU-T T.81, annex B), about twenty times as fast as Pillow, which makes
    objects of all of them. Exif and Photoshop blocks, whose parsing may fail, and rare frame types are left to Pillow.
    """
    size: tuple[int, int] | None = None
    at = 2
    while True:
        marker, length = data[at : at + 2], int.from_bytes(data[at + 2 : at + 4], "big")
        start, end = at + 4, at + 2 + length
        if length < 2 or end > len(data):
            return None
        if marker == b"\xff\xda":
            return size
        if marker == b"\xff\xdb":
            while start < end:
                start += 65 if data[start] < 16 else 129
            if start != end:
                return None
        elif marker in _JPEG_FRAMES:
            layers = data[start + 5] if length > 7 else 0
            if size or data[start] != 8 or layers not in (1, 3, 4) or length != 8 + 3 * layers:
                return None
            height, width = data[start + 1 : start + 3], data[start + 3 : start + 5]
            size = int.from_bytes(width, "big"), int.from_bytes(height, "big")
            if not all(size):
                return None
        elif marker not in _JPEG_PLAIN or (
            marker[1] >= 0xE0
            and (length < 9 or data.startswith(_JPEG_HARD if length >= 16 else _JPEG_HARD_IF_SHORT, start))
        ):
            return None
        at = end


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas size from the first chunk (VP8X, VP8L or VP8; the WebP container specification)."""
    if len(data) < 30:
        raise ValueError("it ends inside the first chunk")
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L" and data[20] == 0x2F:
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise ValueError(f"its first chunk is {chunk!r}")


def _reason(err: Exception) -> str:
    text = " ".join(str(err).split())[:200]
    return text.rstrip(".") or type(err).__name__


def _describe(data: bytes) -> str:
    head = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip()
    low = head.lower()
    if low.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page"
    if low.startswith((b"<?xml", b"<svg")):
        return "XML or SVG"
    if head[:1] in (b"{", b"["):
        return "JSON text"
    if data[4:8] == b"ftyp":
        return f"an ISO media file ({data[8:12].decode('ascii', 'replace').strip()}: AVIF, HEIC or video)"
    for magic, name in ((b"%PDF", "a PDF"), (b"PK\x03\x04", "a zip archive"), (b"\x1f\x8b", "gzip data")):
        if data.startswith(magic):
            return name
    if not any(data[:4096]):
        return "zeros"
    return f"of no known image format (they begin with {data[:8].hex(' ')})"
