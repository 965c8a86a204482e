from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import corpus
import datacomp_folder
import downloads
import embedding_folder
import polars as pl
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import curate
from curate.formats.recognise import Recognised, recognise
from curate.pipeline.spec import PipelineHead
from curate.pipeline.starter import slug, starter


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/data/laion/shards", "laion"),
        ("s3://bucket/CC12M_v2/", "cc12m-v2"),
        ("ILSVRC2012_img_train.tar", "ilsvrc2012-img-train"),
        ("hf://datasets/org/My Birds/data", "my-birds"),
        ("/0/1/2", "pipeline"),
    ],
)
def test_slug(source: str, name: str) -> None:
    assert slug(source) == name


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0@\x85\u2028\u2029"), min_size=1, max_size=30)


@given(st.text(max_size=60))
def test_every_slug_may_name_a_pipeline(source: str) -> None:
    PipelineHead.model_validate({"name": slug(source), "workspace": "w", "input": {"shards": "x"}})


@given(texts.filter(str.isprintable), st.integers(0, 10**9), st.lists(texts, max_size=2))
def test_any_place_survives_as_yaml(place: str, samples: int, notes: list[str]) -> None:
    found = Recognised(
        "shards", place, "x", 1, 1, samples, {"image": "jpg", "caption_required": False}, {"a": "int"}, tuple(notes)
    )
    tree = yaml.safe_load(starter(found, name="n", workspace=place, file="f.yaml"))
    assert tree["input"] == {"shards": place, "image": "jpg", "caption_required": False}
    assert tree["workspace"] == place
    (concepts,) = (stage["cluster"]["concepts"] for stage in tree["stages"] if "cluster" in stage)
    assert concepts == (100 if not samples else min(5000, max(1, int(samples**0.5))))


def make_tars(root: Path) -> int:
    corpus.write_good_shards(root, shards=2, samples=12)
    return 24


def make_folder(root: Path) -> int:
    for n in range(24):
        (root / "ab"[n % 2]).mkdir(exist_ok=True)
        (root / "ab"[n % 2] / f"{n}.jpg").write_bytes(corpus.jpeg(n))
    return 24


def make_downloads(root: Path) -> int:
    return len(downloads.write_downloads(root, uid=True))


def make_archive(root: Path) -> int:
    inner = [
        (f"n0{c}.tar", corpus.tar_bytes([(f"n0{c}_{n}.JPEG", corpus.jpeg(8 * c + n)) for n in range(8)]))
        for c in (1, 2)
    ]
    (root / "ILSVRC2012_img_train.tar").write_bytes(corpus.tar_bytes([*inner]))
    return 16


def make_parquet(root: Path) -> int:
    images = [{"bytes": corpus.jpeg(n), "path": None} for n in range(12)]
    frame = pl.DataFrame({"image": images, "text": ["words"] * 12, "score": [0.5] * 12})
    frame.write_parquet(root / "train-00000-of-00001.parquet")
    return 12


def make_embeddings(root: Path) -> int:
    embedding_folder.made(root, [20, 13])
    return 33


@pytest.mark.parametrize("arrays", [False, True])
def test_what_is_written_for_datacomp_metadata_runs(tmp_path: Path, arrays: bool) -> None:
    for n in range(2):
        beside = datacomp_folder.arrays(40, 64, n) if arrays else None
        datacomp_folder.write(tmp_path / "in" / f"part_{n}", f"{n}", datacomp_folder.table(40, n), beside)
    text = starter(recognise(str(tmp_path / "in")), name="tiny", workspace=str(tmp_path / "work"), file="x.yaml")
    run = curate.run(yaml.safe_load(text), workers=0)
    assert (run.record.status, run.record.rows, run.record.quarantined) == ("done", 80, 0)
    assert run.record.steps[-1].facts["uids"] == (48 if arrays else 24)
    assert ("read_embeddings" in text) == arrays


@pytest.mark.parametrize("make", [make_tars, make_folder, make_downloads, make_archive, make_parquet, make_embeddings])
def test_what_is_written_runs(tmp_path: Path, make: Callable[[Path], int]) -> None:
    root = tmp_path / "in"
    root.mkdir()
    rows = make(root)
    text = starter(recognise(str(root)), name="tiny", workspace=str(tmp_path / "work"), file="x.yaml")
    fields = [line.replace("# fields", "fields") for line in text.splitlines()]
    for version in (text, "\n".join(fields)):
        run = curate.run(yaml.safe_load(version), workers=0)
        assert (run.record.status, run.record.rows, run.record.quarantined) == ("done", rows, 0)
        assert run.release is not None
    # hashes need images; where there are some, copies go before they are embedded
    names = [step.name for step in run.record.steps]
    assert ("dedup_hash" in names) == ("embed" in names) == (make is not make_embeddings)
    assert "embed" not in names or names.index("dedup_hash") < names.index("embed")
