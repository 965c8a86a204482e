"""index against the standard library's tarfile, release against webdataset's ShardWriter: same tars, one process each.

    python benchmarks/index_release.py            # 20,000 samples of about 15 kB, 60 % of them released

Prints samples a second, the ratio to the baseline, and the peak resident memory of the process so far. `index` also
hashes every image, reads its header and names it; `release` also hashes image and shard, and writes its tables.
"""

from __future__ import annotations

import io
import resource
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
import webdataset as wds
from PIL import Image

import curate

SHARDS, SAMPLES, KEPT = 8, 2_500, 0.6


def write_shards(folder: Path) -> None:
    rng = np.random.default_rng(0)
    images = []
    for _ in range(40):
        noise = Image.fromarray(rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)).resize((256, 256), Image.BICUBIC)
        buffer = io.BytesIO()
        noise.save(buffer, "JPEG", quality=85)
        images.append(buffer.getvalue())
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(SAMPLES):
                # the trailing bytes make every image another one
                for ext, data in (("jpg", images[int(rng.integers(40))] + f"{shard}-{i}".encode()), ("txt", b"words")):
                    info = tarfile.TarInfo(f"{shard:02d}{i:06d}.{ext}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def scan_with_tarfile(folder: Path) -> float:
    start = time.perf_counter()
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member)
                assert handle is not None
                handle.read()
    return time.perf_counter() - start


def copy_with_webdataset(folder: Path, out: Path, keys: set[str]) -> float:
    start = time.perf_counter()
    source = wds.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False)
    with wds.ShardWriter(str(out / "%05d.tar"), maxcount=5000, verbose=0) as sink:
        for sample in source:
            if sample["__key__"] in keys:
                sink.write({"__key__": sample["__key__"], "jpg": sample["jpg"], "txt": sample["txt"]})
    return time.perf_counter() - start


def tell(name: str, samples: int, seconds: float, baseline: str, theirs: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name}: {samples / seconds:,.0f} samples/s, {baseline} {samples / theirs:,.0f}, "
        f"ratio {theirs / seconds:.2f}x, peak RSS {peak:,.0f} MiB"
    )


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        (root / "in").mkdir()
        (root / "out").mkdir()
        write_shards(root / "in")
        scan_with_tarfile(root / "in")  # warms the page cache for both
        theirs = scan_with_tarfile(root / "in")
        spec = {
            "name": "bench",
            "input": {"shards": f"{root}/in/*.tar", "caption": "txt", "shards_per_part": 1},
            "workspace": f"{root}/work",
            "stages": ["index", {"sample": {"fraction": KEPT}}, {"release": {"samples_per_shard": 5000}}],
        }
        run = curate.run(spec, workers=0)
        seconds = {step.name: step.seconds or 0.0 for step in run.record.steps}
        tell("index", run.record.rows, seconds["index"], "tarfile", theirs)
        kept = run.columns("index", "sample").collect().filter("sample.alive")["index.key"].to_list()
        theirs = copy_with_webdataset(root / "in", root / "out", set(kept))
        tell("release", len(kept), seconds["release"], "webdataset", theirs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
