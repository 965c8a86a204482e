"""Folders of embeddings in clip-retrieval's layout, made as its writer makes them (numpy and pandas)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def unit(rows: NDArray[Any]) -> NDArray[np.float16]:
    """Unit rows as float16, the way clip-retrieval stores them."""
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def write_number(
    root: Path,
    number: str,
    images: NDArray[Any],
    metadata: dict[str, Any],
    texts: NDArray[Any] | None = None,
) -> None:
    """All files of one number; `number` as it stands in their names, padded or not."""
    arrays = {"img_emb": images} if texts is None else {"img_emb": images, "text_emb": texts}
    for kind, rows in arrays.items():
        (root / kind).mkdir(parents=True, exist_ok=True)
        np.save(root / kind / f"{kind}_{number}.npy", rows)
    (root / "metadata").mkdir(exist_ok=True)
    pd.DataFrame(metadata).to_parquet(root / "metadata" / f"metadata_{number}.parquet")


def made(root: Path, sizes: list[int], dim: int = 8, seed: int = 0, pad: int = 0, text: bool = True) -> NDArray[Any]:
    """A folder with one number for each size; returns all image vectors, float16 [n, dim], in order."""
    rng = np.random.default_rng(seed)
    everything = []
    for number, size in enumerate(sizes):
        images = unit(rng.normal(size=(size, dim)))
        texts = unit(rng.normal(size=(size, dim))) if text else None
        names = [f"{number:05d}{i:04d}" for i in range(size)]
        metadata = {
            "image_path": names,
            "caption": [f"caption {name}" for name in names],
            "url": [f"https://example.org/{name}.jpg" for name in names],
            "similarity": np.linspace(0, 1, size),
            "uid": [f"{number:016x}{i:016x}" for i in range(size)],
        }
        write_number(root, f"{number:0{pad}d}", images, metadata, texts)
        everything.append(images)
    return np.concatenate(everything)
