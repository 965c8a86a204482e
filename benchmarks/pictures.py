"""Tars of small JPEGs that no two are the same, for the other benchmarks."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def jpegs(n: int, size: int = 256, seed: int = 0) -> list[bytes]:
    """`n` JPEGs of `size` x `size` pixels of smooth noise, about as many bytes as photographs of that size have."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).resize((size, size), Image.BICUBIC)
        buffer = io.BytesIO()
        noise.save(buffer, "JPEG", quality=85)
        images.append(buffer.getvalue())
    return images


def write_tars(folder: Path, tars: int, samples: int, size: int = 256) -> None:
    """`tars` tars of `samples` samples: jpg and txt. The trailing bytes make every image another one."""
    images = jpegs(40, size)
    rng = np.random.default_rng(1)
    for shard in range(tars):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(samples):
                for ext, data in (("jpg", images[int(rng.integers(40))] + f"{shard}-{i}".encode()), ("txt", b"words")):
                    info = tarfile.TarInfo(f"{shard:02d}{i:06d}.{ext}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
