"""`curate explain`: a line a step, and the same as JSON."""

from __future__ import annotations

import re
from pathlib import Path

import corpus
import pytest
from commands import Cli
from small_run import TWICE, SmallRun

import curate
from curate.errors import ExitCode


def lines(text: str) -> dict[str, str]:
    """Step -> sentence."""
    found = {}
    for line in text.splitlines()[1:]:
        name, _, rest = line.strip().partition(" ")
        found[name] = rest.strip()
    return found


def test_a_kept_sample(cli: Cli, small: SmallRun) -> None:
    uid = small.uid_of("a0")
    answer = cli("explain", uid, small.workspace)
    told = lines(answer.out)
    assert answer.code == 0
    assert answer.out.splitlines()[0] == f"{uid}   key a0   in a.tar"
    assert re.fullmatch(r"\.jpg \d\.\d kB, \.txt 10 B, \.json 34 B", told["members"])
    assert told["index"].startswith("jpeg 96 x 80, caption 'picture a0', label '0'")
    assert told["filter"] == "kept; width >= 40"
    assert told["prune"].endswith("ranks 1 of 9 in concept 1, which keeps the 5 highest")
    assert told["release"] == f"in {small.release}/00000.tar as {uid}.*"


@pytest.mark.parametrize(
    ("key", "step", "sentence"),
    [
        ("page", "uids", "dropped: not_an_image; the bytes are an HTML page, not an image"),
        ("small", "filter", "dropped: false; width >= 40 is not true for it"),
        ("copy-of-a1", "dedup-exact", "dropped: same_bytes; its image has the same bytes as {a1} (a1 in a.tar)"),
        ("twin1", "uids", "dropped: duplicate_uid; the sample twin0 in c.tar has the same uid and comes first"),
    ],
)
def test_a_dropped_sample_by_key(cli: Cli, small: SmallRun, key: str, step: str, sentence: str) -> None:
    answer = cli("explain", small.workspace, "--key", key, "--shard", "c.tar" if key in ("small", "twin1") else "b.tar")
    assert answer.code == 0
    assert lines(answer.out)[step] == sentence.format(a1=small.uid_of("a1"))
    assert answer.out.splitlines()[-1].strip().startswith("so it was not judged by ")


def test_two_samples_of_one_uid(cli: Cli, small: SmallRun) -> None:
    answer = cli("explain", TWICE, small.workspace)
    assert answer.out.startswith("2 samples have this uid; each is told by itself:\n")
    assert answer.out.count(f"{TWICE}   key twin") == 2
    assert [sample["key"] for sample in cli("explain", TWICE, small.workspace, "--json").json["samples"]] == [
        "twin0",
        "twin1",
    ]


def test_json_says_the_same(cli: Cli, small: SmallRun) -> None:
    answer = cli("explain", small.workspace, "--key", "copy-of-a1", "--json")
    (sample,) = answer.json["samples"]
    step = next(step for step in sample["steps"] if step["verdict"] == "dropped")
    assert (sample["alive"], sample["release"], step["step"], step["reason"]) == (
        False,
        None,
        "dedup-exact",
        "same_bytes",
    )
    assert step["evidence"]["keeper"]["key"] == "a1"


def test_questions_without_an_answer(cli: Cli, small: SmallRun) -> None:
    unknown = cli("explain", "f" * 32, small.workspace)
    assert (unknown.code, unknown.out) == (ExitCode.INPUT, "")
    assert unknown.err.startswith(f"error: no sample of this run has the uid {'f' * 32}; the run read 33 samples")
    assert cli("explain", "xyz", small.workspace).code == ExitCode.INPUT
    assert cli("explain", small.workspace).code == ExitCode.SPEC
    assert cli("explain", TWICE, small.workspace, "--key", "a0").code == ExitCode.SPEC
    assert cli("explain", TWICE, small.workspace, "--shard", "a.tar").code == ExitCode.SPEC
    assert cli("explain", TWICE, small.root / "shards").code == ExitCode.STORAGE


def test_hashes_are_hex_and_columns_fit_long_names(cli: Cli, tmp_path: Path) -> None:
    corpus.write_good_shards(tmp_path / "in", shards=1, samples=4)
    stages = ["index", "hash", {"dedup_hash": {"name": "copies-by-perceptual-hash"}}]
    run = curate.run(
        {"name": "x", "input": {"shards": f"{tmp_path}/in/*.tar"}, "workspace": f"{tmp_path}/work", "stages": stages},
        workers=0,
    )
    row = run.columns("index", "hash").collect().row(0, named=True)
    answer = cli("explain", tmp_path / "work", "--key", row["index.key"])
    assert lines(answer.out)["hash"] == f"phash {row['hash.phash']:016x}, dhash {row['hash.dhash']:016x}"
    width = len("  copies-by-perceptual-hash-exact ")
    assert all(line[width - 1] == " " and line[width] != " " for line in answer.out.splitlines()[1:])
