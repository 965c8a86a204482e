"""LabelPooling from sparse label maps against densify + torchvision's roi_align + softmax: time, memory, bytes.

    python benchmarks/label_pooling.py [--images 256] [--batches 20] [--classes 1000] [--threads 1] [--rounds 5]

A batch is label maps of the five best of 1,000 classes in 15 x 15 cells, and a random crop of each (torchvision's
RandomResizedCrop: area .08 to 1, ratio 3/4 to 4/3); the result is a soft target an image. `curate` has scores in
float16 as it stores them; the side `dense` has them in float32 with class numbers ready as int64, scatters them into
zeros, aligns and takes the softmax, as ReLabel's published loader does but with the axes in the right order. `lse` is
curate with probabilities instead of zero logits. Logits are made: smooth in space, of a scale like a classifier's.

Sides alternate; each runs in a process of its own, so that peak memory is its own: what it adds to the maps and to one
small batch. Time is CPU time of the process. The targets of both sides are compared. Bytes an image: curate's arrays
against a file of ReLabel's, in both containers of torch.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from kmeans import forget_peak, resident_mib
from numpy.typing import NDArray

from curate.relabel.maps import LabelMap, LabelMaps, top_k

SIDES = ("curate", "lse", "dense")
CELLS, KEPT = 15, 5


def logits(classes: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Logits [classes, 15, 15] that change slowly: a coarse grid of 4 x 4, bilinear between, and a little noise."""
    at = np.linspace(0, 3, CELLS)
    hats = np.maximum(1 - np.abs(at[:, None] - np.arange(4)), 0)
    coarse = rng.standard_normal((classes, 4, 4)) * 3 * rng.exponential(0.7, (classes, 1, 1))
    fine: NDArray[np.float64] = hats @ coarse @ hats.T + 0.2 * rng.standard_normal((classes, CELLS, CELLS))
    return fine.astype(np.float32)


def maps_of(args: argparse.Namespace) -> tuple[LabelMaps, NDArray[np.float32]]:
    """The maps of a batch, and their scores before they were rounded to float16."""
    rng = np.random.default_rng(0)
    kept, exact = [], []
    for _ in range(args.images):
        x = logits(args.classes, rng)
        kept.append(top_k(x, KEPT))
        exact.append(np.take_along_axis(x, kept[-1].classes.astype(np.int64), axis=0))
    lse = np.stack([one.lse for one in kept if one.lse is not None])
    maps = LabelMaps(np.stack([one.scores for one in kept]), np.stack([one.classes for one in kept]), lse)
    return maps, np.stack(exact)


def crops(n: int) -> NDArray[np.float32]:
    """Boxes [n, 4] of RandomResizedCrop with its default settings on square images."""
    rng = np.random.default_rng(1)
    area, ratio = rng.uniform(0.08, 1, n), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), n))
    sides = np.minimum(np.stack([np.sqrt(area / ratio), np.sqrt(area * ratio)], axis=1), 1)
    return np.concatenate([(1 - sides) * rng.random((n, 2)), sides], axis=1).astype(np.float32)


def work_of(side: str, maps: LabelMaps, exact: NDArray[np.float32], classes: int) -> Callable[[Any], Any]:
    """What makes the targets of a batch of boxes on a side."""
    if side != "dense":
        from curate.relabel.pooling import pool

        return lambda boxes: pool(maps, boxes, classes, tail="lse" if side == "lse" else "zero")
    import torch
    from torchvision.ops import roi_align

    scores, numbers = torch.from_numpy(exact), torch.from_numpy(maps.classes.astype(np.int64))
    first = torch.arange(len(maps), dtype=torch.float32)[:, None]

    def dense(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        n = len(boxes)
        full = torch.zeros(n, classes, CELLS, CELLS).scatter_(1, numbers[:n], scores[:n])
        top, left, height, width = torch.from_numpy(boxes).T
        corners = torch.stack([left, top, left + width, top + height], dim=1) * CELLS - 0.5
        pooled = roi_align(full, torch.cat([first[:n], corners], dim=1), (1, 1), 1.0, -1, aligned=False)
        found: NDArray[np.float32] = torch.softmax(pooled[:, :, 0, 0], dim=1).numpy()
        return found

    return dense


def one(side: str, args: argparse.Namespace) -> dict[str, float]:
    """CPU milliseconds a batch on one side, MiB that it adds."""
    maps, exact = maps_of(args)
    boxes = crops(args.images)
    few = LabelMaps(maps.scores[:2], maps.classes[:2], None if maps.lse is None else maps.lse[:2])
    work_of(side, few, exact[:2], args.classes)(boxes[:2])  # compiles, and loads what it needs
    work = work_of(side, maps, exact, args.classes)
    forget_peak()
    before, batches = resident_mib("VmRSS"), args.batches if side != "dense" else max(args.batches // 10, 1)
    begin = time.process_time()
    for _ in range(batches):
        work(boxes)
    milliseconds = (time.process_time() - begin) * 1000 / batches
    return {"ms": milliseconds, "extra_mib": resident_mib("VmHWM") - before}


def compare(args: argparse.Namespace) -> dict[str, float]:
    """Largest differences of targets, and bytes an image."""
    from curate.formats.label_trees import write_label

    maps, exact = maps_of(args)
    boxes = crops(args.images)
    wanted = work_of("dense", maps, exact, args.classes)(boxes)
    unrounded = LabelMaps(exact, maps.classes, maps.lse)
    first = LabelMap(exact[0], maps.classes[0])
    return {
        "difference": float(np.abs(work_of("curate", unrounded, exact, args.classes)(boxes) - wanted).max()),
        "rounding": float(np.abs(work_of("curate", maps, exact, args.classes)(boxes) - wanted).max()),
        "curate": maps[0].nbytes,
        "zip": len(write_label(first.scores, first.classes, "hw")),
        "legacy": len(write_label(first.scores, first.classes, "hw", container="legacy")),
    }


def parser() -> argparse.ArgumentParser:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 256), ("batches", 20), ("classes", 1000), ("threads", 1), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--side", default=None, help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Run all sides in turn, print medians and ratios against `dense`."""
    args = parser().parse_args()
    if args.side is not None:
        print(json.dumps(compare(args) if args.side == "compare" else one(args.side, args)))
        return
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(args.threads))

    def run(side: str) -> dict[str, float]:
        command = [sys.executable, __file__, *sys.argv[1:], "--side", side]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(args.rounds):
        for side in SIDES:
            results[side].append(run(side))
    for side, found in results.items():
        ratios = [base["ms"] / one["ms"] for base, one in zip(results["dense"], found, strict=True)]
        print(
            f"{side:7} {statistics.median(one['ms'] for one in found):9.2f} ms a batch of {args.images}"
            f"  peak +{statistics.median(one['extra_mib'] for one in found):.1f} MiB"
            f"  {statistics.median(ratios):.1f}x as fast as dense ({min(ratios):.1f} to {max(ratios):.1f})"
        )
    said = run("compare")
    print(
        f"targets differ by {said['difference']:.1e} at most on the same scores, "
        f"by {said['rounding']:.1e} with float16\n"
        f"bytes an image: {said['curate']:.0f} of curate, {said['zip']:.0f} of ReLabel's files "
        f"({said['legacy']:.0f} in the legacy container): "
        f"{said['curate'] / said['zip']:.2f}x ({said['curate'] / said['legacy']:.2f}x)"
    )


if __name__ == "__main__":
    main()
