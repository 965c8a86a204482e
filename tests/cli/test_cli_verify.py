"""`curate verify`: one line when all is well, every violation and exit code 5 when not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from commands import Cli
from small_run import SmallRun

from curate.errors import ExitCode


def test_a_good_release_is_one_line(cli: Cli, small: SmallRun) -> None:
    answer = cli("verify", small.release, "--workers", 2)
    assert answer.code == ExitCode.OK
    assert re.fullmatch(r"ok: 15 samples in 3 shards, 14 files, \d+ kB verified in \d+\.\d s\n", answer.out)
    assert answer.err == ""


def test_violations_are_lines_and_the_exit_code_is_5(cli: Cli, small: SmallRun, tmp_path: Path) -> None:
    release = Path(shutil.copytree(small.release, tmp_path / "release"))
    (release / "00001.tar").unlink()
    (release / "odd\x1b[31m.txt").write_text("x")
    answer = cli("verify", release)
    assert answer.code == ExitCode.VERIFY == 5
    assert any(line.startswith("00001.tar: the file is missing (") for line in answer.out.splitlines())
    assert "odd\\x1b[31m.txt: the file is not in the manifest" in answer.out.splitlines()
    assert "\x1b" not in answer.out
    assert re.search(r"^error: .* is not as its manifest says: \d+ violations in \d+ files", answer.err)
    assert len(answer.out.splitlines()) == int(re.findall(r"(\d+) violations", answer.err)[0])


def test_json_has_all_and_nothing_else_is_on_stdout(cli: Cli, small: SmallRun, tmp_path: Path) -> None:
    good = cli("verify", small.release, "--json")
    assert (good.code, good.json["ok"], good.json["samples"], good.json["violations"]) == (0, True, 15, [])
    release = Path(shutil.copytree(small.release, tmp_path / "release"))
    (release / "more").write_text("x")
    bad = cli("verify", release, "--json")
    assert (bad.code, bad.json["ok"]) == (5, False)
    assert bad.json["violations"] == [{"file": "more", "what": "the file is not in the manifest"}]


def test_a_folder_that_is_no_release(cli: Cli, tmp_path: Path) -> None:
    answer = cli("verify", tmp_path)
    assert answer.code == ExitCode.STORAGE
    assert "has no manifest.json" in answer.err
