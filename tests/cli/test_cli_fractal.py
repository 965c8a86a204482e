"""`curate fractal`: one image again, and a look at all, from a pipeline file or a finished dataset."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import Cli
from PIL import Image

from curate.errors import ExitCode
from curate.pipeline.api import run as run_pipeline
from curate.pipeline.fractal_gallery import with_boxes
from curate.pipeline.fractals import open_specification

OPTIONS = {"ifs": {"points": 300}, "classes": 4, "images": 9, "size": 32, "scene": {"objects": [1, 3]}}


def pipeline(folder: Path, **changed: object) -> Path:
    stage = OPTIONS | {"to": str(folder / "out")} | changed
    file = folder / "p.yaml"
    spec = {"name": "few", "workspace": str(folder / "work"), "seed": 3, "stages": [{"fractal": stage}]}
    file.write_text(yaml.safe_dump(spec))
    return file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the pipeline file and, in `out`, what it made."""
    folder = tmp_path_factory.mktemp("gallery")
    run_pipeline(pipeline(folder), workers=0)
    return folder


def stored(release: Path, index: int) -> dict[str, bytes]:
    """Members of an image, found by the index its json says."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(release.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                stem, _, ext = member.name.partition(".")
                samples.setdefault(stem, {})[ext] = file.read()
    return next(s for s in samples.values() if json.loads(s["json"])["index"] == index)


@pytest.mark.parametrize("what", ["p.yaml", "out", "out/specification.json"])
def test_an_image_is_the_one_in_the_shards(made: Path, tmp_path: Path, cli: Cli, what: str) -> None:
    out = tmp_path / "7.jpg"
    answer = cli("fractal", "render", made / what, 7, "--out", out, "--json")
    assert answer.code == ExitCode.OK, answer.err
    expected = stored(made / "out", 7)
    assert out.read_bytes() == expected["jpg"]
    assert answer.out.encode().strip() == expected["json"].strip()


def test_the_number_names_the_file(made: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("fractal", "render", made / "p.yaml", 0).out.startswith("00000000.jpg: image 0, ")
    assert (tmp_path / "00000000.jpg").exists()


def test_a_gallery_as_a_page_and_as_a_picture(made: Path, tmp_path: Path, cli: Cli) -> None:
    answer = cli("fractal", "gallery", made / "out", "-o", tmp_path / "g.html", "--classes", 3, "--images", 5, "--json")
    assert answer.code == ExitCode.OK, answer.err
    page = (tmp_path / "g.html").read_text()
    assert answer.json == {"file": str(tmp_path / "g.html"), "bytes": len(page.encode())}
    assert page.count('<div class="class">') == 3
    assert page.count("<figure>") == 5
    boxes = sum(o["box"] is not None for i in range(5) for o in json.loads(stored(made / "out", i)["json"])["objects"])
    assert page.count("<rect ") == boxes
    assert cli("fractal", "gallery", made / "out", "-o", tmp_path / "g.png").code == ExitCode.OK
    assert Image.open(io.BytesIO((tmp_path / "g.png").read_bytes())).size[0] > 32


def test_boxes_are_drawn_on_their_edges() -> None:
    image = np.zeros((10, 10, 3), dtype=np.uint8)
    drawn = with_boxes(image, [{"box": [2, 3, 4, 5], "labelled": True}, {"box": None, "labelled": False}])
    edge = np.zeros((10, 10), dtype=bool)
    edge[3:8, 2:6] = True
    edge[4:7, 3:5] = False
    assert np.array_equal(drawn.any(axis=2), edge)
    assert not image.any()


def test_sentences_for_what_cannot_be_drawn(made: Path, tmp_path: Path, cli: Cli) -> None:
    beyond = cli("fractal", "render", made / "out", 9)
    assert beyond.code == ExitCode.SPEC
    assert "9" in beyond.err
    assert cli("fractal", "render", tmp_path, 0).code == ExitCode.INPUT
    assert "must end in .html or .png" in cli("fractal", "gallery", made / "out", "-o", "g.jpg").err
    other = tmp_path / "other.yaml"
    other.write_text(f"name: x\nworkspace: {tmp_path}\ninput: {{folder: {tmp_path}}}\nstages:\n  - index\n")
    assert "has no stage fractal" in cli("fractal", "render", other, 0).err
    copy = Path(shutil.copytree(made / "out", tmp_path / "copy"))
    (copy / "specification.json").write_text((copy / "specification.json").read_text().replace('"renderer":', '"r":'))
    assert "is no fractal specification: " in cli("fractal", "render", copy, 0).err
    shutil.copy(made / "out" / "specification.json", copy)
    (copy / "systems.parquet").write_bytes(b"PAR1 nothing PAR1")
    broken = cli("fractal", "render", copy, 0)
    assert broken.code == ExitCode.INPUT
    assert "is no table of classes" in broken.err
    (copy / "systems.parquet").unlink()
    assert "has no systems.parquet" in cli("fractal", "render", copy, 0).err
    text = json.loads((copy / "specification.json").read_text())
    (copy / "specification.json").write_text(json.dumps(text | {"renderer": 999}))
    assert "was drawn by renderer 999" in cli("fractal", "render", copy, 0).err


def test_a_pipeline_file_gives_the_classes_of_its_release(made: Path) -> None:
    from_file, from_release = open_specification(str(made / "p.yaml")), open_specification(str(made / "out"))
    assert from_file.specification == from_release.specification
    assert from_file.family.table.equals(from_release.family.table)
