from __future__ import annotations

import pickle
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_groups
import numpy as np
import polars as pl
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_groups import DIM, Made
from small_run import small_run

from curate.errors import StorageError
from curate.pipeline import vectors as module
from curate.pipeline.vectors import Vectors
from curate.store.columns import PartEntry, VectorFile
from curate.store.workspace import Workspace

SIZES = (5, 0, 1, 12, 3, 0)


@pytest.fixture(scope="module", params=["local", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    yield from made_groups.places(request.param, tmp_path_factory.mktemp("vectors"))


@pytest.fixture(scope="module")
def made(place: Workspace) -> Made:
    return made_groups.write(place, SIZES)


@pytest.fixture(scope="module")
def vectors(place: Workspace, made: Made) -> Vectors:
    return Vectors(place, made.group)


def test_it_looks_like_the_array(vectors: Vectors, made: Made) -> None:
    truth = made.vectors
    assert (vectors.shape, vectors.dtype, vectors.ndim) == (truth.shape, truth.dtype, truth.ndim)
    assert (len(vectors), vectors.size, vectors.nbytes) == (len(truth), truth.size, truth.nbytes)
    np.testing.assert_array_equal(vectors, truth)
    np.testing.assert_array_equal(np.asarray(vectors, dtype=np.float32), truth.astype(np.float32))
    np.testing.assert_array_equal(np.concatenate(list(vectors.parts())), truth)
    np.testing.assert_array_equal(np.stack(list(vectors)), truth)
    assert repr(vectors).startswith(f"<Vectors float16 ({len(truth)}, {DIM}) in {len(SIZES)} parts of ")


@settings(deadline=None)
@given(data=st.data())
def test_every_way_of_taking_rows_is_numpys(vectors: Vectors, made: Made, data: st.DataObject) -> None:
    truth, n = made.vectors, len(made.vectors)
    number = st.integers(-n, n - 1)
    edge = st.none() | st.integers(-n - 3, n + 3)
    step = st.none() | st.integers(-4, 4).filter(bool)
    rows: Any = data.draw(
        st.one_of(
            number,
            number.map(np.int32),
            st.builds(slice, edge, edge, step),
            st.lists(number, max_size=30),
            st.lists(number, max_size=30).map(lambda r: np.asarray(r, dtype=np.int64)),
            st.lists(number.filter(lambda r: r >= 0), min_size=1).map(lambda r: pl.Series(r, dtype=pl.UInt32)),
            st.lists(st.booleans(), min_size=n, max_size=n).map(np.asarray),
        )
    )
    got = vectors[rows]
    taken = truth[np.asarray(rows, dtype=np.int64) if isinstance(rows, list | pl.Series) else rows]
    assert (got.dtype, got.shape) == (np.float16, taken.shape)
    np.testing.assert_array_equal(got, taken)


def test_parts_and_slices_inside_one_part_are_read_only_maps(vectors: Vectors) -> None:
    for part in vectors.parts():
        assert isinstance(part, np.memmap)
        assert not part.flags.writeable
    start, stop = int(vectors.ends[3]), int(vectors.ends[4])
    inside, across = vectors[start:stop], vectors[start - 1 : stop]
    assert isinstance(inside, np.memmap)
    assert not isinstance(across, np.memmap)
    assert across.flags.writeable  # a copy, the caller's own
    with pytest.raises(ValueError, match="read-only"):
        inside[0, 0] = 1


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (10_000, "there is no row 10000; the vectors have"),
        ([0, -10_000], "there is no row -10000"),
        (np.ones(3, dtype=bool), "the mask has 3 rows, the vectors have"),
        (pl.Series([0, None, 1]), "rows are whole numbers or bools, not float64; drop the nulls of a column first"),
        ((slice(None), 0), "indexed by row only"),
        (np.zeros((2, 2), dtype=int), "not an array of shape"),
        (1.5, "not an array of shape"),
    ],
)
def test_rows_that_are_not_there_are_a_sentence(vectors: Vectors, rows: Any, sentence: str) -> None:
    with pytest.raises(IndexError, match=sentence):
        vectors[rows]


def test_it_cannot_be_an_array_without_a_copy(vectors: Vectors) -> None:
    with pytest.raises(ValueError, match="can only be copied"):
        np.asarray(vectors, copy=False)


def test_another_process_maps_the_files_itself(vectors: Vectors, made: Made) -> None:
    if "memory" in repr(vectors):
        pytest.skip("memory:// exists in one process only")
    vectors[0]
    sent = pickle.dumps(vectors)
    assert len(sent) < 10_000
    np.testing.assert_array_equal(pickle.loads(sent), made.vectors)


def test_few_parts_are_mapped_at_a_time(place: Workspace, made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limits, parts used longest ago are let go, and what a caller holds of them stays right."""
    monkeypatch.setattr(module, "MAPS", 2)
    monkeypatch.setattr(module, "CACHE_BYTES", 1)
    vectors = Vectors(place, made.group)
    held = list(vectors.parts())
    np.testing.assert_array_equal(np.concatenate(held), made.vectors)
    assert len(vectors._maps) <= 2
    rows = np.random.default_rng(1).permutation(len(vectors))
    np.testing.assert_array_equal(vectors[rows], made.vectors[rows])


def test_a_remote_part_is_fetched_on_first_touch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace(f"memory://test-{uuid.uuid4().hex}")
    made = made_groups.write(workspace, SIZES)
    opened: list[str] = []
    original = Workspace.open
    monkeypatch.setattr(Workspace, "open", lambda self, name: (opened.append(name), original(self, name))[1])
    vectors = Vectors(workspace, made.group)
    assert (len(vectors), opened) == (len(made.vectors), [])
    vectors[0], vectors[-1], vectors[1]
    first, last = made.group.parts[0].vectors["image"].file, made.group.parts[4].vectors["image"].file
    assert opened == [f"g/{first}", f"g/{last}"]
    assert vectors._scratch is not None
    scratch = Path(vectors._scratch.name)
    assert sorted(path.name for path in scratch.iterdir()) == ["0.npy", "4.npy"]
    assert (scratch / "0.npy").read_bytes() == workspace.read(f"g/{first}")
    del vectors
    assert not scratch.exists()
    workspace.remove("")


def test_eight_gigabytes_open_at_once_in_little_memory(tmp_path: Path) -> None:
    """A run whose vectors are far larger than the memory that reading some of them takes (a sparse file of zeros)."""
    workspace = Workspace(str(tmp_path))
    made = made_groups.write(workspace, [3])
    rows, dim = 4 << 20, 1024
    file = tmp_path / "g" / "big.npy"
    with file.open("wb") as out:
        header = {"descr": "<f2", "fortran_order": False, "shape": (rows, dim)}
        np.lib.format.write_array_header_1_0(out, header)
        out.truncate(out.tell() + rows * dim * 2)
    big = VectorFile(file="big.npy", rows=rows, dim=dim, nbytes=file.stat().st_size, sha256="")
    entry = PartEntry.model_validate(made.group.parts[0].model_dump() | {"vectors": {"image": big.model_dump()}})
    before, began = psutil.Process().memory_info().rss, time.process_time()
    vectors = Vectors(workspace, made.group.model_copy(update={"parts": [entry]}))
    chosen = np.arange(0, rows, rows // 100)
    assert vectors.nbytes == 8 << 30
    assert vectors[chosen].shape == (len(chosen), dim)
    assert time.process_time() - began < 2
    assert psutil.Process().memory_info().rss - before < 1 << 30
    file.unlink()


def test_what_is_gone_or_damaged_is_named(place: Workspace) -> None:
    workspace = place.sub("broken")
    made = made_groups.write(workspace, SIZES)
    with pytest.raises(StorageError, match=r"has no vectors named text; it has \['image'\]"):
        Vectors(workspace, made.group, "text")
    file = f"g/{made.group.parts[3].vectors['image'].file}"
    data = workspace.read(file)
    vectors = Vectors(workspace, made.group)
    workspace.put(file, data[:-7])
    assert len(vectors.part(0)) == made.group.parts[0].vectors["image"].rows
    with pytest.raises(StorageError, match=r"image\.npy is damaged .*; delete .*part-00003\.f3\.parquet and run again"):
        vectors.part(3)
    workspace.remove(file)
    with pytest.raises(StorageError, match=r"image\.npy: no such file; it was removed or never finished"):
        np.asarray(vectors)


def test_rows_of_a_real_run_belong_to_their_samples() -> None:
    """Vectors found through `vector_rows` lie closest to the centroid of the concept that the run gave the sample."""
    run = small_run().run
    table = pl.concat([run.columns("cluster"), run.vector_rows("embed")], how="horizontal").collect()
    vectors = run.vectors("embed")
    assert table["vector_row"].drop_nulls().to_list() == list(range(len(vectors)))
    placed = table.drop_nulls("concept")
    nearest = vectors[placed["vector_row"]].astype(np.float64) @ run.artifacts("cluster")["centroids"].T.astype(float)
    assert nearest.argmax(axis=1).tolist() == placed["concept"].to_list()
