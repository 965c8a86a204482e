"""What fractal images cost, from a few measured rates: seconds of one core, and bytes. Rough on purpose.

Measured on one core of an AMD EPYC (Zen 3) with images of 64 to 512 pixels; within a factor of two of what came out.
"""

from __future__ import annotations

from curate.fractal.specification import FractalOptions

IMAGE_S, OBJECT_S = 280e-6, 70e-6
"""Of an image and of each object in it, whatever their size."""
POINT_S = 1.25e-9
SUBPIXEL_S = 4e-9
"""Of a pixel of an object of a scene, as it is drawn."""
PIXEL_S = {"jpg": (10.5e-9, 3.2e-9), "png": (78e-9, 10e-9), "webp": (135e-9, 27e-9)}
"""Of a pixel of the image from its background to its member: in colour, and gray on black."""
BYTES_256 = {"jpg": (20_700, 7_200), "png": (84_400, 9_900), "webp": (76_700, 11_000)}
"""Of an image of 256 x 256; larger ones grow with their pixels to the power GROWTH."""
GROWTH = 0.76
MEMBERS, OBJECT_BYTES = 3_300, 1_300
"""Of the other members and the tar headers of a sample; of each object's mask in a scene of 256 x 256."""
OUTLINES_S = {"contours": 0.4e-3, "sinusoids": 0.9e-3}
"""Of an object of nested lines, on top."""
OUTLINES_BYTES, OUTLINES_GROWTH = (1.3, 2.7), 0.95
"""The factors by which nested lines lengthen an image, in colour and gray; and how it grows with its pixels."""
SEARCH_S = {"ifs": 1.2e-3, "contours": 2e-6, "sinusoids": 5e-6}
"""To find and measure a class, where nearly every candidate passes its gates."""
FRACTALDB_S, CONTRACTING = 0.075, 0.11
"""The same for a category of FractalDB's search, which looks at 43 candidates; and the share of them that s1_max 1 lets
pass."""


def cost(options: FractalOptions) -> tuple[float, float]:
    """Seconds of one core, and bytes in the shards, of one image."""
    pixels = options.size**2
    gray = options.colour == "gray" and options.background == "black"
    seconds = IMAGE_S + pixels * PIXEL_S[options.format][gray]
    family = _family(options)
    factor, growth = (1.0, GROWTH) if family == "ifs" else (OUTLINES_BYTES[gray], OUTLINES_GROWTH)
    nbytes = BYTES_256[options.format][gray] * factor * (pixels / 65536) ** growth + MEMBERS
    objects, share = 1.0, 1.0
    if (scene := options.scene) is not None:
        objects = sum(scene.objects) / 2
        low, high = scene.size
        share = (low * low + low * high + high * high) / 3  # mean of the squared side
        seconds += objects * share * scene.antialias**2 * pixels * SUBPIXEL_S
        nbytes += objects * OBJECT_BYTES * options.size / 256
    points = options.ifs.points if options.ifs is not None else 0
    each = OBJECT_S + share * points * POINT_S + OUTLINES_S.get(family, 0.0)
    return seconds + objects * each, nbytes


def search_seconds(options: FractalOptions) -> float:
    """Seconds of one core to find the classes."""
    each = SEARCH_S[_family(options)]
    if options.ifs is not None and options.ifs.sampler == "fractaldb":
        each = FRACTALDB_S / (CONTRACTING if options.ifs.gates.s1_max <= 1.0 else 1.0)
    return options.classes * each


def _family(options: FractalOptions) -> str:
    return next(name for name in SEARCH_S if getattr(options, name) is not None)
