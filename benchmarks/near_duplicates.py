"""Near duplicates of known truth among real photos: what perceptual hashes, embeddings and both find, and at what cost.

    python -m benchmarks.near_duplicates edits [--images 919]       the bird photos, one kind of edit at a time
    python -m benchmarks.near_duplicates tools [--images 10000]     whole runs against imagededup and fastdup
    python -m benchmarks.near_duplicates groups --also FOLDER       groups that a collection has by itself

`edits`: for each kind the share of edited photos that are near enough to their own original, and how many of all pairs
of different photos are. `tools`: a folder of photos with seeded edits. Of what each side calls duplicates: precision =
share of images whose nearest partner is of the same original; recall = share of edited images with a partner of the
same original. Every side runs as a command of its own; what is finished stays under --work and is not run again.

The baselines are installed into virtual environments of their own under the cache folder; one that cannot be installed
or does not run is a line of the table that says why. Photos come from the package registry (tests/realdata.py).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import curate
from benchmarks.edited_photos import EDITS, originals
from curate import embed
from curate.dedup.perceptual import hashes
from curate.embed.encoder import EncoderConfig
from curate.store.images import decode_grey, decode_rgb
from curate.store.packages import cache_root, fetch
from infra.quickstart.pack import rank

ROOT = Path(__file__).resolve().parents[1]
EPSILON = 0.2
MODEL = "packaged:efficientnet_lite0"
BASELINES = {
    "imagededup-phash": "imagededup==0.3.3.post2",
    "imagededup-dhash": "imagededup==0.3.3.post2",
    "fastdup": "fastdup==2.54",
}
HASH: list[Any] = ["hash", "dedup_hash"]
EMBED: list[Any] = [{"embed": {"model": MODEL}}, {"cluster": {"concepts": 24, "iterations": 30}}]
SIDES: dict[str, list[Any]] = {
    "curate, hash": HASH,
    "curate, embedding": [*EMBED, {"dedup": {"epsilon": EPSILON}}],
    "curate, both": [*HASH, *EMBED, {"dedup": {"epsilon": EPSILON}}],
}


# --- one kind of edit at a time ---------------------------------------------------------------------------------------


def edits(images: int) -> None:
    """Recall of each kind of edit, and false pairs, at a few thresholds."""
    birds = {name: path for name, path in originals().items() if name.startswith("bird-")}
    names = sorted(birds, key=lambda name: rank(0, name))[:images]
    pixels = [Image.open(birds[name]).convert("RGB") for name in names]
    sets = {"": [birds[name].read_bytes() for name in names]}
    sets |= {kind: [edit(image) for image in pixels] for kind, edit in EDITS.items()}
    encoder = _encoder()
    hashed = {kind: _hashes(data) for kind, data in sets.items()}
    vectors = {kind: _vectors(encoder, data) for kind, data in sets.items()}
    rules: dict[str, Callable[[str], NDArray[np.bool_]]] = {}
    for r in (2, 4, 6, 8):
        rules[f"pHash, distance {r}"] = lambda kind, r=r: _near(hashed, kind, 1, r)
    for r in (4, 8):
        rules[f"dHash, distance {r}"] = lambda kind, r=r: _near(hashed, kind, 0, r)
    rules["both hashes, distance 8"] = lambda kind: _near(hashed, kind, 0, 8) & _near(hashed, kind, 1, 8)
    rules[f"embedding, epsilon {EPSILON}"] = lambda kind: _alike(vectors, kind)
    rules["pHash 4 or embedding"] = lambda kind: _near(hashed, kind, 1, 4) | _alike(vectors, kind)
    print(f"{len(names)} photos of birds, each edit against all originals; false = pairs of different photos")
    print(f"| found by | {' | '.join(EDITS)} | false of {len(names) * (len(names) - 1) // 2:,} |")
    print("|" + "---|" * (len(EDITS) + 2))
    for rule, near in rules.items():
        shares = [f"{np.diagonal(near(kind)).mean():.3f}" for kind in EDITS]
        false = int(np.triu(near(""), 1).sum())
        print(f"| {rule} | {' | '.join(shares)} | {false} |", flush=True)


def _hashes(images: list[bytes]) -> NDArray[np.uint64]:
    """dHash, pHash and whether there are any, uint64 [n, 3]."""
    found = [hashes(decode_grey(data, 10**8, 64)) for data in images]
    return np.asarray([(*both, 1) if both else (0, 0, 0) for both in found], dtype=np.uint64)


def _near(hashed: dict[str, NDArray[np.uint64]], kind: str, which: int, r: int) -> NDArray[np.bool_]:
    left, right = hashed[kind], hashed[""]
    apart = np.bitwise_count(left[:, None, which] ^ right[None, :, which])
    near: NDArray[np.bool_] = (apart <= r) & (left[:, None, 2] > 0) & (right[None, :, 2] > 0)
    return near


def _alike(vectors: dict[str, NDArray[np.float32]], kind: str) -> NDArray[np.bool_]:
    alike: NDArray[np.bool_] = vectors[kind] @ vectors[""].T > 1 - EPSILON
    return alike


def _encoder() -> embed.Encoder:
    config = EncoderConfig(model=MODEL, pretrained=None, library=None, checkpoint=None, config=None)
    pin = embed.packaged_weights(config)
    assert pin is not None
    return embed.load(config, "cpu", None, 1, fetch(pin) / pin.member)


def _vectors(encoder: embed.Encoder, images: list[bytes]) -> NDArray[np.float32]:
    import torch

    rows = []
    for at in range(0, len(images), 32):
        batch = torch.stack([encoder.preprocess(decode_rgb(data, 10**8)) for data in images[at : at + 32]])
        rows.append(encoder.encode_images(batch))
    raw = np.concatenate(rows)
    unit: NDArray[np.float32] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return unit


# --- groups that are there ------------------------------------------------------------------------------------------


def groups(folders: list[Path], images: int) -> None:
    """Pairs of the same group that are found, and pairs of different groups that are: pictures of a wallpaper package
    (NAME/contents/...) belong to NAME, of other folders images with the same bytes belong together.
    """
    encoder = _encoder()
    print("| collection | images | groups of two or more | pairs | found by | recall | precision | without hash |")
    print("|---|---|---|---|---|---|---|---|")
    for folder in folders:
        paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png") and p.is_file())
        paths = sorted(paths, key=lambda path: rank(2, str(path.relative_to(folder))))[:images]
        data = [path.read_bytes() for path in paths]
        group = np.unique([_group(path, one) for path, one in zip(paths, data, strict=True)], return_inverse=True)[1]
        same = np.triu(group[:, None] == group[None, :], 1)
        hashed, vectors = {"": _hashes(data)}, {"": _vectors(encoder, data)}
        near = {"pHash, distance 4": _near(hashed, "", 1, 4), f"embedding, epsilon {EPSILON}": _alike(vectors, "")}
        near["both hashes, distance 4"] = near["pHash, distance 4"] & _near(hashed, "", 0, 4)
        near["pHash or embedding"] = near["pHash, distance 4"] | near[f"embedding, epsilon {EPSILON}"]
        several = int((np.bincount(group) > 1).sum())
        for rule, found in near.items():
            pairs = np.triu(found, 1)
            right, flagged = int((pairs & same).sum()), int(pairs.sum())
            print(
                f"| {folder.name} | {len(paths)} | {several} | {int(same.sum())} | {rule} | {right / same.sum():.3f} "
                f"| {right / max(flagged, 1):.3f} | {int((hashed[''][:, 2] == 0).sum())} |",
                flush=True,
            )


def _group(path: Path, data: bytes) -> str:
    if "contents" in path.parts:
        return path.parts[path.parts.index("contents") - 1]
    return hashlib.sha256(data).hexdigest()


# --- whole runs, and other tools --------------------------------------------------------------------------------------


def make_folder(folder: Path, images: int, also: list[Path]) -> dict[str, str]:
    """Write photos and edits of them until there are `images`; original of each file by its name."""
    listing = folder.with_suffix(".json")
    if listing.exists():
        return dict(json.loads(listing.read_text()))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    found = originals(also)
    names = sorted(found, key=lambda name: rank(1, name))
    each = min(len(EDITS), max(2, -(-images // len(names)) - 1))
    of: dict[str, str] = {}
    kinds = cycle(EDITS)
    for name in names:
        if len(of) >= images:
            break
        path = found[name]
        file = f"{name}{path.suffix}"
        shutil.copyfile(path, folder / file)
        of[file] = name
        with Image.open(path) as image:
            pixels = image.convert("RGB")
        for _ in range(each):
            if len(of) < images:
                kind = next(kinds)
                file = f"{name}--{kind.replace(' ', '-').replace('-%', '')}.jpg"
                (folder / file).write_bytes(EDITS[kind](pixels))
                of[file] = name
    listing.write_text(json.dumps(of))
    return of


def judge(pairs: list[list[Any]], of: dict[str, str]) -> tuple[float, float, int, dict[str, tuple[int, int]]]:
    """Precision, recall, images in a pair, and found and planted of each kind."""
    nearest: dict[str, tuple[float, str]] = {}
    linked: set[str] = set()
    for a, b, near in pairs:
        if a == b:
            continue
        for one, other in ((a, b), (b, a)):
            nearest[one] = max(nearest.get(one, (-np.inf, "")), (near, other))
            if of[one] == of[other]:
                linked.add(one)
    right = sum(of[one] == of[other] for one, (_, other) in nearest.items())
    kinds: dict[str, tuple[int, int]] = {}
    for file in of:
        if "--" in file:
            kind = file.rpartition("--")[2].removesuffix(".jpg")
            found, planted = kinds.get(kind, (0, 0))
            kinds[kind] = found + (file in linked), planted + 1
    found = sum(f for f, _ in kinds.values())
    return right / max(len(nearest), 1), found / max(sum(n for _, n in kinds.values()), 1), len(nearest), kinds


def pairs_of(workspace: str) -> list[list[Any]]:
    """Pairs of a finished run: every dropped sample and what it duplicates, nearness of the step that dropped it."""
    run = curate.open_run(workspace)
    index = run.columns("index").select("key", "ext", "uid_hi", "uid_lo").collect()
    file_of = {f"{hi:016x}{lo:016x}": f"{key}.{ext}" for key, ext, hi, lo in index.iter_rows()}
    files = list(file_of.values())
    pairs: list[list[Any]] = []
    for step in [step.name for step in run.record.steps if step.name.startswith("dedup")]:
        frame = run.columns(step).collect()
        if "keep" not in frame.columns:
            continue
        target = "duplicate_of" if "duplicate_of" in frame.columns else "keeper"
        near = {"distance": lambda v: -float(v), "similarity": float}
        name = next((n for n in near if n in frame.columns), None)
        for row, (keep, to) in enumerate(frame.select("keep", target).iter_rows()):
            if keep is False and to is not None:
                pairs.append([files[row], file_of[to], near[name](frame[name][row]) if name else 2.0])
    return pairs


def run_curate(side: str, folder: Path, work: Path, workers: int) -> list[str]:
    """The command of one of our sides, on a fresh workspace."""
    place = work / side.replace(", ", "-")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    spec = {
        "name": "near-duplicates",
        "input": {"folder": str(folder), "files_per_part": 1000},
        "workspace": str(place / "run"),
        "stages": ["index", *SIDES[side]],
    }
    (place / "pipeline.yaml").write_text(json.dumps(spec))
    command = [sys.executable, "-m", "curate.cli.main", "run", str(place / "pipeline.yaml"), "--ok-if-quarantined"]
    return [*command, "--workers", str(workers)]


def environment(side: str, root: Path) -> Path | str:
    """The Python of a baseline's own virtual environment, installed if need be; or why there is none."""
    requirement = BASELINES[side]
    folder = root / requirement.replace("==", "-")
    python = folder / "bin" / "python"
    if (folder / "ready").exists():
        return python
    uv = shutil.which("uv")
    if uv is not None:
        make, install = (
            [uv, "venv", "-q", "--clear", str(folder)],
            [uv, "pip", "install", "-q", "--python", str(python)],
        )
    else:
        make, install = [sys.executable, "-m", "venv", "--clear", str(folder)], [str(python), "-m", "pip", "install"]
    for command in (make, [*install, requirement]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return f"not installed: {_last_line(done.stderr)}"
    (folder / "ready").touch()
    return python


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:160] if lines else "no message"


def measure(command: list[str]) -> dict[str, Any]:
    """Wall seconds and peak summed PSS of a command; `failed` says how it ended when it did not end well."""
    from benchmarks.peak_pss import Peak

    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    with Peak(child.pid) as peak:
        _, err = child.communicate()
    found: dict[str, Any] = {"seconds": time.perf_counter() - start, "pss": peak.pss}
    if child.returncode:
        found["failed"] = f"exit code {child.returncode}: {_last_line(err)}"
    return found


def tools(images: int, work: Path, also: list[Path], sides: list[str], environments: Path, workers: int) -> None:
    """One row of the table a side; what is stored of an earlier call is printed again."""
    folder = work / f"photos-{images}"
    of = make_folder(folder, images, also)
    planted = sum("--" in file for file in of)
    print(f"{len(of):,} images: {len(set(of.values())):,} photos, {planted:,} edits of them, seeded")
    kinds = sorted({file.rpartition("--")[2].removesuffix(".jpg") for file in of if "--" in file})
    print(f"| side | precision | recall | {' | '.join(kinds)} | seconds | peak PSS |")
    print("|" + "---|" * (len(kinds) + 5))
    for side in sides:
        stored = work / f"result-{images}-{side.replace(', ', '-')}.json"
        if not stored.exists():
            stored.write_text(json.dumps(_one(side, folder, work, of, environments, workers)))
        told = json.loads(stored.read_text())
        if "failed" in told:
            print(f"| {side} | {told['failed']} |", flush=True)
            continue
        shares = [f"{told['kinds'][kind][0] / told['kinds'][kind][1]:.2f}" for kind in kinds]
        print(
            f"| {side} | {told['precision']:.3f} | {told['recall']:.3f} | {' | '.join(shares)} | {told['seconds']:.1f} "
            f"| {told['pss'] / 2**20:,.0f} MiB |",
            flush=True,
        )


def _one(side: str, folder: Path, work: Path, of: dict[str, str], environments: Path, workers: int) -> dict[str, Any]:
    if side in SIDES:
        found = measure(run_curate(side, folder, work, workers))
        pairs = [] if "failed" in found else pairs_of(str(work / side.replace(", ", "-") / "run"))
    else:
        python = environment(side, environments)
        if isinstance(python, str):
            return {"failed": python}
        out = work / f"{side}.pairs.json"
        found = measure([str(python), str(ROOT / "benchmarks/near_duplicates_tools.py"), side, str(folder), str(out)])
        pairs = [] if "failed" in found else json.loads(out.read_text())
    if "failed" in found:
        return {"failed": f"did not run: {found['failed']}"}
    precision, recall, there, kinds = judge(pairs, of)
    return found | {"precision": precision, "recall": recall, "in_pairs": there, "kinds": kinds}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("edits", "groups", "tools"))
    parser.add_argument("--images", type=int, help="photos (edits: default all) or images (tools: default 10,000)")
    parser.add_argument("--work", type=Path, default=ROOT / "build/near-duplicates", help="folder of tools' runs")
    parser.add_argument("--also", type=Path, action="append", default=[], help="folder of further photos")
    parser.add_argument("--sides", nargs="+", default=[*SIDES, *BASELINES], help="which sides to run")
    parser.add_argument("--environments", type=Path, default=cache_root() / "benchmarks", help="of the baselines")
    parser.add_argument("--workers", type=int, default=2, help="of our own runs; 0 = in one process without Ray")
    options = parser.parse_args()
    if options.what == "edits":
        edits(options.images or 10**6)
    elif options.what == "groups":
        groups(options.also, options.images or 10**6)
    else:
        tools(
            options.images or 10_000, options.work, options.also, options.sides, options.environments, options.workers
        )


if __name__ == "__main__":
    main()
