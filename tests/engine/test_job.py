"""When a process works in Ray's copy of a job's working directory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curate.engine.job import copied_folder


def config(uri: str | None) -> dict[str, str]:
    runtime = {} if uri is None else {"working_dir": uri}
    return {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"runtime_env": runtime, "metadata": {}})}


def test_in_the_copy_and_below(tmp_path: Path) -> None:
    copy = tmp_path / "working_dir_files" / "_ray_pkg_0123"
    env = config("gcs://_ray_pkg_0123.zip")
    assert copied_folder(env, copy) == copy
    assert copied_folder(env, copy / "pipelines") == copy
    assert copied_folder(env, tmp_path) is None


@pytest.mark.parametrize("env", [{}, config(None), {"RAY_JOB_CONFIG_JSON_ENV_VAR": "[]"}], ids=str)
def test_elsewhere(env: dict[str, str], tmp_path: Path) -> None:
    assert copied_folder(env, tmp_path / "_ray_pkg_0123") is None
