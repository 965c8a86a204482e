from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import numpy as np
import pytest
from discs import Discs, specification
from numpy.typing import NDArray
from PIL import Image

from curate.errors import SpecError
from curate.fractal import masks
from curate.fractal.families.choose import open_family, search
from curate.fractal.image import RENDERER, members, render, truth, uid
from curate.fractal.randomness import Draws
from curate.fractal.scene import flipped
from curate.fractal.specification import Specification
from curate.fractal.tones import tone

SCENE = {"objects": [1, 4]}


def decoded(data: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


@pytest.mark.parametrize("scene", [None, SCENE])
def test_an_image_is_the_same_alone_and_in_any_order(scene: Any) -> None:
    spec = specification(scene=scene)
    forwards = [members(spec, Discs(10), i) for i in range(12)]
    family = Discs(10)
    assert [members(spec, family, i) for i in reversed(range(12))] == forwards[::-1]
    assert len({tuple(one.values()) for one in forwards}) == 12
    # the number of images does not change any of them
    assert members(specification(scene=scene, images=7), Discs(10), 3) == forwards[3]
    assert members(specification(scene=scene, seed=6), Discs(10), 3) != forwards[3]


def test_objects_do_not_depend_on_how_many_follow() -> None:
    few, many = (specification(scene={"objects": [n, n]}) for n in (2, 5))
    for name in ("class", "key", "side", "left", "top", "flips", "colour", "drawing", "full_box"):
        for index in range(5):
            first, second = (render(spec, Discs(10), index).objects[:2] for spec in (few, many))
            assert [entry[name] for entry in first] == [entry[name] for entry in second]


def test_the_members_of_a_single_image() -> None:
    spec = specification()
    for index in (0, 7, 10, 999):
        made, files = render(spec, Discs(10), index), members(spec, Discs(10), index)
        assert list(files) == ["jpg", "cls", "json"]
        assert files["cls"] == str(index % 10).encode()
        assert made.label == index % 10
        assert made.labels == (index % 10,)
        known = json.loads(files["json"])
        assert list(known) == [
            "uid", "index", "renderer", "classes", "label", "labels", "background", "blur", "objects"
        ]  # fmt: skip
        assert (known["uid"], known["index"], known["renderer"]) == (uid(spec, index), index, RENDERER)
        assert (known["classes"], known["label"], known["labels"]) == (10, index % 10, [index % 10])
        assert known["objects"] == made.objects  # floats come back exactly
        assert known["background"] == made.facts["background"]
        (entry,) = known["objects"]
        assert entry["system"] == f"{index % 10:012x}"
        assert entry["labelled"]
        (layer,) = truth(spec, Discs(10), index)
        assert entry["box"] == entry["full_box"] == masks.box(layer.mask)
        assert entry["visible"] == float(layer.mask.any())
        np.testing.assert_array_equal(made.owner, layer.mask)
        again = tone(Discs(10).draw(entry["class"], 64, Draws(int(entry["key"], 16))).counts, "density")
        np.testing.assert_array_equal(flipped(again, tuple(entry["flips"])), layer.tone)
        buffer = io.BytesIO()
        Image.fromarray(made.image).save(buffer, "JPEG", quality=95)
        np.testing.assert_array_equal(decoded(files["jpg"]), decoded(buffer.getvalue()))


@pytest.mark.parametrize("kind", ["png", "webp"])
@pytest.mark.parametrize(
    ("colour", "background"), [("random", "diamond_square"), ("gray", "black"), ("gray", "diamond_square")]
)
def test_lossless_formats_hold_the_rendered_pixels(kind: str, colour: str, background: str) -> None:
    spec = specification(scene=SCENE, format=kind, colour=colour, background=background, blur=1.0)
    for index in range(3):
        made, files = render(spec, Discs(10), index), members(spec, Discs(10), index)
        assert list(files) == [kind, "json"]
        pixels = decoded(files[kind])
        whole = made.image if made.image.ndim == pixels.ndim else np.repeat(made.image[:, :, None], 3, axis=2)
        np.testing.assert_array_equal(pixels, whole)
        assert (json.loads(files["json"])["background"] is None) == (background == "black")


def test_gray_on_black_is_its_tone() -> None:
    spec = specification(colour="gray", background="black", blur=0.0, tone="log")
    made, (layer,) = render(spec, Discs(10), 4), truth(spec, Discs(10), 4)
    assert made.image.shape == (64, 64)
    np.testing.assert_array_equal(made.image, layer.tone)
    assert decoded(members(spec, Discs(10), 4)["jpg"]).ndim == 2


def test_blur_comes_to_its_share_of_images() -> None:
    spec = specification(blur=0.3, size=8, background="black")
    sigmas = [render(spec, Discs(10), i).facts["blur"] for i in range(1000)]
    drawn = [sigma for sigma in sigmas if sigma is not None]
    assert abs(len(drawn) - 300) < 4.5 * np.sqrt(1000 * 0.3 * 0.7)
    assert 0.5 <= min(drawn) < 0.52
    assert 0.98 < max(drawn) < 1.0
    sharp, soft = (specification(blur=share, size=32, background="black") for share in (0.0, 1.0))
    assert (render(sharp, Discs(10), 2).image != render(soft, Discs(10), 2).image).any()
    assert render(sharp, Discs(10), 2).objects == render(soft, Discs(10), 2).objects


def test_the_pixels_of_this_renderer() -> None:
    """Whoever changes these has changed what every specification draws, and raises RENDERER."""
    seen = hashlib.sha256()
    for scene, colour in ((None, "random"), (SCENE, "random"), (SCENE, "gray")):
        background = "black" if colour == "gray" else "diamond_square"
        spec = specification(scene=scene, colour=colour, background=background)
        for index in range(20):
            seen.update(render(spec, Discs(10), index).image.tobytes())
    assert (RENDERER, seen.hexdigest()) == (1, "3f6f91f2eebe2e3b6c4791c3cce68e79492919a719bc243f95c6a31ce6822183")


def test_uids() -> None:
    spec = specification()
    assert len({uid(spec, i) for i in range(1000)}) == 1000
    assert all(len(uid(spec, i)) == 32 and int(uid(spec, i), 16) >= 0 for i in range(5))
    assert uid(specification(images=5000), 3) == uid(spec, 3)
    assert uid(specification(quality=95, scene=None), 3) == uid(spec, 3)
    assert uid(Specification.model_validate_json(spec.model_dump_json()), 3) == uid(spec, 3)
    named = spec.model_copy(update={"name": "other"})
    others = [
        specification(quality=94),
        specification(seed=6),
        specification(scene=SCENE),
        specification(classes=9),
        named,
    ]
    assert len({uid(other, 3) for other in [*others, spec]}) == 6
    assert uid(spec, 3) == "9b6a6f247b077c3a8c852867e6c317b3"  # uids never change


@pytest.mark.parametrize("index", [-1, 1000])
def test_images_that_are_not_there(index: int) -> None:
    for make in (render, members, truth):
        with pytest.raises(SpecError, match=f"no image {index}: the specification has images 0 to 999"):
            make(specification(), Discs(10), index)


def test_another_renderer_is_refused() -> None:
    spec = specification().model_copy(update={"renderer": RENDERER + 1})
    with pytest.raises(SpecError, match=f"renderer {RENDERER + 1}, and this curate has {RENDERER}"):
        render(spec, Discs(10), 0)


def test_a_real_family_gives_true_files() -> None:
    """Iterated function systems: what the json says of the drawing is what was drawn."""
    spec = specification(classes=4)
    family = open_family(spec.options, search(spec.options, spec.seed))
    for index in range(8):
        known = json.loads(members(spec, family, index)["json"])
        (entry,) = known["objects"]
        assert entry["system"] == family.table["system"][index % 4]
        assert entry["drawing"]["points"] == 2000
        assert entry["box"] is not None
