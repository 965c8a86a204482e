"""The embed stage against a DataLoader + open_clip loop: same tar, decode workers, threads and batch, alternating.

    python benchmarks/embed.py                                 # 2,048 images, ViTs of three sizes, CPU
    python benchmarks/embed.py --device cuda --decode 8 --batch 256 --images 20000 --models ViT-B-32

Both sides read the tar, decode, preprocess, encode, normalise and round to float16; the stage also verifies headers and
commits its columns. Start-up (weights, first batch, worker processes) is excluded and printed. Weights are random: the
arithmetic is the same. The last line of a model compares the stage with the same encoder over tensors that are there
already, and says what share of the time the encoder was not at work.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import torch
from numpy.typing import NDArray
from peak_pss import Peak, tree_of
from pictures import write_tars
from PIL import Image
from synthetic import Timed

from curate.engine.base import InlineEngine
from curate.pipeline.api import prepare
from curate.pipeline.execute import Executor
from curate.stages.embed import EmbedStage
from curate.store.workspace import Workspace

SIZES = {
    "small": {"image_size": 224, "layers": 2, "width": 128, "head_width": 32, "patch_size": 32},
    "medium": {"image_size": 224, "layers": 6, "width": 256, "head_width": 64, "patch_size": 32},
    "large": {"image_size": 224, "layers": 12, "width": 384, "head_width": 64, "patch_size": 32},
}
TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 1, "layers": 1}


def weights(folder: Path, model: str) -> dict[str, str]:
    """Random weights of a model on disk, and what the stage's options say of it."""
    options = {"model": model, "checkpoint": str(folder / f"{model}.pt")}
    if model in SIZES:
        file = folder / f"{model}.json"
        file.write_text(json.dumps({"embed_dim": 128, "vision_cfg": SIZES[model], "text_cfg": TEXT}))
        open_clip.add_model_config(file)
        options["config"] = str(file)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(model).state_dict(), options["checkpoint"])
    return options


class Tar(torch.utils.data.IterableDataset[torch.Tensor]):
    """Images of one tar, read forward, preprocessed; workers take turns."""

    def __init__(self, path: Path, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.path, self.transform = path, transform

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        turn, of = (info.id, info.num_workers) if info else (0, 1)
        with tarfile.open(self.path) as tar:
            number = 0
            for member in tar:
                if member.name.endswith(".jpg"):
                    if number % of == turn:
                        handle = tar.extractfile(member)
                        assert handle is not None
                        yield self.transform(Image.open(io.BytesIO(handle.read())).convert("RGB"))
                    number += 1


class Loop:
    """The baseline: a DataLoader and an open_clip model."""

    def __init__(self, tar: Path, options: dict[str, str], given: argparse.Namespace) -> None:
        start = time.perf_counter()
        torch.set_num_threads(given.threads)
        self.device, self.bf16 = given.device, given.device == "cuda"
        self.model, _, transform = open_clip.create_model_and_transforms(
            options["model"], pretrained=options["checkpoint"], device=given.device, weights_only=True
        )
        self.model.eval()
        self.loader = torch.utils.data.DataLoader(
            Tar(tar, transform),
            batch_size=given.batch,
            num_workers=given.decode,
            persistent_workers=True,
            pin_memory=self.bf16,
        )
        self()
        self.start_up = time.perf_counter() - start

    def __call__(self) -> NDArray[np.float16]:
        """Vectors of all images."""
        rows = []
        with torch.inference_mode(), torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            for batch in self.loader:
                vectors = self.model.encode_image(batch.to(self.device, non_blocking=True)).float()
                rows.append((vectors / vectors.norm(dim=1, keepdim=True)).half().cpu().numpy())
        return np.concatenate(rows)


class Ours:
    """The stage, run by the executor in this process as in `curate run --workers 0`."""

    def __init__(self, folder: Path, tar: Path, options: dict[str, str], given: argparse.Namespace) -> None:
        start = time.perf_counter()
        more = {"batch_size": given.batch, "threads": given.threads, "decode_threads": given.decode}
        spec = {
            "name": "benchmark",
            "input": {"shards": str(tar)},
            "workspace": str(folder / f"work-{options['model']}"),
            "stages": ["index", {"embed": options | more}],
        }
        _, plan = prepare(spec)
        self.step = plan.steps[-1]
        assert isinstance(self.step.stage, EmbedStage)
        self.stage = self.step.stage
        if given.device == "cuda":
            self.stage.gpus = 1.0
        self.workspace: Workspace = plan.workspace
        self.executor = Executor(plan, InlineEngine(), Timed(plan.workspace))
        for step in plan.steps:
            self.executor.run(step)
        self.encoder = self.stage.encoder
        self.start_up = time.perf_counter() - start
        self.busy = 0.0

    def __call__(self) -> None:
        """Embed all images and commit the columns."""
        self.workspace.remove(self.step.folder)
        self.executor.run(self.step)

    def vectors(self) -> NDArray[np.float16]:
        """What the last run stored."""
        (file,) = (n for n in self.workspace.listing(self.step.folder) if n.endswith(".image.npy"))
        vectors: NDArray[np.float16] = np.load(self.workspace.path(f"{self.step.folder}/{file}"))
        return vectors

    def watched(self) -> float:
        """Seconds that the encoder was at work in one more run."""
        self.busy = 0.0

        def tower(batch: torch.Tensor) -> torch.Tensor:
            start = self._clock()
            rows = self.encoder.image_tower(batch)
            self.busy += self._clock() - start
            return rows

        self.stage.__dict__["encoder"] = dataclasses.replace(self.encoder, image_tower=tower)
        self()
        self.stage.__dict__["encoder"] = self.encoder
        return self.busy

    def _clock(self) -> float:
        if self.encoder.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def resident(self, images: int, batch: int) -> float:
        """Seconds of the same encoder over as many images that lie in memory as tensors of one batch."""
        pixels = torch.rand(batch, 3, *self.encoder.image_size, device=self.encoder.device)
        self.encoder.encode_images(pixels)
        start = time.perf_counter()
        for _ in range(images // batch):
            self.encoder.encode_images(pixels)
        return (time.perf_counter() - start) * images / (images // batch * batch)


def timed(block: Callable[[], Any]) -> float:
    start = time.perf_counter()
    block()
    return time.perf_counter() - start


def cpu() -> float:
    """CPU seconds of this process and its descendants so far."""
    return sum(sum(process.cpu_times()[:2]) for process in tree_of(psutil.Process()))


def spread(values: list[float], images: int) -> str:
    rates = sorted(images / value for value in values)
    return f"{statistics.median(rates):,.0f} images/s ({rates[0]:,.0f} to {rates[-1]:,.0f})"


def compare(folder: Path, tar: Path, model: str, given: argparse.Namespace) -> None:
    options = weights(folder, model)
    with Peak(every_s=2.0) as peak:
        ours = Ours(folder, tar, options, given)
        loop = Loop(tar, options, given)
        theirs_vectors = loop()
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        used: dict[str, list[float]] = {"ours": [], "theirs": []}
        ratios = []
        for round_ in range(given.rounds):
            sides: list[tuple[str, Callable[[], Any]]] = [("ours", ours), ("theirs", loop)]
            for name, run in sides if round_ % 2 == 0 else reversed(sides):
                before = cpu()
                seconds[name].append(timed(run))
                used[name].append(cpu() - before)
            ratios.append(seconds["theirs"][-1] / seconds["ours"][-1])
        mine = ours.vectors()
        watched = timed(ours.watched)
        resident = ours.resident(given.images, given.batch)
    if given.decode == 1:  # with more workers the batches of the loop come in another order
        difference = float(np.abs(mine.astype(np.float32) - theirs_vectors.astype(np.float32)).max())
        assert difference < 2e-3, f"the two sides computed different vectors ({difference})"
    median = statistics.median(seconds["ours"])
    print(
        f"{model}: embed {spread(seconds['ours'], given.images)}, loop {spread(seconds['theirs'], given.images)}; "
        f"ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}); "
        f"CPU {statistics.median(used['ours']) / given.images * 1e3:.2f} and "
        f"{statistics.median(used['theirs']) / given.images * 1e3:.2f} ms an image; "
        f"start-up {ours.start_up:.1f} s (with the index and one run) and {loop.start_up:.1f} s; "
        f"peak PSS of both {peak.pss / 2**20:,.0f} MiB"
    )
    print(
        f"  resident tensors {given.images / resident:,.0f} images/s: from the tar {resident / median:.1%} of that; "
        f"encoder idle {max(0.0, 1 - ours.busy / watched):.1%} of the time",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--models", nargs="+", default=list(SIZES), help="small, medium, large, or open_clip names")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--size", type=int, default=256, help="pixels of a side of the JPEGs")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--decode", type=int, default=1, help="decode threads of ours, worker processes of the loop")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    print(
        f"{given.images:,} JPEGs of {given.size} x {given.size}, batch {given.batch}, {given.decode} decoding, "
        f"{given.threads} threads, {given.device}, {given.rounds} rounds"
    )
    with tempfile.TemporaryDirectory(prefix="curate-embed-") as folder:
        write_tars(Path(folder), 1, given.images, given.size)
        for model in given.models:
            compare(Path(folder), Path(folder) / "00000.tar", model, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
