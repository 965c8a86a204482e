"""Rounding of rows for storage, CLIP scores and greyscale scaling, against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from curate.embed.encoder import EncoderConfig, clip_scores, eight_bit, nearest, to_stored


@given(arrays(np.float32, (5, 7), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)))
def test_stored_rows_are_the_rounded_unit_rows(rows: np.ndarray) -> None:
    stored, good = to_stored(rows)
    assert stored.dtype == np.float16
    for row, out, ok in zip(rows, stored, good, strict=True):
        length = np.linalg.norm(row.astype(np.longdouble))
        assert ok == (length > 0)
        if ok:
            np.testing.assert_allclose(out, row.astype(np.longdouble) / length, atol=2.0**-11)
            assert abs(float(np.linalg.norm(out.astype(np.float64))) - 1) < 2.0**-10
        else:
            assert not out.any()


def test_bad_rows_are_flagged_and_zero() -> None:
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1], [-np.inf, np.nan], [1e-38, 0]], np.float32)
    stored, good = to_stored(rows)
    assert good.tolist() == [True, False, False, False, False, True]
    np.testing.assert_array_equal(stored[0], np.array([0.6, 0.8], np.float16))
    np.testing.assert_array_equal(stored[5], [1, 0])
    assert not stored[1:5].any()


def test_the_input_rows_are_not_changed() -> None:
    rows = np.array([[np.nan, 2.0], [3.0, 4.0]], np.float32)
    before = rows.copy()
    to_stored(rows)
    np.testing.assert_array_equal(rows, before)


def test_clip_score_is_the_cosine_of_each_pair() -> None:
    images = np.array([[2, 0, 0], [1, 1, 0], [1, 2, 3], [0, 0, 0], [1, 0, 0]], np.float32)
    texts = np.array([[5, 0, 0], [-1, -1, 0], [3, 2, 1], [1, 0, 0], [np.nan, 0, 0]], np.float32)
    scores, good = clip_scores(images, texts)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, [1, -1, 10 / 14, 0, 0], atol=1e-7)
    assert good.tolist() == [True, True, True, False, False]


@pytest.mark.parametrize(
    ("values", "mode", "expected"),
    [
        (np.array([[0, 257, 65535]], np.uint16), "I;16", [0, 1, 255]),
        (np.array([[0, 32896, 65535]], np.int32), "I", [0, 128, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), "F", [0, 128, 255]),
        (np.array([[np.nan, 0.25, np.inf]], np.float32), "F", [0, 64, 0]),
    ],
)
def test_deep_greyscale_is_scaled_not_clipped(values: np.ndarray, mode: str, expected: list[int]) -> None:
    image = Image.fromarray(values)
    assert image.mode == mode
    scaled = eight_bit(image)
    assert scaled.mode == "L"
    assert np.asarray(scaled).ravel().tolist() == expected


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA"])
def test_other_modes_are_left_alone(mode: str) -> None:
    image = Image.new(mode, (3, 2))
    assert eight_bit(image) is image


def test_a_path_given_as_pretrained_is_a_checkpoint() -> None:
    config = EncoderConfig(model="ViT-B-32", pretrained="weights/my.safetensors")
    assert (config.pretrained, config.checkpoint) == (None, "weights/my.safetensors")
    assert EncoderConfig(model="ViT-B-32", pretrained="openai").pretrained == "openai"


def test_nearest_names_end_a_sentence() -> None:
    assert nearest("vit-b-61", ["ViT-B-16", "RN50"]) == "; did you mean ViT-B-16?"
    assert nearest("zzz", ["ViT-B-16"]) == "."
