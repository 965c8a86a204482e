"""The stage of docs/adding-a-stage.md, exactly as printed there, installed as a package and used in a pipeline."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import corpus
import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image
from whole_runs import run, write_pipeline

from curate.errors import ExitCode
from curate.pipeline.api import open_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding-a-stage.md"
GREYS = (0, 60, 120, 180, 240)


def block(language: str) -> str:
    """The first code block of the page in this language."""
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Installed:
    """A folder on the Python path with the package, as an installer would leave it."""

    site: Path
    spec: dict[str, object]
    folder: Path


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    site = tmp_path / "site"
    (site / "my_stages").mkdir(parents=True)
    (site / "my_stages" / "__init__.py").touch()
    (site / "my_stages" / "brightness.py").write_text(block("python"))
    info = site / "my_stages-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-stages\nVersion: 1.0\n")
    group, point = re.fullmatch(r'\[project\.entry-points\."(.+)"\]\n(.+)\n', block("toml")).groups()  # type: ignore[union-attr]
    (info / "entry_points.txt").write_text(f"[{group}]\n{point.replace(chr(34), '')}\n")
    members: list[tuple[str | bytes, bytes]] = []
    for grey in GREYS:
        members += corpus.sample(
            f"grey{grey}", corpus.encode(Image.new("RGB", (40, 30), (grey,) * 3), "PNG"), ext="png"
        )
    members += corpus.sample("torn", corpus.truncated_jpeg(5))
    (tmp_path / "00000.tar").write_bytes(corpus.tar_bytes(members))
    spec = {
        "name": "light",
        "input": {"shards": f"{tmp_path}/*.tar", "caption": "txt"},
        "workspace": f"{tmp_path}/work",
    }
    return Installed(site, spec | yaml.safe_load(block("yaml")), tmp_path)


def test_it_is_about_thirty_lines() -> None:
    lines = [line for line in block("python").splitlines() if line.strip() and not line.startswith(("import", "from"))]
    assert len(lines) <= 32


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_pipeline_of_the_page_runs_with_it(installed: Installed, workers: int, ray_folder: str) -> None:
    file = write_pipeline(installed.folder / "light.yaml", installed.spec)
    done = run(file, "--workers", str(workers), PYTHONPATH=str(installed.site), RAY_TMPDIR=ray_folder)
    assert done.returncode == 0, done.stderr
    made = open_run(f"{installed.folder}/work")
    values = made.columns("brightness").collect()["brightness"]
    np.testing.assert_allclose(values[:5].to_numpy(), np.asarray(GREYS) / 255, atol=1e-12)
    assert values[5] is None
    judged = made.columns("filter").collect()
    assert judged["keep"].to_list() == [False, False, True, True, True, False]
    assert judged["reason"].to_list() == ["false", "false", None, None, None, "null: brightness"]
    assert made.release is not None
    assert pl.read_parquet(f"{made.release}/samples.parquet")["key"].to_list() == ["grey120", "grey180", "grey240"]


def test_its_options_are_checked_like_any_other(installed: Installed) -> None:
    wrong = installed.spec | {"stages": ["index", {"brightness": {"sid": 16}}]}
    done = run(write_pipeline(installed.folder / "wrong.yaml", wrong), "--workers", "0", PYTHONPATH=str(installed.site))
    assert done.returncode == ExitCode.SPEC
    assert "did you mean side?" in done.stderr


def test_without_the_package_the_stage_is_unknown(installed: Installed) -> None:
    done = run(write_pipeline(installed.folder / "light.yaml", installed.spec), "--workers", "0")
    assert done.returncode == ExitCode.SPEC
    assert "brightness" in done.stderr
