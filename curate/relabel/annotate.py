"""A classifier that says what it sees in every cell of an image: its head is applied before the pooling.

    head = dense_head(timm.create_model("resnet50", pretrained=True))   # refuses a model for which this is not exact
    annotator = Annotator(head, flip=True)
    logits = annotator.maps(batch)                                      # float32 [B, C, H, W]

Where a classifier ends in average pooling and a linear layer, the two may change places: the mean over the cells is
then the classifier's own output, up to rounding (ReLabel, Yun et al. 2021, section 3). What never lives here: which
classes of a cell are kept (maps.py), reading images and weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from curate.errors import InputError, ModelError
from curate.relabel.dense_heads import DenseHead, dense_head
from curate.relabel.maps import LabelMaps, class_dtype

_LEAST = 1e-38  # a normal float32; the logarithm of 0 would spoil sums


@dataclass(frozen=True)
class Preprocessing:
    """What an image must be before the model sees it: the whole image at `size` (height, width), aspect not kept.

    Then (pixel / 255 - mean) / std of each channel. `interpolation` is the name of a filter of Pillow in small letters.
    """

    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if min(self.size) < 1 or min(self.std) <= 0 or not hasattr(Image.Resampling, self.interpolation.upper()):
            raise InputError(
                f"Preprocessing with size {self.size}, std {self.std} and interpolation {self.interpolation!r} cannot "
                "be: sizes and std are above 0, filters are nearest, bilinear, bicubic, lanczos, box, hamming."
            )

    def __call__(self, image: Image.Image) -> Tensor:
        """float32 [3, height, width] of an image of any size and mode."""
        height, width = self.size
        small = image.convert("RGB").resize((width, height), Image.Resampling[self.interpolation.upper()])
        pixels = np.asarray(small, dtype=np.float32) / np.float32(255)
        mean, std = np.asarray(self.mean, dtype=np.float32), np.asarray(self.std, dtype=np.float32)
        return torch.from_numpy((pixels - mean) / std).permute(2, 0, 1).contiguous()


def preprocessing_of(model: nn.Module, size: tuple[int, int] | None = None) -> Preprocessing:
    """What a timm model says of its input; `size` (height, width) replaces its own: a greater one has more cells.

    Raises ModelError when the model says nothing.
    """
    said: Any = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if not said or not said.get("mean") or not said.get("input_size"):
        raise ModelError(f"{type(model).__name__} does not say how its input is prepared; make a Preprocessing.")
    height, width = size or tuple(int(side) for side in said["input_size"][-2:])
    red, green, blue = (float(value) for value in said["mean"])
    deviations = tuple(float(value) for value in said["std"])
    return Preprocessing(
        (height, width),
        (red, green, blue),
        (deviations[0], deviations[1], deviations[2]),
        str(said.get("interpolation") or "bicubic"),
    )


class Annotator:
    """Label maps by one classifier: its logits in every cell, averaged over flips and scales when asked.

    flip: the mean with the map of the mirrored image, mirrored back. scales: the batch is resized by each factor
    (bilinear, antialiased) and the maps come to the grid of the first by the areas that cells share, so that the mean
    over cells stays the mean of the classifier's logits over flips and scales. temperature: recorded for whoever turns
    logits into probabilities (`maps.top_k`, `Ensemble`); `maps` itself returns plain logits. Not for several threads at
    once. Raises ModelError where the model's head cannot change places with its pooling (see `dense_head`).
    """

    def __init__(
        self,
        model: nn.Module | DenseHead,
        *,
        size: tuple[int, int] | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        temperature: float = 1.0,
    ) -> None:
        if not scales or not all(math.isfinite(scale) and scale > 0 for scale in scales):
            raise InputError(f"Scales are {list(scales)}; give at least one factor above 0.")
        if not (math.isfinite(temperature) and temperature > 0):
            raise InputError(f"The temperature is {temperature:g}; it must be a number above 0.")
        self.head = model if isinstance(model, DenseHead) else dense_head(model, size)
        self.flip = flip
        self.scales = tuple(scales)
        self.temperature = temperature

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.head.classes

    def maps(self, batch: Tensor) -> Tensor:
        """Logits of every cell, float32 [B, C, H, W], of images [B, 3, h, w] prepared for the model.

        Memory: the model's own, and two maps.
        """
        total: Tensor | None = None
        with torch.inference_mode():
            for scale in self.scales:
                seen = batch if scale == 1 else _resized(batch, scale)
                one = self.head.maps(seen)
                if self.flip:
                    one = (one + self.head.maps(seen.flip(-1)).flip(-1)) / 2
                total = one if total is None else total + regrid(one, (total.shape[2], total.shape[3]))
        assert total is not None  # there is a scale
        return total / len(self.scales)

    def probabilities(self, batch: Tensor) -> Tensor:
        """softmax(maps / temperature) over classes, float32 [B, C, H, W]."""
        return torch.softmax(self.maps(batch) / self.temperature, dim=1)


class Ensemble:
    """Label maps by several classifiers of the same classes: the mean of their probabilities (MEAL V2, Shen and
    Savvides 2020, section 3), each at its own temperature, all classes, before any are dropped.

    Memory of its methods: that of the teacher at work, and two maps.
    """

    def __init__(self, annotators: Sequence[Annotator]) -> None:
        if not annotators or len({one.classes for one in annotators}) > 1:
            raise ModelError(
                f"Teachers of an ensemble have {[one.classes for one in annotators]} classes; give at least one, all "
                "with the same classes."
            )
        self.annotators = tuple(annotators)
        self.classes = annotators[0].classes

    def probabilities(self, batches: Sequence[Tensor]) -> Tensor:
        """float32 [B, C, H, W] on the grid of the first teacher; `batches`: the same images prepared for each teacher.

        Raises InputError when there is not one batch a teacher, or they differ in length.
        """
        if len(batches) != len(self.annotators) or len({len(batch) for batch in batches}) > 1:
            raise InputError(
                f"Batches of {[len(batch) for batch in batches]} images for {len(self.annotators)} teachers; give the "
                "same images once for each."
            )
        with torch.inference_mode():
            total = self.annotators[0].probabilities(batches[0])
            for annotator, batch in zip(self.annotators[1:], batches[1:], strict=True):
                one = annotator.probabilities(batch).to(total.device)
                total = total + regrid(one, (total.shape[2], total.shape[3]))
            return total / len(self.annotators)

    def maps(self, batches: Sequence[Tensor]) -> Tensor:
        """Logits for `maps.top_k` at temperature 1, float32 [B, C, H, W]; their softmax is `probabilities`.

        The logarithm of `probabilities` (of 1e-38 where less) minus its mean over all classes of the cell, so that 0 is
        a middling class as in a classifier's own logits: `pooling.pool` with tail "zero" gives that to the classes that
        are not stored, and plain logarithms, none of them above 0, would lose to it. None is beyond 88.
        """
        with torch.inference_mode():
            logs = self.probabilities(batches).clamp_min_(_LEAST).log_()
            return logs.sub_(logs.mean(dim=1, keepdim=True))


def best_of(logits: Tensor, k: int, temperature: float = 1.0) -> LabelMaps:
    """`maps.top_k_batch` of finite logits [B, C, H, W] where they lie, so that a GPU need not send them all.

    The same scores and classes; the lse is summed in float32. Memory: five arrays of the size of logits.
    """
    scaled = logits.float() / temperature
    values, places = torch.sort(scaled, dim=1, descending=True, stable=True)  # topk does not say who wins a tie
    lse = torch.logsumexp(scaled, dim=1)
    return LabelMaps(
        values[:, :k].half().cpu().numpy(),
        places[:, :k].cpu().numpy().astype(class_dtype(logits.shape[1])),
        lse.cpu().numpy(),
    )


def regrid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps [B, C, H, W] on another grid: a new cell is the mean of the old ones under it, by shared area.

    Cells are areas of constant value: the mean over the whole map is the same as before, and probabilities sum to 1.
    """
    height, width = int(maps.shape[2]), int(maps.shape[3])
    if (height, width) == grid:
        return maps
    rows = _overlaps(height, grid[0]).to(maps)
    columns = _overlaps(width, grid[1]).to(maps)
    return torch.einsum("bchw,yh,xw->bcyx", maps, rows, columns)


def _overlaps(old: int, new: int) -> Tensor:
    """[new, old]: the share of each new cell that lies in each old one; rows sum to 1."""
    starts, ends = (torch.arange(new) + move for move in (0, 1))
    first, last = (torch.arange(old) + move for move in (0, 1))
    # in whole numbers of 1 / (old * new): exact
    shared = torch.minimum(ends[:, None] * old, last * new) - torch.maximum(starts[:, None] * old, first * new)
    return shared.clamp_min(0).double() / old


def scaled(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width in pixels of an image of `size` at a scale of `Annotator`."""
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized(batch: Tensor, scale: float) -> Tensor:
    size = scaled((int(batch.shape[2]), int(batch.shape[3])), scale)
    return F.interpolate(batch, size=size, mode="bilinear", antialias=True, align_corners=False)


def difference(model: nn.Module, annotator: Annotator, batch: Tensor) -> float:
    """Greatest difference between the mean over cells and the model's own logits; below 1e-3 in float32.

    With flips or scales the mean is one over several passes, and another number: leave them off for this test.
    """
    with torch.inference_mode():
        own: Tensor = model(batch)
        return float((annotator.maps(batch).mean(dim=(2, 3)) - own.float()).abs().max())
