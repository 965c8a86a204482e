from __future__ import annotations

from pathlib import Path

import corpus
import pytest
from commands import Cli


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "my birds"
    folder.mkdir()
    corpus.write_good_shards(folder, shards=2, samples=6)
    monkeypatch.chdir(tmp_path)
    return folder


def test_the_file_is_written_and_planned(shards: Path, cli: Cli) -> None:
    answer = cli("init", shards)
    assert answer.code == 0, answer.err
    assert "Found WebDataset shards (2 shards" in answer.out
    assert "curate run my-birds.yaml" in answer.out
    planned = cli("plan", "my-birds.yaml")
    assert planned.code == 0, planned.err


def test_nothing_is_overwritten_unless_told_to(shards: Path, cli: Cli) -> None:
    Path("my-birds.yaml").write_text("mine")
    answer = cli("init", shards)
    assert (answer.code, Path("my-birds.yaml").read_text()) == (2, "mine")
    assert "--force" in answer.err
    assert cli("init", shards, "--force").code == 0
    assert "Purpose" in Path("my-birds.yaml").read_text()


def test_options_and_json(shards: Path, cli: Cli) -> None:
    answer = cli("init", shards, "--out", "new/a.yaml", "--name", "birds", "--workspace", "w", "--json")
    assert answer.json["file"] == "new/a.yaml"
    assert (answer.json["found"]["layout"], answer.json["found"]["samples"]) == ("shards", 12)
    text = Path("new/a.yaml").read_text()
    assert "name: birds\n" in text
    assert "workspace: w " in text


def test_a_name_that_cannot_be_leaves_no_file(shards: Path, cli: Cli) -> None:
    answer = cli("init", shards, "--out", "a.yaml", "--name", "Big Birds")
    assert answer.code == 2
    assert not Path("a.yaml").exists()


def test_what_is_not_known_is_said(shards: Path, cli: Cli) -> None:
    Path("empty").mkdir()
    answer = cli("init", "empty")
    assert answer.code == 3
    assert "no layout that curate reads" in answer.err
