"""Training on label maps with torch: crops that know where they are, a collate function, CutMix of soft targets.

    crop = LocatedCrop(224)                             # image -> (tensor, box)
    collate = LabelPoolingCollate(classes=1000, cutmix=1.0)
    loader = DataLoader(data, batch_size=256, collate_fn=collate)     # data yields (tensor, LabelMap, box)
    for images, targets in loader:                      # [B, 3, 224, 224], [B, 1000]
        loss = torch.nn.functional.cross_entropy(model(images), targets)

All random choices come from torch's generator, which a DataLoader seeds anew in each worker. What never lives here: how
a target is made from a map (pooling.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as transforms

from curate.errors import InputError
from curate.relabel.maps import LabelMap
from curate.relabel.pooling import Order, Tail, pool


class LocatedCrop:
    """RandomResizedCrop and a random mirror that also say where the crop lies.

    Call: PIL image or float tensor [C, H, W] -> (float32 tensor [C, size, size], float32 [4] of top, left, height,
    width as shares of the image). A mirrored crop has the same target, so the box does not say it. Defaults are
    those of torchvision.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        mirror: float = 0.5,
    ) -> None:
        self.size, self.scale, self.ratio, self.mirror = size, scale, ratio, mirror

    def __call__(self, image: Any) -> tuple[Tensor, NDArray[np.float32]]:
        """A random crop and its box."""
        top, left, height, width = RandomResizedCrop.get_params(image, list(self.scale), list(self.ratio))
        crop = transforms.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        if float(torch.rand(())) < self.mirror:
            crop = transforms.hflip(crop)
        whole_width, whole_height = transforms.get_image_size(image)
        place = np.array([top, left, height, width]) / [whole_height, whole_width, whole_height, whole_width]
        tensor: Tensor = crop if isinstance(crop, Tensor) else transforms.to_tensor(crop)
        return tensor, place.astype(np.float32)


class LabelPoolingCollate:
    """Samples (image tensor, LabelMap, box) of a batch -> (images [B, ...], soft targets float32 [B, classes]).

    tail, order: as `pooling.pool`. smoothing: share of each target that is spread evenly over all classes. cutmix:
    probability that a batch is mixed, with lambda from Beta(beta, beta). Works on a batch of one. Picklable.
    """

    def __init__(
        self,
        classes: int,
        *,
        tail: Tail = "zero",
        order: Order = "xyxy",
        smoothing: float = 0.0,
        cutmix: float = 0.0,
        beta: float = 1.0,
    ) -> None:
        if not (0 <= smoothing < 1 and 0 <= cutmix <= 1 and beta > 0):
            raise InputError(
                f"smoothing is {smoothing:g}, cutmix {cutmix:g}, beta {beta:g}; wanted 0 to below 1, 0 to 1, above 0."
            )
        self.classes, self.tail, self.order = classes, tail, order
        self.smoothing, self.cutmix, self.beta = smoothing, cutmix, beta

    def __call__(self, samples: Sequence[tuple[Tensor, LabelMap, ArrayLike]]) -> tuple[Tensor, Tensor]:
        """One batch."""
        images = torch.stack([image for image, _, _ in samples])
        boxes = np.stack([np.asarray(box, dtype=np.float32) for _, _, box in samples])
        pooled = pool([one for _, one, _ in samples], boxes, self.classes, tail=self.tail, order=self.order)
        targets = torch.from_numpy(pooled)
        if self.smoothing:
            targets = smooth(targets, self.smoothing)
        if self.cutmix and float(torch.rand(())) < self.cutmix:
            share = float(torch.distributions.Beta(self.beta, self.beta).sample())
            images, targets = cutmix(images, targets, share)
        return images, targets


def smooth(targets: Tensor, share: float) -> Tensor:
    """(1 - share) of the targets [B, classes] and `share` spread evenly over all classes."""
    return targets * (1 - share) + share / targets.shape[1]


def cut_box(height: int, width: int, share: float, centre: tuple[int, int]) -> tuple[tuple[int, int, int, int], float]:
    """CutMix's box (top, left, bottom, right) for lambda = `share`, clipped to the image, and lambda corrected to it.

    The box has the sides int(H * sqrt(1 - lambda)) and int(W * sqrt(1 - lambda)) around the pixel `centre` (row,
    column); lambda becomes the share of pixels outside the clipped box (Yun et al. 2019, section 3 and its code).
    """
    side = math.sqrt(1 - share)
    half_height, half_width = int(height * side) // 2, int(width * side) // 2
    row, column = centre
    top, bottom = max(row - half_height, 0), min(row + half_height, height)
    left, right = max(column - half_width, 0), min(column + half_width, width)
    return (top, left, bottom, right), 1 - (bottom - top) * (right - left) / (height * width)


def cutmix(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Paste a box of another image of the batch into each image [B, C, H, W] and mix the targets by area.

    share: lambda, of the image's own part, before it is corrected to the clipped box. Partners, and the centre of the
    one box of the batch, are drawn from torch's generator. Returns new tensors; rows of targets keep their sum.
    """
    partner = torch.randperm(len(images))
    height, width = images.shape[-2:]
    centre = int(torch.randint(height, ())), int(torch.randint(width, ()))
    (top, left, bottom, right), own = cut_box(height, width, share, centre)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[partner, ..., top:bottom, left:right]
    return mixed, mixed_targets(targets, partner, own)


def mixed_targets(targets: Tensor, partner: Tensor, own: float) -> Tensor:
    """own * targets + (1 - own) * targets of the partners, [B, classes]."""
    return targets * own + targets[partner] * (1 - own)
