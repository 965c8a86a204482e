from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import corpus
import embedding_folder
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

import curate
from curate.embed import to_stored
from curate.errors import InputError, SpecError
from curate.stages.read_embeddings import stored


def run(root: Path, source: dict[str, Any], options: dict[str, Any] | None = None, *more: Any) -> curate.Run:
    spec = {
        "name": "ready",
        "input": {"shards_per_part": 1, **source},
        "workspace": str(root / "ws"),
        "stages": ["index", {"read_embeddings": options or {}}, *more],
    }
    return curate.run(spec, workers=0)


def vectors_of(done: curate.Run, which: str = "image") -> tuple[pl.DataFrame, NDArray[Any]]:
    """The step's columns, and its vectors scattered to the rows of the table; rows without one are zero."""
    frame = done.columns("read_embeddings").collect()
    column = {"image": "vec_row", "text": "text_row"}[which]
    parts = list(done.vector_parts("read_embeddings", which))
    out = np.zeros((frame.height, parts[0].shape[1]), dtype=np.float16)
    first = 0
    for part, packed in zip(done.group("read_embeddings").parts, parts, strict=True):
        rows = frame[column][first : first + part.rows]
        has = rows.is_not_null().to_numpy()
        out[first + np.flatnonzero(has)] = packed[rows.drop_nulls().to_numpy()]
        first += part.rows
    return frame, out


# --- what is stored ---------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 5), st.integers(1, 70)), elements=st.floats(-10, 10, width=32)))
def test_storing_again_changes_no_bit(rows: NDArray[np.float32]) -> None:
    once, good = stored(rows)
    assert np.array_equal(once, to_stored(rows)[0])
    twice, still = stored(once)
    assert np.array_equal(twice[good], once[good])
    assert still[good].all()


def test_rows_that_are_no_unit_rows_are_normalised() -> None:
    rows = np.asarray([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1]], dtype=np.float16)
    unit, good = stored(rows)
    assert good.tolist() == [True, False, False, False]
    assert unit[0].tolist() == np.asarray([0.6, 0.8], dtype=np.float16).tolist()
    assert not unit[1:].any()


# --- an input of embeddings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [1, 3])
def test_vectors_lie_beside_the_rows_of_the_index(tmp_path: Path, together: int) -> None:
    true = embedding_folder.made(tmp_path / "emb", [5, 9, 4])
    source = {"embeddings": str(tmp_path / "emb"), "caption": "caption", "shards_per_part": together}
    done = run(tmp_path, source, {"text": True})
    frame, images = vectors_of(done)
    assert np.array_equal(images, true)
    assert frame["keep"].all()
    texts = np.concatenate([np.load(tmp_path / "emb" / "text_emb" / f"text_emb_{n}.npy") for n in range(3)])
    assert np.array_equal(vectors_of(done, "text")[1], texts)
    wide, side = true.astype(np.float64), texts.astype(np.float64)
    cosine = (wide * side).sum(1) / np.linalg.norm(wide, axis=1) / np.linalg.norm(side, axis=1)
    assert np.allclose(frame["clip_score"].to_numpy(), cosine, atol=1e-6)


def test_only_alive_rows_are_read_and_bad_ones_are_set_aside(tmp_path: Path) -> None:
    true = embedding_folder.made(tmp_path / "emb", [6], text=False)
    rows = true.astype(np.float32) * 3
    rows[1], rows[4] = 0, np.nan
    np.save(tmp_path / "emb" / "img_emb" / "img_emb_0.npy", rows)
    spec = {
        "name": "ready",
        "input": {"embeddings": str(tmp_path / "emb"), "fields": {"similarity": "float"}},
        "workspace": str(tmp_path / "ws"),
        "stages": ["index", {"filter": {"where": "similarity > 0.1"}}, "read_embeddings"],
    }
    done = curate.run(spec, workers=0)
    frame, images = vectors_of(done)
    assert frame["reason"].to_list() == [None, "bad_embedding", None, None, "bad_embedding", None]
    assert frame["keep"].to_list() == [None, False, True, True, False, True]
    assert frame["vec_row"].to_list() == [None, None, 0, 1, None, 2]
    assert frame["detail"][1] == "the vector that was given is zero, or holds NaN or infinity"
    assert done.quarantined == 2
    expected, _ = to_stored(rows[[2, 3, 5]])
    assert np.array_equal(images[[2, 3, 5]], expected)


def test_a_caption_without_a_vector_has_no_score(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [3])
    texts = np.load(tmp_path / "emb" / "text_emb" / "text_emb_0.npy")
    texts[1] = 0
    np.save(tmp_path / "emb" / "text_emb" / "text_emb_0.npy", texts)
    frame, _ = vectors_of(run(tmp_path, {"embeddings": str(tmp_path / "emb")}, {"text": True}))
    assert frame["text_row"].to_list() == [0, None, 1]
    assert frame["clip_score"].is_null().to_list() == [False, True, False]
    assert frame["keep"].all()


def test_vectors_of_two_models_are_refused(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [3, 3], text=False)
    np.save(tmp_path / "emb" / "img_emb" / "img_emb_1.npy", np.ones((3, 5), dtype=np.float16))
    with pytest.raises(InputError, match=r"img_emb_1\.npy: has vectors of 5 numbers, .* have 8"):
        run(tmp_path, {"embeddings": str(tmp_path / "emb")})


def test_options_that_make_no_sense_are_refused_before_work_starts(tmp_path: Path) -> None:
    embedding_folder.made(tmp_path / "emb", [3], text=False)
    source = {"embeddings": str(tmp_path / "emb")}
    with pytest.raises(InputError, match="there is no text_emb beside it"):
        run(tmp_path, source, {"text": True})
    with pytest.raises(SpecError, match="match without folder"):
        run(tmp_path, source, {"match": "uid"})
    (tmp_path / "a.tar").write_bytes(corpus.tar_bytes(corpus.sample("a", corpus.jpeg(1))))
    with pytest.raises(SpecError, match="needs the option folder, or an input of embeddings"):
        run(tmp_path, {"shards": str(tmp_path / "a.tar")})
    assert not (tmp_path / "ws" / "run.json").exists()


# --- a folder beside other samples ------------------------------------------------------------------------------------


def shards(root: Path, keys: list[list[str]]) -> dict[str, Any]:
    """Tar shards with the keys; the uid of a sample is its key's number."""
    root.mkdir(parents=True, exist_ok=True)
    for n, mine in enumerate(keys):
        members: list[tuple[str | bytes, bytes]] = []
        for key in mine:
            data = f'{{"uid": "{int(key):032x}"}}'.encode()
            members += [(f"{key}.jpg", corpus.jpeg(int(key), (32, 24))), (f"{key}.json", data)]
        if not (root / f"{n}.tar").exists():
            (root / f"{n}.tar").write_bytes(corpus.tar_bytes(members))
    return {"shards": f"{root}/*.tar"}


@pytest.mark.parametrize("match", ["key", "uid"])
@pytest.mark.parametrize("files", [1, 2, 7])
def test_samples_find_their_vectors(tmp_path: Path, match: str, files: int) -> None:
    """Against a dict: any order of the folder, rows that no sample has, samples that have no row."""
    rng = np.random.default_rng(files)
    keys = [f"{n:04d}" for n in range(30)]
    source = shards(tmp_path / "tars", [keys[:10], keys[10:11], keys[11:]])
    there = [f"{n:04d}" for n in rng.permutation(40) if n % 7]
    vectors = embedding_folder.unit(rng.normal(size=(len(there), 8)))
    for n, rows in enumerate(np.array_split(np.arange(len(there)), files)):
        mine = [there[row] for row in rows]
        column = {"key": mine} if match == "key" else {"uid": [f"{int(k):032X}" for k in mine]}
        embedding_folder.write_number(tmp_path / "emb", f"{n:02d}", vectors[rows], column)
    done = run(tmp_path, source, {"folder": str(tmp_path / "emb"), "match": match})
    frame, images = vectors_of(done)
    known = dict(zip(there, vectors, strict=True))
    expected = np.asarray([known.get(key, np.zeros(8, dtype=np.float16)) for key in keys])
    assert np.array_equal(images, expected)
    reasons = done.columns("read_embeddings-match").collect()["reason"].to_list()
    assert reasons == [None if key in known else "no_embedding" for key in keys]
    assert frame["alive"].to_list() == [key in known for key in keys]
    assert done.quarantined == 0


def test_of_one_key_the_first_row_wins_and_the_others_are_counted(tmp_path: Path) -> None:
    source = shards(tmp_path / "tars", [["1", "2"], ["3"]])
    rows = embedding_folder.unit(np.random.default_rng(0).normal(size=(4, 4)))
    embedding_folder.write_number(tmp_path / "emb", "0", rows[:2], {"image_path": ["3", "1"]})
    embedding_folder.write_number(tmp_path / "emb", "1", rows[2:], {"image_path": ["1", "2"]})
    done = run(tmp_path, source, {"folder": str(tmp_path / "emb")})
    assert np.array_equal(vectors_of(done)[1], rows[[1, 3, 0]])
    notes = [note for note in done.record.notes if note["kind"] == "repeated_keys"]
    assert [(note["samples"], note["rows"]) for note in notes] == [(1, 1)]


def test_the_column_to_match_must_be_there(tmp_path: Path) -> None:
    source = shards(tmp_path / "tars", [["1"]])
    embedding_folder.write_number(tmp_path / "emb", "0", np.ones((1, 2), dtype=np.float16), {"caption": ["a"]})
    for match, other in (("key", "uid"), ("uid", "key")):
        with pytest.raises(
            InputError, match=f"there is no column .* to match samples by; it has caption. Set match: {other}"
        ):
            run(tmp_path, source, {"folder": str(tmp_path / "emb"), "match": match})


def test_a_folder_that_changes_is_read_again_and_one_that_moves_is_not(tmp_path: Path) -> None:
    source = shards(tmp_path / "tars", [["1", "2"]])
    rows = embedding_folder.unit(np.random.default_rng(0).normal(size=(2, 4)))
    embedding_folder.write_number(tmp_path / "emb", "0", rows, {"key": ["1", "2"]})
    folder = {"folder": str(tmp_path / "emb")}
    first = run(tmp_path, source, folder)
    shutil.copytree(tmp_path / "emb", tmp_path / "moved", copy_function=shutil.copy2)
    moved = run(tmp_path, source, {"folder": str(tmp_path / "moved")})
    assert moved.group("read_embeddings").fingerprint == first.group("read_embeddings").fingerprint
    embedding_folder.write_number(tmp_path / "emb", "0", rows[::-1], {"key": ["1", "2"]})
    again = run(tmp_path, source, folder)
    assert again.group("read_embeddings").fingerprint != first.group("read_embeddings").fingerprint
    assert np.array_equal(vectors_of(again)[1], rows[::-1])


def test_appended_shards_leave_stored_vectors_alone(tmp_path: Path) -> None:
    keys = [f"{n}" for n in range(6)]
    rows = embedding_folder.unit(np.random.default_rng(0).normal(size=(6, 4)))
    embedding_folder.write_number(tmp_path / "emb", "0", rows, {"key": keys})
    folder = {"folder": str(tmp_path / "emb")}
    run(tmp_path, shards(tmp_path / "tars", [keys[:3]]), folder)
    done = run(tmp_path, shards(tmp_path / "tars", [keys[:3], keys[3:]]), folder)
    step = next(step for step in done.record.steps if step.name == "read_embeddings")
    assert step.reused_parts == 1
    assert np.array_equal(vectors_of(done)[1], rows)
