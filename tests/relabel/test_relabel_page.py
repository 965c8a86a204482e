"""The training loop of docs/relabel.md, as it stands, on pictures of two colours with a label map each."""

from __future__ import annotations

import math
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from curate.formats.label_trees import label_path, write_label
from curate.relabel.maps import top_k

PAGE = Path(__file__).parents[2] / "docs" / "relabel.md"


def test_the_training_loop_learns_from_pooled_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for n in range(16):
        colours = rng.integers(0, 3, 2)
        pixels = np.full((60, 80, 3), 30, dtype=np.uint8)
        logits = rng.standard_normal((1000, 5, 5)).astype(np.float32)
        for half, colour in enumerate(colours):
            pixels[:, half * 40 : half * 40 + 40, colour] = 220
            logits[colour, :, half * 3 : half * 3 + 3] = 12
        name = f"n0000000{n % 2}/photo.{n}.JPEG"
        for folder in ("images", "labels"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        kept = top_k(logits)
        (tmp_path / "labels" / label_path(name)).write_bytes(write_label(kept.scores, kept.classes, "hw"))
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (script,) = [block for block in blocks if "LabelPoolingCollate" in block]
    (tmp_path / "train.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    epochs = runpy.run_path("train.py")["epochs"]
    assert epochs[0] > 0.8 * math.log(1000)
    assert epochs[-1] < 0.6 * epochs[0]
