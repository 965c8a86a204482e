"""`curate maps convert`: what it writes, says and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from commands import Cli
from labelled_run import labelled_run

from curate.errors import ExitCode


def test_a_release_becomes_a_tree_and_the_answer_says_what_is_lost(cli: Cli, tmp_path: Path) -> None:
    release = labelled_run().release
    answer = cli("maps", "convert", release, tmp_path / "tree", "--to", "relabel", "--layout", "wh")
    assert answer.code == 0
    assert "12 label maps of 3 x 5 x 5, float32, layout of the tree wh" in answer.out
    assert "not there: lse" in answer.out
    assert torch.load(tmp_path / "tree" / "s00.pt", weights_only=True).shape == (2, 3, 5, 5)
    back = cli("maps", "convert", tmp_path / "tree", tmp_path / "ours", "--to", "curate", "--layout", "wh", "--json")
    assert back.code == 0
    told = json.loads(back.out)
    assert (told["maps"], told["kind"], told["scores"], told["orientation"]) == (12, "curate", "float32", None)


def test_what_is_refused_has_its_exit_code(cli: Cli, tmp_path: Path) -> None:
    release, tree = labelled_run().release, tmp_path / "tree"
    (tree / "n0").mkdir(parents=True)
    (tree / "n0" / "a.pt").write_bytes(b"no tensor")
    for words, code, sentence in (
        ((release, tmp_path / "x", "--to", "fkd"), ExitCode.SPEC, "--to fkd is not known"),
        ((release, tmp_path / "x", "--to", "relabel", "--layout", "xy"), ExitCode.SPEC, "--layout xy is not known"),
        ((release, tree, "--to", "relabel", "--layout", "hw"), ExitCode.SPEC, "is not empty"),
        ((tree, tmp_path / "x", "--to", "curate", "--layout", "hw"), ExitCode.INPUT, "a.pt"),
    ):
        answer = cli("maps", "convert", *words)
        assert answer.code == code
        assert sentence in answer.err.replace("\n", " ")
