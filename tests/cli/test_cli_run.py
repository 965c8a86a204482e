"""`curate run`: the exit code says whether anything was set aside, stdout is for machines."""

from __future__ import annotations

import json
from pathlib import Path

import corpus
import yaml
from small_run import pipeline, write_shards
from test_cli_main import curate_command

from curate.errors import ExitCode


def test_run_again_with_json_and_a_report(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(pipeline(tmp_path)))
    first = curate_command("run", "p.yaml", "--workers", "0", "--json", cwd=tmp_path)
    assert first.returncode == ExitCode.QUARANTINED, first.stderr
    summary = json.loads(first.stdout)
    assert summary["rows"] == summary["alive"] + summary["dropped"] + summary["quarantined"]
    assert Path(summary["report"]).is_file()

    again = curate_command("run", "p.yaml", "--workers", "0", "--ok-if-quarantined", "--no-report", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout == ""
    assert "(stored before)" in again.stderr
    assert "wordy: missing_image" in again.stderr

    quiet = curate_command("run", "p.yaml", "--workers", "0", "--quiet", "--set", "stages.prune.keep=0.5", cwd=tmp_path)
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (ExitCode.QUARANTINED, "", "")


def test_a_pilot_reads_less(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({**pipeline(tmp_path), "stages": ["index", "release"]}))
    command = ("run", "p.yaml", "--workers", "0", "--json", "--limit-shards", "1")
    one = json.loads(curate_command(*command, cwd=tmp_path).stdout)
    assert (one["rows"], one["alive"]) == (8, 8)
    some = json.loads(curate_command(*command[:-2], "--sample", "0.5", cwd=tmp_path).stdout)
    assert some["rows"] == 33
    assert 0 < some["alive"] < 30, "30 of the 33 are good as far as the index can tell"
    assert some["steps"][2]["reasons"] == {"not_sampled": 30 - some["alive"]}


def test_names_from_the_input_are_text_never_markup(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    members = [(f"{name}.jpg", b"<html>") for name in ("[red]", "[/b]", ":abc:", "x\u202egpj")]
    (tmp_path / "shards" / "a.tar").write_bytes(corpus.tar_bytes([*members, *corpus.sample("good", corpus.jpeg(1))]))
    spec = {"name": "odd", "input": {"shards": "shards/*.tar"}, "workspace": "work", "stages": ["index", "release"]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spec))
    told = curate_command("run", "p.yaml", "--workers", "0", cwd=tmp_path).stderr
    for name in ("[red]", "[/b]", ":abc:", "x\\u202egpj"):
        assert f"a.tar {name}: not_an_image" in told
