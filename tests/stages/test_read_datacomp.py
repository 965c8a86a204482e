"""`read_embeddings` on an input of DataComp metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datacomp_folder
import numpy as np
import pytest

import curate
from curate.errors import InputError, SpecError
from curate.formats import datacomp_metadata


def run(root: Path, options: dict[str, Any] | None = None, *more: Any, **source: Any) -> curate.Run:
    spec = {
        "name": "pool",
        "input": {"datacomp": str(root / "pool"), "shards_per_part": 1, **source},
        "workspace": str(root / "ws"),
        "stages": ["index", *more, {"read_embeddings": options or {}}],
    }
    return curate.run(spec, workers=0)


def vectors_of(done: curate.Run, which: str = "image") -> np.ndarray:
    return np.concatenate(list(done.vector_parts("read_embeddings", which)))


@pytest.mark.parametrize("which", [None, "l14_img", "b32_img", "l14_txt", "b32_txt"])
@pytest.mark.parametrize("together", [1, 3])
def test_vectors_are_the_rows_of_the_array_that_was_asked_for(tmp_path: Path, which: str | None, together: int) -> None:
    _, true = datacomp_folder.pool(tmp_path / "pool", [20, 7, 11])
    done = run(tmp_path, {"vectors": which} if which else {}, shards_per_part=together)
    assert np.array_equal(vectors_of(done), true[which or "l14_img"])


def test_only_alive_rows_are_read_and_captions_come_along(tmp_path: Path) -> None:
    table, true = datacomp_folder.pool(tmp_path / "pool", [20, 7, 11])
    done = run(
        tmp_path, {"text": True, "vectors": "b32_img"}, {"filter": {"where": "clip_l14_similarity_score >= 0.25"}}
    )
    alive = np.asarray(table["clip_l14_similarity_score"]) >= 0.25
    assert 0 < alive.sum() < 38
    assert np.array_equal(vectors_of(done), true["b32_img"][alive])
    assert np.array_equal(vectors_of(done, "text"), true["b32_txt"][alive])
    frame = done.columns("read_embeddings").collect()
    cosine = np.einsum("nd,nd->n", true["b32_img"].astype(float), true["b32_txt"].astype(float))
    assert frame["clip_score"].is_not_null().to_list() == alive.tolist()
    assert np.allclose(frame["clip_score"].drop_nulls(), cosine[alive], atol=2e-3)


@pytest.mark.parametrize("packed", [False, True])
def test_ranges_of_a_large_table_find_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(datacomp_metadata, "_WHOLE_BYTES", 0)
    monkeypatch.setattr(datacomp_metadata.cuts, "__defaults__", (30,))
    true = datacomp_folder.arrays(100)
    datacomp_folder.write(tmp_path / "pool", "a", datacomp_folder.table(100), true, group=1000, packed=packed)
    done = run(tmp_path, {}, {"filter": {"where": "width >= 500"}}, shards_per_part=2)
    assert [part.rows for part in done.group("index").parts] == [60, 40]
    alive = done.columns("read_embeddings").collect()["alive"].to_numpy()
    assert np.array_equal(vectors_of(done), true["l14_img"][alive])


def test_bad_vectors_are_quarantined(tmp_path: Path) -> None:
    true = datacomp_folder.arrays(5)
    true["l14_img"][1] = 0
    true["l14_img"][3, 0] = np.nan
    datacomp_folder.write(tmp_path / "pool", "a", datacomp_folder.table(5), true)
    frame = run(tmp_path).columns("read_embeddings").collect()
    assert frame["reason"].to_list() == [None, "bad_embedding", None, "bad_embedding", None]


def test_an_array_that_does_not_fit_its_table_is_refused(tmp_path: Path) -> None:
    datacomp_folder.write(tmp_path / "pool", "a", datacomp_folder.table(5), datacomp_folder.arrays(6))
    with pytest.raises(InputError, match=r"a\.npz: l14_img has 6 rows, the table beside it 5"):
        run(tmp_path)


def test_arrays_of_another_length_are_refused(tmp_path: Path) -> None:
    datacomp_folder.write(tmp_path / "pool", "a", datacomp_folder.table(5), datacomp_folder.arrays(5))
    datacomp_folder.write(tmp_path / "pool", "b", datacomp_folder.table(5, 1), datacomp_folder.arrays(5, 24))
    with pytest.raises(InputError, match="has vectors of 24 numbers"):
        run(tmp_path)


def test_a_table_without_arrays_is_told_before_work_starts(tmp_path: Path) -> None:
    datacomp_folder.pool(tmp_path / "pool", [3, 4])
    (tmp_path / "pool" / "part_0" / f"{1:032x}.npz").unlink()
    with pytest.raises((InputError, SpecError), match=r"there is no 0+1\.npz beside it"):
        run(tmp_path)
    assert not (tmp_path / "ws").exists() or not list((tmp_path / "ws").glob("index@*/*"))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"vectors": "l14_txt", "text": True}, "which are those of captions already"),
        ({"vectors": "dedup"}, "l14_img"),
        ({"match": "uid"}, "match without folder"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path: Path, options: dict[str, Any], told: str) -> None:
    datacomp_folder.pool(tmp_path / "pool", [3])
    with pytest.raises(SpecError, match=told):
        run(tmp_path, options)


def test_vectors_belong_to_datacomp(tmp_path: Path) -> None:
    import embedding_folder

    embedding_folder.made(tmp_path / "emb", [4])
    with pytest.raises(SpecError, match="vectors, which an input of datacomp has"):
        run(tmp_path, {"vectors": "l14_img"}, datacomp=None, embeddings=str(tmp_path / "emb"))


def test_another_array_is_another_result_and_the_place_of_the_pool_is_not(tmp_path: Path) -> None:
    datacomp_folder.pool(tmp_path / "pool", [6])
    names = {run(tmp_path, {"vectors": which}).group("read_embeddings").folder for which in ("l14_img", "b32_img")}
    assert len(names) == 2
    assert run(tmp_path).group("read_embeddings").folder in names


def test_stages_that_need_images_say_so(tmp_path: Path) -> None:
    datacomp_folder.pool(tmp_path / "pool", [3])
    with pytest.raises(SpecError, match="needs images, the input has none"):
        run(tmp_path, {}, {"embed": {"model": "packaged:efficientnet_lite0"}})
