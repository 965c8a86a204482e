"""The training loop of docs/formats/label-maps.md, as it stands, on a release with label maps."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import torch
from labelled_run import labelled_run

PAGE = Path(__file__).parents[2] / "docs" / "formats" / "label-maps.md"


def test_the_loop_gives_images_and_the_targets_of_their_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "release").symlink_to(labelled_run().release)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    (script,) = [block for block in blocks if "LabelPoolingCollate" in block]
    (tmp_path / "train.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    made = runpy.run_path("train.py")
    batches, classes = made["batches"], made["collate"].classes
    assert sum(len(images) for images, _ in batches) == 12
    for images, targets in batches:
        assert images.shape[1:] == (3, 64, 64)
        assert targets.shape == (len(images), classes)
        assert torch.allclose(targets.sum(1), torch.ones(len(targets)), atol=1e-5)
