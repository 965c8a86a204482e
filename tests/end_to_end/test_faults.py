"""Broken input, a full disk, wrong files: everything bad is named with its reason, everything good survives."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import corpus
import polars as pl
import pytest
import realdata
from whole_runs import pipeline, release_of, releases, run, write_pipeline

import curate
from curate.errors import ExitCode
from curate.pipeline.api import open_run


@dataclass(frozen=True)
class Faulty:
    """The fault corpus after a whole run."""

    samples: list[corpus.Expectation]
    broken: list[corpus.ShardExpectation]
    code: int
    said: str
    run: curate.Run
    release: Path

    @property
    def index(self) -> pl.DataFrame:
        frame = self.run.columns("index").collect()
        parts = [part.rows for part in self.run.group("index").parts]
        names = sorted({e.shard for e in self.samples} | {b.shard for b in self.broken})
        assert len(parts) == len(names)  # one shard a part, sorted
        return frame.with_columns(
            source=pl.Series([n for n, rows in zip(names, parts, strict=True) for _ in range(rows)])
        )


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    realdata.lite0()
    folder = tmp_path_factory.mktemp("faults")
    samples, broken = corpus.write_fault_corpus(folder / "shards")
    spec = pipeline(folder / "shards", folder / "work", keep=1.0, epsilon=0.0, hashes=False)
    spec["stages"][1] = {"filter": {"where": "width >= 1"}}
    done = run(write_pipeline(folder / "faults.yaml", spec), "--workers", "0")
    (release,) = releases(folder / "work")
    return Faulty(samples, broken, done.returncode, done.stderr, open_run(str(folder / "work")), release)


def test_the_exit_code_says_that_samples_were_set_aside(faulty: Faulty) -> None:
    assert faulty.code == ExitCode.QUARANTINED, faulty.said
    assert "Traceback" not in faulty.said
    assert faulty.run.record.status == "done"


def test_every_bad_sample_has_its_reason_in_the_columns(faulty: Faulty) -> None:
    frame = pl.concat(
        [faulty.index, faulty.run.columns("embed").collect().select("reason", pl.col("detail").alias("why"))],
        how="horizontal",
    )
    for expected in faulty.samples:
        rows = frame.filter(pl.col("source") == expected.shard, pl.col("key") == expected.key)
        mine = rows.filter(pl.col("status") == ("ok" if expected.status == "decode" else expected.status))
        assert mine.height == expected.rows, expected
        if expected.status == "decode":
            assert mine["reason"].to_list() == ["decode_error"]
            assert mine["why"].null_count() == 0
        elif not expected.survives:
            assert mine["detail"].null_count() == 0, expected
            assert mine["reason"].null_count() == mine.height  # not judged a second time
    assert frame.height == sum(expected.rows for expected in faulty.samples)


def test_every_bad_sample_is_in_the_table_of_the_release_and_every_good_one_in_its_shards(faulty: Faulty) -> None:
    dropped = pl.read_parquet(faulty.release / "dropped.parquet")
    samples = pl.read_parquet(faulty.release / "samples.parquet")
    gone = sorted(
        (e.shard, e.key, "decode_error" if e.status == "decode" else e.status)
        for e in faulty.samples
        for _ in range(e.rows)
        if not e.survives
    )
    assert sorted(dropped.select("source", "key", "reason").iter_rows()) == gone
    assert dropped["detail"].null_count() == 0
    assert set(dropped["stage"]) == {"uids", "embed"}
    good = sorted((e.shard, e.key) for e in faulty.samples if e.survives)
    assert sorted(samples.select("source", "key").iter_rows()) == good


def test_counts_reconcile(faulty: Faulty) -> None:
    record = faulty.run.record
    manifest = json.loads((faulty.release / "manifest.json").read_text())
    rows = sum(expected.rows for expected in faulty.samples)
    bad = sum(expected.rows for expected in faulty.samples if not expected.survives)
    assert (record.rows, record.alive, record.quarantined) == (rows, rows - bad, bad)
    assert manifest["samples"] == rows - bad
    assert manifest["dropped_samples"] == bad
    assert sum(n for reasons in manifest["dropped"].values() for n in reasons.values()) == bad
    for step in record.steps:
        assert (step.rows_before or 0) - (step.rows_after or 0) == sum(step.reasons.values())


def test_every_broken_shard_is_named_in_the_notes(faulty: Faulty) -> None:
    notes = {note["shard"]: note for note in faulty.run.record.notes if note["kind"] == "shard" and note["lossy"]}
    assert {name: note["reason"] for name, note in notes.items()} == {b.shard: b.reason for b in faulty.broken}
    assert all(note["detail"] for note in notes.values())


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("empty_folder", ExitCode.INPUT, ["matches no file"]),
        ("missing_shard", ExitCode.INPUT, ["1 of 2 shards are missing", "00009.tar"]),
        ("no_samples", ExitCode.INPUT, ["holds no sample", "00000.tar"]),
        ("wrong_option", ExitCode.SPEC, ["wrong.yaml:22:5: stages.dedup.epsilom", "did you mean epsilon"]),
        ("not_yaml", ExitCode.SPEC, ["wrong.yaml:2:7:"]),
        ("no_file", ExitCode.SPEC, ["nowhere.yaml"]),
    ],
)
def test_what_is_wrong_as_a_whole_ends_with_its_exit_code(
    change: str, code: ExitCode, words: list[str], tmp_path: Path
) -> None:
    shards = tmp_path / "shards"
    corpus.write_good_shards(shards, shards=1, samples=2)
    spec = pipeline(shards, tmp_path / "work")
    file = tmp_path / "wrong.yaml"
    if change == "empty_folder":
        (shards / "00000.tar").unlink()
    elif change == "missing_shard":
        spec["input"]["shards"] = [f"{shards}/00000.tar", f"{shards}/00009.tar"]
    elif change == "no_samples":
        (shards / "00000.tar").write_bytes(corpus.tar_bytes([]))
    elif change == "wrong_option":
        spec["stages"][4] = {"dedup": {"epsilom": 0.1}}
    write_pipeline(file, spec)
    if change == "not_yaml":
        file.write_text("name: [unclosed\nstages: {")
    elif change == "no_file":
        file = tmp_path / "nowhere.yaml"
    done = run(file, "--workers", "0")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_full_disk_is_said_and_the_same_command_goes_on_when_there_is_room(shards: Path, tmp_path: Path) -> None:
    """A real file system of 8 MB, first filled up to 60 KB, then to 500 KB, then free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        file = write_pipeline(tmp_path / "whole.yaml", pipeline(shards, disk / "work"))
        ballast = disk / "ballast"
        for room in (60_000, 500_000):
            ballast.unlink(missing_ok=True)
            ballast.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - room))
            full = run(file, "--workers", "0")
            assert full.returncode == ExitCode.STORAGE, full.stderr
            assert "no space left" in full.stderr
            assert "run the same command again" in full.stderr
            assert "Traceback" not in full.stderr
        ballast.unlink()
        done = run(file, "--workers", "0")
        assert done.returncode == 0, done.stderr
        finished = release_of(disk / "work")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    elsewhere = write_pipeline(tmp_path / "plain" / "whole.yaml", pipeline(shards, tmp_path / "plain" / "work"))
    assert run(elsewhere, "--workers", "0").returncode == 0
    assert finished == release_of(tmp_path / "plain" / "work")
