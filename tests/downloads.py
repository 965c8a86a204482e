"""Folders in img2dataset's layout (also DataComp's): tars written by webdataset, tables by pyarrow, stats as JSON.

Names, columns, types and the order of keys are those of img2dataset 1.45 with `--output_format webdataset
--save_additional_columns '["similarity","uid"]' --compute_hash sha256`; DataComp's downloads have 8-digit shard names.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import corpus
import pyarrow as pa
import pyarrow.parquet as pq
import webdataset

ERRORS = {
    2: ("failed_to_download", "HTTP Error 404: Not Found"),
    4: ("failed_to_resize", "image decoding error"),
    5: ("failed_to_download", "<urlopen error [Errno -2] Name or service not known>"),
}
"""Of every seven urls these fail."""


@dataclass(frozen=True)
class Tried:
    """One url of one shard: everything the downloader's table says of it, and the image when it got one."""

    shard: str
    meta: dict[str, Any]
    image: bytes | None


def write_downloads(
    folder: Path, shards: int = 2, urls: int = 14, digits: int = 5, uid: bool = False, stats: bool = True
) -> list[Tried]:
    """`shards` tars with their tables and stats; of `urls` urls each, those in ERRORS failed; in table order."""
    folder.mkdir(parents=True, exist_ok=True)
    types = [("caption", pa.string()), ("url", pa.string()), ("similarity", pa.float64())]
    types += [("uid", pa.string())] if uid else []
    types += [("key", pa.string()), ("status", pa.string()), ("error_message", pa.string())]
    types += [(name, pa.int32()) for name in ("width", "height", "original_width", "original_height")]
    schema = pa.schema([*types, ("exif", pa.string()), ("sha256", pa.string())])
    tried: list[Tried] = []
    for shard in range(shards):
        name = f"{shard:0{digits}d}"
        rows: list[dict[str, Any]] = []
        counts: Counter[str] = Counter()
        status_dict: Counter[str] = Counter()
        with (folder / f"{name}.tar").open("wb") as out:
            tar = webdataset.TarWriter(out)
            for i in range(urls):
                n = shard * urls + i
                image = None if i % 7 in ERRORS else corpus.jpeg(n, (64, 64))
                status, error = ERRORS.get(i % 7, ("success", None))
                key = f"{shard:0{digits}d}{i:04d}"
                meta: dict[str, Any] = {
                    "caption": f"picture {n}",
                    "url": f"http://images.example/{n}.jpg",
                    "similarity": round(0.2 + n / 100, 2),
                }
                if uid:
                    meta["uid"] = hashlib.md5(str(n).encode()).hexdigest()
                meta |= {"key": key, "status": status, "error_message": error}
                size = None if image is None else 64
                meta |= {"width": size, "height": size, "original_width": size, "original_height": size}
                meta |= {"exif": None if image is None else "{}"}
                meta |= {"sha256": None if image is None else hashlib.sha256(image).hexdigest()}
                if image is not None:
                    tar.write(
                        {"__key__": key, "jpg": image, "txt": meta["caption"], "json": json.dumps(meta, indent=4)}
                    )
                rows.append(meta)
                tried.append(Tried(f"{name}.tar", meta, image))
                counts[status] += 1
                status_dict[error or "success"] += 1
            tar.close()
        with pq.ParquetWriter(folder / f"{name}.parquet", schema) as writer:
            for start in range(0, len(rows), 100):  # the library writes a row group of 100 rows at a time
                writer.write_table(pa.Table.from_pylist(rows[start : start + 100], schema))
        if stats:
            text = json.dumps(
                {
                    "count": urls,
                    "successes": counts["success"],
                    "failed_to_download": counts["failed_to_download"],
                    "failed_to_resize": counts["failed_to_resize"],
                    "duration": 1.25,
                    "start_time": 1700000000.0,
                    "end_time": 1700000001.25,
                    "status_dict": dict(status_dict),
                },
                indent=4,
            )
            (folder / f"{name}_stats.json").write_text(text)
    return tried
