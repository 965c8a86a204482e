from __future__ import annotations

import io
import warnings

import corpus
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, JpegImagePlugin

from curate.store.images import DecodeError, _plain_jpeg_size, decode_grey, decode_rgb, probe

LIMIT = 100_000_000
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on damaged files


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1"])
def test_probe_and_decode_agree_with_pillow(fmt: str, mode: str) -> None:
    image = corpus.photo(1, (31, 17)).convert(mode)
    try:
        data = corpus.encode(image, fmt)
    except OSError:
        pytest.skip(f"Pillow writes no {mode} {fmt}")
    info = probe(data, LIMIT)
    assert (info.format, info.width, info.height, info.status, info.detail) == (fmt.lower(), 31, 17, "ok", None)
    ours = decode_rgb(data, LIMIT)
    assert ours.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 50}, {"lossless": True, "exif": b"Exif\0\0"}])
@pytest.mark.parametrize("size", [(1, 1), (33, 2), (16383, 1)])
def test_webp_sizes(options: dict[str, object], size: tuple[int, int]) -> None:
    info = probe(corpus.encode(Image.new("RGB", size), "WEBP", **options), LIMIT)
    assert (info.width, info.height) == size


def test_palette_transparency_is_dropped_as_in_plain_convert() -> None:
    image = corpus.photo(2).quantize(16)
    data = corpus.encode(image, "PNG", transparency=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode_rgb(data, LIMIT)), expected)


def test_cmyk_is_close_to_its_source() -> None:
    decoded = np.asarray(decode_rgb(corpus.cmyk_jpeg(3), LIMIT), dtype=int)
    assert np.abs(decoded - np.asarray(corpus.photo(3), dtype=int)).mean() < 4


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    decoded = np.asarray(decode_rgb(corpus.png16(), LIMIT))
    exact = np.linspace(0, 65535, 256).round() * 255 / 65535
    assert decoded.shape == (16, 256, 3)
    assert np.abs(decoded[0, :, 0] - exact).max() <= 0.5
    assert (decoded[0, :, 0] == np.arange(256)).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),
        (np.array([[-5, 1 << 20, 1 << 21]], np.int32), [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 300.0, 12.4]], np.float32), [0, 255, 12]),
    ],
)
def test_deep_greyscale(values: np.ndarray, expected: list[int]) -> None:
    decoded = np.asarray(decode_rgb(corpus.encode(Image.fromarray(values), "TIFF"), LIMIT))
    assert decoded[0, :, 0].tolist() == expected


def test_first_frame_of_an_animation() -> None:
    data = corpus.animated_gif(5)
    expected = np.asarray(corpus.photo(5).quantize(64).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(decode_rgb(data, LIMIT)), expected)


def test_exif_orientation_is_not_applied() -> None:
    data = corpus.exif_rotated(6)
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == 6
    assert decode_rgb(data, LIMIT).size == (64, 48)


def test_declared_size_is_refused_before_decoding() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        info = probe(corpus.forged_png(), LIMIT)
    assert (info.status, info.width, info.height) == ("too_many_pixels", 30_000, 30_000)
    with pytest.raises(DecodeError, match="30000 x 30000"):
        decode_rgb(corpus.forged_png(), LIMIT)
    assert probe(corpus.forged_png(), 900_000_000).status == "ok"
    with pytest.raises(DecodeError):
        decode_rgb(corpus.forged_png(1000, 1000), LIMIT)


def test_gif_frame_larger_than_its_screen_is_still_limited() -> None:
    data = bytearray(corpus.encode(Image.new("P", (4, 4)), "GIF"))
    at = data.index(b"\x2c\0\0\0\0\x04\0\x04\0")
    data[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    assert probe(bytes(data), LIMIT).status == "too_many_pixels"
    with pytest.raises(DecodeError):
        decode_rgb(bytes(data), LIMIT)


@pytest.mark.parametrize(
    ("data", "status", "word"),
    [
        (b"", "empty_image", "0 bytes"),
        (corpus.html(), "not_an_image", "HTML"),
        (b'  {"error": 1}', "not_an_image", "JSON"),
        (b"<svg xmlns=''/>", "not_an_image", "SVG"),
        (b"\0\0\0\x18ftypavif" + bytes(20), "not_an_image", "avif"),
        (bytes(100), "not_an_image", "zeros"),
        (b"BMW drivers' manual, first edition", "not_an_image", "no known"),
        (corpus.jpeg(0)[:20], "bad_image", "jpeg"),
        (corpus.forged_png(0, 5), "bad_image", ""),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "bad_image", "webp"),
        (b"II*\0\x08\0\0\0", "bad_image", "tiff"),
    ],
)
def test_bad_bytes(data: bytes, status: str, word: str) -> None:
    info = probe(data, LIMIT)
    assert info.status == status
    assert word in (info.detail or "")
    with pytest.raises(DecodeError):
        decode_rgb(data, LIMIT)


def test_truncated_jpeg_passes_the_probe_and_fails_to_decode() -> None:
    data = corpus.truncated_jpeg(0)
    assert probe(data, LIMIT).status == "ok"
    with pytest.raises(DecodeError, match="truncated"):
        decode_rgb(data, LIMIT)


FILES = [corpus.encode(corpus.photo(1, (20, 10)), fmt) for fmt in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_damage_gives_a_status_or_a_decode_error(data: bytes, draw: st.DataObject) -> None:
    raw = bytearray(data[: draw.draw(st.integers(0, len(data)))])
    for _ in range(draw.draw(st.integers(0, 3)) if raw else 0):
        raw[draw.draw(st.integers(0, min(len(raw), 200) - 1))] = draw.draw(st.integers(0, 255))
    info = probe(bytes(raw), 10_000)
    try:
        image = decode_rgb(bytes(raw), 10_000)
    except DecodeError:
        return
    assert info.status == "ok"
    assert (image.mode, image.width * image.height <= 10_000) == ("RGB", True)


def _jpegs() -> list[bytes]:
    """Headers of every kind that cameras, editors and libjpeg write."""
    image = corpus.photo(9, (40, 24))
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x011A] = 72.0
    segment = b"\xff\xed" + (20).to_bytes(2, "big") + b"Photoshop 3.0\0" + b"8BIM"
    plain = corpus.encode(image, "JPEG", quality=90)
    return [
        plain,
        corpus.encode(image, "JPEG", progressive=True, comment=b"a comment"),
        corpus.encode(image.convert("L"), "JPEG", icc_profile=bytes(200)),
        corpus.encode(image.convert("CMYK"), "JPEG", dpi=(300, 300)),
        corpus.encode(image, "JPEG", exif=exif.tobytes(), subsampling=0, restart_marker_blocks=2),
        plain[:2] + segment + plain[2:],
        corpus.encode(image, "JPEG", xmp=b"<x/>", qtables=[[300] * 64, [7] * 64]),
    ]


JPEGS = _jpegs()


def _pillow_size(data: bytes) -> tuple[int, int] | None:
    try:
        with JpegImagePlugin.JpegImageFile(io.BytesIO(data)) as image:
            return image.size
    except Exception:
        return None


def test_plain_jpegs_are_measured_without_pillow() -> None:
    assert [_plain_jpeg_size(data) for data in JPEGS] == [(40, 24)] * 4 + [None, None, (40, 24)]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(JPEGS),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), max_size=4),
    st.one_of(st.none(), st.integers(0, 700)),
)
def test_a_size_found_without_pillow_is_the_one_pillow_finds(
    data: bytes, changes: list[tuple[int, int]], cut: int | None
) -> None:
    damaged = bytearray(data[:cut])
    for at, value in changes:
        if 2 < at < len(damaged):
            damaged[at] = value
    found = _plain_jpeg_size(bytes(damaged))
    assert found is None or found == _pillow_size(bytes(damaged))


@pytest.mark.parametrize("data", JPEGS)
def test_every_byte_of_a_header_may_be_any_other(data: bytes) -> None:
    """All single-byte changes of the first segments, with the values at which parsers turn."""
    for at in range(3, min(len(data), 260)):
        for value in (0, 1, 2, 4, 8, 16, 0xC0, 0xC4, 0xDA, 0xE1, 0xFE, 0xFF):
            damaged = data[:at] + bytes([value]) + data[at + 1 :]
            found = _plain_jpeg_size(damaged)
            assert found is None or found == _pillow_size(damaged), (at, value)


def test_grey_is_luma_of_the_decoded_image() -> None:
    for data in (corpus.encode(corpus.photo(1, (60, 50)), "PNG"), corpus.jpeg(2, (90, 70)), corpus.png16()):
        exact = np.asarray(decode_rgb(data, LIMIT).convert("L"), dtype=int)
        found = decode_grey(data, LIMIT, 64)
        assert (found.dtype, found.shape) == (np.uint8, exact.shape)
        assert np.abs(found - exact).max() <= 2  # of a JPEG the luma is taken as it is stored, not by way of RGB


@pytest.mark.parametrize(
    ("size", "expected"), [((127, 300), (127, 300)), ((128, 300), (64, 150)), ((1100, 640), (138, 80))]
)
def test_large_jpegs_are_decoded_smaller(size: tuple[int, int], expected: tuple[int, int]) -> None:
    data = corpus.jpeg(3, size)
    found = decode_grey(data, LIMIT, 64)
    assert found.shape == expected[::-1]
    averages = decode_rgb(data, LIMIT).convert("L").resize(expected, Image.Resampling.BOX)
    assert np.abs(found.astype(int) - np.asarray(averages, dtype=int)).mean() < 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_in_grey(mode: str) -> None:
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    image.paste((10, 20, 30, 255), (0, 0, 10, 10))
    data = corpus.encode(image.convert(mode), "PNG")
    found = decode_grey(data, LIMIT, 64)
    assert (found[:, 10:] == 255).all()
    assert (found[:, :10] < 60).all()


def test_grey_refuses_what_rgb_refuses() -> None:
    for data in (corpus.html(), corpus.truncated_jpeg(4), b"", corpus.forged_png()):
        with pytest.raises(DecodeError) as grey:
            decode_grey(data, LIMIT, 64)
        with pytest.raises(DecodeError) as rgb:
            decode_rgb(data, LIMIT)
        assert str(grey.value).split("(")[0] == str(rgb.value).split("(")[0]
