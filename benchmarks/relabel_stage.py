"""The relabel stage against plain loops over the same photos with the same classifier: time, CPU, memory.

    python benchmarks/relabel_stage.py [--rounds 5] [--batch 32] [--decode 1] [--threads 1] [--model NAME]

Photos: 260 of 512 to 1,024 pixels from the package registry, in one tar. Sides, in turn in one process (for its peak
memory each has a process of its own):

stage   what `curate run` does for one part: read the tar, decode, resize, label maps, five best, commit the columns
        and the records.
loop    the baseline: one process that reads the same tar with tarfile, decodes with Pillow, resizes as the stage does,
        in turn with the network, its head on every cell, torch.topk and logsumexp; the results stay in a list.
loader  the same loop, fed by a DataLoader with as many worker processes as the stage has decoding threads.
model   only the classifier's own logits, of the first batch of photos, which lies in memory as tensors, over and over.

All sides send images through the network in pieces of the same size (EfficientNet-Lite0 on a CPU: one image). Start-up,
weights and a first batch are left out; the index of the stage too. CPU is that of all processes. A ratio below 1 means
that the stage needs less. Measured with 64 photos and 7 rounds on two cores that others kept busy: 1.06 of the CPU of
the loop (0.98 to 1.16) and 0.99 of its time (0.79 to 1.58), 34.4 ms CPU an image, peak PSS 762 MiB against 723; 1.01 of
the CPU of the loader (0.96 to 1.17); 1.62 of that of the model alone.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import torch
from peak_pss import Peak, tree_of
from PIL import Image
from synthetic import Timed

from curate.engine.base import InlineEngine
from curate.pipeline.api import prepare
from curate.pipeline.execute import Executor
from curate.relabel.annotate import Preprocessing
from curate.stages.relabel import RelabelStage
from curate.store.packages import fetch
from infra.quickstart.fetch import AI_BENCHMARK

SIDES = ("stage", "loop", "loader", "model")
KEPT = 5


def write_photos(tar: Path, photos: int) -> int:
    """One tar of the photos; returns how many."""
    files = sorted((fetch(AI_BENCHMARK) / "ai_benchmark/data").glob("*/*.jpg"))[:photos]
    with tarfile.open(tar, "w") as out:
        for number, file in enumerate(files):
            out.add(file, f"{number:05d}.jpg")
    return len(files)


class Tar(torch.utils.data.IterableDataset[torch.Tensor]):
    """Images of one tar, read forward, prepared; workers take turns."""

    def __init__(self, path: Path, prepared: Preprocessing) -> None:
        self.path, self.prepared = path, prepared

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        turn, of = (info.id, info.num_workers) if info else (0, 1)
        with tarfile.open(self.path) as tar:
            for number, member in enumerate(tar):
                if number % of == turn:
                    handle = tar.extractfile(member)
                    assert handle is not None
                    yield self.prepared(Image.open(io.BytesIO(handle.read())).convert("RGB"))


class Sides:
    """The sides over one tar, ready to run: each a function that returns the photos it went through."""

    def __init__(self, tar: Path, given: argparse.Namespace) -> None:
        options = {"model": given.model, "batch_size": given.batch, "threads": given.threads, "k": KEPT}
        spec = {
            "name": "benchmark",
            "input": {"shards": str(tar)},
            "workspace": str(tar.parent / f"work-{os.getpid()}"),
            "stages": ["index", {"relabel": options | {"decode_threads": given.decode}}],
        }
        _, self.plan = prepare(spec)
        *before, self.step = self.plan.steps
        assert isinstance(self.step.stage, RelabelStage)
        self.executor = Executor(self.plan, InlineEngine(), Timed(self.plan.workspace))
        for one in before:
            self.executor.run(one)
        self.given, self.tar, self.teachers = given, tar, self.step.stage.loaded
        (self.annotator,) = self.teachers.annotators
        self.pieces = self.teachers.chunk or given.batch
        self.prepared = Preprocessing(**self.teachers.info.teachers[0].preparation.model_dump())
        self.batch = next(iter(self._loader(0)))
        self.teachers.records((self.batch,))
        self.fed: torch.utils.data.DataLoader[torch.Tensor] | None = None

    def _loader(self, workers: int) -> torch.utils.data.DataLoader[torch.Tensor]:
        images = Tar(self.tar, self.prepared)
        size = self.given.batch
        return torch.utils.data.DataLoader(images, size, num_workers=workers, persistent_workers=workers > 0)

    def stage(self) -> int:
        """The stage, columns and records committed."""
        self.plan.workspace.remove(self.step.folder)
        self.executor.run(self.step)
        return int(self.given.photos)

    def loop(self) -> int:
        """The baseline in one process."""
        return self._through(self._loader(0))

    def loader(self) -> int:
        """The baseline with worker processes that decode."""
        if self.fed is None:
            self.fed = self._loader(self.given.decode)
        return self._through(self.fed)

    def model(self) -> int:
        """The classifier's own logits of photos that are ready."""
        head, batches = self.annotator.head, max(1, self.given.photos // self.given.batch)
        with torch.inference_mode():
            for _ in range(batches):
                for piece in torch.split(self.batch, self.pieces):
                    torch.nn.functional.linear(head.features(piece).mean(dim=(2, 3)), head.weight, head.bias)
        return batches * len(self.batch)

    def _through(self, images: Iterable[torch.Tensor]) -> int:
        kept = []
        for batch in images:
            for piece in torch.split(batch, self.pieces):
                maps = self.annotator.head.maps(piece)
                scores, classes = maps.topk(KEPT, dim=1)
                lse = torch.logsumexp(maps, dim=1)
                kept.append((scores.half().numpy(), classes.numpy().astype(np.uint16), lse.numpy()))
        return int(sum(len(scores) for scores, _, _ in kept))


def cpu() -> float:
    """CPU seconds of this process and its descendants so far."""
    return sum(sum(process.cpu_times()[:2]) for process in tree_of(psutil.Process()))


def timed(run: Callable[[], int]) -> tuple[float, float]:
    """Seconds and CPU seconds of a photo."""
    start, before = time.perf_counter(), cpu()
    photos = run()
    return (time.perf_counter() - start) / photos, (cpu() - before) / photos


def peak_of(side: str, tar: Path, given: argparse.Namespace) -> float:
    """Peak PSS in MiB of a process that runs one side once."""
    command = [sys.executable, __file__, f"--side={side}", f"--tar={tar}", f"--model={given.model}"]
    command += [f"--{name}={getattr(given, name)}" for name in ("photos", "batch", "decode", "threads")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["mib"])


def compare(tar: Path, given: argparse.Namespace) -> None:
    """Run all sides in turn and print their medians and ratios."""
    sides = Sides(tar, given)
    found: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    sides.loader()  # its worker processes are up
    for round_ in range(given.rounds):
        for side in SIDES if round_ % 2 == 0 else reversed(SIDES):
            found[side].append(timed(getattr(sides, side)))
    for side, runs in found.items():
        seconds, used = (statistics.median(run[which] for run in runs) for which in (0, 1))
        mib = peak_of(side, tar, given)
        print(f"{side:>6}: {1 / seconds:6.1f} images/s, {used * 1e3:6.2f} ms CPU an image, peak PSS {mib:,.0f} MiB")
    for other in SIDES[1:]:
        for which, what in ((1, "CPU"), (0, "time")):
            ratios = [a[which] / b[which] for a, b in zip(found["stage"], found[other], strict=True)]
            print(f"stage / {other}, {what}: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="packaged:efficientnet_lite0")
    parser.add_argument("--photos", type=int, default=260)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--decode", type=int, default=1, help="decoding threads of the stage, processes of the loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", choices=SIDES, help="run one side once and print its peak memory as JSON")
    parser.add_argument("--tar", type=Path, help="of that side")
    given = parser.parse_args()
    if given.side is not None:
        run = getattr(Sides(given.tar, given), given.side)
        with Peak(every_s=0.5) as peak:
            run()
        print(json.dumps({"mib": peak.pss / 2**20}))
        return 0
    with tempfile.TemporaryDirectory(prefix="curate-relabel-") as folder:
        tar = Path(folder) / "photos.tar"
        given.photos = write_photos(tar, given.photos)
        print(
            f"{given.photos} photos, {given.model}, batch {given.batch}, {given.decode} decoding, {given.threads} "
            f"threads, {given.rounds} rounds",
            flush=True,
        )
        compare(tar, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
