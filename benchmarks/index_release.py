"""index against the standard library's tarfile, release against webdataset's ShardWriter: the same tars, alternating.

    python benchmarks/index_release.py                         # 20,000 samples of about 15 kB, 60 % of them released

Every side runs in a process of its own, so that peak PSS is its own; what is imported, indexed and chosen before the
clock starts does not count. `index` also hashes every image, reads its header and names it, where tarfile only reads;
`release` also hashes image and shard and writes its tables. The last line is the release by two workers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

from peak_pss import Peak

SHARDS, SAMPLES, KEPT, PEER = 8, 2_500, 0.6, 1_632
"""PEER: images a second that a known curation tool copies on two workers."""


def spec_of(root: Path, *more: Any) -> dict[str, Any]:
    return {
        "name": "bench",
        "input": {"shards": f"{root}/in/*.tar", "caption": "txt", "shards_per_part": 1},
        "workspace": f"{root}/work",
        "stages": ["index", {"sample": {"fraction": KEPT}}, *more],
    }


def index(root: Path) -> tuple[float, int]:
    import curate

    with tempfile.TemporaryDirectory(dir=root) as work:
        run = curate.run(spec_of(root) | {"workspace": work, "stages": ["index"]}, workers=0)
        return run.record.step("index").seconds or 0.0, run.record.rows


def scan_with_tarfile(root: Path) -> tuple[float, int]:
    start, members = time.perf_counter(), 0
    for path in sorted((root / "in").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                handle = tar.extractfile(member)
                assert handle is not None
                handle.read()
                members += 1
    return time.perf_counter() - start, members // 2


def release(root: Path, workers: int = 0) -> tuple[float, int]:
    import curate

    with tempfile.TemporaryDirectory(dir=root) as out:
        sink = {"release": {"to": f"{out}/release", "samples_per_shard": 5000}}
        run = curate.run(spec_of(root, sink), workers=workers)
        return run.record.step("release").seconds or 0.0, run.record.alive


def copy_with_webdataset(root: Path) -> tuple[float, int]:
    import webdataset as wds

    kept = set(json.loads((root / "kept.json").read_text()))
    with tempfile.TemporaryDirectory(dir=root) as out:
        start = time.perf_counter()
        source = wds.WebDataset([str(path) for path in sorted((root / "in").glob("*.tar"))], shardshuffle=False)
        with wds.ShardWriter(f"{out}/%05d.tar", maxcount=5000, verbose=0) as sink:
            for sample in source:
                if sample["__key__"] in kept:
                    sink.write({"__key__": sample["__key__"], "jpg": sample["jpg"], "txt": sample["txt"]})
        return time.perf_counter() - start, len(kept)


SIDES = {
    "index": index,
    "tarfile": scan_with_tarfile,
    "release": release,
    "webdataset": copy_with_webdataset,
    "release-2": lambda root: release(root, 2),
}


def one(side: str, root: Path) -> dict[str, float]:
    with Peak(every_s=0.1 if side != "release-2" else 0.5) as peak:
        seconds, samples = SIDES[side](root)
    return {"rate": samples / seconds, "pss": peak.pss}


class Sides:
    """Runs of each side so far. Libraries are imported by the side that needs them: they weigh more than the work."""

    def __init__(self, root: Path) -> None:
        self.root, self.rates, self.peaks = root, dict[str, list[float]](), dict[str, float]()

    def run(self, side: str) -> float:
        command = [sys.executable, __file__, "--side", side, "--root", str(self.root)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        got = json.loads(done.stdout.splitlines()[-1])
        self.rates.setdefault(side, []).append(got["rate"])
        self.peaks[side] = max(self.peaks.get(side, 0.0), got["pss"])
        return float(got["rate"])

    def told(self, side: str) -> str:
        rates = sorted(self.rates[side])
        return (
            f"{side} {statistics.median(rates):,.0f} samples/s ({rates[0]:,.0f} to {rates[-1]:,.0f}), "
            f"peak PSS {self.peaks[side] / 2**20:,.0f} MiB"
        )

    def compare(self, ours: str, theirs: str, rounds: int) -> None:
        ratios = []
        for number in range(rounds):
            pair = (ours, theirs) if number % 2 == 0 else (theirs, ours)
            rate = {side: self.run(side) for side in pair}
            ratios.append(rate[ours] / rate[theirs])
        print(
            f"{self.told(ours)}; {self.told(theirs)}; ratio {statistics.median(ratios):.2f}x "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"of each of the {SHARDS} tars")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        print(json.dumps(one(given.side, given.root)))
        return 0
    from pictures import write_tars

    import curate

    with tempfile.TemporaryDirectory(prefix="curate-release-") as temporary:
        root = Path(temporary)
        (root / "in").mkdir()
        write_tars(root / "in", SHARDS, given.samples)
        scan_with_tarfile(root)  # warms the page cache for all
        run = curate.run(spec_of(root), workers=0)
        kept = run.columns("index", "sample").collect().filter("sample.alive")["index.key"].to_list()
        (root / "kept.json").write_text(json.dumps(kept))
        sides = Sides(root)
        sides.compare("index", "tarfile", given.rounds)
        sides.compare("release", "webdataset", given.rounds)
        for _ in range(given.rounds):
            sides.run("release-2")
        rate = statistics.median(sides.rates["release-2"])
        print(
            f"two workers: {sides.told('release-2')} (with Ray); {rate / PEER:.2f}x of the {PEER:,} images/s that a "
            "known peer copies on two workers"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
