"""A run that makes its samples, through every command that looks at runs and releases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import Cli

OPTIONS: dict[str, Any] = {"ifs": {"points": 200}, "classes": 3, "images": 10, "size": 32, "samples_per_shard": 6}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fractal")


@pytest.fixture
def made(place: Path, cli: Cli) -> tuple[Path, Path]:
    """The pipeline file and the workspace of a finished run."""
    file, work = place / "p.yaml", place / "work"
    if not file.exists():
        spec = {"name": "few", "workspace": str(work), "stages": [{"fractal": OPTIONS | {"to": str(place / "out")}}]}
        file.write_text(yaml.safe_dump(spec))
        told = cli("plan", file)
        assert told.code == 0, told.err
        assert "few: makes 10 images of 3 classes, in 2 shards" in told.out
        assert "0/2" in told.out
        told = cli("run", file, "--workers", "0")
        assert told.code == 0, told.err
        assert "few: 10 samples made in" in told.err
        assert f"release:  {place / 'out'}  (10 samples, 2 shards" in told.err
        assert "alive" not in told.err
    return file, work


def test_plan_knows_what_is_stored(made: tuple[Path, Path], cli: Cli) -> None:
    outlook = cli("plan", made[0], "--json").json
    assert outlook["makes"] == "images of 3 classes"
    assert outlook["input"] == {"shards": 2, "parts": 0, "bytes": 0, "rows": 10, "rows_known": True}
    assert (outlook["steps"][0]["parts"], outlook["steps"][0]["parts_stored"]) == (2, 2)
    assert outlook["warnings"] == []
    pilot = cli("plan", made[0], "--limit-shards", "1", "--json").json
    assert (pilot["input"]["rows"], pilot["input"]["shards"]) == (5, 1)
    assert "writes into the workspace, not to" in pilot["warnings"][0]


def test_run_again_says_that_all_is_there(made: tuple[Path, Path], cli: Cli) -> None:
    told = cli("run", made[0], "--workers", "0", "--json").json
    assert (told["made"], told["rows"], told["alive"], told["dropped"]) == (True, 10, 10, 0)
    assert told["steps"][0]["reused_parts"] == 2
    again = cli("run", made[0], "--workers", "0", "--retry-failed")
    assert again.code == 0
    assert "nothing was tried again" in again.err


def test_status_verify_and_inspect(made: tuple[Path, Path], place: Path, cli: Cli) -> None:
    assert ": done in" in (out := cli("status", made[1]).out)
    assert "10 samples made" in out
    assert "2/2" in out
    assert cli("verify", place / "out").out.startswith("ok: 10 samples in 2 shards")
    out = cli("inspect", place / "out").out
    assert "made from specification.json: 10 of 10 images of 3 classes (ifs), seed 0" in out
    assert "read =" not in out


def test_explain_tells_which_image_it_is(made: tuple[Path, Path], place: Path, cli: Cli) -> None:
    by_key = cli("explain", made[1], "--key", "7")
    assert by_key.code == 0, by_key.err
    assert "image 7 of class 1, jpeg 32 x 32" in by_key.out
    assert f"curate fractal render {place / 'out'} 7" in by_key.out
    (story,) = cli("explain", made[1], "--key", "7", "--json").json["samples"]
    assert (story["shard"], story["row"], story["alive"]) == ("00001.tar", 2, True)
    assert [member["ext"] for member in story["members"]] == ["jpg", "cls", "json"]
    by_uid = cli("explain", story["uid"], made[1])
    assert by_uid.out == by_key.out
    gone = cli("explain", made[1], "--key", "10")
    assert gone.code == 3
    assert "it made 10 images" in gone.err
    assert cli("explain", made[1], "--key", "7", "--shard", "00000.tar").code == 3


def test_the_report_adds_up(made: tuple[Path, Path]) -> None:
    page = (made[1] / "report.html").read_text()
    assert "do not add up" not in page
    assert page.count('<img src="data:image/jpeg;base64,') == 5, "those of the first shard"
    assert "samples made" in page
    assert "Duplicates" not in page


def test_clean_takes_only_what_no_run_names(made: tuple[Path, Path], place: Path, cli: Cli) -> None:
    assert cli("run", made[0], "--workers", "0", "--limit-shards", "1").code == 0
    (pilot,) = made[1].glob("fractal@*")
    assert cli("run", made[0], "--workers", "0").code == 0
    kept = cli("clean", made[1], "--yes")
    assert pilot.exists(), kept.out
    told = cli("clean", made[1], "--only-latest", "--yes", "--json").json
    assert pilot.name in {item["path"] for item in told["remove"]}
    assert told["unknown"] == []
    assert not pilot.exists()
    assert cli("run", made[0], "--workers", "0", "--json").json["steps"][0]["reused_parts"] == 2
    assert cli("verify", place / "out").code == 0
