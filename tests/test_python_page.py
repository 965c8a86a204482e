"""docs/python.md, executed from top to bottom over the quickstart's photos, and its printed words compared."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import realdata

from infra.quickstart.pack import pack

ROOT = Path(__file__).parents[1]
END = "--- end of snippet ---"


def snippets() -> list[tuple[str, str]]:
    """(code, what the page says that it prints, perhaps nothing), in order."""
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    found = re.findall(r"^```(python|text)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    pairs: list[tuple[str, str]] = []
    for language, text in found:
        if language == "python":
            pairs.append((text, ""))
        else:
            pairs[-1] = (pairs[-1][0], text)
    return pairs


def masked(text: str) -> set[str]:
    """Lines without the numbers: the last digits of a vector differ between processors. Of tables the heads only."""
    lines = [re.sub(r"@[0-9a-f]{12}|\d[\d.,]*", "#", " ".join(line.split())) for line in text.splitlines()]
    return {line for line in lines if line and (line[0] not in "│╞┌└" or "index.key" in line)}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_runs_from_top_to_bottom(tmp_path: Path) -> None:
    realdata.lite0()
    photos = realdata.photos()
    pack(tmp_path / "build/quickstart/shards")
    shutil.copytree(ROOT / "pipelines", tmp_path / "pipelines")
    (tmp_path / "photos" / "some").mkdir(parents=True)
    for photo in photos[:3]:
        shutil.copy(photo, tmp_path / "photos" / "some")
    script = tmp_path / "page.py"
    script.write_text("".join(f"{code}\nprint({END!r})\n" for code, _ in snippets()), encoding="utf-8")
    plain = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    env = plain | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    said = done.stdout.split(f"{END}\n")
    for (_, expected), out in zip(snippets(), said, strict=False):
        assert masked(expected) <= masked(out), out
    assert re.match(r"<Run quickstart: done, \d+ of 1,357 samples, build/quickstart/run>\n", said[0])
    assert said[0].splitlines()[1].endswith(" 8")
    assert (tmp_path / "work/run.json").is_file()
