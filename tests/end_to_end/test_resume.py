"""What is stored is used again exactly as far as it is still true."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from whole_runs import contents, pipeline, write_shard

import curate
from curate.stages.embed import EmbedStage

ALL_STEPS = ("index", "uids", "filter", "embed", "cluster", "dedup-exact", "dedup-similarity", "dedup", "prune")


def reused(run: curate.Run) -> dict[str, int]:
    return {step.name: step.reused_parts for step in run.record.steps}


def release_in(run: curate.Run) -> dict[str, str]:
    assert run.release is not None
    return contents(Path(run.release))


@pytest.fixture(scope="module")
def first(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Input and workspace of a finished run; tests work on copies."""
    folder = tmp_path_factory.mktemp("resume")
    mine = folder / "shards"
    shutil.copytree(shards, mine, copy_function=shutil.copy2)
    done = curate.run(pipeline(mine, folder / "work"), workers=0)
    assert set(reused(done).values()) == {0}
    return mine, folder / "work"


@pytest.fixture
def place(first: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    shutil.copytree(first[1], tmp_path / "work", copy_function=shutil.copy2)
    return first[0], tmp_path / "work"


def test_nothing_changed_nothing_is_done(place: tuple[Path, Path]) -> None:
    shards, workspace = place
    (release,) = workspace.glob("release@*")
    before, times = contents(release), {path: path.stat().st_mtime_ns for path in release.rglob("*")}
    again = curate.run(pipeline(shards, workspace), workers=0)
    steps = reused(again)
    assert all(steps[name] == 4 for name in ALL_STEPS)
    assert steps["release"] > 0
    assert contents(release) == before
    assert {path: path.stat().st_mtime_ns for path in release.rglob("*")} == times


def test_another_keep_prunes_and_releases_anew_and_both_stay(place: tuple[Path, Path], tmp_path: Path) -> None:
    shards, workspace = place
    (old,) = workspace.glob("release@*")
    before = contents(old)
    changed = curate.run(pipeline(shards, workspace, keep=0.4), workers=0)
    steps = reused(changed)
    assert [steps[name] for name in ALL_STEPS] == [4] * 8 + [0]
    assert steps["release"] == 0
    assert len(list(workspace.glob("release@*"))) == 2
    assert contents(old) == before
    fresh = curate.run(pipeline(shards, tmp_path / "fresh", keep=0.4), workers=0)
    assert release_in(changed) == release_in(fresh) != before
    back = curate.run(pipeline(shards, workspace), workers=0)
    assert all(number > 0 for number in reused(back).values())
    assert back.release == str(old)
    assert contents(old) == before


def test_another_epsilon_computes_from_dedup_on(place: tuple[Path, Path]) -> None:
    shards, workspace = place
    changed = curate.run(pipeline(shards, workspace, epsilon=0.01), workers=0)
    steps = reused(changed)
    assert [steps[name] for name in ALL_STEPS] == [4] * 6 + [0, 0, 0]
    assert steps["release"] == 0


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the images that go through the network, batch by batch."""
    counts: list[int] = []
    real = EmbedStage._encode

    def counting(self: EmbedStage, pixels: list[Any]) -> Any:
        counts.append(len(pixels))
        return real(self, pixels)

    monkeypatch.setattr(EmbedStage, "_encode", counting)
    return counts


def moved(shards: Path, to: Path) -> Path:
    """A copy elsewhere: what decides is the folder's name and the names, sizes and times of its files."""
    shutil.copytree(shards, to / "moved" / shards.name, copy_function=shutil.copy2)
    return to / "moved" / shards.name


def test_an_appended_shard_is_all_that_is_read_and_embedded(
    place: tuple[Path, Path], tmp_path: Path, encoded: list[int]
) -> None:
    shards, workspace = place
    more = moved(shards, tmp_path)
    write_shard(more, 4)
    appended = curate.run(pipeline(more, workspace), workers=0)
    assert reused(appended)["index"] == 4
    assert sum(encoded) == 9  # ten samples, of which the filter takes one out
    assert appended.record.rows == 50
    fresh = curate.run(pipeline(more, tmp_path / "fresh"), workers=0)
    assert sum(encoded) == 9 + 45
    assert release_in(appended) == release_in(fresh)


def test_a_changed_shard_is_all_that_is_read_and_embedded(
    place: tuple[Path, Path], tmp_path: Path, encoded: list[int]
) -> None:
    shards, workspace = place
    other = moved(shards, tmp_path)
    write_shard(other, 7)
    (other / "00007.tar").replace(other / "00002.tar")
    changed = curate.run(pipeline(other, workspace), workers=0)
    assert reused(changed)["index"] == 3
    assert sum(encoded) == 9
    keys = changed.columns("index").collect()["key"].to_list()
    assert "s7-0" in keys
    assert "s2-0" not in keys
