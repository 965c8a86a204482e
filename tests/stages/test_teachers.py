from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_teacher
import torch
from PIL import Image

from curate.embed.classifiers import classifier_config
from curate.errors import ModelError
from curate.formats.label_maps import unpack
from curate.relabel.annotate import Annotator, preprocessing_of
from curate.stages import teachers
from curate.stages.teachers import Teachers, Wanted, describe


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("teachers") / "w.pth"
    tiny_teacher.save(path)
    return path


def wanted(weights: Path, size: int | None = None) -> Wanted:
    return Wanted(classifier_config("test_resnet", checkpoint=str(weights)), size, 1.0)


@pytest.mark.parametrize(("size", "scales"), [(None, (1.0,)), (320, (1.0,)), (352, (0.75, 2.0)), (100, (1.3,))])
def test_the_grid_that_is_told_before_work_is_that_of_the_maps(
    size: int | None, scales: tuple[float, ...], weights: Path
) -> None:
    """Sizes above 288 are not tried: shapes without arithmetic tell."""
    info, _ = describe([wanted(weights, size)], 5, False, scales)
    side = size or 160
    maps = Annotator(tiny_teacher.network(weights), scales=scales).maps(torch.zeros(1, 3, side, side))
    assert (info.height, info.width) == tuple(maps.shape[2:])
    assert info.teachers[0].preparation.size == (side, side)


def test_where_shapes_cannot_be_told_apart_from_arithmetic_it_is_done(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, tried = teachers._cells, list[str]()

    def cells(head: object, images: torch.Tensor) -> tuple[int, int]:
        tried.append(images.device.type)
        if images.is_meta:
            raise RuntimeError("no kernel for meta tensors")
        return real(head, images)  # type: ignore[arg-type]

    monkeypatch.setattr(teachers, "_cells", cells)
    info, _ = describe([wanted(weights, 320)], 5, False, (1.0,))
    assert tried == ["meta", "cpu"]
    assert (info.height, info.width) == (10, 10)


def test_a_model_of_one_size_is_not_given_another() -> None:
    swin = Wanted(classifier_config("swin_tiny_patch4_window7_224"), 256, 1.0)
    with pytest.raises(ModelError, match="takes images of 224 x 224 pixels only, not of 256; leave size out"):
        describe([swin], 5, False, (1.0,))


@pytest.mark.parametrize(
    ("scales", "text"),
    [
        ((0.2,), "test_resnet has a single cell at 32 x 32 pixels, scale 0.2 of 160 x 160"),
        ((1.0, 0.01), "test_resnet has a single cell at 2 x 2 pixels, scale 0.01 of 160 x 160"),
    ],
)
def test_a_scale_that_leaves_one_cell_is_refused(scales: tuple[float, ...], text: str, weights: Path) -> None:
    with pytest.raises(ModelError, match=text):
        describe([wanted(weights)], 5, False, scales)


def test_every_scale_of_every_teacher_is_tried_before_work(weights: Path) -> None:
    swin = Wanted(classifier_config("swin_tiny_patch4_window7_224"), None, 1.0)
    with pytest.raises(
        ModelError, match=r"swin_tiny\w* does not take images of 336 x 336 pixels, scale 1.5 of 224 x 224: .*336"
    ):
        describe([swin], 5, False, (1.0, 1.5))
    info, _ = describe([wanted(weights)], 5, False, (1.0, 1.5, 2.0))
    assert (info.height, info.width) == (5, 5)


def test_one_pass_over_one_image_a_scale(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, seen = teachers._cells, list[tuple[int, ...]]()
    monkeypatch.setattr(teachers, "_cells", lambda head, images: seen.append(tuple(images.shape)) or real(head, images))
    describe([wanted(weights)], 5, False, (1.0, 2.0, 0.5, 2.0))
    assert seen == [(1, 3, 160, 160), (1, 3, 320, 320), (1, 3, 80, 80)]


def test_low_precision_is_for_the_features_and_the_head_stays_exact(weights: Path) -> None:
    """bfloat16 has 8 bits: features differ by about 1 %, and a head in bfloat16 would round scores to 8 bits too."""
    one = wanted(weights)
    info, _ = describe([one], 12, False, (1.0,))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8))
    found = {}
    for precision in ("fp32", "bf16"):
        made = Teachers([one], info, "cpu", precision, 1)  # type: ignore[arg-type]
        records, good = made.records(tuple(pixels[None] for pixels in made.prepare(image)))
        assert good.all()
        scores, classes, _ = unpack(records)
        found[precision] = np.take_along_axis(scores, np.argsort(classes, axis=1), axis=1)[0].astype(np.float32)
    network = tiny_teacher.network(weights)
    truth = Annotator(network).maps(preprocessing_of(network)(image)[None])[0].numpy()
    spread = truth.max() - truth.min()
    assert np.abs(found["fp32"] - truth).max() < 1e-3 * np.abs(truth).max()
    assert 0 < np.abs(found["bf16"] - truth).max() < 0.1 * spread
    assert len(np.unique(found["bf16"].view(np.int32) & 0xFFFF)) > 1  # more bits than bfloat16 has
