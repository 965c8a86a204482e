"""The small run, and a way to call the command line in this process."""

from __future__ import annotations

import sys

import pytest
from commands import Answer, Cli
from small_run import SmallRun, small_run

from curate.cli.main import main


@pytest.fixture(scope="session")
def small() -> SmallRun:
    """A finished run; not to be changed."""
    return small_run()


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("verify", release)` -> exit code, stdout and stderr, as the command `curate` gives them."""

    def call(*args: object) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["curate", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Answer(int(ended.value.code or 0), out, err)

    return call
