"""Does LabelPooling train better? Scenes of 2 to 4 real photos, of which one is labelled, and random crops of them.

    python -m benchmarks.label_pooling_training --threads 1     # seeds 1, 2, 3
    python -m benchmarks.label_pooling_training --tune          # seed 0 on validation pictures: which rate
    python -m benchmarks.label_pooling_training --quick         # does it run at all

A scene has 2 x 2 cells of 32 pixels: pictures of CIFAR-10 in 2, 3 or 4 of them, a plain colour in the others. Its given
label is the class of one of its pictures, as ImageNet's is of one of its objects. A student sees random crops (area .08
to 1 of the scene, as ReLabel's), resized to 32 pixels. All arms see the same crops in the same order from the same
first weights for the same number of steps; only the targets differ:

    single                  the given label
    single, smoothed        the same with a tenth spread over all classes
    whole image, soft       the scene's whole label map pooled, whatever the crop shows
    pooled, zero or lse     the crop's part of the map pooled by curate, both tails
    pooled, self-trained    the map made by the student of `single`: no label that `single` has not
    true map                the crop's part of the true map, no annotator: what a perfect one would give

The annotator is the packaged EfficientNet-Lite0 with a head for 10 classes, fitted to the features of 2,000 single
pictures, none of which is in a scene or a test; it sees pictures at 128 pixels and scenes at 256. So it knows ImageNet
and labels that `single` does not, as ReLabel's annotator knew more than ImageNet. `pooled, self-trained` is the control
for that, though its annotator and student train in turn, twice the steps of `single`. Heads of annotators change places
with their pooling (curate.relabel.dense_heads); each scene's map, 8 x 8 cells, is made and stored once, float16 scores
of the best 5 of 10 classes.

A seed changes the given labels, the crops, their order and the first weights; scenes, the annotator and its maps are
the same for all seeds. Test: CIFAR-10's test pictures, one by one, and in scenes, whole and resized to 32 pixels. They
are used after the last step only; --tune takes other pictures.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.fractal_pretraining import (
    CLASSES,
    SIDE,
    Batch,
    Labelled,
    Network,
    average_precision,
    cifar,
    floats,
    interval,
    train,
)
from benchmarks.label_scenes import MAP, Scenes, Stored, annotate, cells_right, compose, stored_maps, true_maps, visible
from curate.relabel.collate import LabelPoolingCollate, LocatedCrop, smooth
from curate.relabel.maps import LabelMap, LabelMaps
from curate.relabel.pooling import Tail, pool

SMOOTHING = 0.1
RATES = (0.03, 0.1, 0.3)
METRICS = ("single pictures, top-1", "scenes, top-1 is in the set", "scenes, mean average precision")
SINGLE = "single"


# --- training ---------------------------------------------------------------------------------------------------------


class Student(Network):
    """A residual network of 7 layers: 16, 8 and 4 pixels a side, width w, 2w and 4w, mean, linear head."""

    def __init__(self, width: int) -> None:
        super().__init__(width, CLASSES)
        self.body[0] = nn.Conv2d(3, width, 3, 2, 1, bias=False)


class Crops(Dataset[tuple[torch.Tensor, LabelMap, NDArray[np.float32]]]):
    """Item n is (a random crop of scene order[n], the scene's label map or target, the crop's box)."""

    def __init__(self, scenes: Scenes, labels: LabelMaps | torch.Tensor, order: torch.Tensor, args: argparse.Namespace):
        self.scenes, self.labels, self.order = scenes, labels, order.tolist()
        self.crop = LocatedCrop(SIDE, scale=tuple(args.scale))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, n: int) -> tuple[torch.Tensor, LabelMap, NDArray[np.float32]]:
        scene = self.order[n]
        image, box = self.crop(floats(self.scenes.images[scene]))
        return image, self.labels[scene], box  # type: ignore[return-value]


def plain(samples: list[tuple[torch.Tensor, torch.Tensor, NDArray[np.float32]]]) -> Batch:
    """The collate function of targets that do not depend on the crop."""
    return torch.stack([image for image, _, _ in samples]), torch.stack([target for _, target, _ in samples])


def loader(
    scenes: Scenes, labels: LabelMaps | torch.Tensor, tail: Tail, args: argparse.Namespace, seed: int, steps: int
) -> Iterator[Batch]:
    """Batches of crops; with label maps the targets are pooled, else those of the scene [n, 10] are taken.

    Which scene and which crop come when is the same for all arms: torch's generator begins at the seed, and nothing
    but the crops draws from it while the batches are read.
    """
    draws = torch.Generator().manual_seed(seed)
    wanted = steps * args.batch
    rounds = -(-wanted // len(scenes))
    order = torch.cat([torch.randperm(len(scenes), generator=draws) for _ in range(rounds)])[:wanted]
    collate = LabelPoolingCollate(CLASSES, tail=tail) if isinstance(labels, LabelMaps) else plain
    data = Crops(scenes, labels, order, args)
    torch.manual_seed(seed)
    return iter(DataLoader(data, batch_size=args.batch, collate_fn=collate))


def learn(
    scenes: Scenes, labels: LabelMaps | torch.Tensor, tail: Tail, args: argparse.Namespace, seed: int, rate: float
) -> Student:
    """A student after `args.steps` steps."""
    torch.manual_seed(seed)
    network = Student(args.width).to(memory_format=torch.channels_last)
    batches = loader(scenes, labels, tail, args, seed, args.steps)
    last = ((x.contiguous(memory_format=torch.channels_last), y) for x, y in batches)
    train(network, last, args.steps, rate, args.decay, F.cross_entropy)
    return network.eval()


# --- what comes out ---------------------------------------------------------------------------------------------------


def logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """float32 [n, 10] of pictures uint8, scenes made smaller to 32 pixels first, as a crop of the whole is."""
    out = []
    with torch.inference_mode():
        for some in (images[n : n + 500] for n in range(0, len(images), 500)):
            x = floats(some)
            if x.shape[-1] != SIDE:
                x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
            out.append(network(x.contiguous(memory_format=torch.channels_last)))
    return torch.cat(out)


def top1(network: nn.Module, pictures: Labelled) -> float:
    """Share of pictures whose best class is right."""
    return float((logits(network, pictures.images).argmax(dim=1) == pictures.classes).float().mean())


def judged(network: nn.Module, pictures: Labelled, scenes: Scenes) -> tuple[float, float, float]:
    """The three METRICS: the last one is the mean over scenes of the average precision of the classes by logit."""
    said, truth = logits(network, scenes.images), scenes.multi_hot
    in_set = truth.gather(1, said.argmax(dim=1, keepdim=True)).mean()
    return top1(network, pictures), float(in_set), float(average_precision(said, truth))


def divide(real: Labelled, args: argparse.Namespace) -> tuple[Labelled, Labelled, Labelled]:
    """Training pictures of the annotator, of the scenes, and for validation; no picture is in two."""
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(real.classes)))
    first, second = args.annotator_pictures, len(order) - args.validation
    parts = order[:first], order[first:second], order[second:]
    return tuple(Labelled(real.images[at], real.classes[at]) for at in parts)  # type: ignore[return-value]


def lost(scenes: Scenes, args: argparse.Namespace, seed: int) -> tuple[float, float]:
    """Of random crops: the share with nothing of the labelled picture, and with less than a quarter of it."""
    order = torch.arange(min(len(scenes), 2000))
    torch.manual_seed(seed)
    data = Crops(scenes, torch.zeros(len(scenes), 0), order, args)
    boxes = np.stack([data[n][2] for n in range(len(data))])
    share = visible(boxes, scenes.shown(seed)[order].numpy())
    return float((share <= 0).mean()), float((share < 0.25).mean())


def one_seed(
    scenes: Scenes, maps: LabelMaps, held: Labelled, held_scenes: Scenes, args: argparse.Namespace, seed: int,
    rate: float,
) -> dict[str, tuple[float, float, float]]:  # fmt: skip
    """METRICS of every arm on the pictures and scenes held out."""
    nothing, little = lost(scenes, args, seed)
    print(
        f"seed {seed}: {100 * nothing:.0f} % of the crops show nothing of the labelled picture, {100 * little:.0f} % "
        "less than a quarter of it",
        flush=True,
    )
    one_hot = scenes.given(seed)
    whole = np.tile(np.array([0, 0, 1, 1], dtype=np.float32), (len(scenes), 1))
    students: dict[str, nn.Module] = {}

    def own_maps() -> LabelMaps:
        own = annotate(students[SINGLE], scenes, Stored(args.kept, args.temperature))
        print(f"  self-trained annotator: {100 * cells_right(own, scenes):.1f} % of the cells of its maps", flush=True)
        return own

    arms: dict[str, tuple[Callable[[], LabelMaps | torch.Tensor], Tail]] = {
        SINGLE: (lambda: one_hot, "zero"),
        "single, smoothed": (lambda: smooth(one_hot, SMOOTHING), "zero"),
        "whole image, soft": (lambda: torch.from_numpy(pool(maps, whole, CLASSES, tail="lse")), "lse"),
        "pooled, zero": (lambda: maps, "zero"),
        "pooled, lse": (lambda: maps, "lse"),
        "pooled, self-trained": (own_maps, "lse"),
        "true map": (lambda: true_maps(scenes, MAP), "lse"),
    }
    found = {}
    for name in args.arms or arms:
        labels, tail = arms[name]
        start = time.perf_counter()
        students[name] = learn(scenes, labels(), tail, args, seed, rate)
        found[name] = judged(students[name], held, held_scenes)
        numbers = ", ".join(f"{100 * value:.2f}" for value in found[name])
        print(f"  {name}: {numbers} %, {time.perf_counter() - start:.0f} s", flush=True)
    return found


def cost(scenes: Scenes, maps: LabelMaps, args: argparse.Namespace, batches: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a batch of crops with single labels and with pooled ones, in turn, in the loader's own
    thread; and of a step of the network.
    """
    network = Student(args.width).to(memory_format=torch.channels_last)
    sides: dict[str, tuple[LabelMaps | torch.Tensor, Tail]] = {
        "single": (scenes.given(0), "zero"),
        "pooled, zero": (maps, "zero"),
        "pooled, lse": (maps, "lse"),
    }
    taken: dict[str, list[float]] = {name: [] for name in (*sides, "step of the network")}
    for _ in range(rounds):
        for name, (labels, tail) in sides.items():
            ready = loader(scenes, labels, tail, args, 0, batches + 1)
            x, y = next(ready)  # compiles
            start = time.perf_counter()
            for _ in ready:
                pass
            taken[name].append(1000 * (time.perf_counter() - start) / batches)
        once = iter([(x.contiguous(memory_format=torch.channels_last), y)] * batches)
        start = time.perf_counter()
        train(network, once, batches, 0.01, args.decay, F.cross_entropy)
        taken["step of the network"].append(1000 * (time.perf_counter() - start) / batches)
    return {name: float(np.median(values)) for name, values in taken.items()}


def markdown(found: list[dict[str, tuple[float, float, float]]], seeds: list[int], metric: int) -> str:
    """One row an arm: accuracy by seed and their mean; mean difference from `single` with its 95 % interval."""
    lines = [
        f"| {METRICS[metric]}, % | " + " | ".join(f"seed {s}" for s in seeds) + " | mean | against single, 95 % |",
        "|---" * (len(seeds) + 3) + "|",
    ]
    base = [one[SINGLE][metric] for one in found] if SINGLE in found[0] else None
    for name in found[0]:
        values = [one[name][metric] for one in found]
        each = " | ".join(f"{100 * value:.2f}" for value in values)
        against = ""
        if base is not None and name != SINGLE:
            mean, half = interval([100 * (a - b) for a, b in zip(values, base, strict=True)])
            against = f"{mean:+.2f}" + (f" ({mean - half:+.2f} to {mean + half:+.2f})" if len(seeds) > 1 else "")
        lines.append(f"| {name} | {each} | {100 * float(np.mean(values)):.2f} | {against} |")
    return "\n".join(lines)


def options(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--tune", action="store_true", help="try the rates with seed 0 on validation pictures, and end")
    parser.add_argument("--quick", action="store_true", help="a few steps of all arms, to see that everything runs")
    parser.add_argument("--arms", nargs="+", default=None, help="names of the arms; all")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--width", type=int, default=24, help="channels of the first stage of a student")
    parser.add_argument("--scenes", type=int, default=3000)
    parser.add_argument("--scale", type=float, nargs=2, default=[0.08, 1.0], help="area of a crop")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--test", type=int, default=10_000, help="test pictures")
    parser.add_argument("--test-scenes", type=int, default=3000)
    parser.add_argument("--validation", type=int, default=2000, help="pictures for --tune")
    annotator = parser.add_argument_group("annotator")
    annotator.add_argument("--annotator-pictures", type=int, default=2000)
    annotator.add_argument("--kept", type=int, default=5, help="classes of a cell that are stored")
    annotator.add_argument("--temperature", type=float, default=1.0)
    annotator.add_argument("--maps", default=None, help="file .npz of the maps: read, or written when there is none")
    args = parser.parse_args(given)
    if args.quick:
        args.seeds, args.width, args.steps, args.batch = [1, 2], 4, 4, 16
        args.scenes, args.test_scenes, args.test, args.validation, args.annotator_pictures = 64, 50, 200, 200, 100
    return args


def main() -> int:
    args = options(None)
    torch.set_num_threads(args.threads)
    start = time.perf_counter()
    size = sum(p.numel() for p in Student(args.width).parameters())
    print(
        f"{size:,} parameters; {args.scenes:,} scenes, {args.steps} steps of {args.batch} crops; annotator: "
        f"{args.annotator_pictures:,} pictures",
        flush=True,
    )
    test = cifar(test=True)
    real = test if args.quick else cifar(test=False)
    if args.quick:  # one file of pictures is enough to see that it runs
        real = Labelled(real.images[: -args.test], real.classes[: -args.test])
    test = Labelled(test.images[-args.test :], test.classes[-args.test :])
    for_annotator, for_scenes, validation = divide(real, args)
    scenes = compose(for_scenes, args.scenes, 0)
    maps = stored_maps(for_annotator, validation, scenes, Stored(args.kept, args.temperature, args.maps))
    if args.tune:
        for rate in RATES:
            print(f"rate {rate:g}")
            one_seed(scenes, maps, validation, compose(validation, args.test_scenes, 1), args, 0, rate)
        return 0
    held_scenes = compose(test, args.test_scenes, 2)
    found = [one_seed(scenes, maps, test, held_scenes, args, seed, args.rate) for seed in args.seeds]
    for metric in range(len(METRICS)):
        print(f"\n{markdown(found, args.seeds, metric)}")
    few = 2 if args.quick else 20
    said = ", ".join(
        f"{name} {value:.1f} ms" for name, value in cost(scenes, maps, args, few, 1 if args.quick else 5).items()
    )
    print(f"\na batch of {args.batch}: {said}")
    print(f"{time.perf_counter() - start:.0f} s on {args.threads} threads")
    return 0


if __name__ == "__main__":
    sys.exit(main())
