import colorsys

import numpy as np

from curate.fractal.colour import gray, palette, palette_of, ramp
from curate.fractal.randomness import Draws


def test_a_palette_is_made_again_from_its_facts() -> None:
    table, facts = palette(Draws.of(1, "colour"))
    assert np.array_equal(palette_of(facts), table)
    assert 0.3 <= facts["saturation"] < 1.0
    assert 0.5 <= facts["value"] < 1.0


def test_colours_are_those_of_colorsys() -> None:
    for i in range(50):
        table, facts = palette(Draws.of(2, i))
        for tone in range(0, 256, 5):
            hue = (facts["hue"] + tone / 256.0) % 1.0
            exact = 255.0 * np.array(colorsys.hsv_to_rgb(hue, facts["saturation"], facts["value"]))
            assert np.abs(table[tone] - exact).max() <= 0.5 + 1e-6


def test_every_hue_is_met_once() -> None:
    """The published colours run through 180 steps of hue as if they were 256, so some hues come twice."""
    table = palette_of({"hue": 0.3, "saturation": 1.0, "value": 1.0})
    hues = np.array([colorsys.rgb_to_hsv(*(colour / 255.0))[0] for colour in table])
    assert np.abs((hues - 0.3 - np.arange(256) / 256.0 + 0.5) % 1.0 - 0.5).max() < 0.5 / 256  # in steps of 1 / 256


def test_hues_of_a_tone_are_uniform_over_images() -> None:
    hues = np.array([(palette(Draws.of(3, i))[1]["hue"] + 200 / 256) % 1.0 for i in range(4000)])
    observed = np.histogram(hues, bins=40, range=(0.0, 1.0))[0]
    assert float(((observed - 100.0) ** 2 / 100.0).sum()) < 72.1  # 0.1 % point of chi-squared with 39 degrees


def test_a_ramp_holds_saturation_and_value_in_range() -> None:
    table = ramp((0.0, 0.0), (0.9, 1.0), (-1.0, 0.1))
    assert table[0].tolist() == [0, 0, 0]
    assert table[255].tolist() == [255, 0, 0]


def test_gray_is_its_tone() -> None:
    assert gray().tolist() == list(range(256))
    assert gray(3)[7].tolist() == [7, 7, 7]
