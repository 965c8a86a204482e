"""`--retry-failed`: what was set aside is tried again after a fix that no fingerprint knows of."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import corpus
import pytest
from PIL import ImageFile
from whole_runs import write_pipeline

import curate
from curate.cli.main import app
from curate.errors import SpecError, StorageError
from curate.pipeline.clean import carry_out, plan_cleaning
from curate.pipeline.explain import explain
from curate.pipeline.retries import Retried, read_retries
from curate.stages.cluster import ClusterStage
from curate.stages.embed import EmbedStage
from curate.store.workspace import Workspace

TORN = {"a": 1, "c": 2}
"""Samples that do not decode, by shard; all in all eleven samples in three shards."""


@pytest.fixture
def spec(tmp_path: Path, tiny_clip: dict[str, Any]) -> dict[str, Any]:
    (tmp_path / "shards").mkdir()
    for s, shard in enumerate("abc"):
        members = [m for i in range(3) for m in corpus.sample(f"{shard}{i}", corpus.jpeg(100 * s + i))]
        for n in range(TORN.get(shard, 0)):
            members += corpus.sample(f"{shard}-torn{n}", corpus.truncated_jpeg(100 * s + 50 + n))
        (tmp_path / "shards" / f"{shard}.tar").write_bytes(corpus.tar_bytes(members))
    return {
        "name": "retry",
        "input": {"shards": f"{tmp_path}/shards/*.tar", "shards_per_part": 1, "caption": "txt"},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", {"embed": tiny_clip}, {"cluster": {"concepts": 2, "iterations": 5}},
                   {"release": {"samples_per_shard": 5}}],
    }  # fmt: skip


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A decoder that has learnt to read torn images: Pillow's own switch, which no fingerprint knows of."""
    return lambda: monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counts: list[int] = []
    real = EmbedStage._encode
    monkeypatch.setattr(EmbedStage, "_encode", lambda self, pixels: [counts.append(len(pixels)), real(self, pixels)][1])
    return counts


def contents(run: curate.Run) -> dict[str, bytes]:
    folder = Path(str(run.release))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def reused(run: curate.Run) -> list[int]:
    return [step.reused_parts for step in run.record.steps[:4]]


def test_failed_rows_alone_are_decoded_again(
    spec: dict[str, Any], lenient: Any, encoded: list[int], tmp_path: Path
) -> None:
    first = curate.run(spec, workers=0)
    assert (first.record.rows, first.record.alive, first.quarantined) == (12, 9, 3)
    assert first.record.retried is None
    lenient()
    assert curate.run(spec, workers=0).quarantined == 3  # no fingerprint has changed
    encoded.clear()
    again = curate.run(spec, workers=0, retry_failed=True)
    assert encoded == [1, 2]
    assert again.record.retried == Retried(samples=3, good=3)
    assert again.quarantined == 0
    assert again.record.alive == 12
    assert [s.reused_parts for s in again.record.steps] == [3, 3, 1, 0, 0]  # the shards are not indexed anew
    fresh = curate.run(spec | {"workspace": f"{tmp_path}/fresh"}, workers=0)
    assert contents(again) == contents(fresh)
    assert again.columns("embed").collect().equals(fresh.columns("embed").collect())
    # an ordinary run knows the newest state, and does nothing
    encoded.clear()
    plain = curate.run(spec, workers=0)
    assert (plain.quarantined, plain.record.retried, encoded) == (0, None, [])
    assert all(step.reused_parts for step in plain.record.steps)


def test_what_fails_again_can_be_tried_once_more(spec: dict[str, Any], lenient: Any, encoded: list[int]) -> None:
    first = curate.run(spec, workers=0)
    for _ in range(2):
        encoded.clear()
        again = curate.run(spec, workers=0, retry_failed=True)
        assert again.record.retried == Retried(samples=3, good=0)
        assert (encoded, again.quarantined) == ([], 3)
        assert contents(again) == contents(first)
    lenient()
    assert curate.run(spec, workers=0, retry_failed=True).record.retried == Retried(samples=3, good=3)
    assert curate.run(spec, workers=0, retry_failed=True).record.retried == Retried()


def test_a_shard_mended_in_place_is_indexed_anew(spec: dict[str, Any], encoded: list[int], tmp_path: Path) -> None:
    """Same size, same time: bytes inside an image, a caption, an image header and a whole tar header were damaged."""
    path = tmp_path / "shards" / "b.tar"
    good, stat = path.read_bytes(), path.stat()
    image, header = corpus.jpeg(101), corpus.jpeg(102)
    bad = good.replace(image, image[:300] + bytes(len(image) - 300)).replace(header, b"<html>" + header[6:])
    bad = bad.replace(b"a picture", b"a \xffpicture"[:9], 1)
    assert len(bad) == len(good)

    def put(data: bytes) -> None:
        path.write_bytes(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    put(bad)
    first = curate.run(spec, workers=0)
    assert first.record.step("uids").reasons == {"bad_caption": 1, "not_an_image": 1}
    assert first.record.step("embed").reasons == {"decode_error": 4}
    put(good)
    encoded.clear()
    again = curate.run(spec, workers=0, retry_failed=True)
    assert again.record.retried == Retried(samples=6, good=3)
    assert reused(again)[:2] == [2, 1]  # the part of b, and of uids those behind it too
    assert sum(encoded) == 3  # b1 in new bytes, and b0 and b2, which were out; good rows of c are taken over
    assert again.record.alive == 9
    fresh = curate.run(spec | {"workspace": f"{tmp_path}/fresh"}, workers=0)
    assert contents(again) == contents(fresh)
    uid = again.columns("index").filter(curate_key("b1")).collect()
    (story,) = explain(again, uid=f"{uid['uid_hi'][0]:016x}{uid['uid_lo'][0]:016x}")
    assert story.shard == "b.tar"  # the part is known though it was indexed twice


def curate_key(key: str) -> Any:
    import polars as pl

    return pl.col("key") == key


def test_a_broken_shard_is_read_again(spec: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "shards" / "b.tar"
    good, stat = path.read_bytes(), path.stat()
    path.write_bytes(b"<html>" + bytes(len(good) - 6))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert curate.run(spec, workers=0).record.rows == 9
    path.write_bytes(good)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = curate.run(spec, workers=0, retry_failed=True)
    assert again.record.retried == Retried(samples=3, good=0, shards=1, mended=1)
    assert again.record.rows == 12
    assert contents(again) == contents(curate.run(spec | {"workspace": f"{tmp_path}/fresh"}, workers=0))


@pytest.mark.parametrize("same", [True, False])
def test_stopped_in_the_middle_the_same_command_or_the_plain_one_goes_on(
    same: bool, spec: dict[str, Any], lenient: Any, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    curate.run(spec, workers=0)
    lenient()
    with monkeypatch.context() as patch:

        def full(*_: Any) -> Any:
            raise StorageError("no space left")

        patch.setattr(ClusterStage, "reduce", full)
        with pytest.raises(StorageError):
            curate.run(spec, workers=0, retry_failed=True)
    encoded.clear()
    again = curate.run(spec, workers=0, retry_failed=same)
    assert again.record.retried == Retried(samples=3, good=3)
    assert encoded == []  # that was done before
    assert again.record.alive == 12
    assert curate.run(spec, workers=0).record.retried is None  # told once


def test_stopped_inside_embed(
    spec: dict[str, Any], lenient: Any, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    curate.run(spec, workers=0)
    lenient()
    with monkeypatch.context() as patch:
        real, calls = EmbedStage.map, [0]

        def once(self: EmbedStage, *given: Any) -> Any:
            calls[0] += 1
            if calls[0] == 2:
                raise StorageError("no space left")
            return real(self, *given)

        patch.setattr(EmbedStage, "map", once)
        with pytest.raises(StorageError):
            curate.run(spec, workers=0, retry_failed=True)
    encoded.clear()
    again = curate.run(spec, workers=0, retry_failed=True)
    assert encoded == [2]
    assert again.record.retried == Retried(samples=3, good=3)


def test_without_dead_letters_nothing_is_done(spec: dict[str, Any], lenient: Any, tmp_path: Path) -> None:
    lenient()
    curate.run(spec, workers=0)
    again = curate.run(spec, workers=0, retry_failed=True)
    assert again.record.retried == Retried()
    assert all(step.reused_parts for step in again.record.steps)
    assert not (tmp_path / "work" / "retries.json").exists()


def test_a_run_that_never_finished_has_no_dead_letters_to_name(
    spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(
        SpecError, match=r"step index of this pipeline has not finished .* without --retry-failed first"
    ):
        curate.run(spec, workers=0, retry_failed=True)
    with monkeypatch.context() as patch:

        def full(*_: Any) -> Any:
            raise StorageError("no space left")

        patch.setattr(EmbedStage, "map", full)
        with pytest.raises(StorageError):
            curate.run(spec, workers=0)
    with pytest.raises(SpecError, match="step embed of this pipeline has not finished"):
        curate.run(spec, workers=0, retry_failed=True)
    assert not (tmp_path / "work" / "retries.json").exists()


def test_a_repeated_uid_is_no_failure(spec: dict[str, Any], lenient: Any, tmp_path: Path) -> None:
    lenient()
    data = json.dumps({"uid": "0" * 30 + "aa"}).encode()
    members = [
        (f"t{n}.{ext}", b)
        for n in range(2)
        for ext, b in (("jpg", corpus.jpeg(900 + n)), ("txt", b"t"), ("json", data))
    ]
    (tmp_path / "shards" / "d.tar").write_bytes(corpus.tar_bytes(list(members)))
    first = curate.run(spec, workers=0)
    assert first.record.step("uids").reasons == {"duplicate_uid": 1}
    assert curate.run(spec, workers=0, retry_failed=True).record.retried == Retried()


def test_clean_keeps_the_newest_state(spec: dict[str, Any], lenient: Any, encoded: list[int]) -> None:
    curate.run(spec, workers=0)
    lenient()
    again = curate.run(spec, workers=0, retry_failed=True)
    workspace = Workspace(spec["workspace"])
    before = read_retries(workspace)
    carry_out(plan_cleaning(workspace, only_latest=True))
    encoded.clear()
    after = curate.run(spec, workers=0)
    assert all(step.reused_parts for step in after.record.steps)
    assert (after.release, after.quarantined, encoded) == (again.release, 0, [])
    assert read_retries(workspace) == before


def test_a_later_change_takes_over_what_was_mended(
    spec: dict[str, Any], lenient: Any, monkeypatch: pytest.MonkeyPatch, encoded: list[int]
) -> None:
    """Of two stored states one holds a failure, the other a vector: the vector counts."""
    curate.run(spec, workers=0)
    lenient()
    curate.run(spec, workers=0, retry_failed=True)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)
    encoded.clear()
    stages = [spec["stages"][0], {"filter": {"where": "width > 10"}}, *spec["stages"][1:]]
    assert curate.run(spec | {"stages": stages}, workers=0).quarantined == 0
    assert encoded == []


def test_the_command_exits_with_8_before_and_0_after(
    spec: dict[str, Any], lenient: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_pipeline(tmp_path / "retry.yaml", spec)

    def run(*options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app(["run", str(file), "--workers", "0", "--no-report", *options], standalone_mode=False)
        return int(code or 0), *capsys.readouterr()

    assert run()[0] == 8
    lenient()
    code, _, told = run("--retry-failed")
    assert code == 0
    assert "trying again: 3 dead letters, in 2 parts of 3" in told
    assert "3 dead letters tried again: 3 are good now" in told
    code, _, told = run("--retry-failed")
    assert (code, told.count("no dead letters: nothing")) == (0, 2)  # at the beginning and in the summary
    code, out, _ = run("--retry-failed", "--json")
    assert json.loads(out)["retried"] == {"samples": 0, "good": 0, "shards": 0, "mended": 0}
