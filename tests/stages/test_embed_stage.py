from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import corpus
import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

import curate
from curate import embed
from curate.embed.encoder import EncoderConfig
from curate.errors import CurateError, SpecError
from curate.pipeline.api import Run, prepare
from curate.store.images import decode_rgb


def vectors(run: Run, which: str = "image") -> NDArray[np.float16]:
    return np.concatenate(list(run.vector_parts("embed", which)))


def by_row(run: Run) -> dict[str, bytes]:
    """Key -> bytes of its vector, over all parts."""
    keys = run.columns("index").select("key").collect()["key"].to_list()
    found, start = {}, 0
    for part, packed in zip(run.group("embed").parts, run.vector_parts("embed"), strict=True):
        rows = run.columns("embed").collect()["vec_row"][start : start + part.rows].to_list()
        for key, row in zip(keys[start : start + part.rows], rows, strict=True):
            if row is not None:
                found[key] = packed[row].tobytes()
        start += part.rows
    return found


def with_embed(spec: dict[str, Any], options: dict[str, Any], *more: Any) -> dict[str, Any]:
    return spec | {"stages": [*spec["stages"], *more, {"embed": options}]}


def test_vectors_are_the_encoders_rows_normalised(tiny: dict[str, Any], tiny_clip: dict[str, Any]) -> None:
    run = curate.run(with_embed(tiny, tiny_clip), workers=0)
    names = ("model", "checkpoint", "config")
    encoder = embed.load(EncoderConfig(**{n: tiny_clip[n] for n in names}), threads=1)
    import torch

    pixels = torch.stack([encoder.preprocess(decode_rgb(corpus.jpeg(i), 10**8)) for i in range(12)])
    raw = np.concatenate([encoder.encode_images(pixels[i : i + 4]) for i in range(0, 12, 4)]).astype(np.float64)
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    found = vectors(run)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float64), expected, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found.astype(np.float64), axis=1), 1, atol=2e-3)
    frame = run.columns("embed").collect()
    assert frame["vec_row"].to_list() == [0, 1, 2, 3] * 3
    assert frame["keep"].all()


def test_the_cut_into_parts_changes_no_vector(tiny: dict[str, Any], tiny_clip: dict[str, Any], tmp_path: Path) -> None:
    runs = []
    for size in (1, 2):
        given = {**tiny["input"], "shards_per_part": size}
        spec = with_embed(tiny | {"input": given, "workspace": f"{tmp_path}/work-{size}"}, tiny_clip)
        runs.append(by_row(curate.run(spec, workers=0)))
    assert runs[0] == runs[1]


def test_what_does_not_decode_is_quarantined_with_a_reason(tmp_path: Path, tiny_clip: dict[str, Any]) -> None:
    members = corpus.sample("a", corpus.jpeg(1)) + corpus.sample("b", corpus.truncated_jpeg(2))
    members += (
        corpus.sample("c", corpus.html()) + corpus.sample("d", corpus.jpeg(3)) + corpus.sample("e", corpus.cmyk_jpeg(4))
    )
    (tmp_path / "0.tar").write_bytes(corpus.tar_bytes(members))
    spec = {
        "name": "torn",
        "input": {"shards": f"{tmp_path}/0.tar"},
        "workspace": f"{tmp_path}/work",
        "stages": ["index", {"embed": tiny_clip}],
    }
    run = curate.run(spec, workers=0)
    frame = run.columns("embed").collect()
    assert frame["keep"].to_list() == [True, False, None, True, True]
    assert frame["reason"].to_list() == [None, "decode_error", None, None, None]
    assert frame["vec_row"].to_list() == [0, None, None, 1, 2]
    assert "truncated" in frame["detail"][1]
    assert vectors(run).shape == (3, 16)
    assert run.quarantined == 2


def test_clip_score_is_the_cosine_of_image_and_caption(
    tiny: dict[str, Any], tiny_clip: dict[str, Any], tmp_path: Path
) -> None:
    members = corpus.sample("mute", corpus.jpeg(90), caption=None)
    (tmp_path / "shards" / "9.tar").write_bytes(corpus.tar_bytes(members))
    given = {**tiny["input"], "caption_required": False}
    run = curate.run(with_embed(tiny | {"input": given}, tiny_clip | {"text": True}), workers=0)
    frame = run.columns("embed").collect()
    assert frame["text_row"].to_list() == [0, 1, 2, 3] * 3 + [None]
    image, text = vectors(run)[:12].astype(np.float64), vectors(run, "text").astype(np.float64)
    assert text.shape == (12, 16)
    np.testing.assert_allclose(frame["clip_score"].to_numpy()[:12], (image * text).sum(axis=1), atol=2e-3)
    assert frame["clip_score"][12] is None
    assert frame["keep"].all()


def test_work_for_other_alive_rows_is_taken_over_and_leaves_no_trace(
    tiny: dict[str, Any], tiny_clip: dict[str, Any], tmp_path: Path
) -> None:
    """After another filter only the missing rows are embedded, and the part is the one a fresh run writes."""
    options = tiny_clip | {"text": True}
    keys = "key IN ('000001', '000002', '000005', '000009')"
    (tmp_path / "shards" / "9.tar").write_bytes(
        corpus.tar_bytes(corpus.sample("t1", corpus.truncated_jpeg(1)) + corpus.sample("t2", corpus.jpeg(77)))
    )
    curate.run(with_embed(tiny, options, {"filter": {"where": f"NOT ({keys})"}}), workers=0)
    second = with_embed(tiny, options, {"filter": {"where": f"{keys} OR key > '000007'"}})
    again = curate.run(second, workers=0)
    fresh = curate.run(second | {"workspace": f"{tmp_path}/fresh"}, workers=0)
    assert again.columns("embed").collect().equals(fresh.columns("embed").collect())
    assert by_row(again) == by_row(fresh)
    np.testing.assert_array_equal(vectors(again, "text"), vectors(fresh, "text"))
    assert again.group("embed").counts == fresh.group("embed").counts == {"decode_error": 1}


def test_nothing_alive_is_no_vectors(tiny: dict[str, Any], tiny_clip: dict[str, Any]) -> None:
    run = curate.run(with_embed(tiny, tiny_clip, {"filter": {"where": "width < 0"}}), workers=0)
    assert vectors(run).shape == (0, 16)
    assert run.record.alive == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"model": "packaged:efficientnet_lite0", "text": True}, "has no text tower; set text: false"),
        ({"model": "ViT-B-23"}, "ViT-B-32"),
        ({"model": "ViT-B-32", "checkpoint": "/none/x.pt"}, "/none/x.pt"),
    ],
)
def test_models_are_checked_before_work_starts(options: dict[str, Any], text: str, tiny: dict[str, Any]) -> None:
    with pytest.raises(CurateError, match=text):
        prepare(with_embed(tiny, options))


def test_captions_must_be_read_to_be_embedded(tiny: dict[str, Any], tiny_clip: dict[str, Any]) -> None:
    given = {"shards": tiny["input"]["shards"]}
    with pytest.raises(SpecError, match=r"text: true but input\.caption is not set"):
        prepare(with_embed(tiny | {"input": given}, tiny_clip | {"text": True}))


def test_it_travels_without_the_loaded_model(tiny: dict[str, Any], tiny_clip: dict[str, Any]) -> None:
    stage = prepare(with_embed(tiny, tiny_clip))[1].step("embed").stage
    assert stage.encoder.has_text
    data = pickle.dumps(stage)
    assert len(data) < 10_000
    assert "encoder" not in vars(pickle.loads(data))


def test_the_schema_says_what_is_written(tiny: dict[str, Any], tiny_clip: dict[str, Any]) -> None:
    for text in (False, True):
        options = tiny_clip | {"text": text}
        spec = with_embed(tiny, options)
        schema = prepare(spec)[1].step("embed").stage.schema()
        assert dict(curate.run(spec, workers=0).columns("embed").collect_schema()) == schema
        assert ("clip_score" in schema) == text
        assert schema["vec_row"] == pl.UInt32()
