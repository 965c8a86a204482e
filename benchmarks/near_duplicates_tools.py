"""One side of near_duplicates.py that is somebody else's tool; run by a Python in which that tool is installed.

    python benchmarks/near_duplicates_tools.py imagededup-phash|imagededup-dhash|fastdup FOLDER OUT.json

Writes the pairs that the tool calls duplicates with its own defaults: [[file, file, nearness], ...], nearer is larger.
"""

import json
import sys
import tempfile
from pathlib import Path


def imagededup(folder: str, method: str) -> list:
    from imagededup.methods import DHash, PHash

    hasher = {"phash": PHash, "dhash": DHash}[method](verbose=False)
    found = hasher.find_duplicates(image_dir=folder, scores=True)
    return [[name, other, -int(apart)] for name, others in found.items() for other, apart in others]


def fastdup(folder: str) -> list:
    import fastdup as tool

    with tempfile.TemporaryDirectory() as work:
        run = tool.create(work_dir=work, input_dir=folder)
        run.run(threshold=0.9, nearest_neighbors_k=5, print_summary=False, verbose=False)
        frame = run.similarity()
    left, right = ("filename_from", "filename_to") if "filename_from" in frame else ("from", "to")
    return [
        [Path(str(a)).name, Path(str(b)).name, float(near)]
        for a, b, near in zip(frame[left], frame[right], frame["distance"], strict=True)
    ]


if __name__ == "__main__":
    side, images, out = sys.argv[1:]
    pairs = fastdup(images) if side == "fastdup" else imagededup(images, side.rpartition("-")[2])
    Path(out).write_text(json.dumps(pairs))
