"""Folders of DataComp metadata as its pool has them, small and made up; see docs/datacomp.md."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BOXES = pa.list_(pa.list_(pa.float64()))


def table(rows: int, seed: int = 0, **columns: Any) -> pa.Table:
    """Rows with random uids, sizes and scores; `columns` replace whole ones. Scores hold float16 values as float32."""
    rng = np.random.default_rng(seed)

    def score() -> pa.Array:
        return pa.array(rng.normal(0.25, 0.05, rows).astype(np.float16).astype(np.float32))

    made: dict[str, Any] = {
        "uid": [rng.bytes(16).hex() for _ in range(rows)],
        "url": [f"https://example.org/{seed}/{i}.jpg" for i in range(rows)],
        "text": [f"a picture of thing number {i}" for i in range(rows)],
        "original_width": pa.array(rng.integers(100, 1500, rows)),
        "original_height": pa.array(rng.integers(100, 1500, rows)),
        "clip_b32_similarity_score": score(),
        "clip_l14_similarity_score": score(),
        "face_bboxes": pa.array([[[0.1, 0.2, 0.3, 0.5]] if i % 5 == 0 else [] for i in range(rows)], BOXES),
        "sha256": [hashlib.sha256(f"{seed}/{i}".encode()).hexdigest() for i in range(rows)],
    }
    return pa.table(made | columns)


def arrays(rows: int, dim: int = 16, seed: int = 0) -> dict[str, np.ndarray]:
    """The four arrays of unit rows in float16, B/32 shorter than L/14."""
    rng = np.random.default_rng([seed, 1])
    out = {}
    for name, width in (("b32_img", dim // 2), ("b32_txt", dim // 2), ("l14_img", dim), ("l14_txt", dim)):
        wide = rng.normal(size=(rows, width))
        out[name] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float16)
    return out


def write(
    root: Path,
    name: str,
    made: pa.Table,
    vectors: dict[str, np.ndarray] | None = None,
    *,
    group: int = 1000,
    packed: bool = False,
) -> None:
    """One table, and its array file if there are vectors; `name` may hold folders."""
    path = root / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, row_group_size=group)
    if vectors is not None:
        (np.savez_compressed if packed else np.savez)(root / f"{name}.npz", **vectors)


def pool(root: Path, sizes: list[int], dim: int = 16) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """A pool in two levels of folders; all its rows and vectors in order of the files."""
    tables = [table(size, seed) for seed, size in enumerate(sizes)]
    vectors = [arrays(size, dim, seed) for seed, size in enumerate(sizes)]
    for n, (one, beside) in enumerate(zip(tables, vectors, strict=True)):
        write(root, f"part_{n // 2}/{n:032x}", one, beside)
    return pa.concat_tables(tables), {name: np.concatenate([v[name] for v in vectors]) for name in vectors[0]}
