import io

import numpy as np
import pytest
from PIL import Image

from curate.errors import SpecError
from curate.fractal.encode import encode

RNG = np.random.default_rng(0)
SMOOTH = np.kron(RNG.integers(0, 256, (4, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_png_and_webp_lose_nothing(format: str, channels: int) -> None:
    image = SMOOTH if channels == 3 else np.ascontiguousarray(SMOOTH[:, :, 0])
    read = np.asarray(Image.open(io.BytesIO(encode(image, format))))
    assert np.array_equal(read if channels == 3 or read.ndim == 2 else read[:, :, 0], image)


def test_jpg_is_near_and_obeys_its_quality() -> None:
    good, poor = encode(SMOOTH, "jpg", 95), encode(SMOOTH, "jpg", 30)
    assert len(poor) < len(good)
    assert Image.open(io.BytesIO(good)).format == "JPEG"
    assert np.abs(np.asarray(Image.open(io.BytesIO(good))).astype(int) - SMOOTH).mean() < 4
    assert Image.open(io.BytesIO(encode(SMOOTH[:, :, 0], "jpg"))).mode == "L"
    assert encode(SMOOTH[:, ::-1], "jpg") == encode(np.ascontiguousarray(SMOOTH[:, ::-1]), "jpg")


def test_another_format_is_refused() -> None:
    with pytest.raises(SpecError, match='jpg, png, webp, not "gif"'):
        encode(SMOOTH, "gif")
