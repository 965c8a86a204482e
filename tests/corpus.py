"""The fault corpus: shards holding every kind of broken sample next to good ones, made from a seed.

Used by the tests of the store and by end-to-end tests. Nothing is read from disk and nothing is downloaded.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Expectation:
    """What must become of one sample.

    status: its ``status`` in the index, or "decode" for a sample that passes the index and fails to decode.
    rows: how many rows of that shard carry this key. survives: the sample is good and must reach a release.
    """

    shard: str
    key: str
    status: str
    survives: bool
    rows: int = 1


@dataclass(frozen=True)
class ShardExpectation:
    """A shard that must be named in the notes, with the reason given there."""

    shard: str
    reason: str


def photo(seed: int, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A smooth colourful RGB picture, different for each seed (not noise, so that JPEG keeps it alike)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encode(image: Image.Image, fmt: str, **options: object) -> bytes:
    """Image file bytes."""
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def jpeg(seed: int, size: tuple[int, int] = (64, 48)) -> bytes:
    return encode(photo(seed, size), "JPEG", quality=90)


def truncated_jpeg(seed: int) -> bytes:
    data = jpeg(seed, (320, 240))
    return data[: len(data) * 6 // 10]


def html() -> bytes:
    return b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head><body>gone</body></html>\n"


def cmyk_jpeg(seed: int) -> bytes:
    return encode(photo(seed).convert("CMYK"), "JPEG", quality=90)


def png16() -> bytes:
    """A 16-bit greyscale PNG, a ramp from 0 to 65535 from left to right, 256 x 16 pixels."""
    ramp = np.tile(np.linspace(0, 65535, 256).round().astype(np.uint16), (16, 1))
    return encode(Image.fromarray(ramp), "PNG")


def animated_gif(seed: int) -> bytes:
    frames = [photo(seed + i).quantize(64) for i in range(3)]
    return encode(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)


def exif_rotated(seed: int) -> bytes:
    """A 64 x 48 JPEG whose EXIF says "rotate by 90 degrees" (orientation 6)."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(photo(seed), "JPEG", quality=90, exif=exif.tobytes())


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def forged_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """A tiny PNG whose header declares width x height pixels, checksums valid."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def metadata(i: int) -> bytes:
    return json.dumps({"license": "CC0-1.0", "label": i % 3}).encode()


def tar_bytes(members: list[tuple[str | bytes, bytes]], fmt: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar of (name, data) in order; a name given as bytes need not be UTF-8. Times and owners are zero."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def sample(
    key: str, image: bytes, caption: bytes | None = b"a picture", ext: str = "jpg", i: int = 0
) -> list[tuple[str | bytes, bytes]]:
    """The members of one sample: image, caption, json."""
    texts = [] if caption is None else [(f"{key}.txt", caption)]
    return [(f"{key}.{ext}", image), *texts, (f"{key}.json", metadata(i))]


def write_good_shards(folder: Path, shards: int = 2, samples: int = 5, seed: int = 0) -> list[str]:
    """``samples`` good JPEG samples in each of ``shards`` tars 00000.tar, ...; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for s in range(shards):
        members: list[tuple[str | bytes, bytes]] = []
        for i in range(samples):
            n = s * samples + i
            members += sample(f"{n:06d}", jpeg(seed + n), f"picture {n}".encode(), i=n)
        names.append(f"{s:05d}.tar")
        (folder / names[-1]).write_bytes(tar_bytes(members))
    return names


def write_fault_corpus(folder: Path, seed: int = 1000) -> tuple[list[Expectation], list[ShardExpectation]]:
    """Write the corpus into ``folder`` (samples have .jpg/.png/.gif, .txt and .json; captions are required).

    Shards: images.tar (bad and unusual images), structure.tar (missing, repeated, scattered members, names),
    cut.tar, cut_header.tar, empty.tar, zero.tar, notatar.tar, compressed.tar. Good samples stand between bad ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: list[Expectation] = []
    members: list[tuple[str | bytes, bytes]] = []

    def put(shard: str, key: str, status: str, data: list[tuple[str | bytes, bytes]]) -> None:
        members.extend(data)
        expected.append(Expectation(shard, key, status, status == "ok"))

    def good(shard: str, key: str) -> None:
        put(shard, key, "ok", sample(key, jpeg(seed + len(expected)), f"good {key}".encode()))

    images: list[tuple[str, str, bytes, str]] = [
        ("truncated", "decode", truncated_jpeg(seed + 1), "jpg"),
        ("zero", "empty_image", b"", "jpg"),
        ("html", "not_an_image", html(), "jpg"),
        ("cmyk", "ok", cmyk_jpeg(seed + 2), "jpg"),
        ("png16", "ok", png16(), "png"),
        ("animated", "ok", animated_gif(seed + 3), "gif"),
        ("exif", "ok", exif_rotated(seed + 4), "jpg"),
        ("huge", "too_many_pixels", forged_png(), "png"),
        ("header", "bad_image", jpeg(seed + 5)[:20], "jpg"),
    ]
    good("images.tar", "a0")
    for i, (key, status, data, ext) in enumerate(images):
        put("images.tar", key, status, sample(key, data, f"caption of {key}".encode(), ext))
        good("images.tar", f"a{i + 1}")
    (folder / "images.tar").write_bytes(tar_bytes(members))

    members.clear()
    shard = "structure.tar"
    good(shard, "b0")
    put(shard, "noimage", "missing_image", [("noimage.txt", b"words"), ("noimage.json", b"{}")])
    put(shard, "nocaption", "missing_caption", sample("nocaption", jpeg(seed + 6), None))
    good(shard, "b1")
    put(shard, "latin1", "bad_caption", sample("latin1", jpeg(seed + 7), "café".encode("latin-1")))
    put(
        shard, "badjson", "bad_json", [("badjson.jpg", jpeg(seed + 8)), ("badjson.txt", b"x"), ("badjson.json", b"{,}")]
    )
    put(shard, "twice", "ok", sample("twice", jpeg(seed + 9), b"first"))
    good(shard, "b2")
    members += [("split.jpg", jpeg(seed + 10)), ("split.txt", b"before")]
    good(shard, "b3")
    members += [("split.json", metadata(0))]
    expected.append(Expectation(shard, "split", "scattered_members", False, rows=2))
    members += sample("twice", jpeg(seed + 11), b"second")
    expected.append(Expectation(shard, "twice", "duplicate_key", False))
    good(shard, "b4")
    for n, key in enumerate(["../escape", "/etc/absolute", "c:\\windows", "new\nline", "x/../../up"]):
        put(shard, key.replace("\n", "\\x0a"), "unsafe_name", sample(key, jpeg(seed + 12 + n), b"unsafe"))
    latin = [(f"caf\xe9.{ext}".encode("latin-1"), data) for ext, data in (("jpg", jpeg(seed + 20)), ("txt", b"x"))]
    put(shard, "caf\\xe9", "bad_name", list(latin))
    good(shard, "b5")
    (folder / shard).write_bytes(tar_bytes(members))

    members.clear()
    shard = "cut.tar"
    good(shard, "c0")
    good(shard, "c1")
    whole = len(tar_bytes(members)) - tarfile.RECORDSIZE  # at least this much lies before the last record
    put(shard, "c2", "cut_tar", sample("c2", jpeg(seed + 30, (320, 240)), b"cut"))
    data = tar_bytes(members)
    at = data.index(b"c2.jpg")
    assert at > whole
    (folder / shard).write_bytes(data[: at + 512 + 700])

    members.clear()
    shard = "cut_header.tar"
    good(shard, "d0")
    put(shard, "d1", "cut_tar", sample("d1", jpeg(seed + 31), b"cut"))
    data = tar_bytes(members)
    (folder / shard).write_bytes(data[: data.index(b"d1.txt") + 100])

    (folder / "empty.tar").write_bytes(tar_bytes([]))
    (folder / "zero.tar").write_bytes(b"")
    (folder / "notatar.tar").write_bytes(html() * 20)
    (folder / "compressed.tar").write_bytes(zlib.compress(tar_bytes(sample("z0", jpeg(seed))), wbits=31))
    return expected, [
        ShardExpectation("cut.tar", "cut"),
        ShardExpectation("cut_header.tar", "cut"),
        ShardExpectation("empty.tar", "empty"),
        ShardExpectation("zero.tar", "empty"),
        ShardExpectation("notatar.tar", "not_a_tar"),
        ShardExpectation("compressed.tar", "compressed"),
    ]
