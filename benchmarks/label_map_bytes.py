"""Bytes of label maps an image, of real photos: curate's records against ReLabel's files, raw and compressed.

    python benchmarks/label_map_bytes.py FOLDER_OF_PHOTOS [--size 480] [--photos 45] [--boxes 40]

The packaged EfficientNet-Lite0 annotates the photos; a file of ReLabel's is its float32 logits of the same classes,
as torch.save writes it, in both containers. Each map and each file is compressed alone, with the same compressor: zstd
19 (of pyarrow) and deflate 9. `compact` is curate/formats/label_map_compact.py, which deflates by itself. `difference`
is the greatest one of pooled targets of random boxes: between the compact and the plain maps, and of each of them to
the float32 logits.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from curate.embed.classifiers import classifier_config
from curate.formats.label_map_compact import compress, expand
from curate.formats.label_maps import member_bytes, unpack
from curate.formats.label_trees import write_label
from curate.relabel.maps import LabelMaps, top_k
from curate.relabel.pooling import Tail, pool
from curate.stages.teachers import Teachers, Wanted, describe
from curate.store.images import decode_rgb


def annotate(photos: list[Path], size: int) -> tuple[NDArray[np.void], list[NDArray[np.float32]]]:
    """Records [n], and of each photo the float32 logits of its stored classes."""
    wanted = [Wanted(classifier_config(model="packaged:efficientnet_lite0"), size, 1.0)]
    info, _ = describe(wanted, 5, False, (1.0,))
    teachers = Teachers(wanted, info, "cpu", "fp32", 1)
    records, exact = [], []
    for path in photos:
        (pixels,) = teachers.prepare(decode_rgb(path.read_bytes(), Image.MAX_IMAGE_PIXELS or 1 << 28))
        made, _ = teachers.records((pixels[None],))
        logits = teachers._ensemble.annotators[0].maps(pixels[None])[0].numpy()
        assert np.array_equal(top_k(logits, 5).classes, made[0]["classes"])
        records.append(made)
        exact.append(np.take_along_axis(logits, made[0]["classes"].astype(np.int64), axis=0))
    return np.concatenate(records), exact


def crops(n: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Random boxes (top, left, height, width) with sides from 0.1 to 1."""
    sides = rng.uniform(0.1, 1, (n, 2))
    return np.concatenate([rng.uniform(0, 1, (n, 2)) * (1 - sides), sides], axis=1).astype(np.float32)


def measure(records: NDArray[np.void], exact: list[NDArray[np.float32]], boxes: int) -> dict[str, Any]:
    """Mean bytes an image, ratios to ReLabel's files, and the greatest difference of pooled targets."""
    files = {
        kind: [write_label(s, one["classes"], "hw", container=kind) for s, one in zip(exact, records, strict=True)]
        for kind in ("legacy", "zip")
    }
    zstd = pa.Codec("zstd", compression_level=19)
    compressors: dict[str, Callable[[bytes], int]] = {
        "raw": len,
        "zstd": lambda data: len(zstd.compress(data)),
        "deflate": lambda data: len(zlib.compress(data, 9)),
    }
    found: dict[str, Any] = {}
    compact = [compress(records[i : i + 1]) for i in range(len(records))]
    for name, size in compressors.items():
        row = {"record": _mean(size(one.tobytes()) for one in records)}
        row["member"] = _mean(size(member_bytes(one)) for one in records)
        if name != "raw":
            row["compact"] = _mean(map(len, compact))
        for kind, data in files.items():
            row[kind] = _mean(map(size, data))
        for form in ("record", "member", "compact"):
            for kind in files:
                if form in row:
                    row[f"{form}/{kind}"] = round(row[form] / row[kind], 3)
        found[name] = row
    found["shard"] = round(len(compress(records)) / len(records), 1)
    plain = _maps(records)
    rounded = _maps(np.concatenate([expand(one) for one in compact]))
    full = LabelMaps(np.stack(exact), plain.classes, plain.lse)
    rng = np.random.default_rng(0)
    drawn = [crops(len(records), rng) for _ in range(boxes)]
    tails: tuple[Tail, ...] = ("zero", "lse")
    for tail in tails:
        for name, one, other in (
            ("compact", rounded, plain),
            ("record_float32", plain, full),
            ("compact_float32", rounded, full),
        ):
            gaps = [np.abs(pool(one, b, 1000, tail=tail) - pool(other, b, 1000, tail=tail)).max() for b in drawn]
            found[f"difference_{name}_{tail}"] = float(max(gaps))
    return found


def _maps(records: NDArray[np.void]) -> LabelMaps:
    return LabelMaps(*map(np.ascontiguousarray, unpack(records)))


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=480)
    parser.add_argument("--photos", type=int, default=45)
    parser.add_argument("--boxes", type=int, default=40)
    args = parser.parse_args()
    photos = sorted(args.folder.glob("*.jpg"))[: args.photos]
    print(json.dumps(measure(*annotate(photos, args.size), args.boxes), indent=1))


if __name__ == "__main__":
    main()
