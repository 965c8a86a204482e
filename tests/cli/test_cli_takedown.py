"""Opt-out on the command line: `curate run --deny`, what it says, and what `explain` and `inspect` tell of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from commands import Cli

from curate.errors import ExitCode


def test_one_option_takes_samples_out(cli: Cli, tiny: dict[str, Any], tmp_path: Path) -> None:
    spec = tiny | {"stages": ["index", {"release": {"layout": "datacomp"}}]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spec))
    command = ("run", tmp_path / "p.yaml", "--workers", "0", "--no-report")
    first = cli(*command, "--json").json
    uids = pl.read_parquet(Path(first["release"]["url"]) / "samples.parquet")["uid"].to_list()
    (tmp_path / "a.txt").write_text(uids[0])
    (tmp_path / "b.txt").write_text(uids[1] + "\n" + "e" * 32)
    denied = cli(*command, "--deny", tmp_path / "a.txt", "--deny", tmp_path / "b.txt")
    assert denied.code == 0
    assert f"deny list {tmp_path}/a.txt: 1 listed, 0 not among the samples\n" in denied.err
    assert f"deny list {tmp_path}/b.txt: 2 listed, 1 not among the samples ({'e' * 32})\n" in denied.err
    told = cli("explain", uids[1], tiny["workspace"])
    assert f"dropped: denied; its uid stands in one of {tmp_path}/a.txt, {tmp_path}/b.txt\n" in told.out
    told = cli("explain", uids[2], tiny["workspace"])
    assert told.out.splitlines()[-1].endswith(f"/00000000.tar as {uids[2]}-0.*")

    allowed = cli(
        *command, "--json", "--allow", f"{first['release']['url']}/sample_ids.npy", "--deny", tmp_path / "a.txt"
    )
    assert json.loads(allowed.out)["alive"] == len(uids) - 1
    assert [one["entries"] for one in allowed.json["lists"]] == [len(uids), 1]
    refused = cli(*command, "--deny", tmp_path / "none.txt")
    assert (refused.code, "none.txt: there is no such file" in refused.err) == (ExitCode.INPUT, True)
    (tmp_path / "c.txt").write_text(uids[0])
    only = cli(*command, "--allow", tmp_path / "c.txt")
    assert only.code == 0
    told = cli("explain", uids[1], tiny["workspace"])
    assert f"dropped: not_allowed; its uid stands not in {tmp_path}/c.txt\n" in told.out

    shown = cli("inspect", f"{first['release']['url']}/sample_ids.npy", "--rows", "1")
    assert shown.out.splitlines() == ["DataComp subset, 12 uids, 320 B", "sorted, no repeats", f"  {sorted(uids)[0]}"]


def test_the_release_before_can_be_removed_whole(cli: Cli, tiny: dict[str, Any], tmp_path: Path) -> None:
    """A takedown is not done while the samples still lie in the old release."""
    spec = tiny | {"stages": ["index", {"release": {"layout": "datacomp"}}]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(spec))
    command = ("run", tmp_path / "p.yaml", "--workers", "0", "--no-report", "--json")
    before = Path(cli(*command).json["release"]["url"])
    (tmp_path / "a.txt").write_text(pl.read_parquet(before / "samples.parquet")["uid"][0])
    after = Path(cli(*command, "--deny", tmp_path / "a.txt").json["release"]["url"])
    assert before.is_dir()
    assert cli("clean", tiny["workspace"], "--only-latest", "--yes").code == 0
    assert not before.exists()
    assert cli("verify", after).code == 0
