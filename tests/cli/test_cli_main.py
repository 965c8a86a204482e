"""The command as a process: exit codes, where text goes, and sentences instead of traces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_run import pipeline, write_shards

import curate
from curate.errors import ExitCode


def curate_command(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "curate.cli.main", *args]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_version_and_help() -> None:
    assert curate_command("--version").stdout.strip() == f"curate {curate.__version__}"
    told = curate_command("--help")
    assert told.returncode == 0
    for command in ("run", "plan", "status", "explain", "inspect", "verify", "clean", "schema"):
        assert command in told.stdout


@pytest.mark.parametrize(
    ("args", "code", "phrase"),
    [
        (["nonsense"], ExitCode.SPEC, "nonsense"),
        (["run", "missing.yaml"], ExitCode.SPEC, "missing.yaml"),
        (["run", "wrong.yaml"], ExitCode.SPEC, "did you mean temperature?"),
        (["run", "no-shards.yaml"], ExitCode.INPUT, "nowhere"),
        (["plan", "model.yaml"], ExitCode.MODEL, "did you mean efficientnet_lite0?"),
        (["run", "good.yaml", "--set", "stages.prune.keep=1000000"], ExitCode.SPEC, "cannot hold more than"),
        (["verify", "."], ExitCode.STORAGE, "manifest.json"),
        (["status", "."], ExitCode.STORAGE, "run.json"),
        (["run", "good.yaml", "--address", "127.0.0.1:1"], ExitCode.ENGINE, "cannot reach the Ray cluster"),
    ],
)
def test_errors_are_sentences_with_an_exit_code(tmp_path: Path, args: list[str], code: ExitCode, phrase: str) -> None:
    write_shards(tmp_path / "shards")
    good = pipeline(tmp_path)
    files = {
        "good": good,
        "wrong": {**good, "stages": [*good["stages"][:5], {"prune": {"keep": 0.5, "temprature": 0.1}}]},
        "no-shards": {**good, "input": {"shards": "nowhere/*.tar"}},
        "model": {**good, "stages": ["index", {"embed": {"model": "packaged:efficientnet_lte0"}}]},
    }
    for name, spec in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(spec))
    done = curate_command(*args, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert phrase in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
