from __future__ import annotations

import math

import numpy as np
import pytest
import realdata
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from curate.embed.lite0 import Lite0
from curate.embed.weights import fill, read_state_dict
from curate.errors import InputError, ModelError
from curate.relabel.annotate import Annotator, Ensemble, Preprocessing, best_of, difference, preprocessing_of, regrid
from curate.relabel.dense_heads import DenseHead
from curate.relabel.maps import probabilities, top_k, top_k_batch
from curate.relabel.peaks import label_peaks
from curate.relabel.pooling import pool


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Tiny(nn.Module):
    """Two strided convolutions, average pooling, a linear layer `fc`."""

    def __init__(self, seed: int = 0, classes: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(6, classes)
        with torch.no_grad():
            for place, values in enumerate(self.parameters()):
                values.copy_(noise(seed * 100 + place, *values.shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(self.pool(self.body(x)).flatten(1))
        return out


def by_hand(model: Tiny, x: torch.Tensor) -> torch.Tensor:
    """The linear layer on each cell in turn."""
    with torch.inference_mode():
        cells = model.body(x)
        rows = [
            [model.fc(cells[:, :, row, column]) for column in range(cells.shape[3])] for row in range(cells.shape[2])
        ]
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("resnet18", {}),
        ("efficientnet_lite0", {}),
        ("regnetx_002", {}),
        ("test_nfnet", {}),
        ("test_byobnet", {}),
        ("densenet121", {}),
        ("resnetv2_50", {}),  # a 1 x 1 convolution for a classifier
        ("vit_tiny_patch16_224", {"global_pool": "avg", "fc_norm": False, "img_size": (64, 96), "depth": 2}),
        # channels last
        ("swin_tiny_patch4_window7_224", {"img_size": (64, 96), "depths": (1, 1, 1, 1), "window_size": 2}),
    ],
)
def test_the_mean_over_cells_is_what_the_model_says(architecture: str, options: dict[str, object]) -> None:
    torch.manual_seed(1)
    model = timm.create_model(architecture, num_classes=11, **options)
    annotator = Annotator(model, size=(64, 96))
    batch = noise(2, 2, 3, 64, 96)
    maps = annotator.maps(batch)
    assert maps.shape[:2] == (2, 11)
    assert maps.shape[3] / maps.shape[2] == 1.5
    assert maps.dtype == torch.float32
    with torch.inference_mode():
        own = model(batch)
    assert float(own.abs().max()) > 0
    assert difference(model, annotator, batch) < 1e-3 * min(1.0, float(own.abs().max()))
    assert float((maps.mean(dim=(2, 3)) - own).abs().max()) == difference(model, annotator, batch)


def test_cells_lie_where_the_image_is() -> None:
    """A patch that changes changes the map there, and not on the other side."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=4, global_pool="avg", fc_norm=False, img_size=(64, 96), depth=0
    )
    annotator = Annotator(model, size=(64, 96))
    batch = noise(0, 1, 3, 64, 96)
    changed = batch.clone()
    changed[:, :, 16:32, 64:80] += 1
    moved = (annotator.maps(changed) - annotator.maps(batch)).abs().sum(dim=1)[0]
    assert torch.nonzero(moved).tolist() == [[1, 4]]


@pytest.mark.parametrize(
    ("architecture", "options", "reason"),
    [
        ("test_convnext", {}, r"more than average pooling: head.norm \(LayerNorm2d\)"),
        ("mobilenetv3_small_050", {}, r"more than average pooling: conv_head \(Conv2d\), act2 \(Hardswish\)"),
        ("test_vit", {}, "class token"),
        ("test_vit", {"global_pool": "avg", "fc_norm": True, "class_token": False}, r"fc_norm \(LayerNorm\)"),
        ("test_vit", {"global_pool": "map", "class_token": False}, "attn_pool pools by attention"),
        ("resnet18", {"global_pool": "max"}, "global_pool pools by max"),
        ("resnet18", {"global_pool": "catavgmax"}, "pools by catavgmax"),
        ("levit_128s", {}, "averages 2 classifiers"),
        ("test_resnet", {"num_classes": 0}, "its classifier is Identity"),
    ],
)
def test_a_head_that_does_more_is_refused_with_the_reason(
    architecture: str, options: dict[str, object], reason: str
) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=reason):
        Annotator(timm.create_model(architecture, **options))


def test_what_follows_the_classifier_or_hides_from_the_layers_is_seen_in_the_numbers() -> None:
    class Softmax(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x).softmax(dim=1)

    class Rooted(Tiny):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc(self.pool(self.body(x)).flatten(1).abs().sqrt())
            return out

    with pytest.raises(ModelError, match="something follows it"):
        Annotator(Softmax(), size=(32, 32))
    with pytest.raises(ModelError, match="not fed with the mean over cells"):
        Annotator(Rooted(), size=(32, 32))
    for place in ("fc.bias", "body.0.weight"):
        broken = Tiny()
        with torch.no_grad():
            broken.get_parameter(place).view(-1)[1] = math.nan
        with pytest.raises(ModelError, match=f"The model Tiny gives NaN or infinity: {place} is not finite"):
            Annotator(broken, size=(32, 32))
    with pytest.raises(ModelError, match="single cell at 4 x 4"):
        Annotator(Tiny(), size=(4, 4))
    fixed = timm.create_model("vit_tiny_patch16_224", global_pool="avg", fc_norm=False, depth=1)
    with pytest.raises(ModelError, match="does not take images of 64 x 64"):
        Annotator(fixed, size=(64, 64))


def test_a_module_without_timms_methods_is_taken_apart_too() -> None:
    model = Tiny()
    batch = noise(1, 2, 3, 24, 40)
    torch.testing.assert_close(Annotator(model, size=(32, 32)).maps(batch), by_hand(model, batch))


def test_explicit_pieces_do_as_well() -> None:
    model = Tiny()
    batch = noise(1, 2, 3, 24, 40)
    head = DenseHead(model.body, model.fc.weight, model.fc.bias)
    torch.testing.assert_close(Annotator(head).maps(batch), by_hand(model, batch))
    with pytest.raises(ModelError, match="wants 4 features"):
        Annotator(DenseHead(model.body, torch.ones(2, 4))).maps(batch)
    with pytest.raises(ModelError, match=r"bias \[3\]"):
        DenseHead(model.body, torch.ones(2, 4), torch.ones(3))
    with pytest.raises(InputError, match="images x channels"):
        Annotator(head).maps(batch[0])


def test_a_model_in_half_precision() -> None:
    model = Tiny().to(torch.bfloat16)
    batch = noise(1, 1, 3, 32, 32).bfloat16()
    maps = Annotator(model, size=(32, 32)).maps(batch)
    assert maps.dtype == torch.float32
    with torch.inference_mode():
        wanted = torch.einsum("bdhw,cd->bchw", model.body(batch).float(), model.fc.weight.float())
        wanted += model.fc.bias.float()[:, None, None]
    torch.testing.assert_close(maps, wanted)
    assert difference(model, Annotator(model, size=(32, 32)), batch) > 0  # the model's own rounding


def test_flips_are_mirrored_back_and_averaged() -> None:
    model = Tiny()
    batch = noise(3, 2, 3, 24, 40)
    mirrored = torch.flip(by_hand(model, torch.flip(batch, dims=[3])), dims=[3])
    torch.testing.assert_close(
        Annotator(model, size=(32, 32), flip=True).maps(batch), (by_hand(model, batch) + mirrored) / 2
    )


def test_scales_come_to_the_first_grid_and_keep_the_mean_of_the_logits() -> None:
    model = Tiny()
    batch = noise(4, 2, 3, 24, 40)
    bigger = F.interpolate(batch, size=(36, 60), mode="bilinear", antialias=True)
    smaller = F.interpolate(batch, size=(12, 20), mode="bilinear", antialias=True)
    found = Annotator(model, size=(32, 32), scales=(1, 1.5, 0.5)).maps(batch)
    parts = [by_hand(model, batch), by_hand(model, bigger), by_hand(model, smaller)]
    torch.testing.assert_close(found, sum(regrid(part, (6, 10)) for part in parts) / 3)
    with torch.inference_mode():
        own = (model(batch) + model(bigger) + model(smaller)) / 3
    torch.testing.assert_close(found.mean(dim=(2, 3)), own, rtol=1e-4, atol=1e-4)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(0, 10**6))
def test_a_new_cell_is_the_mean_of_the_area_under_it(h: int, w: int, y: int, x: int, seed: int) -> None:
    """Brute force: both grids divide a raster of h * y by w * x points."""
    maps = noise(seed, 1, 2, h, w).double()
    raster = maps.repeat_interleave(y, dim=2).repeat_interleave(x, dim=3)
    torch.testing.assert_close(regrid(maps, (y, x)), F.avg_pool2d(raster, (h, w)))
    torch.testing.assert_close(regrid(maps, (y, x)).mean(dim=(2, 3)), maps.mean(dim=(2, 3)))


def test_an_ensemble_averages_probabilities_at_each_temperature() -> None:
    one, other = Tiny(0), Tiny(1)
    small, large = noise(5, 2, 3, 24, 40), noise(6, 2, 3, 32, 32)
    teachers = Ensemble(
        [Annotator(one, size=(32, 32), temperature=2.0), Annotator(other, size=(32, 32), temperature=0.5)]
    )
    first = (by_hand(one, small) / 2).softmax(dim=1)
    second = (by_hand(other, large) / 0.5).softmax(dim=1)
    wanted = (first + regrid(second, (6, 10))) / 2
    found = teachers.probabilities([small, large])
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(2, 6, 10))
    kept = top_k(teachers.maps([small, large])[0].numpy(), 5)
    assert kept.lse is not None
    np.testing.assert_allclose(kept.lse, -wanted[0].clamp_min(1e-38).log().mean(dim=0).numpy(), rtol=1e-4)
    best = np.take_along_axis(wanted[0].numpy(), kept.classes.astype(np.int64), axis=0)
    np.testing.assert_allclose(probabilities(kept), best, rtol=2e-2, atol=1e-6)
    alone = Ensemble(teachers.annotators[:1]).probabilities([small])
    torch.testing.assert_close(alone, teachers.annotators[0].probabilities(small))


WHOLE = [[0, 0, 1, 1]]


class Says(Annotator):
    """Answers with given logits [C, H, W]."""

    def __init__(self, logits: torch.Tensor, temperature: float = 1.0) -> None:
        super().__init__(DenseHead(lambda batch: logits[None], torch.eye(len(logits))), temperature=temperature)


def told(*logits: torch.Tensor) -> torch.Tensor:
    """What an ensemble of such teachers makes of one image."""
    return Ensemble([Says(one) for one in logits]).maps([noise(0, 1, 3, 8, 8)] * len(logits))


def test_stored_classes_of_an_ensemble_beat_those_that_are_not_stored_whichever_the_tail() -> None:
    logits = noise(0, 2, 1000, 5, 5)
    logits[:, 7] += 12
    logits[0, 20:24] += 4
    logits[1, 20:24] += 5
    truth = logits.softmax(dim=1).mean(dim=0)
    assert 0.5 < float(truth[7].mean()) < 0.999
    maps = told(logits[0], logits[1])
    torch.testing.assert_close(maps.softmax(dim=1)[0], truth)
    kept = top_k_batch(maps.numpy(), 5)
    by_lse = pool(kept, WHOLE, 1000, tail="lse")[0]
    by_zero = pool(kept, WHOLE, 1000, tail="zero")[0]
    np.testing.assert_allclose(by_lse[7], float(truth[7].mean()), rtol=5e-3)  # float16 of a score of 12
    assert by_zero.argmax() == 7
    assert set(np.argsort(by_zero)[-5:].tolist()) == {7, 20, 21, 22, 23}
    assert abs(by_zero[7] - by_lse[7]) < 0.02


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 7), st.sampled_from([3, 12, 300]))
def test_an_ensemble_of_one_model_twice_is_that_model_with_centred_logits(
    seed: int, spread: float, classes: int
) -> None:
    logits = noise(seed, classes, 3, 4) * spread + noise(seed + 1, 3, 4) * 100  # what all classes share says nothing
    centred = logits - logits.mean(dim=0)
    twice, once = top_k_batch(told(logits, logits).numpy(), 3), top_k(centred.numpy(), 3)
    np.testing.assert_allclose(twice.scores[0].astype(float), once.scores.astype(float), rtol=2e-3, atol=1e-3)
    boxes = [[0.1, 0.2, 0.7, 0.5]]
    for tail in ("zero", "lse"):
        found, wanted = pool(twice, boxes, classes, tail=tail), pool([once], boxes, classes, tail=tail)  # type: ignore
        np.testing.assert_allclose(found, wanted, atol=1e-2)


def test_scores_of_the_surest_ensemble_are_far_from_the_end_of_float16() -> None:
    logits = torch.zeros(1000, 2, 2)
    logits[5] = 3e4
    kept = top_k_batch(told(logits, logits / 2).numpy(), 2)
    assert float(np.abs(kept.scores).max()) < 90
    assert pool(kept, WHOLE, 1000)[0][5] == 1
    np.testing.assert_allclose(pool(kept, WHOLE, 1000, tail="lse")[0][5], 1, atol=1e-3)


def test_teachers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ModelError, match=r"\[5, 6\] classes"):
        Ensemble([Annotator(Tiny(), size=(32, 32)), Annotator(Tiny(classes=6), size=(32, 32))])
    pair = Ensemble([Annotator(Tiny(), size=(32, 32)), Annotator(Tiny(1), size=(32, 32))])
    with pytest.raises(InputError, match=r"\[2\] images for 2 teachers"):
        pair.maps([noise(0, 2, 3, 32, 32)])
    with pytest.raises(InputError, match=r"\[2, 1\] images"):
        pair.maps([noise(0, 2, 3, 32, 32), noise(0, 1, 3, 32, 32)])
    with pytest.raises(InputError, match="temperature is 0"):
        Annotator(Tiny(), size=(32, 32), temperature=0)
    with pytest.raises(InputError, match="Scales"):
        Annotator(Tiny(), size=(32, 32), scales=(1.0, math.nan))


def test_preprocessing_takes_the_whole_image() -> None:
    image = Image.new("RGB", (40, 10), (255, 0, 0))
    image.paste((0, 0, 255), (20, 0, 40, 10))
    facts = Preprocessing((8, 6), mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0), interpolation="nearest")
    pixels = facts(image)
    assert pixels.shape == (3, 8, 6)
    assert pixels.dtype == torch.float32
    assert pixels[:, 0, 0].tolist() == [1.0, -1.0, 0.0]
    assert pixels[:, 7, 5].tolist() == [-1.0, -1.0, 0.5]
    torch.testing.assert_close(facts(image.convert("RGBA")), pixels)
    with pytest.raises(InputError, match="'cubic'"):
        Preprocessing((8, 6), (0, 0, 0), (1, 1, 1), "cubic")


def test_preprocessing_is_what_timm_says() -> None:
    model = timm.create_model("tf_efficientnet_lite0")
    said = timm.data.resolve_model_data_config(model)
    facts = preprocessing_of(model)
    assert (3, *facts.size) == said["input_size"]
    assert (facts.mean, facts.std) == (said["mean"], said["std"])
    assert facts.interpolation == said["interpolation"]
    assert preprocessing_of(model, (448, 320)).size == (448, 320)
    with pytest.raises(ModelError, match="Tiny does not say"):
        preprocessing_of(Tiny())


@pytest.mark.parametrize("k", [1, 5, 40])
def test_the_best_of_a_tensor_are_those_of_an_array(k: int) -> None:
    logits = noise(3, 2, 40, 3, 4) * 6
    logits[:, 7:12] = logits[:, 6:7]  # ties go to the lower number
    found, truth = best_of(logits, k, 1.5), top_k_batch(logits.numpy(), k, 1.5)
    np.testing.assert_array_equal(found.scores, truth.scores)
    np.testing.assert_array_equal(found.classes, truth.classes)
    assert (found.scores.dtype, found.classes.dtype) == (np.float16, np.uint16)
    assert found.lse is not None
    assert truth.lse is not None
    np.testing.assert_allclose(found.lse, truth.lse, rtol=1e-6)


@pytest.mark.slow
def test_a_real_beach_photo_has_its_umbrella_and_its_chair_where_they_are() -> None:
    network = Lite0().eval()
    fill(network, read_state_dict(str(realdata.lite0())), "The packaged weights")
    photo = realdata.coco() / "000000084477.jpg"
    facts = Preprocessing((448, 448), (127 / 255,) * 3, (128 / 255,) * 3)
    batch = facts(Image.open(photo))[None]
    annotator = Annotator(DenseHead(network.feature_map, network._fc.weight, network._fc.bias))
    maps = annotator.maps(batch)
    assert maps.shape == (1, 1000, 14, 14)
    with torch.inference_mode():
        own = network._fc(network(batch))
    assert float((maps.mean(dim=(2, 3)) - own).abs().max()) < 1e-3
    kept = top_k(maps[0].numpy(), 5)
    umbrella, chair = 879, 559  # of ImageNet's 1,000 classes
    for label, rows, columns in ((umbrella, (2, 5), (6, 12)), (chair, (7, 11), (4, 8))):
        row, column = np.unravel_index(int(maps[0, label].argmax()), (14, 14))
        best = label_peaks(kept, label)[0]
        assert best.value > 0.1
        for place in ((row, column), best.cell):
            assert rows[0] <= place[0] <= rows[1]
            assert columns[0] <= place[1] <= columns[1]
