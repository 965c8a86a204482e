"""`curate inspect` prints something readable for each kind of thing, and valid JSON."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Cli
from small_run import SmallRun

from curate.errors import ExitCode


def place_of(small: SmallRun, what: str) -> Path:
    folder = {name: small.workspace / small.run.record.step(name).folder for name in ("embed", "prune", "index")}
    return {
        "shard": small.root / "shards" / "b.tar",
        "group": folder["embed"],
        "wide group": folder["index"],
        "part": next(folder["embed"].glob("part-00001.*.parquet")),
        "array": next(folder["embed"].glob("part-00001.*.npy")),
        "table": next(folder["prune"].glob("concepts.*.parquet")),
        "workspace": small.workspace,
        "release": small.release,
    }[what]


@pytest.mark.parametrize(
    ("what", "head", "more"),
    [
        (
            "shard",
            "tar shard, ",
            [" kB, 12 samples", "status:  ok 10, not_an_image 1, missing_image 1", "2 bad samples:"],
        ),
        (
            "group",
            "column group of step embed (embed), 3 parts, 33 rows, ",
            ["alive:     28, dropped here: decode_error 1"],
        ),
        ("wide group", "column group of step index (index), 3 parts, 33 rows, ", ["row 0", "  key  "]),
        ("part", "part 1 of step embed, 12 rows, ", ["vectors:   image, float16 10 x 1,280 in part-00001."]),
        ("array", "array, float16 10 x 1,280, 26 kB", [" ..."]),
        ("table", "table, 3 rows, ", ["  complexity  Float64"]),
        ("workspace", "small: done in 0:", ["  embed             done"]),
        ("release", "release small: 15 samples in 3 shards, ", ["33 read = 15 kept + 18 dropped", "00002.tar"]),
    ],
)
def test_each_kind(cli: Cli, small: SmallRun, what: str, head: str, more: list[str]) -> None:
    answer = cli("inspect", place_of(small, what), "--rows", 2)
    assert answer.code == 0, answer.err
    assert answer.out.startswith(head)
    assert all(text in answer.out for text in more)
    facts = cli("inspect", place_of(small, what), "-n", 2, "--json").json
    assert facts["kind"] == what.split()[-1]
    assert len(facts.get("first", [])) in (0, 2)


def test_what_is_nothing_of_ours(cli: Cli, small: SmallRun, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"x")
    for path in (tmp_path / "photo.jpg", tmp_path, tmp_path / "gone", small.root / "shards"):
        answer = cli("inspect", path)
        assert (answer.code, answer.out) == (ExitCode.INPUT, "")
        assert answer.err.startswith("error: ")
