"""Heat over photos: torch's bilinear resize, the formula of the mix, and an order that everybody can see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from curate.report.heat import STOPS, colours, enlarged, heat, scale


@given(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(9, 40)] * 2), st.integers(0, 99))
def test_enlarged_is_torchs_bilinear_resize(cells: tuple[int, int], pixels: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).random(cells)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=pixels, mode="bilinear", align_corners=False
    )
    np.testing.assert_allclose(enlarged(values, pixels[1], pixels[0]), wanted[0, 0].numpy(), atol=1e-6)


def test_colours_meet_their_stops_and_stay_within_0_and_1() -> None:
    assert colours(np.linspace(0, 1, len(STOPS))).tolist() == [list(map(float, stop)) for stop in STOPS]
    assert colours(np.array([-1.0, 2.0])).tolist() == [list(map(float, STOPS[0])), list(map(float, STOPS[-1]))]


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Relative luminance of sRGB colours 0 to 255 (IEC 61966-2-1)."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return linear @ np.array([0.2126, 0.7152, 0.0722])


def test_more_is_lighter_also_for_eyes_without_red_or_green() -> None:
    steps = colours(np.linspace(0, 1, 41)).astype(np.float64)
    assert (np.diff(luminance(steps)) > 0).all()
    # Vienot, Brettel and Mollon 1999: what a dichromat sees, in linear RGB
    linear = np.where(steps / 255 <= 0.04045, steps / 255 / 12.92, ((steps / 255 + 0.055) / 1.055) ** 2.4)
    for seen in ((0.11238, 0.88762), (0.29275, 0.70725)):  # protanopia, deuteranopia: red and green become one
        yellow = linear[:, :2] @ np.array(seen)
        both = yellow * 0.9278 + linear[:, 2] * 0.0722
        assert (np.diff(both) > 0).all()


def test_no_probability_leaves_the_photo_in_grey() -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    shown = heat(photo, np.zeros((3, 5)))
    assert shown.mode == "RGB"
    assert np.array_equal(np.asarray(shown), np.repeat(np.asarray(photo.convert("L"))[..., None], 3, axis=2))


def test_heat_lies_where_the_cells_are() -> None:
    values = np.zeros((2, 4))
    values[1, 3] = 1.0
    shown = np.asarray(heat(Image.new("RGB", (80, 20), (100, 100, 100)), values)).astype(int)
    coloured = np.argwhere(np.abs(shown - 100).max(axis=2) > 20)
    assert coloured[:, 0].min() >= 5
    assert coloured[:, 1].min() >= 50
    assert shown[19, 79].tolist() == [round(100 * 0.18 + 0.82 * channel) for channel in STOPS[-1]]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_legend_has_the_colours_of_the_pictures(share: float) -> None:
    legend = scale(steps=11)
    pixel = heat(Image.new("RGB", (4, 4), (128, 128, 128)), np.full((2, 2), share)).getpixel((1, 1))
    assert isinstance(pixel, tuple)
    assert legend[round(10 * share)] == "#" + bytes(pixel).hex()
