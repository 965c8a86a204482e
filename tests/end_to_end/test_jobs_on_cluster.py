"""Jobs on a real cluster with a token of its own: submitted, followed, stopped, resumed; wrong tokens refused."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from whole_runs import pipeline, release_of, write_pipeline, write_shard

import curate
from curate.engine.reaper import end
from curate.errors import ExitCode

pytestmark = pytest.mark.slow

BIN = Path(sys.executable).parent
UP_S, JOB_S, STOP_S = 90.0, 150.0, 60.0


@dataclass(frozen=True)
class Cluster:
    """One head node; `env` is what its user has set."""

    dashboard: str
    gcs: str
    env: dict[str, str]

    def call(self, *command: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd, env=self.env | env, capture_output=True, text=True, timeout=JOB_S, check=False
        )

    def curate(self, *args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
        return self.call("curate", *args, cwd=cwd, **env)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = tempfile.mkdtemp(prefix="curate-jobs-", dir="/tmp")  # short: paths of sockets are limited to 107 bytes
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = {name: free_port() for name in names}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    env = plain | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "HOME": folder,  # no token of this machine's user
        "TORCH_HOME": os.environ.get("TORCH_HOME", str(Path.home() / ".cache" / "torch")),
        "HF_HOME": os.environ.get("HF_HOME", str(Path.home() / ".cache" / "huggingface")),
    }
    head = ["ray", "start", "--head", "--block", "--include-dashboard=true", f"--temp-dir={folder}/ray", "--num-cpus=2"]
    head += ["--object-store-memory=134217728", *(f"--{name}={port}" for name, port in ports.items())]
    with Path(folder, "start.log").open("w") as log:
        process = subprocess.Popen(
            head, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    made = Cluster(f"http://127.0.0.1:{ports['dashboard-port']}", f"127.0.0.1:{ports['port']}", env)
    try:
        until = time.monotonic() + UP_S
        while made.call("ray", "job", "list", "--address", made.dashboard, cwd=Path(folder)).returncode != 0:
            assert process.poll() is None, Path(folder, "start.log").read_text()
            assert time.monotonic() < until, "the cluster did not come up"
            time.sleep(0.5)
        yield made
    finally:
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.kill()
        end(family)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with pipelines, and the shards elsewhere."""
    root = tmp_path_factory.mktemp("jobs")
    for number in range(2):
        write_shard(root / "shards", number)
    return root


def put(root: Path, name: str, *, embed: bool = True, **more: Any) -> tuple[Path, Path, dict[str, Any]]:
    """A pipeline file in root/project, its workspace, its spec; without embedding it takes few seconds."""
    workspace = root / f"work-{name}"
    spec = pipeline(root / "shards", workspace)
    if not embed:
        spec["stages"] = ["index", {"filter": {"where": "width >= 40"}}, {"release": {"samples_per_shard": 4}}]
    spec |= more
    return write_pipeline(root / "project" / f"{name}.yaml", spec), workspace, spec


def local_release(spec: dict[str, Any], workspace: Path) -> dict[str, str]:
    """What a run in this process makes of it."""
    curate.run({**spec, "workspace": str(workspace)}, workers=0)
    return release_of(workspace)


def test_plain_ray_job_submit_runs_a_pipeline(cluster: Cluster, work: Path) -> None:
    file, workspace, spec = put(work, "plain", embed=False)
    done = cluster.call(
        *("ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", ".", "--"),
        *("curate", "run", file.name),
        cwd=file.parent,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "release" in done.stdout
    assert release_of(workspace) == local_release(spec, work / "local-plain")
    record = json.loads((workspace / "run.json").read_text())
    assert record["engine"]["engine"] == "ray"
    assert record["engine"]["address"] == cluster_address(cluster, record)


def cluster_address(cluster: Cluster, record: dict[str, Any]) -> str:
    """The job joined the cluster that it was submitted to: same port, whatever name the machine has there."""
    host, _, port = record["engine"]["address"].rpartition(":")
    assert port == cluster.gcs.rpartition(":")[2]
    return f"{host}:{port}"


def test_submit_follows_and_exits_as_the_job(cluster: Cluster, work: Path) -> None:
    file, workspace, _ = put(work, "followed", embed=False)
    began = time.time()
    done = cluster.curate("submit", file.name, cwd=file.parent, RAY_API_SERVER_ADDRESS=cluster.dashboard)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"submitted to {cluster.dashboard}" in done.stderr
    assert "release:" in done.stdout
    first_step = json.loads((workspace / "run.json").read_text())["started"] - began
    print(f"from `curate submit` to the first step: {first_step:.1f} s")

    write_shard(work / "faulty", 0)
    (work / "faulty" / "00001.tar").write_bytes((work / "faulty" / "00000.tar").read_bytes()[:3000])
    put(work, "faulty", embed=False, input={"shards": f"{work}/faulty/*.tar"})
    quarantined = cluster.curate("submit", "faulty.yaml", "--address", cluster.gcs, cwd=file.parent)
    assert quarantined.returncode == ExitCode.QUARANTINED, quarantined.stdout + quarantined.stderr


def test_errors_of_the_job_come_through(cluster: Cluster, work: Path) -> None:
    file, _, _ = put(work, "wrong", embed=False, seed="x")
    done = cluster.curate("submit", "wrong.yaml", "--no-check", "--address", cluster.dashboard, cwd=file.parent)
    assert done.returncode == ExitCode.SPEC
    assert "seed" in done.stdout
    put(work, "copy", embed=False, workspace="here")
    lost = cluster.curate("submit", "copy.yaml", "--no-check", "--address", cluster.dashboard, cwd=file.parent)
    assert lost.returncode == ExitCode.SPEC
    assert "lies in the job's copy of its working directory" in lost.stdout


def test_without_upload_relative_paths_mean_what_they_mean_here(cluster: Cluster, work: Path) -> None:
    file, _, _ = put(work, "in-place", embed=False, workspace="here/run")
    done = cluster.curate("submit", file.name, "--no-upload", "--address", cluster.dashboard, cwd=file.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert release_of(file.parent / "here" / "run")


def test_a_stopped_job_is_continued_by_submitting_it_again(cluster: Cluster, work: Path) -> None:
    file, workspace, spec = put(work, "stopped")
    command = ("submit", file.name, "--address", cluster.dashboard, "--submission-id")
    submitted = cluster.curate(*command, "first", "--no-wait", cwd=file.parent)
    assert (submitted.returncode, submitted.stdout) == (0, "first\n"), submitted.stderr
    until = time.monotonic() + JOB_S
    while not list(workspace.glob("embed@*/part-*.parquet")):
        assert time.monotonic() < until, cluster.call("ray", "job", "logs", "first", cwd=work).stdout
        time.sleep(0.1)
    stopped = cluster.call("ray", "job", "stop", "--address", cluster.dashboard, "first", cwd=work)
    assert stopped.returncode == 0, stopped.stderr
    status = cluster.curate("status", str(workspace), "--json", cwd=work)
    found = json.loads(status.stdout)
    assert (found["state"], found["error"], found["exit_code"]) == ("interrupted", "stopped by SIGTERM", 143)
    parts = {path.name: path.stat().st_mtime_ns for path in workspace.glob("embed@*/part-*.parquet")}

    twice = cluster.curate(*command, "first", cwd=file.parent)
    assert twice.returncode == ExitCode.SPEC
    assert "has a job first already" in twice.stderr
    again = cluster.curate(*command, "second", cwd=file.parent)
    assert again.returncode == 0, again.stdout + again.stderr
    kept = {path.name: path.stat().st_mtime_ns for path in workspace.glob("embed@*/part-*.parquet")}
    assert parts.items() <= kept.items(), "stored parts were made again"
    assert curate.open_run(str(workspace)).record.step("embed").reused_parts == len(parts)
    assert release_of(workspace) == local_release(spec, work / "local-stopped")


@pytest.mark.parametrize(("token", "phrase"), [("0" * 32, "refused the token"), (None, "wants a token")])
def test_tokens(cluster: Cluster, work: Path, token: str | None, phrase: str) -> None:
    file, _, _ = put(work, "token", embed=False)
    env = {name: value for name, value in cluster.env.items() if not name.startswith("RAY_AUTH_")}
    other = Cluster(cluster.dashboard, cluster.gcs, env | ({"RAY_AUTH_TOKEN": token} if token else {}))
    done = other.curate("submit", file.name, "--address", cluster.dashboard, cwd=file.parent)
    assert done.returncode == ExitCode.ENGINE, done.stderr
    assert f"the Ray cluster at {cluster.dashboard} {phrase}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_joins_the_cluster_from_another_folder(cluster: Cluster, work: Path) -> None:
    """Workers began in the folder of `ray start`: relative paths are those of the driver all the same."""
    file, _, spec = put(work, "joined", embed=False, workspace="joined/run")
    text = yaml.safe_load(file.read_text())
    text["input"]["shards"] = "../shards/*.tar"
    write_pipeline(file, text)
    done = cluster.curate("run", file.name, "--quiet", "--address", cluster.gcs, cwd=file.parent)
    assert done.returncode == 0, done.stderr
    assert release_of(file.parent / "joined" / "run") == local_release(spec, work / "local-joined")
