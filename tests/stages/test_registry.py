from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import curate
from curate.errors import SpecError
from curate.stages import STAGES, registry


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    registry.cache_clear()
    yield
    registry.cache_clear()


def install(folder: Path, name: str, value: str, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real installed package: a module, and metadata that names an entry point."""
    info = folder / "their_stage-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "their_stage.py").write_text(body)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-stage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[curate.stages]\n{name} = {value}\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "their_stage", raising=False)


BODY = """
import polars as pl
from curate.stages.base import Columns, Stage
from curate.stages.config import StageConfig

class Blur(Stage[StageConfig]):
    '''Adds how blurred an image is.'''
    kind = "blur"
    def columns(self):
        return {"blur": pl.Float64()}
    def map(self, part, artifacts, back):
        return Columns(pl.DataFrame({"blur": [0.5] * part.rows}))

number = 3
"""


def test_ours_are_there_under_their_kind() -> None:
    assert {name: stage.kind for name, stage in registry().items()} == {name: name for name in STAGES}


def test_the_stage_of_an_installed_package_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: dict[str, Any]
) -> None:
    install(tmp_path / "site", "blur", "their_stage:Blur", BODY, monkeypatch)
    assert registry()["blur"].__module__ == "their_stage"
    run = curate.run(tiny | {"stages": ["index", "blur"]}, workers=0)
    assert run.columns("blur").collect()["blur"].to_list() == [0.5] * 12


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("filter", "their_stage:Blur", "names its stage filter, which exists already"),
        (
            "blur",
            "their_stage:Nothing",
            r"stage blur \(their_stage:Nothing\) cannot be loaded: .*; uninstall its package",
        ),
        ("blur", "their_stage:number", "is not a curate Stage"),
    ],
)
def test_a_package_that_does_not_fit_is_a_sentence(
    name: str, value: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", name, value, BODY, monkeypatch)
    with pytest.raises(SpecError, match=text):
        registry()
