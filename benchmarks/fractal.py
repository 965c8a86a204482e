"""Points and images of fractals against the plain way of making them: time, peak memory, in one run.

    python benchmarks/fractal.py [points|images] [--systems 16] [--rounds 7] [--size 256] [--points 100000]

points: ns a point from a system to a canvas of counts. `plain`: the chaos game written from its formula (a random
number a step in numba, a linear search of the cumulative p, an array of float64 points, then a pass for the bounds and
one that counts). `fast generator`: the same loop with a generator that costs next to nothing and bounds known
beforehand, so that what curate gains is not its generator alone. `scalar`: curate's own loop without AVX2. The floor is
adding 1 to cells that are known already, in the order of the orbit.

images: images a second on one core, from an index to the bytes of a JPEG of quality 95: gray on black, colour on a
background, scenes of one to five. `plain` draws, colours and pastes by the formulas of the paper with numba and Pillow
(benchmarks/plain_fractals.py); `plain, cached` brings one new fractal every second scene, as the paper does, and
repeats the others; curate draws every object anew, at its own size, and adds boxes, masks and labels.

Sides take turns on the same systems; a side's time is CPU time of the one thread. Ratios are medians over rounds, with
their range. Peak memory is what 20 canvases or images add to a process of its own that has compiled the side.
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
import plain_fractals
from kmeans import forget_peak, resident_mib
from numba import njit, uint64
from plain_fractals import Plain

from curate.fractal import chaos, simd
from curate.fractal.kernels import count_scalar
from curate.fractal.randomness import Draws
from curate.fractal.systems import System, probabilities, sample

LIMIT = 1.2
"""ns a point of a loop in C with AVX2 on a Zen 3 core: known bounds, 32 orbits, counting included."""
POINT_SIDES = ("curate", "scalar", "fast generator", "plain")
IMAGE_SIDES = {
    "gray": ("curate", "plain"),
    "colour": ("curate", "plain"),
    "scenes": ("curate", "plain", "plain, cached"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "gray": {"colour": "gray", "background": "black"},
    "colour": {},
    "scenes": {"scene": {}},
}


def drawn(n: int) -> list[System]:
    """Systems of two to four maps by the law of the paper's window."""
    made = [sample(2 + i % 3, Draws.of(0, "benchmark", i)) for i in range(n)]
    return [System(maps, chaos.quantised(probabilities(maps))) for maps in made]


@njit(cache=True)
def scatter(cells, flat):  # type: ignore[no-untyped-def]
    """Add 1 to each cell: what no renderer can do without."""
    for cell in cells:
        flat[cell] += np.uint32(1)


def point_side(side: str, system: System, args: argparse.Namespace) -> Callable[[], int]:
    """What draws one canvas on a side; it returns the number of points."""
    size, points = args.size, args.points
    view = chaos.bounds(system, 1)
    if side == "curate":
        return lambda: len(chaos.density(system, view, size, points, 7)) and chaos.points_drawn(points)
    if side == "scalar":

        def scalar() -> int:
            game = chaos.pixel_game(system, view, size, 7)
            flat = np.zeros(size * size, dtype=np.uint32)
            count_scalar(game.table, game.symbols, game.starts, uint64(7), chaos.words_drawn(points), size, flat)
            return chaos.points_drawn(points)

        return scalar
    if side == "floor":
        orbit = chaos.orbit(system, points, 7)
        low, high = np.array(view.low), np.array(view.high)
        rows, columns = ((orbit - low) / (high - low) * size).astype(np.int64).clip(0, size - 1).T
        cells, flat = (rows * size + columns).astype(np.uint32), np.zeros(size * size, dtype=np.uint32)
        return lambda: scatter(cells, flat) or len(cells)

    box = np.array([*view.low, *view.high])

    def two_passes() -> int:
        if side == "plain":
            made = plain_fractals.orbit(system.maps, system.p, points)
            plain_fractals.count(made, plain_fractals.extent(made), size)
        else:
            plain_fractals.count(plain_fractals.fast_orbit(system.maps, system.p, points, 7), box, size)
        return points

    return two_passes


def image_side(mode: str, side: str, args: argparse.Namespace) -> Callable[[], int]:
    """What makes the next image on a side; it returns 1."""
    if side != "curate":
        systems = [(system.maps, system.p) for system in drawn(args.systems)]
        plain = Plain(systems, args.size, args.points)
        method = {"plain": {"gray": plain.gray, "colour": plain.colour, "scenes": plain.multi}[mode]}
        make = method.get(side, plain.multi_cached)
        return lambda: len(make()) and 1
    from curate.fractal.families import choose
    from curate.fractal.image import RENDERER, members
    from curate.fractal.specification import FractalOptions, Specification

    options = FractalOptions.model_validate(
        {"ifs": {"points": args.points}, "classes": args.systems, "size": args.size, **OPTIONS[mode]}
    )
    spec = Specification(version=1, renderer=RENDERER, name="benchmark", seed=0, options=options)
    family = choose.open_family(options, choose.search(options, 0))
    indices = iter(range(options.images))
    return lambda: len(members(spec, family, next(indices))["jpg"]) and 1


def cost(work: Callable[[], int], repeats: int) -> float:
    """Nanoseconds of this thread for each point or image."""
    begin, done = time.thread_time_ns(), 0
    for _ in range(repeats):
        done += work()
    return (time.thread_time_ns() - begin) / done


def peak(mode: str, side: str, args: argparse.Namespace) -> str:
    """MiB that a side adds to a process of its own, in words."""
    if args.no_peak:
        return ""
    command = [sys.executable, __file__, *sys.argv[1:], "--one", mode, side]
    done = subprocess.run(command, env=os.environ, check=True, capture_output=True, text=True)
    return f"  peak +{json.loads(done.stdout.splitlines()[-1]):.1f} MiB"


def one(mode: str, side: str, args: argparse.Namespace) -> float:
    """`peak` in this process."""
    small = argparse.Namespace(**vars(args) | {"size": 16, "points": 200})
    for size in (small, args):
        work = point_side(side, drawn(1)[0], size) if mode == "points" else image_side(mode, side, size)
        if size is small:
            work()  # compiles it
    forget_peak()
    before = resident_mib("VmRSS")
    for _ in range(20):
        work()
    return max(0.0, resident_mib("VmHWM") - before)


def summary(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f}x ({min(values):.2f} to {max(values):.2f})"


def points(args: argparse.Namespace) -> None:
    """All sides on all systems, in turns."""
    print(f"points: {args.size} x {args.size}, {args.points:,} points, {args.systems} systems; {chaos.kernel_name()}")
    sides = [side for side in (*POINT_SIDES, "floor") if side != "scalar" or not simd.trouble()]
    systems = drawn(args.systems)
    works = {side: [point_side(side, system, args) for system in systems] for side in sides}
    for side in sides:
        works[side][0]()
    found: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        each: dict[str, list[float]] = {side: [] for side in sides}
        for i in range(len(systems)):
            for side in sides:
                each[side].append(cost(works[side][i], 3))
        for side in sides:
            found[side].append(statistics.mean(each[side]))
    for side in sides:
        line = f"  {side:15} {statistics.median(found[side]):7.2f} ns a point"
        if side not in ("curate", "floor"):
            ratios = [theirs / ours for theirs, ours in zip(found[side], found["curate"], strict=True)]
            line += f"  curate is {summary(ratios)} as fast"
        print(line + ("" if side == "floor" else peak("points", side, args)))
    ours, floor = statistics.median(found["curate"]), statistics.median(found["floor"])
    print(f"  curate takes {ours / LIMIT:.2f} of the {LIMIT} ns of a loop in C, {ours / floor:.2f} of counting alone")


def images(args: argparse.Namespace) -> None:
    """All sides of each kind of image, in turns."""
    for mode, sides in IMAGE_SIDES.items():
        print(f"images: {mode}, {args.size} x {args.size}, {args.points:,} points, JPEG 95; {chaos.kernel_name()}")
        works = {side: image_side(mode, side, args) for side in sides}
        for side in sides:
            works[side]()
        found: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.rounds):
            for side in sides:
                found[side].append(cost(works[side], args.images))
        for side in sides:
            line = f"  {side:15} {1e9 / statistics.median(found[side]):7.0f} images/s on one core"
            if side != "curate":
                ratios = [theirs / ours for theirs, ours in zip(found[side], found["curate"], strict=True)]
                line += f"  curate is {summary(ratios)} as fast"
            print(line + peak(mode, side, args))


def parser() -> argparse.ArgumentParser:
    """Options."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("section", nargs="?", choices=("points", "images"), help="default: both")
    for name, value in (("systems", 16), ("rounds", 7), ("size", 256), ("points", 100_000)):
        made.add_argument(f"--{name}", type=int, default=value)
    made.add_argument("--images", type=int, default=60, help="images of a side and round")
    made.add_argument("--no-peak", action="store_true", help="time only")
    made.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    return made


def main() -> None:
    """Run the sections and print."""
    args = parser().parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], args.one[1], args)))
        return
    for name, section in (("points", points), ("images", images)):
        if args.section in (None, name):
            section(args)


if __name__ == "__main__":
    main()
