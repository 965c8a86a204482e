"""Vectors follow the content of a row: what was embedded once is not embedded again, wherever the row has gone."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest
import realdata
import torch

import curate
from curate import embed
from curate.embed.encoder import EncoderConfig
from curate.pipeline.explain import explain
from curate.stages.embed import EmbedStage

SAMPLES = 6


def write(folder: Path, name: str, seed: int) -> None:
    """A shard of five good samples and one that does not decode; one of the five is in every shard."""
    folder.mkdir(parents=True, exist_ok=True)
    members = [member for i in range(SAMPLES - 2) for member in corpus.sample(f"{name}-{i}", corpus.jpeg(seed + i))]
    members += corpus.sample(f"{name}-same", corpus.jpeg(5))
    members += corpus.sample(f"{name}-torn", corpus.truncated_jpeg(seed))
    (folder / f"{name}.tar").write_bytes(corpus.tar_bytes(members))


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


@pytest.fixture
def spec(tmp_path: Path, tiny_clip: dict[str, Any]) -> dict[str, Any]:
    for n, name in enumerate("bdfh"):
        write(tmp_path / "shards", name, 100 * (n + 1))
    return pipeline(tmp_path, tiny_clip, tmp_path / "work")


def pipeline(root: Path, clip: dict[str, Any], workspace: Path, per_part: int | str = 1) -> dict[str, Any]:
    return {
        "name": "content",
        "input": {"shards": f"{root}/shards/*.tar", "shards_per_part": per_part, "caption": "txt"},
        "workspace": str(workspace),
        "stages": [
            "index",
            {"filter": {"where": "width >= 40"}},
            {"embed": clip},
            {"cluster": {"concepts": 2, "iterations": 5}},
            {"dedup": {"epsilon": 0.0001}},
            {"prune": {"keep": 0.8}},
            {"release": {"samples_per_shard": 5}},
        ],
    }


def short(spec: dict[str, Any]) -> dict[str, Any]:
    """Without what stands between embed and release."""
    return spec | {"stages": [stage for stage in spec["stages"] if not {"cluster", "dedup", "prune"} & {*stage}]}


def reused(run: curate.Run) -> dict[str, int]:
    return {step.name: step.reused_parts for step in run.record.steps}


def bytes_of(run: curate.Run) -> dict[str, bytes]:
    folder = Path(str(run.release))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def same_as_fresh(run: curate.Run, spec: dict[str, Any], tmp_path: Path) -> None:
    """All columns, vectors and release bytes are those of a run that began with nothing."""
    fresh = curate.run(spec | {"workspace": f"{tmp_path}/fresh"}, workers=0)
    assert set(reused(fresh).values()) == {0}
    for step in run.record.steps:
        if step.group is not None:
            assert run.columns(step.name).collect().equals(fresh.columns(step.name).collect()), step.name
    for mine, other in zip(run.vector_parts("embed"), fresh.vector_parts("embed"), strict=True):
        assert mine.tobytes() == other.tobytes()
    assert bytes_of(run) == bytes_of(fresh)


def facts(run: curate.Run) -> tuple[int, int]:
    told = run.record.step("embed").facts
    return told["rows_computed"], told["rows_taken_over"]


def test_appended_shards_are_all_that_is_read_and_embedded(
    spec: dict[str, Any], encoded: list[int], tmp_path: Path
) -> None:
    first = curate.run(spec, workers=0)
    assert sum(encoded) == 4 * 5
    assert facts(first) == (4 * SAMPLES, 0)
    encoded.clear()
    write(tmp_path / "shards", "j", 900)
    again = curate.run(spec, workers=0)
    assert sum(encoded) == 4  # one of the five is in every shard
    assert facts(again) == (5, 1)
    assert reused(again) == {
        "index": 4, "uids": 4, "filter": 4, "embed": 4, "dedup-exact": 4,
        "cluster": 0, "dedup-similarity": 0, "dedup": 0, "prune": 0, "release": 0,
    }  # fmt: skip
    same_as_fresh(again, spec, tmp_path)


def test_no_shard_of_a_stored_part_is_read_before_the_release(spec: dict[str, Any], tmp_path: Path) -> None:
    """Rubbish in their place, of the same size and time, goes unnoticed."""
    spec = spec | {"stages": spec["stages"][:-1]}
    curate.run(spec, workers=0)
    shutil.copytree(tmp_path / "shards", tmp_path / "true" / "shards", copy_function=shutil.copy2)
    for path in (tmp_path / "shards").glob("*.tar"):
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    for folder in (tmp_path, tmp_path / "true"):
        write(folder / "shards", "j", 900)
    again = curate.run(spec, workers=0)
    given = spec["input"] | {"shards": f"{tmp_path}/true/shards/*.tar"}
    fresh = curate.run(spec | {"input": given, "workspace": f"{tmp_path}/fresh"}, workers=0)
    for step in again.record.steps:
        assert again.columns(step.name).collect().equals(fresh.columns(step.name).collect()), step.name


def test_a_last_part_that_grew_keeps_its_vectors(
    tmp_path: Path, spec: dict[str, Any], tiny_clip: dict[str, Any], encoded: list[int]
) -> None:
    """shards_per_part 3: parts (b d f)(h), then (b d f)(h j), as with `auto`."""
    spec = pipeline(tmp_path, tiny_clip, tmp_path / "work", 3)
    curate.run(spec, workers=0)
    encoded.clear()
    write(tmp_path / "shards", "j", 900)
    again = curate.run(spec, workers=0)
    assert sum(encoded) == 4  # the fifth good image of j is in every shard: its vector is known
    assert facts(again) == (5, SAMPLES + 1)
    assert {name: n for name, n in reused(again).items() if n} == dict.fromkeys(
        ("index", "uids", "filter", "embed", "dedup-exact"), 1
    )
    same_as_fresh(again, spec, tmp_path)


def test_touched_shards_are_indexed_anew_and_not_embedded(
    spec: dict[str, Any], encoded: list[int], tmp_path: Path
) -> None:
    """Of a local shard the time counts: a copy is another shard for the index, but holds the same images."""
    spec = short(spec)
    before = curate.run(spec, workers=0)
    encoded.clear()
    for path in (tmp_path / "shards").glob("*.tar"):
        os.utime(path)
    again = curate.run(spec, workers=0)
    assert reused(again)["index"] == 0
    assert encoded == []
    assert facts(again) == (0, 4 * SAMPLES)
    assert bytes_of(again) == bytes_of(before)
    same_as_fresh(again, spec, tmp_path)


@pytest.mark.parametrize("change", ["in front", "taken out", "other parts", "other order"])
def test_rows_are_found_when_parts_shift(
    change: str, spec: dict[str, Any], encoded: list[int], tmp_path: Path, tiny_clip: dict[str, Any]
) -> None:
    curate.run(short(spec), workers=0)
    encoded.clear()
    new = 0
    shards = tmp_path / "shards"
    if change == "in front":
        write(shards, "a", 900)
        new = 4
    elif change == "taken out":
        (shards / "b.tar").unlink()
    elif change == "other parts":
        spec = pipeline(tmp_path, tiny_clip, tmp_path / "work", 2)
    else:
        shutil.move(shards / "b.tar", shards / "z.tar")
    spec = short(spec)
    again = curate.run(spec, workers=0)
    assert sum(encoded) == new
    assert facts(again)[0] == new + (1 if new else 0)  # what does not decode was found so already, but for a new one
    same_as_fresh(again, spec, tmp_path)


def test_a_damaged_state_is_passed_over(spec: dict[str, Any], encoded: list[int], tmp_path: Path) -> None:
    spec = short(spec)
    curate.run(spec, workers=0)
    (embed,) = (tmp_path / "work").glob("embed@*")
    for path in embed.glob("part-00001.*"):
        path.write_bytes(b"damaged")
    encoded.clear()
    for path in (tmp_path / "shards").glob("*.tar"):
        os.utime(path)
    again = curate.run(spec, workers=0)
    assert sum(encoded) == 4  # but for the one that other parts hold as well
    same_as_fresh(again, spec, tmp_path)


def test_fewer_shards_find_their_parts_and_get_a_table_of_uids_of_their_own(
    spec: dict[str, Any], encoded: list[int], tmp_path: Path
) -> None:
    """All parts are stored, but the table of uids of this input is not."""
    curate.run(spec, workers=0)
    encoded.clear()
    pilot = curate.run(spec, workers=0, limit_shards=2)
    assert {name: n for name, n in reused(pilot).items() if n} == dict.fromkeys(
        ("index", "uids", "filter", "embed", "dedup-exact"), 2
    )
    assert encoded == []
    step = pilot.record.step("uids")
    tables = (tmp_path / "work" / step.folder).glob(f"table-*.{step.whole}.parquet")
    rows = pl.concat([pl.read_parquet(path) for path in tables])
    index = pilot.columns("index").collect()
    assert rows.sort("part", "row").select("uid_hi", "uid_lo").equals(index.select("uid_hi", "uid_lo"))
    (story,) = explain(pilot, key="d-1")
    assert (story.shard, story.part) == ("d.tar", 1)


@pytest.mark.slow
def test_a_vector_depends_neither_on_its_place_nor_on_its_neighbours(tiny_clip: dict[str, Any]) -> None:
    """What taking over relies on: the rows that are left go through the network in other batches."""
    names = ("model", "checkpoint", "config")
    for config in (
        EncoderConfig(**{n: tiny_clip[n] for n in names}),
        EncoderConfig(model="packaged:efficientnet_lite0"),
    ):
        weights = realdata.lite0() if config.model.startswith("packaged:") else None
        encoder = embed.load(config, threads=1, weights=weights)
        size = 8
        pixels = torch.stack([encoder.preprocess(corpus.photo(n, (96, 80))) for n in range(2 * size)])
        alone = encoder.encode_images(torch.cat([pixels[:1], pixels.new_zeros(size - 1, *pixels.shape[1:])]))[0]
        for place in range(size):
            batch = pixels[size : 2 * size].clone()
            batch[place] = pixels[0]
            np.testing.assert_array_equal(encoder.encode_images(batch)[place], alone)
