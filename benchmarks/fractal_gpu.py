"""Fractal densities on a GPU: agreement with the CPU kernel, then images/s to device memory and to tars of gray JPEG.

    python benchmarks/fractal_gpu.py [--size 256] [--points 100000] [--batch 2048] [--rounds 5] [--device cuda]

The games differ from image to image: 1,000 systems of 2 to 4 maps, keys of their own. Agreement: share of pixels that
are equal, over 256 games. The baseline is the CPU kernel, `chaos.density`, on one core, in the same run; sides
alternate. A GPU's clock is read after it has finished. To device memory: counts and their tones, float32 [B, 1, S, S].
To tars: the same, rounded to bytes, copied, encoded by threads on all cores and written to a folder of its own.
Without a GPU it says so and ends; `--device cpu` runs the same code on the CPU, where it is slower than the kernel.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from curate.fractal.chaos import PixelGame, View, bounds, density, pixel_game, points_drawn, quantised
from curate.fractal.randomness import Draws, key
from curate.fractal.systems import System, probabilities, sample
from curate.fractal.torch_chaos import densities, tones

SYSTEMS = 1000


def systems(count: int) -> list[tuple[System, View]]:
    """Systems and what their pilot orbits fill."""
    found = []
    for i in range(count):
        maps = sample(2 + i % 3, Draws.of(0, "benchmark", i))
        system = System(maps, quantised(probabilities(maps)))
        found.append((system, bounds(system, key("pilot"))))
    return found


def games(told: list[tuple[System, View]], size: int, first: int, count: int) -> list[PixelGame]:
    """The games of images first..first + count - 1."""
    return [pixel_game(*told[i % len(told)], size, key(1, i)) for i in range(first, first + count)]


def jpeg(tone: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(tone).save(out, "JPEG", quality=95)
    return out.getvalue()


def to_tar(batch: list[PixelGame], args: argparse.Namespace, file: Path, pool: ThreadPoolExecutor) -> None:
    """One tar of gray JPEG images."""
    tone = tones(densities(batch, args.size, args.points, args.device)).squeeze(1)
    pixels = (tone * 255.0).round_().to(torch.uint8).cpu().numpy()
    with tarfile.open(file, "w") as tar:
        for i, content in enumerate(pool.map(jpeg, pixels, chunksize=64)):
            member = tarfile.TarInfo(f"{i:08d}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def seconds(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def rates(of: list[float], images: int) -> str:
    made = sorted(images / each for each in of)
    return f"{statistics.median(made):,.0f} images/s ({made[0]:,.0f} to {made[-1]:,.0f})"


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("size", 256), ("points", 100_000), ("batch", 2048), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args(given)
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        print("torch sees no GPU here, so nothing was measured; --device cpu runs the same code on the CPU.")
        return 0
    told = systems(SYSTEMS)
    few = min(256, args.batch)
    here = np.stack([density(*told[i], args.size, args.points, key(1, i)) for i in range(few)])
    there = densities(games(told, args.size, 0, few), args.size, args.points, args.device).cpu().numpy()
    same = float((here == there).mean())
    print(f"agreement: {same:.6%} of the pixels of {few} images")
    cpu, device, prepared, tars = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for turn in range(args.rounds + 1):  # the first round warms up
            first = turn * args.batch
            batch: list[PixelGame] = []
            took = [
                seconds(lambda: [density(*told[i], args.size, args.points, key(2, i)) for i in range(few)], "cpu"),
                seconds(lambda: batch.extend(games(told, args.size, first, args.batch)), "cpu"),  # noqa: B023
                seconds(lambda: tones(densities(batch, args.size, args.points, args.device)), args.device),  # noqa: B023
                seconds(lambda: to_tar(batch, args, Path(folder) / "images.tar", pool), args.device),  # noqa: B023
            ]
            if turn:
                for side, each in zip((cpu, prepared, device, tars), took, strict=True):
                    side.append(each)
    drawn = points_drawn(args.points)
    name = torch.cuda.get_device_name(args.device) if args.device.startswith("cuda") else "torch on the CPU"
    ratio = statistics.median(args.batch * c / (few * d) for c, d in zip(cpu, device, strict=True))
    print(f"{name}, batches of {args.batch}, {args.size} x {args.size}, {drawn:,} points, {args.rounds} rounds:")
    print(f"  CPU kernel, one core       {rates(cpu, few)}")
    print(f"  to device memory           {rates(device, args.batch)}, {ratio:.2f}x of the kernel")
    print(f"  preparing games, one core  {rates(prepared, args.batch)}")
    print(f"  to tars of JPEG            {rates(tars, args.batch)}, without preparing, {os.cpu_count()} threads")
    nanoseconds = statistics.median(device) / args.batch / drawn * 1e9
    print(f"  {nanoseconds:.3f} ns a point on the device")
    if args.device.startswith("cuda"):
        print(f"  at most {torch.cuda.max_memory_allocated(args.device) / 2**20:,.0f} MiB of the device's memory")
    return 0 if same >= 0.999 else 1


if __name__ == "__main__":
    sys.exit(main())
