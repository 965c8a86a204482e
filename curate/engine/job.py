"""What a process knows of the Ray job that it runs in."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Name of the variable in which Ray tells a job's driver its runtime environment."""


def copied_folder(env: Mapping[str, str] | None = None, here: Path | None = None) -> Path | None:
    """Ray's copy of the job's working directory, when this process works in it: Ray deletes it some time after the job.

    None outside of a job, and in a job without a working directory or that has left it.
    """
    env = os.environ if env is None else env
    try:
        config = json.loads(env.get(_CONFIG, "{}"))
        uri = (config.get("runtime_env") or {}).get("working_dir")
    except (ValueError, AttributeError):
        return None
    here = here or Path.cwd()
    if not isinstance(uri, str):
        return None
    # gcs://_ray_pkg_<hash>.zip is unpacked as .../working_dir_files/_ray_pkg_<hash>
    name = Path(uri).name.partition(".")[0]
    return next((folder for folder in (here, *here.parents) if folder.name == name), None)
