"""`curate submit` before there is a cluster: what it refuses, in which words, and that it takes what `run` takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
import yaml
from small_run import pipeline

from curate.cli.main import app
from curate.errors import CurateError, ExitCode

NOBODY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good.yaml")


def write(path: Path, **more: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**pipeline(Path("/data")), **more}))
    return path


def refused(*args: str) -> tuple[int, str]:
    """Exit code and sentence. Not through `main`, which ends the process on an error of the engine."""
    with pytest.raises(CurateError) as error:
        app(["submit", *args], standalone_mode=False)
    return int(error.value.exit_code), str(error.value)


def test_every_option_of_run_can_be_submitted() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = {name: {option for p in commands[name].params for option in p.opts} for name in ("run", "submit")}
    # the job runs on the cluster that it is submitted to, and its output is the log
    assert options["run"] - options["submit"] == {"--workers", "--json"}


def test_a_wrong_pipeline_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    write(tmp_path / "wrong.yaml", seed="x")
    code, said = refused("wrong.yaml", "--address", NOBODY)
    assert code == ExitCode.SPEC
    assert "wrong.yaml" in said
    assert "seed" in said
    assert refused("wrong.yaml", "--address", NOBODY, "--no-check")[0] == ExitCode.ENGINE
    assert refused("good.yaml", "--set", "seed=x", "--address", NOBODY)[0] == ExitCode.SPEC


def test_no_cluster() -> None:
    code, said = refused("good.yaml", "--address", NOBODY)
    assert code == ExitCode.ENGINE
    assert said.startswith(f"no Ray job server answers at {NOBODY}")


@pytest.mark.parametrize("option", ["workspace", "stages.release.to"])
def test_results_in_the_copy_of_the_working_directory_are_refused(tmp_path: Path, option: str) -> None:
    args = ("good.yaml", "--set", f"{option}=out/here", "--address", NOBODY)
    code, said = refused(*args)
    assert code == ExitCode.SPEC
    assert f"{option} is out/here, a relative path" in said
    assert f"--set {option}={tmp_path}/out/here" in said
    assert refused(*args, "--no-upload")[0] == ExitCode.ENGINE


def test_paths_on_other_machines_are_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = ("good.yaml", "--address", "http://nowhere.invalid:8265")
    assert refused(*elsewhere)[0] == ExitCode.ENGINE
    assert "warning: workspace /data/work: a path on the machines of the cluster" in capsys.readouterr().err
    refused("good.yaml", "--address", NOBODY)
    refused(*elsewhere, "--set", "workspace=https://bucket/run")
    assert capsys.readouterr().err == ""


def test_the_pipeline_must_travel_with_the_job(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    code, said = refused("good.yaml", "--working-dir", "sub", "--address", NOBODY)
    assert code == ExitCode.SPEC
    assert said.startswith(f"good.yaml is not in the working directory {tmp_path / 'sub'}")


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert "--env NOT_HERE: the variable is not set" in refused("good.yaml", "--env", "NOT_HERE")[1]
    write(tmp_path / "vars.yaml", workspace="${NOT_HERE}/run")
    assert refused("vars.yaml", "--address", NOBODY)[0] == ExitCode.SPEC
    assert refused("vars.yaml", "--env", "NOT_HERE=/data", "--address", NOBODY)[0] == ExitCode.ENGINE
