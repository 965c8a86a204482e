from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest
from PIL import Image

import curate
from curate.dedup.perceptual import hashes
from curate.errors import CurateError
from curate.stages.hash import DECODED_SIDE
from curate.store.images import decode_grey


def columns(run: curate.Run, *steps: str) -> pl.DataFrame:
    """Columns of some steps under their bare names."""
    return run.columns(*steps).rename(lambda name: name.split(".")[-1]).collect()


def facts(run: curate.Run, step: str = "hash") -> dict[str, int]:
    return next(s.facts for s in run.record.steps if s.name == step)


def test_hashes_are_those_of_the_decoded_images(tmp_path: Path) -> None:
    blank = corpus.encode(Image.new("RGB", (80, 60), (200, 10, 10)), "PNG")
    given = [corpus.jpeg(1), corpus.jpeg(2, (500, 400)), corpus.encode(corpus.photo(3), "PNG"), blank]
    given += [corpus.truncated_jpeg(4), corpus.cmyk_jpeg(5), corpus.html(), corpus.jpeg(6)]
    members = [m for i, data in enumerate(given) for m in corpus.sample(f"{i}", data)]
    (tmp_path / "0.tar").write_bytes(corpus.tar_bytes(members))
    spec = {
        "name": "hashes",
        "input": {"shards": f"{tmp_path}/0.tar"},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", {"filter": {"where": "key != '7'"}}, "hash"],
    }
    run = curate.run(spec, workers=0)
    frame = columns(run, "index", "hash")
    for row, data in enumerate(given):
        found = frame["dhash"][row], frame["phash"][row]
        if row in (3, 4, 6, 7):
            assert found == (None, None)
        else:
            assert found == hashes(decode_grey(data, 10**8, DECODED_SIDE))
    # content is known where a row was looked at, also when that gave no hash
    assert frame["content_hi"].is_not_null().to_list() == [True] * 6 + [False, False]
    assert frame["content_hi"][0] == int(frame["sha256"][0][:16], 16)


def test_reencoded_and_resized_copies_go_and_others_stay(tmp_path: Path) -> None:
    members: list[tuple[str | bytes, bytes]] = []
    for i in range(6):
        image = corpus.photo(i, (240, 180))
        members += corpus.sample(f"{i}", corpus.encode(image, "JPEG", quality=95))
        if i < 4:
            members += corpus.sample(f"{i}-small", corpus.encode(image.resize((120, 90)), "PNG"))
        if i < 2:
            members += corpus.sample(f"{i}-low", corpus.encode(image, "JPEG", quality=40))
    (tmp_path / "0.tar").write_bytes(corpus.tar_bytes(members))
    spec = {
        "name": "copies",
        "input": {"shards": f"{tmp_path}/0.tar"},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", "hash", {"dedup_hash": {"order": "large"}}],
    }
    run = curate.run(spec, workers=0)
    frame = columns(run, "index", "dedup_hash")
    gone = dict(frame.filter(pl.col("keep").not_()).select("key", "keeper").iter_rows())
    assert {key for key in gone if key.endswith("small")} == {f"{i}-small" for i in range(4)}
    assert len(gone) == 6
    kept = frame.filter("keep")
    assert sorted(key.split("-")[0] for key in kept["key"]) == [f"{i}" for i in range(6)]
    assert all(not key.endswith("small") for key in kept["key"])
    names = {f"{hi:016x}{lo:016x}": key for hi, lo, key in kept.select("uid_hi", "uid_lo", "key").iter_rows()}
    assert all(names[keeper].split("-")[0] == key.split("-")[0] for key, keeper in gone.items())


def test_what_is_stored_of_a_content_is_taken_over(tmp_path: Path) -> None:
    """A shard put before the others moves every part; a filter changes every fingerprint: nothing is decoded again."""
    shards = tmp_path / "shards"
    corpus.write_good_shards(shards, shards=3, samples=4)
    spec: dict[str, Any] = {
        "name": "tiny",
        "input": {"shards": f"{shards}/*.tar", "shards_per_part": 1},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", "hash"],
    }
    first = curate.run(spec, workers=0)
    assert facts(first)["rows_computed"] == 12
    before = dict(columns(first, "index", "hash").select("sha256", "phash").iter_rows())

    (shards / "00000-early.tar").write_bytes(
        corpus.tar_bytes(corpus.sample("new", corpus.jpeg(77)) + corpus.sample("blank", blank()))
    )
    names = sorted(path.name for path in shards.glob("*.tar"))
    shutil.move(shards / names[-1], shards / "00000-aa.tar")
    second = curate.run(spec, workers=0)
    assert facts(second)["rows_computed"] == 2
    assert facts(second)["rows_taken_over"] == 12
    assert facts(second)["rows_without_hash"] == 1
    after = dict(columns(second, "index", "hash").select("sha256", "phash").iter_rows())
    assert before.items() <= after.items()

    third = curate.run(spec | {"stages": ["index", {"filter": {"where": "width > 1"}}, "hash"]}, workers=0)
    assert facts(third) == {"rows_computed": 0, "rows_taken_over": 14, "rows_without_hash": 1}
    again = dict(columns(third, "index", "hash").select("sha256", "phash").iter_rows())
    assert again == after


def blank() -> bytes:
    return corpus.encode(Image.fromarray(np.full((50, 50, 3), 255, dtype=np.uint8)), "PNG")


def test_an_input_without_images_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "img_emb_0000.npy", np.eye(4, dtype=np.float16))
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    shutil.move(tmp_path / "img_emb_0000.npy", tmp_path / "img_emb/img_emb_0000.npy")
    pl.DataFrame({"image_path": list("abcd")}).write_parquet(tmp_path / "metadata/metadata_0000.parquet")
    spec = {
        "name": "bare",
        "input": {"embeddings": str(tmp_path)},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", "hash"],
    }
    with pytest.raises(CurateError, match="stage hash needs images, the input has none"):
        curate.run(spec, workers=0)
