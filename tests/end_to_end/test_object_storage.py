"""Input, workspace and release on S3: the same bytes as on disk, also when the server dies in the middle of the run."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import s3_server
from commands import Answer, Cli
from conftest import Undisturbed, lasting_files
from s3_server import S3Server
from whole_runs import SAMPLES, SHARDS, contents, pipeline, start, write_pipeline

from curate.cli.main import main
from curate.errors import ExitCode
from curate.pipeline.api import open_run
from curate.store.workspace import Workspace

AWAY_S = 5.0


def on_s3(server: S3Server, name: str) -> dict[str, Any]:
    """The pipeline of `whole_runs` with everything in the bucket: input*/, work-NAME/, out-NAME/."""
    spec = pipeline(Path("in"), Path("work"))
    (folder,) = server.bucket.glob("input*")  # of the same name as on disk: it is part of uids
    spec["input"]["shards"] = server.url(f"{folder.name}/*.tar")
    spec["workspace"] = server.url(f"work-{name}")
    spec["stages"][-1]["release"]["to"] = server.url(f"out-{name}")
    return spec


@pytest.fixture(scope="module")
def s3(undisturbed: Undisturbed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("object-storage")
    shutil.copytree(undisturbed.shards, folder / "s3" / s3_server.BUCKET / undisturbed.shards.name)
    with s3_server.serving(folder) as server, s3_server.known(server.env):
        yield server


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*args: object) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["curate", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        return Answer(int(ended.value.code or 0), *capsys.readouterr())

    return call


def test_everything_on_s3_gives_the_bytes_of_a_local_run(
    s3: S3Server, undisturbed: Undisturbed, tmp_path: Path, cli: Cli
) -> None:
    file = write_pipeline(tmp_path / "s3.yaml", on_s3(s3, "inline"))
    place, out = s3.url("work-inline"), s3.url("out-inline")
    said = [cli("run", file, "--workers", "0", "--quiet")]
    assert said[0].code == 0, said[0].err
    assert contents(s3.bucket / "out-inline") == undisturbed.release

    # every command reads it
    answers = {
        "again": cli("run", file, "--workers", "0", "--quiet", "--json"),
        "plan": cli("plan", file),
        "status": cli("status", place, "--json"),
        "verify": cli("verify", out),
        "inspect": cli("inspect", place, "--json"),
        "inspect release": cli("inspect", out, "--json"),
        "clean": cli("clean", place, "--dry-run"),
    }
    uid = pl.read_parquet(s3.bucket / "out-inline" / "samples.parquet" / "00000.parquet")["uid"][0]
    answers["explain"] = cli("explain", uid, place)
    said += answers.values()
    assert {name: answer.code for name, answer in answers.items()} == dict.fromkeys(answers, 0), answers
    assert {step["status"] for step in answers["status"].json["steps"]} == {"done"}
    assert [line.split()[0] for line in answers["clean"].out.splitlines()[1:-1]] == ["events/*"]  # of the first run
    assert f"in {out}/00000.tar as {uid}.*" in answers["explain"].out
    run = open_run(place)
    assert run.columns("index").collect().height == SHARDS * SAMPLES
    assert (s3.bucket / "work-inline" / "report.html").stat().st_size > 10_000
    assert contents(s3.bucket / "out-inline") == undisturbed.release

    # something to clean
    orphan = next((s3.bucket / "work-inline").glob("embed@*/part-*.npy"))
    folder = orphan.parent.name
    Workspace(place).put(f"{folder}/part-00000.0123abcd.image.npy", orphan.read_bytes())
    done = cli("clean", place, "--yes")
    assert (done.code, "vectors without a part" in done.out) == (0, True)
    assert not (orphan.parent / "part-00000.0123abcd.image.npy").exists()
    assert cli("verify", out).code == 0

    # no secret anywhere
    secret = s3_server.SECRET.encode()
    files = [path for path in s3.bucket.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert not [path for path in files if secret in path.read_bytes()]
    assert not [answer for answer in said if s3_server.SECRET in answer.out + answer.err]


def test_what_is_wrong_with_the_storage_is_a_sentence_and_an_exit_code(
    s3: S3Server, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CURATE_RETRY_SECONDS", "0.5")
    spec = on_s3(s3, "wrong") | {"stages": ["index"]}
    local = spec | {"workspace": str(tmp_path / "work")}
    elsewhere = spec | {"workspace": "s3://no-such-bucket/work"}
    good, input_only, no_bucket = (
        write_pipeline(tmp_path / f"{i}.yaml", wrong) for i, wrong in enumerate((spec, local, elsewhere))
    )
    answer = cli("run", no_bucket, "--workers", "0")
    assert answer.code == ExitCode.STORAGE
    assert "s3://no-such-bucket/work/" in answer.err
    assert "there is no such bucket" in answer.err
    with s3_server.known(s3_server.environment(s3.endpoint, secret="not-the-secret")):
        answer = cli("run", input_only, "--workers", "0")
    assert answer.code == ExitCode.INPUT
    assert "permission denied" in answer.err
    assert "not-the-secret" not in answer.err
    with s3_server.known(s3_server.environment("http://127.0.0.1:9")):
        began = time.monotonic()
        answer = cli("run", good, "--workers", "0")
        assert time.monotonic() - began < 30
    assert answer.code == ExitCode.INPUT  # the input is looked at first
    assert "Could not connect to the endpoint URL" in answer.err
    assert "Traceback" not in answer.err


@dataclass(frozen=True)
class Outage:
    """The server dies when so much of what the run leaves is there."""

    share: float

    def __str__(self) -> str:
        return f"at-{self.share:.2f}"


OUTAGES = [Outage(0.1), Outage(0.45), Outage(0.85)]


def there(server: S3Server, name: str) -> int:
    """Files of a run in the bucket, those apart that go again."""
    work = lasting_files(server.bucket / f"work-{name}")
    return work + sum(len(names) for _, _, names in os.walk(server.bucket / f"out-{name}"))


def begin(server: S3Server, name: str, folder: Path, known: Undisturbed, outage: Outage, ray: str, **env: str) -> Any:
    """Start a run with two workers and kill the server at the moment; the run, still going."""
    file = write_pipeline(folder / "s3.yaml", on_s3(server, name))
    run = start(file, "--workers", "2", RAY_TMPDIR=ray, **env)
    while there(server, name) < outage.share * known.files:
        assert not run.over, run.end()
        time.sleep(0.005)
    server.kill()
    assert not run.over
    return run, file


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES[::2], ids=str)
def test_a_run_outlives_a_server_that_comes_back(
    s3: S3Server, undisturbed: Undisturbed, tmp_path: Path, ray_folder: str, outage: Outage
) -> None:
    name = f"back-{outage}"
    try:
        run, _ = begin(s3, name, tmp_path, undisturbed, outage, ray_folder)
        time.sleep(AWAY_S)
    finally:
        s3.start()
    code, said = run.end()
    assert code == 0, said
    assert "Traceback" not in said
    assert contents(s3.bucket / f"out-{name}") == undisturbed.release


@pytest.mark.slow
@pytest.mark.parametrize("outage", OUTAGES[1:2], ids=str)
def test_a_server_that_stays_away_ends_the_run_and_the_same_command_finishes_it(
    s3: S3Server, undisturbed: Undisturbed, tmp_path: Path, ray_folder: str, outage: Outage
) -> None:
    name = f"away-{outage}"
    try:
        run, file = begin(s3, name, tmp_path, undisturbed, outage, ray_folder, CURATE_RETRY_SECONDS="2")
        code, said = run.end()
    finally:
        s3.start()
    assert code in (ExitCode.STORAGE, ExitCode.INPUT), said  # input: a worker was reading a shard
    assert "without success, last error: " in said
    assert "run the same command again" in said
    assert "Traceback" not in said
    assert s3_server.SECRET not in said
    code, said = start(file, "--workers", "2", RAY_TMPDIR=ray_folder).end()
    assert code == 0, said
    assert contents(s3.bucket / f"out-{name}") == undisturbed.release
    assert open_run(s3.url(f"work-{name}")).record.status == "done"
