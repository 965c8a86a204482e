"""Maps of real photos: what the packaged classifier sees in several things of one photo lies on these things."""

from __future__ import annotations

import numpy as np
import pytest
import realdata
import torch
from PIL import Image

from curate.embed.classifiers import classifier_config, load
from curate.relabel.annotate import Annotator, Preprocessing
from curate.relabel.maps import LabelMap, top_k
from curate.relabel.peaks import label_peaks

# photo -> class of ImageNet -> where it is, by eye: top, left, bottom, right as shares of the photo
SEEN = {
    23781: {937: (0.28, 0.14, 0.53, 0.50)},  # broccoli among other vegetables
    50331: {937: (0.19, 0.58, 0.37, 0.79), 738: (0.72, 0.0, 1.0, 0.75)},  # broccoli, pot
    58539: {834: (0.47, 0.35, 1.0, 0.84)},  # suit of the man in front
    60899: {905: (0.0, 0.41, 0.26, 0.88)},  # window shades behind a child
    64718: {781: (0.15, 0.11, 0.53, 0.84)},  # scoreboard behind a player
    84477: {879: (0.08, 0.36, 0.42, 0.98), 559: (0.56, 0.33, 0.92, 0.60)},  # umbrella, folding chair
    136772: {950: (0.27, 0.32, 0.62, 0.59), 949: (0.22, 0.59, 0.75, 0.85)},  # orange, strawberry
}


@pytest.fixture(scope="module")
def maps() -> dict[int, LabelMap]:
    found = load(classifier_config(model="packaged:efficientnet_lite0"), realdata.lite0())
    images = found.images
    prepare = Preprocessing(images.size, images.mean, images.std, images.interpolation)
    annotator = Annotator(found.network, size=images.size)
    made = {}
    with torch.inference_mode():
        for photo in SEEN:
            image = Image.open(realdata.coco() / f"{photo:012d}.jpg")
            made[photo] = top_k(annotator.maps(prepare(image)[None])[0].numpy())
    return made


@pytest.mark.parametrize(("photo", "number"), [(photo, number) for photo, there in SEEN.items() for number in there])
def test_the_best_cell_of_a_thing_lies_on_it(maps: dict[int, LabelMap], photo: int, number: int) -> None:
    _, height, width = maps[photo].shape
    best = label_peaks(maps[photo], number)[0]
    assert best.value > 0.8
    top, left, bottom, right = SEEN[photo][number]
    row, column = (np.array(best.cell) + 0.5) / (height, width)
    assert top <= row <= bottom
    assert left <= column <= right
