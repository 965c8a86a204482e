"""`curate clean`: says what goes, asks or needs --yes, frees what it said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import Cli
from small_run import SmallRun, copy_of

from curate.errors import ExitCode
from curate.store.workspace import Workspace


@pytest.fixture
def untidy(small: SmallRun, tmp_path: Path) -> Workspace:
    """A workspace with 2,152 bytes that no run names: two orphans of 1,152 and 0 bytes, and an old folder."""
    place, _ = copy_of(small, tmp_path / "work")
    folder = small.run.record.step("embed").folder
    np.save(place.path(f"{folder}/part-00000.0123abcd.image.npy"), np.zeros(128))
    place.put("old@0123456789ab/part-00000.0123456789ab.parquet", bytes(1000))
    return place


def test_a_dry_run_removes_nothing(cli: Cli, untidy: Workspace) -> None:
    answer = cli("clean", untidy.path(), "--dry-run")
    assert answer.code == 0
    assert "vectors without a part" in answer.out
    assert "2.2 kB would be freed; nothing was removed (--dry-run)" in answer.out
    assert untidy.exists("old@0123456789ab")


def test_yes_removes(cli: Cli, untidy: Workspace, small: SmallRun) -> None:
    answer = cli("clean", untidy.path(), "--yes")
    assert answer.code == 0
    assert answer.out.endswith("freed 2.2 kB\n")
    assert not untidy.exists("old@0123456789ab")
    assert cli("verify", untidy.path(small.release.name)).code == 0
    assert cli("clean", untidy.path()).out == "nothing to remove: everything here is named by a run\n"


def test_without_a_terminal_it_needs_a_word(cli: Cli, untidy: Workspace) -> None:
    for more in ([], ["--json"]):
        answer = cli("clean", untidy.path(), *more)
        assert (answer.code, answer.out) == (ExitCode.SPEC, "")
        assert "add --yes to remove, or --dry-run to see" in answer.err
    assert untidy.exists("old@0123456789ab")


@pytest.mark.parametrize(("word", "gone"), [("y\n", True), ("n\n", False)])
def test_on_a_terminal_it_asks(
    cli: Cli, untidy: Workspace, monkeypatch: pytest.MonkeyPatch, word: str, gone: bool
) -> None:
    import io
    import sys

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal(word))
    answer = cli("clean", untidy.path())
    assert answer.code == 0
    assert "remove these and free 2.2 kB?" in answer.out
    assert ("freed" in answer.out.splitlines()[-1]) == gone
    assert untidy.exists("old@0123456789ab") != gone


def test_json(cli: Cli, untidy: Workspace) -> None:
    seen = cli("clean", untidy.path(), "--dry-run", "--json").json
    assert (seen["removed"], seen["nbytes"], len(seen["remove"])) == (False, 2152, 2)
    done = cli("clean", untidy.path(), "--yes", "--json").json
    assert done == seen | {"removed": True}
    assert cli("clean", untidy.path(), "--json").json["remove"] == []


def test_no_workspace(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "old@0123456789ab").mkdir()
    assert cli("clean", tmp_path, "--yes").code == ExitCode.STORAGE
    assert (tmp_path / "old@0123456789ab").exists()
