"""The committed schemas are those of the models, and real files obey them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from small_run import small_run

from curate.pipeline.published import published
from curate.pipeline.schemas import check_schemas
from curate.store.columns import read_entry

ROOT = Path(__file__).parents[2]


def test_the_committed_schemas_are_fresh() -> None:
    assert check_schemas(ROOT / "schemas", published()) == []


def test_a_stale_folder_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "curate.pipeline.published", str(tmp_path)]
    assert subprocess.run([*command, "--check"], cwd=ROOT, capture_output=True).returncode == 1
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert subprocess.run([*command, "--check"], cwd=ROOT).returncode == 0


def test_files_of_a_real_run_obey_their_schemas() -> None:
    small, schemas = small_run(), published()
    run = json.loads((small.workspace / "run.json").read_text())
    jsonschema.validate(run, schemas["run"])
    jsonschema.validate(json.loads((small.release / "manifest.json").read_text()), schemas["manifest"])
    jsonschema.validate(json.loads((small.release / "00000_stats.json").read_text()), schemas["shard-stats"])
    segments = sorted((small.workspace / "events").glob("*.jsonl"))
    lines = [json.loads(line) for segment in segments for line in segment.read_text().splitlines()]
    assert {line["event"] for line in lines} >= {"run", "step", "end"}
    for line in lines:
        jsonschema.validate(line, schemas["event"])
    for step in run["steps"]:
        if step["group"]:
            group = json.loads((small.workspace / step["folder"] / f"group.{step['group']}.json").read_text())
            jsonschema.validate(group, schemas["group"])
            part = group["parts"][0]
            entry = read_entry(small.run.workspace, step["folder"], part["part"], part["fingerprint"])
            meta = entry.model_dump(mode="json", exclude={"nbytes", "sha256"})
            jsonschema.validate(meta, schemas["part"])


@pytest.mark.parametrize("file", sorted((ROOT / "pipelines").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_shipped_pipelines_obey_the_schema(file: Path) -> None:
    jsonschema.validate(yaml.safe_load(file.read_text()), published()["pipeline"])
