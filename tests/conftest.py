"""Fixtures shared by rooms: a bench that runs real stages over hand-made parts, and a pipeline over tiny shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import corpus
import pytest
from bench import Bench

_WITH_RAY = ("end_to_end", "engine", "cli", "benchmarks", "test_notebooks.py", "test_python_page.py")
"""What starts Ray clusters: one after another, on one of the two workers; every other file goes where there is room."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Share the tests between workers file by file; those with clusters of their own would disturb each other."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    here = Path(__file__).parent
    for item in items:
        room = item.path.relative_to(here).parts[0]
        item.add_marker(pytest.mark.xdist_group("ray" if room in _WITH_RAY else str(item.path.relative_to(here))))


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Bench]:
    """Makes benches, each in a folder of its own."""
    made = 0

    def make(parts: int, seed: int = 0) -> Bench:
        nonlocal made
        made += 1
        return Bench(str(tmp_path / f"bench-{made}"), parts, seed)

    return make


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Any]:
    """A pipeline of an index only, over three shards of four good samples each; a dict to add stages to."""
    corpus.write_good_shards(tmp_path / "shards", shards=3, samples=4)
    return {
        "name": "tiny",
        "input": {"shards": f"{tmp_path}/shards/*.tar", "shards_per_part": 1, "caption": "txt"},
        "workspace": str(tmp_path / "work"),
        "stages": ["index"],
    }


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Options of an embed stage: a CLIP of two small layers with random weights, as a private checkpoint on disk."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("clip")
    model = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    (folder / "tiny-clip.json").write_text(json.dumps(model))
    torch.manual_seed(5)
    made = open_clip.CLIP(model["embed_dim"], model["vision_cfg"], model["text_cfg"])
    torch.save({"state_dict": made.state_dict()}, folder / "tiny.pt")
    return {
        "model": "tiny-clip",
        "checkpoint": str(folder / "tiny.pt"),
        "config": str(folder / "tiny-clip.json"),
        "batch_size": 4,
    }
