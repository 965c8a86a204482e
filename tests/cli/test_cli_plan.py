"""`curate plan` tells what a run would do and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from small_run import pipeline, write_shards
from test_cli_main import curate_command


def test_the_plan_as_table_and_as_json(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    spec = pipeline(tmp_path)
    spec["stages"] = [*spec["stages"][:5], {"filter": {"name": "late", "where": "height > 2"}}, *spec["stages"][5:]]
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spec))
    told = curate_command("plan", "p.yaml", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    for phrase in ("3 shards in 3 parts", "dedup-exact", "0/3", "late comes after dedup"):
        assert phrase in told.stdout
    outlook = json.loads(curate_command("plan", "p.yaml", "--json", cwd=tmp_path).stdout)
    assert [s["name"] for s in outlook["steps"]][:4] == ["index", "uids", "filter", "embed"]
    assert list((tmp_path / "work").iterdir()) == [], "only the check that it can be written to"
