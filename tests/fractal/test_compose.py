from fractions import Fraction

import numpy as np
import pytest
from scipy.ndimage import correlate1d

from curate.errors import SpecError
from curate.fractal.compose import blur, canvas, coverage, over, paint

RNG = np.random.default_rng(0)


def tones(side: int, share: float = 0.5) -> np.ndarray:
    return (RNG.integers(1, 256, (side, side)) * (RNG.random((side, side)) < share)).astype(np.uint8)


def table() -> np.ndarray:
    return RNG.integers(0, 256, (256, 3)).astype(np.uint8)


def test_ink_covers_the_background_and_nothing_else() -> None:
    tone, inks, field, behind = tones(16), table(), RNG.integers(0, 256, (16, 16)).astype(np.uint8), table()
    expected = np.where(tone[:, :, None] > 0, inks[tone], behind[field])
    assert np.array_equal(paint(tone, inks, field, behind), expected)
    assert np.array_equal(paint(tone.T, inks), np.where(tone.T[:, :, None] > 0, inks[tone.T], 0))
    assert np.array_equal(canvas(field, behind), behind[field])


def plainly_over(below: np.ndarray, tone: np.ndarray, inks: np.ndarray, top: int, left: int, k: int) -> np.ndarray:
    """Exact: what each subpixel shows, averaged in fractions, rounded half up."""
    out = below.copy()
    for i in range(tone.shape[0] // k):
        for j in range(tone.shape[1] // k):
            y, x = top + i, left + j
            if 0 <= y < below.shape[0] and 0 <= x < below.shape[1]:
                block = tone[i * k : i * k + k, j * k : j * k + k].ravel()
                seen = [inks[t].tolist() if t else below[y, x].tolist() for t in block]
                out[y, x] = [int(Fraction(sum(c), k * k) + Fraction(1, 2)) for c in zip(*seen, strict=True)]
    return out


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize(("top", "left"), [(3, 4), (-5, 2), (12, -3), (0, 15), (-20, 0), (40, 40)])
def test_objects_are_averages_of_what_their_subpixels_show(k: int, top: int, left: int) -> None:
    below, tone, inks = RNG.integers(0, 256, (20, 20, 3)).astype(np.uint8), tones(10 * k, 0.4), table()
    drawn = below.copy()
    over(drawn, tone, inks, top, left, k)
    assert np.array_equal(drawn, plainly_over(below, tone, inks, top, left, k))
    one, level = np.ascontiguousarray(below[:, :, 0]), np.ascontiguousarray(inks[:, 0])
    over(one, tone, level, top, left, k)
    assert np.array_equal(one, drawn[:, :, 0])


def test_no_fringes() -> None:
    """A white object over white stays white: colours are mixed by what they cover, never with black."""
    drawn, white = np.full((16, 16, 3), 255, dtype=np.uint8), np.full((256, 3), 255, dtype=np.uint8)
    over(drawn, tones(32, 0.3), white, 0, 0, 2)
    assert (drawn == 255).all()


def test_an_object_of_one_colour_only_mixes_with_what_is_behind() -> None:
    """Every pixel lies on the line from background to ink, at the quarter that is covered, whatever the colours."""
    for _ in range(20):
        ink, behind = RNG.integers(0, 256, (2, 3))
        drawn, tone = np.tile(behind.astype(np.uint8), (12, 12, 1)), tones(24, 0.3)
        over(drawn, tone, np.tile(ink.astype(np.uint8), (256, 1)), 0, 0, 2)
        share = coverage(tone, 2)[:, :, None] / 4.0
        assert np.array_equal(drawn, np.floor(share * ink + (1.0 - share) * behind + 0.5))


def test_later_objects_lie_in_front() -> None:
    drawn, full = np.zeros((8, 8, 3), dtype=np.uint8), np.full((16, 16), 9, dtype=np.uint8)
    for level in (50, 200):
        over(drawn, full, np.full((256, 3), level, dtype=np.uint8), 0, 0, 2)
    assert (drawn == 200).all()


def test_shapes_that_do_not_fit_are_refused() -> None:
    """Compiled loops would read beyond the arrays."""
    drawn, inks = np.zeros((8, 8, 3), dtype=np.uint8), table()
    with pytest.raises(SpecError, match="2 x 2 subpixels do not divide"):
        over(drawn, tones(5), inks, 0, 0, 2)
    with pytest.raises(SpecError, match="k is 1 or 2"):
        coverage(tones(6), 3)
    with pytest.raises(SpecError, match="do not fit a canvas"):
        over(drawn, tones(4), inks[:, 0], 0, 0, 1)
    with pytest.raises(SpecError, match="do not fit a canvas"):
        over(drawn, tones(4), inks[:100], 0, 0, 1)
    with pytest.raises(SpecError, match="cannot lie on a field"):
        paint(tones(8), inks, tones(4), inks)
    for image, sigma in ((tones(1), 0.5), (tones(8), 0.0)):
        with pytest.raises(SpecError, match="cannot be blurred"):
            blur(image, sigma)


@pytest.mark.parametrize("k", [1, 2])
def test_coverage_counts_inked_subpixels(k: int) -> None:
    tone = tones(12 * k)
    blocks = (tone > 0).reshape(12, k, 12, k).sum(axis=(1, 3))
    assert np.array_equal(coverage(tone, k), blocks)
    assert np.array_equal(coverage(tone[::-1].T, k), blocks[::-1].T)


@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 3), (2, 2, 3)])
@pytest.mark.parametrize("sigma", [0.5, 0.73, 1.0])
def test_blur_is_the_gaussian(shape: tuple[int, ...], sigma: float) -> None:
    image = RNG.integers(0, 256, shape).astype(np.uint8)
    weights = np.exp(-0.5 * np.array([-1.0, 0.0, 1.0]) ** 2 / sigma**2)
    weights /= weights.sum()
    exact = correlate1d(correlate1d(image.astype(float), weights, 0, mode="mirror"), weights, 1, mode="mirror")
    assert np.abs(blur(image, sigma) - exact).max() < 0.51
    for level in range(256):
        assert (blur(np.full(shape, level, dtype=np.uint8), sigma) == level).all()
    assert np.array_equal(blur(np.asfortranarray(image), sigma), blur(image, sigma))
